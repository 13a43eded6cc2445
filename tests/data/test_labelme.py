"""LabelMe JSON as the tool writes it: one file a picture."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from landseg.data.annotations import Annotations, find_annotations
from landseg.data.tiles import UnreadableTile

H, W = 24, 32


def picture(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = bytes(cv2.imencode(path.suffix, np.full((H, W, 3), 90, np.uint8))[1])
    path.write_bytes(data)
    return data


def shape(label: object, points: object, kind: object = "polygon", **more: object) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {}} | more


def save(path: Path, image_path: str, *shapes: object, encoding: str = "utf-8", **more: object) -> Path:
    content = {
        "version": "5.4.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": H,
        "imageWidth": W,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | more, ensure_ascii=False, indent=2), encoding=encoding)
    return path


def find(root: Path) -> Annotations:
    found = find_annotations([root])
    assert found is not None
    return found


def square(low: float, high: float) -> list[list[float]]:
    return [[low, low], [high, low], [high, high], [low, high]]


def test_every_kind_of_shape_in_the_order_of_the_file(tmp_path: Path) -> None:
    picture(tmp_path / "地块 1.jpg")
    mask = np.zeros((4, 6), bool)
    mask[1, 2:] = True
    encoded = base64.b64encode(bytes(cv2.imencode(".png", mask.astype(np.uint8))[1])).decode()
    save(
        tmp_path / "地块 1.json",
        "地块 1.jpg",
        shape("耕地", square(1, 20)),
        shape("house", [[12, 10], [4, 6]], "rectangle"),  # any two corners
        shape("water", [[15, 15], [15, 18]], "circle"),
        shape("road", [[0, 0], [5, 5]], "line"),
        shape("road", [[0, 0], [5, 5], [9, 5]], "linestrip"),
        shape("tree", [[3, 3]], "point"),
        shape("house", [[20, 2], [25, 5]], "mask", mask=encoded),
        shape("house", [[26, 10], [30, 10], [30, 14], [26, 14]], "rotation"),
        shape("__ignore__", [[0, 20], [31, 20], [31, 23], [0, 23]]),
        shape("_background_", [[28, 0], [32, 0], [32, 4], [28, 4]], None),
        imageData="x" * 1000,
    )
    found = find(tmp_path)
    assert found.format == "LabelMe"
    assert found.class_names == ("_background_", "house", "water", "耕地"), "the background first, the rest sorted; no ignore, no lines"
    assert found.colours == (None,) * 4
    label = found.rasterise("地块 1", background=0)
    assert label[2, 2] == 3 and (label[6:10, 4:12] == 1).all() and label[15, 15] == 2
    assert (label == 2).sum() == pytest.approx(np.pi * 9, abs=5)
    assert label[3, 22:26].tolist() == [1, 1, 1, 1] and label[3, 21] == 0 and label[2, 22] == 0
    assert (label[10:14, 26:30] == 1).all()
    assert (label[20:23, :31] == 255).all() and label[23, 31] == 0, "what is to be ignored is not background"
    assert found.left_out == ("3 points and lines: they have no area (first in " + str(tmp_path / "地块 1.json") + ")",)


def test_images_lie_elsewhere_or_have_another_ending(tmp_path: Path) -> None:
    for name in ("img/a.png", "img/b.png", "img/深/c.jpg", "other/a.png"):
        picture(tmp_path / name)
    save(tmp_path / "json" / "a.json", "..\\img\\a.png", shape("x", square(0, 5)))
    save(tmp_path / "json" / "b.json", "/elsewhere/b.jpg", shape("x", square(0, 6)))
    save(tmp_path / "json" / "c.json", "renamed since.jpg", shape("x", square(0, 7)))
    found = find(tmp_path)
    assert found.images == {name: tmp_path / "img" / path for name, path in {"a": "a.png", "b": "b.png", "深/c": "深/c.jpg"}.items()}
    assert [(found.rasterise(name) == 0).sum() for name in found.images] == [25, 36, 49]
    assert found.left_out == (f"1 images that no annotation names: {tmp_path / 'other' / 'a.png'}",)


def test_one_of_several_images_of_a_name_is_not_guessed(tmp_path: Path) -> None:
    for name in ("x/a.png", "y/a.png", "b.png"):
        picture(tmp_path / name)
    save(tmp_path / "json" / "a.json", "a.png", shape("x", square(0, 5)))
    save(tmp_path / "b.json", "b.png", shape("x", square(0, 5)))
    found = find(tmp_path)
    assert list(found.images) == ["b"]
    assert "1 annotated images that may be one of several files: a.png" in found.left_out


def test_damaged_files_lose_their_own_image_only(tmp_path: Path) -> None:
    for name in "abcd":
        picture(tmp_path / f"{name}.jpg")
    save(tmp_path / "a.json", "a.jpg", shape("x", square(0, 5)))
    cut = save(tmp_path / "b.json", "b.jpg", shape("x", square(0, 5)))
    cut.write_text(cut.read_text()[:-20])
    save(tmp_path / "c.json", "c.jpg", shape("好", square(0, 5)), encoding="gb18030")  # as an old LabelMe on Chinese Windows
    (tmp_path / "d.json").write_bytes(b"\xff\xff\x00\x81")
    (tmp_path / "copy.json").write_text((tmp_path / "a.json").read_text())
    found = find(tmp_path)
    assert set(found.images) == {"a", "c"} and found.class_names == ("x", "好")
    said = "\n".join(found.left_out)
    assert "2 files that cannot be read" in said and "b.json (not JSON: line" in said and "d.json (no text" in said
    assert "1 images annotated a second time: a.jpg" in said


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    huge = base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60_000).to_bytes(4, "big") * 2 + bytes(40)).decode()
    save(
        tmp_path / "a.json",
        "a.jpg",
        shape("x", square(0, 5)),
        shape("x", [[0, 0], [4, 4]]),
        shape("x", [[0, 0], ["4", 4], [0, 9]]),
        shape("x", [[0, 0]], "circle"),
        shape("x", [[0, 0], [3, 3]], "mask", mask=huge),
        shape("x", [[0, 0], [3, 3]], "mask", mask="no base 64!"),
        shape("x", None, "mask", mask=None),
        shape("x", square(0, 3), "cuboid"),
        shape("x", square(0, 3), ["polygon"]),
        shape(None, square(0, 3)),
        shape("  ", square(0, 3)),
        "x",
        imageHeight=None,
        imageWidth="wide",
    )
    found = find(tmp_path)
    assert (found.rasterise("a") == 0).sum() == 25
    said = "\n".join(found.left_out)
    for reason in ("3 masks that do not decode", "3 shapes without a label", "1 shapes of the kind cuboid", "1 shapes of the kind unknown"):
        assert reason in said, said
    assert "2 outlines of fewer" in said and "1 outlines whose coordinates" in said


def test_an_image_that_is_not_there_or_stored_turned_is_left_out(tmp_path: Path) -> None:
    data = picture(tmp_path / "turned.jpg")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    (tmp_path / "turned.jpg").write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    save(tmp_path / "turned.json", "turned.jpg", shape("x", square(0, 5)))
    save(tmp_path / "gone.json", "gone.jpg", shape("x", square(0, 5)), imageData=base64.b64encode(data).decode())
    found = find(tmp_path)
    assert found.left_out == ("1 annotated images that are not there: gone.jpg",)
    with pytest.raises(UnreadableTile, match="EXIF orientation 6"):
        found.rasterise("turned")


def test_a_file_that_changed_since_it_was_found_is_no_traceback(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    path = save(tmp_path / "a.json", "a.jpg", shape("x", square(0, 5)))
    found = find(tmp_path)
    for text in ("{", "[]", None):
        path.unlink() if text is None else path.write_text(text)
        with pytest.raises(UnreadableTile):
            found.rasterise("a")
