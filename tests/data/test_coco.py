"""COCO JSON as its own files, CVAT, Roboflow and map exporters write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio.features
from pycocotools import mask as coco_masks

from landseg.core.errors import LandsegError
from landseg.data.annotations import Annotations, find_annotations
from landseg.data.coco import is_coco
from landseg.data.tiles import UnreadableTile

H, W = 24, 32


def picture(path: Path, height: int = H, width: int = W) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(cv2.imencode(path.suffix, np.full((height, width, 3), 90, np.uint8))[1]))
    return path


def box(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def annotation(image: object, category: object, area: object, **more: object) -> dict[str, Any]:
    return {
        "id": 1,
        "image_id": image,
        "category_id": category,
        "segmentation": area,
        "iscrowd": 0,
        "area": 1.0,
        "bbox": [0, 0, 1, 1],
    } | more


def document(images: list[str], annotations: list[Any], categories: dict[Any, str] | None = None, **size: int) -> dict[str, Any]:
    named = categories or {7: "field 耕地", 3: "building", 90: "water"}
    return {
        "info": {"description": "x"},
        "licenses": [],
        "images": [{"id": i, "file_name": name, "height": H, "width": W} | size for i, name in enumerate(images, 1)],
        "annotations": annotations,
        "categories": [{"id": key, "name": name, "supercategory": ""} for key, name in named.items()],
    }


def save(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def find(root: Path) -> Annotations:
    found = find_annotations([root])
    assert found is not None
    return found


def test_instances_with_gaps_in_the_ids_and_several_kinds_of_area(tmp_path: Path) -> None:
    names = ["图 像/一 1.jpg", "b.jpg", "c.jpg"]
    for name in names:
        picture(tmp_path / "images" / name)
    pond = np.zeros((H, W), np.uint8)
    pond[4:9, 20:30] = 1
    packed = coco_masks.encode(np.asfortranarray(pond))["counts"].decode()
    flat = pond.T.ravel()
    plain = np.diff(np.flatnonzero(np.diff(flat, prepend=0, append=2)), prepend=0).tolist()
    save(
        tmp_path / "annotations" / "any name.json",
        document(
            names,
            [
                annotation(1, 3, [box(2, 2, 6, 6)]),  # a small house, listed before the field that it stands in
                annotation(1, 7, [box(0, 0, 16, 20)]),
                annotation(2, 90, {"size": [H, W], "counts": packed}),
                annotation(2, 7, {"size": [H, W], "counts": plain}, iscrowd=1),
                annotation(3, 90, {"size": [H, W], "counts": plain}, iscrowd=1),
                annotation(3, 7, [box(0, 0, 4, 4), box(8, 8, 12, 12)]),
            ],
        ),
    )
    found = find(tmp_path)
    assert found.format == "COCO"
    assert found.class_names == ("building", "field 耕地", "water"), "in the order of their ids"
    assert set(found.images) == {"图 像/一 1", "b", "c"} and not found.left_out
    assert found.images["图 像/一 1"] == tmp_path / "images" / "图 像" / "一 1.jpg"
    first = np.full((H, W), 255)
    first[:20, :16], first[2:6, 2:6] = 1, 0
    assert (found.rasterise("图 像/一 1") == first).all(), "the house stays visible"
    assert (found.rasterise("b") == np.where(pond, 2, 255)).all(), "crowds are drawn first"
    parts = np.where(pond, 2, 255)
    parts[:4, :4] = parts[8:12, 8:12] = 1
    label = found.rasterise("c")
    assert label.dtype == np.uint8 and (label == parts).all()
    assert (found.rasterise("c", background=0) == np.where(parts == 255, 0, parts)).all()


@pytest.mark.parametrize("seed", range(6))
def test_a_label_written_as_polygons_with_holes_comes_back_exactly(tmp_path: Path, seed: int) -> None:
    """As exporters of maps write it: the outline first, then the holes, in one segmentation. Their corners touch."""
    rng = np.random.default_rng(seed)
    label = (cv2.resize(rng.integers(0, 3, (H // 2, W // 2)).astype(np.uint8), (W, H), interpolation=cv2.INTER_NEAREST)).astype(np.uint8)
    label[rng.random((H, W)) < 0.05] = 0
    picture(tmp_path / "a.png")
    areas = [
        annotation(1, value, [np.ravel(ring[:-1]).tolist() for ring in area["coordinates"]])
        for area, value in rasterio.features.shapes(label.astype(np.int32))
    ]
    save(tmp_path / "x.json", document(["a.png"], areas, {0: "a", 1: "b", 2: "c"}))
    assert (find(tmp_path).rasterise("a") == label).all()


def test_several_files_for_several_folders_and_for_one_image(tmp_path: Path) -> None:
    for part in ("train", "val"):
        picture(tmp_path / part / "1.png")
        save(tmp_path / part / "_annotations.coco.json", document(["1.png"], [annotation(1, 3 if part == "val" else 7, [box(0, 0, 9, 9)])]))
    save(tmp_path / "train" / "stuff.json", document(["1.png"], [annotation(1, 5, [box(0, 0, 20, 20)])], {5: "water", 6: "sky"}))
    found = find(tmp_path)
    assert found.class_names == ("building", "field 耕地", "water", "sky"), "joined by name"
    assert set(found.images) == {"train/1", "val/1"}
    assert np.unique(found.rasterise("val/1")).tolist() == [0, 255]
    label = found.rasterise("train/1")
    assert (label[:9, :9] == 1).all() and (label[9:20, :20] == 2).all(), "the larger first, whichever file it stands in"


def test_panoptic_pictures_beside_images_of_the_same_name(tmp_path: Path) -> None:
    picture(tmp_path / "val2017" / "5.png")
    segments = np.zeros((H, W, 3), np.uint8)
    segments[:10] = (4, 1, 0)  # red, green, blue: 260
    segments[10:15] = (0, 0, 3)  # 196608
    segments[15:20] = (200, 0, 0)  # not listed
    path = tmp_path / "annotations" / "panoptic_val2017" / "5.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(cv2.imencode(".png", segments[:, :, ::-1])[1]))
    content = document(["5.png"], [], {2: "field", 200: "water"})
    content["categories"][1]["color"] = [10, 20, 255]
    content["annotations"] = [
        {
            "image_id": 1,
            "file_name": "5.png",
            "segments_info": [{"id": 260, "category_id": 200, "area": 1, "iscrowd": 0}, {"id": 196608, "category_id": 2}],
        }
    ]
    save(tmp_path / "annotations" / "panoptic_val2017.json", content)
    found = find(tmp_path)
    assert found.images == {"5": tmp_path / "val2017" / "5.png"}
    assert found.colours == (None, "#0a14ff") and found.left_out == ()
    label = found.rasterise("5")
    assert (label[:10] == 1).all() and (label[10:15] == 0).all() and (label[15:] == 255).all()
    path.unlink()
    with pytest.raises(UnreadableTile, match=r"panoptic picture 5\.png is not there"):
        find(tmp_path).rasterise("5")


def test_what_cannot_be_used_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    bad = [
        annotation(1, 7, []),
        annotation(1, 999, [box(0, 0, 3, 3)]),
        annotation(55, 7, [box(0, 0, 3, 3)]),
        annotation(1, 7, [[1, 2, 3]]),
        annotation(1, 7, [["1", "2", "3", "4", "5", "9"]]),
        annotation(1, 7, [[0, 0, float("nan"), 5, 5, 9]]),
        annotation(1, 7, {"size": [5, 5], "counts": [25]}),
        annotation(1, 7, {"size": [H, W], "counts": [H * W + 1]}),
        annotation(1, 7, {"size": [H, W], "counts": "o"}),
        annotation(1, [7], [box(0, 0, 3, 3)]),
        "no annotation",
        None,
        annotation(1, 7, [box(4, 4, 8, 8), [1, 1]]),
    ]
    content = document(["a.jpg", "gone.jpg", ""], bad)
    content["images"] += [{"file_name": "no id.jpg"}, 5, None]
    content["categories"] += [{"id": 4}, {"id": 5, "name": 7}, {"name": "x"}, "x"]
    save(tmp_path / "x.json", content)
    found = find(tmp_path)
    assert (found.rasterise("a") != 255).sum() == 16
    said = "\n".join(found.left_out)
    for reason in (
        "1 annotations without a segmentation",
        "2 annotations of a category that is not listed",
        "3 annotations of an image that is not listed",
        "1 masks of another size",
        "2 masks whose run lengths do not fit",
        "2 outlines whose coordinates are no pairs",
        "1 outlines with coordinates that are NaN",
        "4 categories without",
        "4 images without an id",
        "1 annotated images that are not there: gone.jpg",
    ):
        assert reason in said, said


@pytest.mark.parametrize(
    ("size", "reason"),
    [({"height": H + 1}, "annotated at 25 × 32"), ({"height": W, "width": H}, "annotated at 32 × 24"), ({"height": 0}, None)],
)
def test_an_image_of_another_size_than_annotated_is_no_tile(tmp_path: Path, size: dict[str, int], reason: str | None) -> None:
    picture(tmp_path / "a.jpg")
    save(tmp_path / "x.json", document(["a.jpg"], [annotation(1, 7, [box(0, 0, 3, 3)])], **size))
    found = find(tmp_path)
    if reason is None:
        assert found.rasterise("a").shape == (H, W), "a size that is no size is none"
        return
    with pytest.raises(UnreadableTile, match=reason):
        found.rasterise("a")


def test_boxes_alone_captions_and_lists_of_images_are_no_areas(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture(tmp_path / "a.jpg")
    save(tmp_path / "boxes.json", document(["a.jpg"], [annotation(1, 7, []), annotation(1, 3, [])]))
    save(tmp_path / "captions.json", document(["a.jpg"], [{"image_id": 1, "caption": "a field"}]))
    assert not is_coco({"images": [], "categories": [], "annotations": []})
    assert find_annotations([tmp_path]) is None
    assert "2 annotations without a segmentation" in caplog.text


@pytest.mark.parametrize("text", ['{"images": [], "annotations": [', '{"images": 1, "annotations": ' + "[" * 100_000])
def test_a_damaged_file_is_named_with_the_place(tmp_path: Path, text: str) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "instances.json").write_text(text)
    with pytest.raises(LandsegError, match=r"instances\.json: (not JSON: line 1, column|lists in lists)"):
        find_annotations([tmp_path])
