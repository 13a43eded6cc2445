"""Annotation files among other files: recognised by content, matched with images, and harmless however damaged."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from landseg.core.errors import LandsegError
from landseg.core.progress import parallel_map
from landseg.data.annotations import find_annotations
from landseg.data.documents import MAX_BYTES
from landseg.data.tiles import UnreadableTile

H, W = 16, 20

COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "height": H, "width": W}, {"id": 2, "file_name": "b.png", "height": H, "width": W}],
    "annotations": [
        {"image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9], [2, 2, 3, 2, 3, 3, 2, 3]], "iscrowd": 0},
        {"image_id": 1, "category_id": 4, "segmentation": {"size": [H, W], "counts": [5, 20, 295]}, "iscrowd": 1},
        {"image_id": 2, "category_id": 4, "segmentation": {"size": [H, W], "counts": "4d9"}, "iscrowd": 1},
        {"image_id": 2, "file_name": "b.png", "segments_info": [{"id": 258, "category_id": 4}]},
    ],
    "categories": [{"id": 4, "name": "water", "color": [1, 2, 3]}, {"id": 1, "name": "耕地"}],
}
LABELME: dict[str, Any] = {
    "version": "5.4.1",
    "imagePath": "a.png",
    "imageData": None,
    "imageHeight": H,
    "imageWidth": W,
    "shapes": [
        {"label": "耕地", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"},
        {"label": "x", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"},
        {"label": "x", "points": [[5, 5], [9, 9]], "shape_type": "circle"},
        {
            "label": "x",
            "points": [[5, 5], [9, 9]],
            "shape_type": "mask",
            "mask": base64.b64encode(bytes(cv2.imencode(".png", np.eye(4, dtype=np.uint8))[1])).decode(),
        },
    ],
}
LABEL_STUDIO: list[Any] = [
    {
        "data": {"image": "/data/upload/1/0123abcd-a.png"},
        "annotations": [
            {
                "was_cancelled": False,
                "result": [
                    {
                        "original_width": W,
                        "original_height": H,
                        "image_rotation": 0,
                        "value": {"points": [[1, 1], [9, 1], [9, 90]], "polygonlabels": ["x"]},
                    },
                    {
                        "original_width": W,
                        "original_height": H,
                        "value": {"x": 1, "y": 1, "width": 50, "height": 10, "rotation": 10, "rectanglelabels": ["y"]},
                    },
                    {
                        "original_width": W,
                        "original_height": H,
                        "value": {"rle": [0, 0, 5, 0, 57, 27, 255, 4, 255, 255], "brushlabels": ["y"]},
                    },
                ],
            }
        ],
    }
]
CVAT = f"""<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><job><labels><label><name>耕地</name>
<color>#aabbcc</color><type>any</type></label></labels></job></meta><image id="0" name="a.png" width="{W}" height="{H}">
<box label="x" xtl="1" ytl="1" xbr="9" ybr="9" rotation="3" z_order="1"/><polygon label="耕地" points="1,1;9,1;9,9" z_order="0"/>
<mask label="x" rle="1,2,1" left="3" top="3" width="2" height="2"/><ellipse label="x" cx="5" cy="5" rx="3" ry="2"/></image></annotations>"""


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(cv2.imencode(path.suffix, np.zeros((H, W, 3), np.uint8))[1]))
    return path


def save(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def use(root: Path) -> bool:
    """Find and draw everything; the only exceptions are those that are promised. True when something was drawn."""
    try:
        found = find_annotations([root])
    except LandsegError as error:
        assert "\n" not in str(error)
        return False
    if found is None:
        return False
    assert all(isinstance(line, str) and line.encode() for line in (*found.left_out, *found.class_names))
    assert len(found.class_names) == len(found.colours)
    for name in found.images:
        try:
            label = found.rasterise(name, background=0)
        except UnreadableTile as error:
            assert str(error)
        else:
            assert label.shape == (H, W) and label.dtype == np.uint8
            assert label[label != 255].max(initial=0) < len(found.class_names)
    return True


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for name in "ab":
        picture(folder / f"{name}.png")
    return folder


def test_the_exports_that_are_mutated_below_are_sound(tmp_path: Path) -> None:
    for name, content in {"a.json": COCO, "b.json": LABELME, "c.json": LABEL_STUDIO, "d.xml": CVAT}.items():
        for image in "ab":
            picture(tmp_path / name / f"{image}.png")
        save(tmp_path / name / name, content)
        assert use(tmp_path / name), name
        found = find_annotations([tmp_path / name])
        assert found is not None
        assert not [line for line in found.left_out if "no annotation names" not in line and "panoptic" not in line], found.left_out


ODD = st.sampled_from(
    [
        None, True, "", "x", "\ud800", "\0", "1e999", -1, 0, 1.5, 2**31, 2**63, 10**400, float("nan"), float("inf"), -1e308, 1e308,
        [], {}, [[]], [[1]], [None], [1, 2, 3, 4, 5, 6], [[1, 2], [3, 4], [9, 1]], ["a"] * 9, {"counts": "o" * 9, "size": [H, W]},
        "../" * 99 + "a.png", "a.png", "b.png", "/data/local-files/?d=a.png", "http://[x", "data:,", "mask", "A" * 5000,
    ]
)  # fmt: skip


def mutate(data: st.DataObject, document: Any) -> Any:
    """Change a few places of a document, wherever they lie."""
    document = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 3))):
        holder = document
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(holder[key], dict | list) and holder[key] and data.draw(st.integers(0, 9)):
                holder = holder[key]
                continue
            action = data.draw(st.integers(0, 3))
            if action == 0:
                del holder[key]
            elif action == 1 and isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            else:
                holder[key] = copy.deepcopy(data.draw(ODD))
            break
    return document


@pytest.mark.parametrize("document", [COCO, LABELME, LABEL_STUDIO], ids=["coco", "labelme", "labelstudio"])
@given(data=st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_change_of_a_json_is_a_traceback(root: Path, document: Any, data: st.DataObject) -> None:
    changed = mutate(data, document)
    (root / "x.json").write_text(json.dumps(changed), encoding="utf-8")
    (root / "x.xml").unlink(missing_ok=True)
    use(root)


@given(data=st.data(), source=st.sampled_from([json.dumps(COCO), json.dumps(LABELME), json.dumps(LABEL_STUDIO), CVAT]))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_change_of_the_bytes_is_a_traceback(root: Path, data: st.DataObject, source: str) -> None:
    raw = bytearray(source.encode())
    odd = st.sampled_from([b'"', b"<", b">", b"&x;", b"999999999", b"-", b"e9", b"[", b"]]>"])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        end = at + data.draw(st.integers(0, 12))
        raw[at:end] = data.draw(st.binary(max_size=6) | odd)
    name = "x.xml" if source == CVAT else "x.json"
    for other in ("x.xml", "x.json"):
        (root / other).unlink(missing_ok=True)
    (root / name).write_bytes(bytes(raw))
    use(root)


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    save(tmp_path / "package.json", {"name": "x", "dependencies": {"images": "1"}})
    save(tmp_path / "map.geojson", {"type": "FeatureCollection", "features": []})
    save(tmp_path / "map.json", {"type": "FeatureCollection", "features": [{"properties": {"annotations": "images"}}]})
    save(tmp_path / "quoted.json", {"note": 'says "annotations" and "images", "data" and "result", "shapes" and "imagePath"'})
    save(tmp_path / "list.json", [1, 2, "annotations"])
    save(tmp_path / "text.json", json.dumps(json.dumps(COCO)))
    save(tmp_path / "broken.json", '{"half": ')
    save(tmp_path / ".hidden.json", COCO)
    save(tmp_path / "__MACOSX" / "x.json", COCO)
    save(tmp_path / "out" / "x.json", COCO)
    assert find_annotations([tmp_path], leave=tmp_path / "out") is None
    assert find_annotations([tmp_path]) is not None


def test_of_two_formats_the_one_with_more_images_is_used(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    save(tmp_path / "any.json", COCO)
    save(tmp_path / "a.json", LABELME)
    found = find_annotations([tmp_path])
    assert found is not None and found.format == "COCO"
    assert "LabelMe annotations: COCO annotates more images" in found.left_out
    assert found.class_names == ("耕地", "water") and found.colours == (None, "#010203")


def test_images_in_one_root_and_annotations_in_another(tmp_path: Path) -> None:
    picture(tmp_path / "one" / "deep" / "a.png")
    save(tmp_path / "two" / "a.json", LABELME)
    found = find_annotations([tmp_path / "one", tmp_path / "two"])
    assert found is not None and found.images == {"a": tmp_path / "one" / "deep" / "a.png"}


def test_an_upload_to_label_studio_is_found_in_its_coco_export_too(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a 1.png")
    picture(tmp_path / "images" / "x+y.png")
    renamed = copy.deepcopy(COCO)
    renamed["images"][0]["file_name"], renamed["images"][1]["file_name"] = "images/0123abcd-a_1.png", "xy.png"
    save(tmp_path / "result.json", renamed)
    found = find_annotations([tmp_path])
    assert found is not None and found.images == {"a 1": tmp_path / "images" / "a 1.png"}, "a name without the mark of an upload is exact"


def test_annotations_of_images_that_are_not_there_are_an_error_with_a_name(tmp_path: Path) -> None:
    save(tmp_path / "x.json", COCO)
    with pytest.raises(
        LandsegError, match=r"^the zip: none of its images is found \(2 annotated images that are not there: a\.png, b\.png\)"
    ):
        find_annotations([tmp_path], shown=lambda path: "the zip")


def test_more_classes_than_a_label_holds_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    many = copy.deepcopy(COCO)
    many["categories"] += [{"id": i, "name": f"class {i}"} for i in range(10, 300)]
    save(tmp_path / "x.json", many)
    with pytest.raises(LandsegError, match="292 classes, at most 255"):
        find_annotations([tmp_path])


def test_unreadable_images_and_huge_files_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "b.png")
    (tmp_path / "a.png").write_bytes(b"no picture")
    save(tmp_path / "x.json", COCO)
    with (tmp_path / "big.json").open("wb") as sparse:
        sparse.truncate(MAX_BYTES + 1)
    found = find_annotations([tmp_path])
    assert found is not None
    with pytest.raises(UnreadableTile):
        found.rasterise("a")
    assert any("big.json (1.1 GB" in line for line in found.left_out)


def test_labels_are_drawn_from_many_threads(tmp_path: Path) -> None:
    for i in range(40):
        picture(tmp_path / f"{i}.png")
        changed = copy.deepcopy(LABELME)
        changed["imagePath"] = f"{i}.png"
        changed["shapes"][0]["points"] = [[0, 0], [1 + i % 19, 0], [1 + i % 19, 16], [0, 16]]
        changed["shapes"] = changed["shapes"][:1]
        save(tmp_path / f"{i}.json", changed)
    found = find_annotations([tmp_path])
    assert found is not None and len(found.images) == 40
    names = sorted(found.images, key=int)
    counts = [(label == 0).sum() for label in parallel_map(found.rasterise, names, workers=4)]
    assert counts == [16 * (1 + i % 19) for i in range(40)]
