"""Label Studio's JSON export, and its packed brush masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from landseg.core.errors import LandsegError
from landseg.data.annotations import Annotations, find_annotations
from landseg.data.labelstudio import unpack_alpha

H, W = 20, 40
"""A percent down is 0.2 pixels, a percent to the right 0.4."""


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(cv2.imencode(path.suffix, np.full((H, W, 3), 90, np.uint8))[1]))


def region(kind: str, label: object, value: dict[str, Any], **more: object) -> dict[str, Any]:
    labels = {} if label is None else {kind: [label]}
    fixed = {"id": "aB3", "from_name": "label", "to_name": "image", "origin": "manual", "image_rotation": 0}
    return fixed | {"type": kind, "original_width": W, "original_height": H, "value": value | labels} | more


def task(image: object, *results: object, annotations: list[Any] | None = None, **more: object) -> dict[str, Any]:
    done = [{"id": 1, "completed_by": 1, "was_cancelled": False, "ground_truth": False, "result": list(results)}]
    return {"id": 1, "data": {"image": image}, "annotations": done if annotations is None else annotations, "predictions": []} | more


def polygon(label: object, low: float, high: float) -> dict[str, Any]:
    return region("polygonlabels", label, {"points": [[low, low], [high, low], [high, high], [low, high]], "closed": True})


def save(path: Path, tasks: object) -> None:
    path.write_text(json.dumps(tasks, ensure_ascii=False), encoding="utf-8")


def find(root: Path) -> Annotations:
    found = find_annotations([root])
    assert found is not None
    return found


def pack(values: np.ndarray, widths: tuple[int, ...] = (3, 4, 8, 16), runs: bool = True) -> bytes:
    """rle-pack from its description: a run where a value repeats, else the values as they are."""
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in widths)
    at = 0
    while at < len(values):
        count = 1
        while at + count < len(values) and count < 1 << widths[-1] and (not runs or values[at + count] == values[at]):
            count += 1
        place = next(i for i, width in enumerate(widths) if count <= 1 << width)
        is_run = len(set(values[at : at + count].tolist())) == 1 and runs
        bits += f"{int(is_run)}{place:02b}{count - 1:0{widths[place]}b}"
        bits += "".join(f"{value:08b}" for value in values[at : at + (1 if is_run else count)])
        at += count
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def rgba(mask: np.ndarray) -> np.ndarray:
    """As the editor paints a region: a colour that is the same everywhere in it, alpha 255."""
    return (mask[..., None] * np.array([233, 87, 11, 255])).astype(np.uint8).ravel()


def alpha(packed: bytes, shape: tuple[int, int]) -> np.ndarray | None:
    ranges = unpack_alpha(packed, shape[0] * shape[1])
    if ranges is None:
        return None
    flat = np.zeros(shape[0] * shape[1], bool)
    for first, last in ranges.tolist():
        flat[first:last] = True
    return flat.reshape(shape)


@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)),
    st.sampled_from([(3, 4, 8, 16), (1, 2, 5, 9), (16, 16, 16, 16)]),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_brush_masks_are_unpacked(mask: np.ndarray, widths: tuple[int, ...], runs: bool) -> None:
    found = alpha(pack(rgba(mask), widths, runs), mask.shape)
    assert found is not None and (found == mask).all()
    grey = np.repeat(mask.ravel(), 4).astype(np.uint8) * 255  # as label-studio-converter writes them: one value four times
    found = alpha(pack(grey, widths, runs), mask.shape)
    assert found is not None and (found == mask).all()


def test_the_head_that_label_studio_writes_is_the_one_we_read() -> None:
    """The first bytes of a published export of 3332 × 2527 pixels: four values a pixel, 8 bits each, lengths of 3, 4, 8 and 16 bits."""
    packed = bytes([2, 1, 233, 240, 57, 27, 255, 255, 255, 0, 255, 255, 224, 31, 255, 252, 3, 255, 255, 128, 127])
    count = int.from_bytes(packed[:4], "big")
    assert count == 3332 * 2527 * 4
    assert pack(np.zeros(4, np.uint8))[4:6] == packed[4:6], "the same word size and widths"
    assert unpack_alpha(packed, 3332 * 2527) is None, "cut after its first runs"
    assert pack(np.zeros(5 << 16, np.uint8))[6:21] == packed[6:21], "longest runs of transparent black"


@given(st.binary(max_size=60), st.integers(1, 50))
@settings(max_examples=200, deadline=None)
def test_no_bytes_of_a_brush_do_harm(data: bytes, pixels: int) -> None:
    head = (4 * pixels).to_bytes(4, "big") + bytes([0b00111001, 0b00011011])
    for packed in (data, head + data):
        ranges = unpack_alpha(packed, pixels)
        assert ranges is None or (ranges.size == 0 or (ranges.min() >= 0 and ranges.max() <= pixels))


def test_every_kind_of_region(tmp_path: Path) -> None:
    picture(tmp_path / "upload" / "地 1.jpg")
    brush = np.zeros((H, W), bool)
    brush[12:16, 30:38] = True
    save(
        tmp_path / "project-1-at-2024.json",
        [
            task(
                "/data/upload/1/ab12cd34-%E5%9C%B0_1.jpg",
                polygon("耕地", 0, 50),
                region("rectanglelabels", "house", {"x": 25, "y": 10, "width": 10, "height": 20, "rotation": 0}),
                region("rectanglelabels", "house", {"x": 75, "y": 10, "width": 10, "height": 10, "rotation": 90}),
                region("ellipselabels", "pond", {"x": 75, "y": 50, "radiusX": 5, "radiusY": 10, "rotation": 0}),
                region("brushlabels", "pond", {"format": "rle", "rle": list(pack(rgba(brush)))}),
                region("choices", None, {"choices": ["good"]}),
                region("keypointlabels", "tree", {"x": 1, "y": 1, "width": 0.5}),
                region("polygon", None, {"points": [[0, 0], [1, 0], [1, 1]]}),
                region("labels", "pond", {"points": [[0, 90], [10, 90], [10, 100], [0, 100]]}),
                file_upload="ab12cd34-地_1.jpg",
            )
        ],
    )
    found = find(tmp_path)
    assert (found.format, found.class_names, found.colours) == ("Label Studio", ("house", "pond", "耕地"), (None,) * 3)
    assert found.images == {"地 1": tmp_path / "upload" / "地 1.jpg"}, "the blank that the upload lost is found again"
    label = found.rasterise("地 1")
    expected = np.full((H, W), 255)
    expected[:10, :20] = 2
    expected[2:6, 10:14] = 0
    expected[2:6, 28:30] = 0  # 4 × 2 pixels, turned about its first corner (30, 2)
    expected[12:16, 30:38] = 1
    expected[18:, :4] = 1
    pond = (label == 1) & (expected == 255)
    assert (np.where(pond, 255, label) == expected).all()
    assert pond[9:11, 28:32].all() and pond[8:12, 29:31].all() and pond.sum() == 12
    assert [line.partition(" (")[0] for line in found.left_out] == ["1 points and lines: they have no area"]


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("/data/upload/1/ab12cd34-a.jpg", "a.jpg"),
        ("/data/upload/1/ab12cd34-a.jpg", "ab12cd34-a.jpg"),
        ("/data/local-files/?d=set%201/%E5%9B%BE/a%20b.jpg", "图/a b.jpg"),
        ("/data/local-files/?d=set\\a.jpg", "set/a.jpg"),
        ("s3://bucket/deep/a.jpg", "deep/a.jpg"),
        ("https://example.com/x/a.jpg?token=1%202", "a.png"),
        ("a b.jpg", "a b.jpg"),
        ("/data/upload/3/0123abcd-2024-01-01_a.tif", "2024-01-01 a.jpg"),
    ],
)
def test_images_are_found_by_what_label_studio_calls_them(tmp_path: Path, url: str, file: str) -> None:
    picture(tmp_path / file)
    save(tmp_path / "x.json", [task(url, polygon("x", 0, 50))])
    assert list(find(tmp_path).images.values()) == [tmp_path / file]


def test_of_several_annotators_the_first_who_finished(tmp_path: Path) -> None:
    for name in "abcd":
        picture(tmp_path / f"{name}.jpg")
    done = [
        {"was_cancelled": cancelled, "result": [polygon(label, 0, 50)]}
        for cancelled, label in ((True, "no"), (False, "yes"), (False, "no"))
    ]
    save(
        tmp_path / "x.json",
        [
            task("a.jpg", annotations=done),
            task("b.jpg", annotations=[]),
            task("c.jpg", annotations=done[:1]),
            {"id": 9, "data": {"image": "d.jpg"}, "completions": done[1:2]},  # as versions before 1.0 wrote them
        ],
    )
    found = find(tmp_path)
    assert found.class_names == ("yes",) and set(found.images) == {"a", "d"}
    said = "\n".join(found.left_out)
    assert "1 tasks with several annotations, the first of which is used" in said
    assert "2 tasks that nobody completed" in said and "2 images that no annotation names" in said


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    empty = pack(np.zeros(4, np.uint8))
    save(
        tmp_path / "x.json",
        [
            task(
                "a.jpg",
                polygon("x", 0, 50),
                polygon("x", 0, 50) | {"image_rotation": 90},
                polygon("x", 0, 50) | {"original_width": None},
                polygon(5, 0, 50),
                region("polygonlabels", "x", {"points": [[0, 0], [1e308, 1e308], ["a", 1]]}),
                region("polygonlabels", "x", {"points": [[0, 0], [1e308, 0], [1, 1e308]]}),
                region("rectanglelabels", "x", {"x": "NaN", "y": 1, "width": 3, "height": 1}),
                region("brushlabels", "x", {"rle": list(empty)}),
                region("brushlabels", "x", {"rle": [1, 2, 300]}),
                region("polygonlabels", "x", {"points": [[0, 60], [9, 60], [9, 70]], "polygonlabels": ["x", "y"]})
                | {"value": {"labels": []}},
                {"value": 5},
                None,
            ),
            task("", polygon("x", 0, 50)),
            task("data:image/png;base64,AAAA.png", polygon("x", 0, 50)),
            task("http://[broken/a.jpg", polygon("x", 0, 50)),
            {"id": 3},
            "x",
        ],
    )
    found = find(tmp_path)
    assert (found.rasterise("a") == 0).sum() >= 200
    said = "\n".join(found.left_out)
    for reason in (
        "1 regions on a picture that was turned",
        "1 regions without the size of their image",
        "2 regions without a label",
        "1 outlines whose coordinates are no pairs",
        "1 outlines with coordinates that are NaN",
        "1 brush masks that are damaged",
        "1 brush masks that are no list of bytes",
        "2 regions without a value",
        "3 tasks whose data name no image",
        "2 tasks without annotations",
    ):
        assert reason in said, said


def test_a_cut_export_is_named_with_the_place(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    save(tmp_path / "x.json", [task("a.jpg", polygon("x", 0, 50))])
    text = (tmp_path / "x.json").read_text()
    (tmp_path / "x.json").write_text(text[:-30])
    with pytest.raises(LandsegError, match=r"x\.json: not JSON: line 1, column \d+"):
        find_annotations([tmp_path])


def test_the_short_form_of_the_export_is_refused_by_its_name(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    label = {"original_width": W, "original_height": H, "points": [[0, 0], [9, 0], [9, 9]], "polygonlabels": ["x"]}
    save(tmp_path / "x.json", [{"image": "/data/upload/1/ab12cd34-a.jpg", "id": 1, "label": [label], "annotator": 1, "annotation_id": 1}])
    with pytest.raises(LandsegError, match="JSON-MIN"):
        find_annotations([tmp_path])
