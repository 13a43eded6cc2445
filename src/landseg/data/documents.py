"""Other tools' documents, read within bounds: JSON files, and the numbers, sizes and names in them. It knows no format.

*Faults* count what of a document could not be used, by reason.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from landseg.core.errors import LandsegError
from landseg.core.files import human_bytes
from landseg.data.tiles import MAX_PIXELS

MAX_BYTES = 1 << 30
"""Largest document that is read, which takes three times its size in memory. COCO's own largest, instances_train2017.json, has 448 MB."""

Faults = Counter[str]


def read_text(path: Path) -> str:
    """A document's text: UTF-8 with or without a mark, UTF-16 with one, else GB 18030, as Chinese Windows writes it.

    Raises:
        LandsegError: It cannot be opened, is larger than `MAX_BYTES`, or is no text.
    """
    needed = "an annotation file of a labelling tool"
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise LandsegError(path, human_bytes(size), f"at most {human_bytes(MAX_BYTES)}", "export in several files")
        data = path.read_bytes()
    except OSError as error:
        raise LandsegError(
            path, f"it cannot be read ({error.strerror or error})", needed, "mend its permissions or take it away"
        ) from error
    return decode(data, path)


def decode(data: bytes, what: object) -> str:
    """Bytes → text, as `read_text`."""
    marked = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    for codec in (marked, "gb18030"):
        try:
            return data.decode(codec)
        except UnicodeDecodeError:
            continue
    raise LandsegError(what, "no text: neither UTF-8 nor GB 18030", "a text file", "save it as UTF-8")


def parse_json(text: str, what: object) -> Any:
    """Parse JSON; long lists of numbers come as arrays.

    Raises:
        LandsegError: It is not JSON, or nested too deep.
    """
    try:
        return json.loads(text, object_hook=compact)
    except json.JSONDecodeError as error:
        found = f"not JSON: line {error.lineno}, column {error.colno}: {error.msg}"
    except ValueError as error:
        found = f"not JSON: {str(error)[:80]}"  # a number of more than 4,300 digits
    except RecursionError:
        found = "lists in lists, too deep to read"
    raise LandsegError(what, found, "a whole JSON file", "export it again, or take it away")


def numbers(values: object) -> np.ndarray | None:
    """A JSON list of numbers, or of lists of numbers of one length, as float64 (N,) or (N, M); None when it is anything else."""
    if isinstance(values, np.ndarray):
        return values
    if not isinstance(values, list):
        return None
    flat, width = values, 0
    if values and isinstance(values[0], list):
        width = len(values[0])
        if not width or set(map(type, values)) != {list} or set(map(len, values)) != {width}:
            return None
        flat = list(chain.from_iterable(values))
    # By type and before NumPy sees it: NumPy would read texts as numbers, and give each the room of the longest.
    if not set(map(type, flat)) <= {int, float}:
        return None
    try:
        array = np.array(flat, np.float64)
    except OverflowError:
        return None
    return array.reshape(-1, width) if width else array


def compact(entry: dict[str, Any]) -> dict[str, Any]:
    """For ``json.loads(object_hook=…)``: lists of coordinates and run lengths become arrays at once, a fifth of their size."""
    if "segmentation" in entry:
        entry.pop("bbox", None)  # follows from the segmentation, and would be a third of what is left
    for key in ("segmentation", "points", "rle", "counts"):
        value = entry.get(key)
        if not isinstance(value, list) or not value:
            continue
        if key == "segmentation":
            entry[key] = [ring if (array := numbers(ring)) is None else array for ring in value]
        elif (array := numbers(value)) is not None:
            entry[key] = array
    return entry


def whole(value: object, least: int = 0) -> int | None:
    """A whole number of a document, also when it is written ``3.0`` or as text; None when it is none or below `least`."""
    number = real(value)
    return int(number) if number.is_integer() and number >= least else None


def real(value: object) -> float:
    """A number of a document, also when it is written as text; NaN when it is none."""
    try:
        return float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return math.nan


def size_of(height: object, width: object) -> tuple[int, int] | None:
    """The height and width that a document states; None when it does not, or states what no tile has."""
    rows, cols = whole(height, 1), whole(width, 1)
    return (rows, cols) if rows and cols and rows * cols <= MAX_PIXELS else None


def name_of(value: object) -> str:
    """A class name or file name as it can be printed and compared: no blanks around it, no half characters; empty when it is no text."""
    return value.encode("utf-8", "replace").decode("utf-8").strip() if isinstance(value, str) else ""
