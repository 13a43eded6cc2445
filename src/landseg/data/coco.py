"""COCO JSON (instances, stuff, panoptic) → sheets. It opens no image.

COCO has no order of drawing, for its objects are kept apart: here crowds come first, then the larger before the smaller, so that a house
in a field stays visible. A segmentation of several polygons is their union, but a polygon inside another one of its segmentation is a hole,
as exporters of maps write them. A box without a segmentation is no area.

Source: COCO's data format, cocodataset.org; panoptic ids are red + 256 green + 65536 blue.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from landseg.data.documents import Faults, name_of, numbers, size_of, whole
from landseg.data.masks import Mask, runs
from landseg.data.shapes import Document, Segments, Shape, Sheet, measure, ring

MARKS = ('"annotations"', '"images"')
"""Texts that stand in each such file."""


def is_coco(document: Any) -> bool:
    """True for COCO with areas: captions, key points of nothing and lists of images are none."""
    if not isinstance(document, dict) or not all(isinstance(document.get(key), list) for key in ("images", "annotations", "categories")):
        return False
    return any(isinstance(entry, dict) and ("segmentation" in entry or "segments_info" in entry) for entry in document["annotations"])


def read_coco(document: dict[str, Any], path: Path) -> Document:
    """Read a parsed document for which `is_coco` holds; its annotations are used up."""
    result = Document(path)
    names = _read_classes(document["categories"], result)
    found: defaultdict[int | str, list[tuple[Shape, bool]]] = defaultdict(list)
    painted: dict[int | str, Segments] = {}
    sizes = {
        key: size_of(entry.get("height"), entry.get("width")) for entry in document["images"] if (key := _key(entry, "id")) is not None
    }
    document["annotations"].reverse()
    while document["annotations"]:
        entry = document["annotations"].pop()  # not kept: what becomes of it needs the memory
        image = _key(entry, "image_id")
        if image not in sizes:
            result.faults["annotations of an image that is not listed"] += 1
            continue
        if "segments_info" in entry:
            segments = _segments(entry, names, result.faults)
            if segments:
                painted[image] = segments
            continue
        shape = _shape(entry, names, sizes[image], result.faults)
        if shape is not None:
            found[image].append((shape, entry.get("iscrowd") == 1))
    for entry in document["images"]:
        key = _key(entry, "id")
        file_name = name_of(entry.get("file_name")) if key is not None else ""
        if key is None or not file_name:
            result.faults["images without an id or a file name"] += 1
            continue
        pairs = found.pop(key, [])
        areas = measure([shape for shape, _ in pairs], result.faults)
        shapes = [shape._replace(area=math.inf if crowd else float(area)) for (shape, crowd), area in zip(pairs, areas, strict=True)]
        result.sheets.append(Sheet(file_name, sizes[key], by_area(shapes), painted.pop(key, None)))
    return result


def by_area(shapes: list[Shape]) -> tuple[Shape, ...]:
    """The order of drawing: larger ones first, equal ones as they stand."""
    return tuple(sorted(shapes, key=lambda shape: -shape.area))


def _key(entry: object, key: str) -> int | str | None:
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, float) and value.is_integer():
        return int(value)  # pandas writes ids as 3.0
    return value if isinstance(value, int | str) else None


def _read_classes(categories: list[Any], result: Document) -> dict[int | str, str]:
    """Category id → name; ids need not be contiguous, and categories of one name are one class."""
    known = [(key, name, entry) for entry in categories if (key := _key(entry, "id")) is not None and (name := name_of(entry.get("name")))]
    if len(known) < len(categories):
        result.faults["categories without an id or a name"] += len(categories) - len(known)
    known.sort(key=lambda item: (isinstance(item[0], str), item[0] if isinstance(item[0], int) else 0))
    for _, name, entry in known:
        if name not in result.names:
            result.names.append(name)
        colour = _colour(entry.get("color"))
        if colour:
            result.colours.setdefault(name, colour)
    return {key: name for key, name, _ in known}


def _colour(value: object) -> str | None:
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        return value.lower()
    bands = numbers(value)
    if bands is None or bands.shape != (3,) or not ((bands >= 0) & (bands <= 255)).all():
        return None
    return "#" + bands.astype(np.uint8).tobytes().hex()


def _shape(entry: dict[str, Any], names: dict[int | str, str], size: tuple[int, int] | None, faults: Faults) -> Shape | None:
    category = _key(entry, "category_id")
    if category not in names:
        faults["annotations of a category that is not listed"] += 1
        return None
    area = entry.get("segmentation")
    if isinstance(area, dict):
        mask = _mask(area, size, faults)
        return None if mask is None else Shape(names[category], mask=mask)
    if not isinstance(area, list) or not area:
        faults["annotations without a segmentation: a box is no area"] += 1
        return None
    rings = tuple(data for points in area if (data := ring(points, faults)) is not None)
    return Shape(names[category], rings) if rings else None


def _mask(area: dict[str, Any], size: tuple[int, int] | None, faults: Faults) -> Mask | None:
    stated = area.get("size")
    box = size_of(*stated) if isinstance(stated, list) and len(stated) == 2 else None
    if box is None or (size is not None and box != size):
        faults["masks of another size than their image"] += 1
        return None
    return runs(area.get("counts"), box, faults, by_columns=True)


def _segments(entry: dict[str, Any], names: dict[int | str, str], faults: Faults) -> Segments | None:
    file_name, listed = name_of(entry.get("file_name")), entry["segments_info"]
    known: dict[int, str] = {}
    for segment in listed if isinstance(listed, list) else []:
        number, category = whole(segment.get("id"), 1) if isinstance(segment, dict) else None, _key(segment, "category_id")
        if number is None or number >= 1 << 24 or category not in names:
            faults["segments without an id or of a category that is not listed"] += 1
        else:
            known[number] = names[category]
    if not file_name or not known:
        faults["panoptic annotations without a picture or without segments"] += 1
        return None
    return Segments(file_name, known)
