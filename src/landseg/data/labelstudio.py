"""Label Studio JSON (a list of tasks) → sheets. It opens no image.

Coordinates are percentages of the image's width and height. Of several annotations of a task the first that was completed, not cancelled,
is used; predictions never are. Drawn in the file's order: what was drawn later lies on top.

Source: Label Studio's task format and tags (labelstud.io); brush masks: thi.ng/rle-pack, with which Label Studio packs red, green, blue and
alpha; alpha is the mask.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from landseg.core.errors import LandsegError
from landseg.data.documents import Faults, name_of, numbers, real, size_of
from landseg.data.masks import Mask, runs
from landseg.data.shapes import Document, Shape, Sheet, ellipse, measure, rectangle, ring
from landseg.data.tiles import SUFFIXES

MARKS = ('"data"', '"result"')
"""Texts that stand in each such file."""

MARKS_OF_MIN = ('"annotation_id"', '"original_width"')
"""Texts that stand in each file of the export JSON-MIN."""

_LISTS = ("annotations", "completions")
_LABELS = ("polygonlabels", "rectanglelabels", "brushlabels", "ellipselabels", "labels")


def is_labelstudio(document: Any) -> bool:
    """True for an export in the form JSON (not JSON-MIN)."""
    return isinstance(document, list) and any(_annotations(task) is not None for task in document)


def refuse_min(document: Any, what: object) -> None:
    """Refuse the export JSON-MIN, which leaves out who completed what.

    Raises:
        LandsegError: It is one.
    """
    if isinstance(document, list) and document and all(isinstance(task, dict) and "annotation_id" in task for task in document):
        raise LandsegError(what, "Label Studio's JSON-MIN", "its export in the form JSON", "export it again as JSON")


def read_labelstudio(document: list[Any], path: Path) -> Document:
    """Read a parsed document for which `is_labelstudio` holds."""
    result = Document(path)
    used: set[str] = set()
    for task in document:
        annotations = _annotations(task)
        if annotations is None:
            result.faults["tasks without annotations"] += 1
            continue
        done = [entry for entry in annotations if isinstance(entry, dict) and not entry.get("was_cancelled")]
        if not done:
            result.faults["tasks that nobody completed"] += 1
            continue
        if len(done) > 1:
            result.faults["tasks with several annotations, the first of which is used"] += 1
        regions = done[0].get("result")
        file_name, size = _file_name(task), None
        shapes: list[Shape] = []
        for region in regions if isinstance(regions, list) else []:
            if not isinstance(region, dict) or not isinstance(region.get("value"), dict):
                result.faults["regions without a value"] += 1
                continue
            size = size_of(region.get("original_height"), region.get("original_width")) or size
            shape = _shape(region, result.faults)
            if shape is not None:
                shapes.append(shape)
        if not file_name:
            result.faults["tasks whose data name no image"] += 1
            continue
        used.update(shape.name for shape in shapes)
        measure(shapes, result.faults)
        result.sheets.append(Sheet(file_name, size, tuple(shapes)))
    result.names = sorted(used)
    return result


def _annotations(task: object) -> list[Any] | None:
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        return None
    return next((task[key] for key in _LISTS if isinstance(task.get(key), list)), None)


def _file_name(task: dict[str, Any]) -> str:
    """The image of a task: the text in its data that ends like one, else its upload."""
    for value in [*task["data"].values(), task.get("file_upload")]:
        name = _path_in(name_of(value))
        if PurePosixPath(name).suffix.lower() in SUFFIXES:
            return name
    return ""


def _path_in(url: str) -> str:
    """The file in a path, a URL, or ``/data/local-files/?d=…``."""
    if len(url) > 4096 or url.startswith("data:"):
        return ""
    try:
        parts = urlsplit(url)
        local = parse_qs(parts.query).get("d")
    except ValueError:  # brackets that are no address
        return ""
    if local:
        return name_of(local[0])
    return name_of(unquote(parts.path)) if parts.scheme or parts.query or url.startswith("/") else url


def _shape(region: dict[str, Any], faults: Faults) -> Shape | None:
    value = region["value"]
    key = next((key for key in _LABELS if isinstance(value.get(key), list)), None)
    if key is None:
        if "keypointlabels" in value or "vectorlabels" in value:
            faults["points and lines: they have no area"] += 1
        return None  # a choice, a text, or the outline of a region whose label stands in a second entry
    name = name_of(next(iter(value[key]), None))
    if not name:
        faults["regions without a label"] += 1
        return None
    if len(value[key]) > 1:
        faults["regions with several labels, the first of which is used"] += 1
    if real(region.get("image_rotation") or 0) != 0:
        faults["regions on a picture that was turned in the tool"] += 1
        return None
    size = size_of(region.get("original_height"), region.get("original_width"))
    if size is None:
        faults["regions without the size of their image"] += 1
        return None
    if "rle" in value:
        mask = _brush(value["rle"], size, faults)
        return None if mask is None else Shape(name, mask=mask)
    data = ring(_outline(value, size), faults)
    return None if data is None else Shape(name, (data,))


def _outline(value: dict[str, Any], size: tuple[int, int]) -> np.ndarray | None:
    down, right = size[0] / 100, size[1] / 100
    if "points" in value:
        points = numbers(value["points"])
        if points is None or points.ndim != 2 or points.shape[1] != 2:
            return None
        with np.errstate(over="ignore"):
            return np.asarray(points * (right, down))
    x, y = real(value.get("x")) * right, real(value.get("y")) * down
    turn = real(value.get("rotation") or 0)
    if "radiusX" in value:
        return ellipse(x, y, real(value["radiusX"]) * right, real(value.get("radiusY")) * down, turn)
    return rectangle(x, y, real(value.get("width")) * right, real(value.get("height")) * down, turn)


def _brush(packed: object, size: tuple[int, int], faults: Faults) -> Mask | None:
    array = numbers(packed)
    if array is None or array.ndim != 1 or not ((array >= 0) & (array <= 255)).all():
        faults["brush masks that are no list of bytes"] += 1
        return None
    pixels = size[0] * size[1]
    ranges = unpack_alpha(array.astype(np.uint8).tobytes(), pixels)
    if ranges is None:
        faults["brush masks that are damaged or of another size than their image"] += 1
        return None
    edges = ranges.ravel()
    return runs(np.diff(edges, prepend=0).astype(np.float64), size, faults)


def unpack_alpha(packed: bytes, pixels: int) -> np.ndarray | None:
    """Where the alpha of a packed picture is not zero.

    Args:
        packed: 32 bits: how many values; 5 bits: bits a value, less one; four times 4 bits: bits of a length, less one. Then blocks: a bit
            (1: one value repeated, 0: values as they are), 2 bits: which width its length has, the length less one, the value or values.
        pixels: Of the picture, which has four values each.

    Returns:
        (N, 2) int64, ascending: from and to, in pixels along the rows. None when it is damaged or holds another number of pixels.
    """
    end = 8 * len(packed)

    def read(at: int, count: int) -> int:
        first, last = at // 8, (at + count + 7) // 8
        return (int.from_bytes(packed[first:last], "big") >> (8 * last - at - count)) & ((1 << count) - 1)

    if end < 53 or read(0, 32) != 4 * pixels or read(32, 5) != 7:
        return None
    widths = [read(37 + 4 * i, 4) + 1 for i in range(4)]
    at, done = 53, 0
    found: list[np.ndarray] = []
    while done < 4 * pixels:
        if at + 3 > end:
            return None
        is_run, width = read(at, 1), widths[read(at + 1, 2)]
        count = read(at + 3, width) + 1
        at += 3 + width
        size = 8 if is_run else 8 * count
        if at + size > end or done + count > 4 * pixels:
            return None
        # Pixel p's alpha is value 4 p + 3.
        first, last = done // 4, (done + count) // 4
        if is_run:
            if read(at, 8) and last > first:
                found.append(np.array([[first, last]]))
        else:
            found.append(_opaque(packed, at, count, done))
        at += size
        done += count
    ranges = np.concatenate(found) if found else np.zeros((0, 2), np.int64)
    is_new = np.append(True, ranges[1:, 0] != ranges[:-1, 1])[: len(ranges)]
    return np.stack([ranges[is_new, 0], ranges[np.append(is_new[1:], True)[: len(ranges)], 1]], axis=1)


def _opaque(packed: bytes, at: int, count: int, done: int) -> np.ndarray:
    """The opaque pixels among `count` values that stand from bit `at`, the first of them being value `done`: (N, 2) from and to."""
    window = np.frombuffer(packed, np.uint8, (at + 8 * count + 7) // 8 - at // 8, at // 8)
    values = np.packbits(np.unpackbits(window)[at % 8 : at % 8 + 8 * count])
    alpha = values[(3 - done) % 4 :: 4] != 0
    edges = np.flatnonzero(np.diff(alpha, prepend=False, append=False))
    return (edges.reshape(-1, 2) + done // 4).astype(np.int64)
