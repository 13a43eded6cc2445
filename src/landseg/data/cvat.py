"""CVAT for images 1.1 (XML) → sheets. It opens no image.

Drawn by ``z_order``, equal ones in the file's order. Lines, points, cuboids and skeletons have no area. The XML is read piece by piece; a
document type or an entity declaration, through which a small file can grow without bounds, is refused before anything is parsed.

Source: CVAT's XML annotation format 1.1, docs.cvat.ai.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from landseg.core.errors import LandsegError
from landseg.core.files import human_bytes
from landseg.data.documents import MAX_BYTES, Faults, name_of, real, size_of, whole
from landseg.data.masks import Mask, runs
from landseg.data.shapes import Document, Shape, Sheet, ellipse, measure, rectangle, ring

_PIECE = 1 << 24
"""Bytes given to the parser at once: with small pieces, expat below 2.6 takes quadratic time on a long attribute."""

_NO_AREA = ("polyline", "points", "cuboid", "skeleton")
_NEEDED = "annotations.xml of the export 'CVAT for images 1.1'"
_PARSE_ERRORS = (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError)  # the last two: encodings that expat does not know


class _Stop(Exception):
    """Ends the look at a file's first element."""


def read_cvat(path: Path) -> Document | None:
    """Read an XML file; None when it is no CVAT export.

    Raises:
        LandsegError: It is one, but damaged, with entities in it, too large or unreadable.
    """
    try:
        root, has_types = _root(path)
        if root != "annotations":
            return None
        if has_types:
            raise LandsegError(path, "a document type or entities in it", _NEEDED, "export it again; CVAT writes none")
        if path.stat().st_size > MAX_BYTES:
            raise LandsegError(path, human_bytes(path.stat().st_size), f"at most {human_bytes(MAX_BYTES)}", "export fewer images at once")
        return _read(path)
    except OSError as error:
        reason = f"it cannot be read ({error.strerror or error})"
        raise LandsegError(path, reason, _NEEDED, "mend its permissions or take it away") from error


def _root(path: Path) -> tuple[str, bool]:
    """The name of the first element (empty when it is no XML), and whether a document type stands before it."""
    found = ["", False]

    def on_type(name: str, *_: object) -> None:
        found[:] = [name, True]
        raise _Stop

    def on_element(name: str, _: object) -> None:
        found[0] = name
        raise _Stop

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = on_type
    parser.StartElementHandler = on_element
    try:
        with path.open("rb") as source:
            # An export begins with its first element; what does not within a megabyte is none.
            parser.Parse(source.read(1 << 20), False)
    except _Stop:
        pass
    except _PARSE_ERRORS:
        return "", False
    return str(found[0]), bool(found[1])


def _read(path: Path) -> Document | None:
    result = Document(path)
    is_export = False
    try:
        for element in _elements(path):
            if element.tag == "meta":
                is_export = True
                _read_classes(element, result)
            elif element.tag == "image":
                is_export = True
                _read_image(element, result)
            elif element.tag == "track":
                is_export = True
                result.faults["tracks of a video: export 'CVAT for images 1.1'"] += 1
    except _PARSE_ERRORS as error:
        raise LandsegError(path, f"not whole XML ({str(error)[:80]})", _NEEDED, "export it again, or take it away") from error
    return result if is_export else None


def _elements(path: Path) -> Iterator[ElementTree.Element]:
    """The elements just below the first one, each dropped when it has been used: memory holds one image at a time."""
    parser: Any = ElementTree.XMLPullParser(("start", "end"))
    open_elements: list[ElementTree.Element] = []
    with path.open("rb") as source:
        while True:
            piece = source.read(_PIECE)
            if piece:
                parser.feed(piece)
            else:
                parser.close()
            for event, element in parser.read_events():
                if event == "start":
                    open_elements.append(element)
                    continue
                open_elements.pop()
                if len(open_elements) == 1:
                    yield element
                    open_elements[0].clear()
            if not piece:
                return


def _read_classes(meta: ElementTree.Element, result: Document) -> None:
    for entry in meta.iterfind(".//labels/label"):
        name, kind = name_of(entry.findtext("name")), entry.findtext("type")
        if not name or kind in ("tag", *_NO_AREA) or entry.find("parent") is not None:
            continue
        if name not in result.names:
            result.names.append(name)
        colour = (entry.findtext("color") or "").strip()
        if re.fullmatch("#[0-9a-fA-F]{6}", colour):
            result.colours.setdefault(name, colour.lower())


def _read_image(image: ElementTree.Element, result: Document) -> None:
    file_name = name_of(image.get("name"))
    if not file_name:
        result.faults["images without a name"] += 1
        return
    size = size_of(image.get("height"), image.get("width"))
    found: list[tuple[int, Shape]] = []
    for element in image:
        if element.tag in _NO_AREA:
            result.faults[f"shapes of the kind {element.tag}: they have no area"] += 1
            continue
        if element.tag not in ("box", "polygon", "mask", "ellipse"):
            continue
        name = name_of(element.get("label"))
        if not name:
            result.faults["shapes without a label"] += 1
            continue
        if element.tag == "mask":
            mask = _mask(element, size, result.faults)
            shape = None if mask is None else Shape(name, mask=mask)
        else:
            data = ring(_outline(element), result.faults)
            shape = None if data is None else Shape(name, (data,))
        if shape is not None:
            order = real(element.get("z_order", "0"))
            found.append((int(order) if math.isfinite(order) else 0, shape))
    shapes = [shape for _, shape in sorted(found, key=lambda item: item[0])]
    measure(shapes, result.faults)
    result.sheets.append(Sheet(file_name, size, tuple(shapes)))


def _outline(element: ElementTree.Element) -> np.ndarray | None:
    if element.tag == "polygon":
        text = element.get("points", "")
        try:
            values = np.array([float(value) for value in text.replace(";", ",").split(",")], np.float64)
        except ValueError:
            return None
        return values if len(values) == 2 * text.count(",") else None
    turn = real(element.get("rotation", "0"))
    if element.tag == "box":
        left, top, right, bottom = (real(element.get(key)) for key in ("xtl", "ytl", "xbr", "ybr"))
        return rectangle(left, top, right - left, bottom - top, turn, about_centre=True)
    x, y, radius_x, radius_y = (real(element.get(key)) for key in ("cx", "cy", "rx", "ry"))
    return ellipse(x, y, radius_x, radius_y, turn)


def _mask(element: ElementTree.Element, size: tuple[int, int] | None, faults: Faults) -> Mask | None:
    """Run lengths along the rows of a box, off first."""
    box = size_of(element.get("height"), element.get("width"))
    row, col = whole(element.get("top")), whole(element.get("left"))
    if box is None or row is None or col is None or size is None or row + box[0] > size[0] or col + box[1] > size[1]:
        faults["masks whose box does not lie in their image"] += 1
        return None
    try:
        counts = np.array([float(value) for value in element.get("rle", "").split(",")], np.float64)
    except ValueError:
        counts = np.array([math.nan])
    return runs(counts, box, faults, corner=(row, col))
