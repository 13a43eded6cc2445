"""Read a file of classes, in the forms that people and other tools have: names, and their colours and codes where it gives them.

It knows neither ids nor data sets: `classes` makes classes of what stands here. Forms: YAML, CSV, one name a line (PaddleX's `labels.txt`),
CVAT's `labelmap.txt`, JSON (CVAT, COCO categories) and Label Studio's XML.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml
from PIL import ImageColor

from landseg.core.errors import LandsegError

LARGEST = 2_000_000
"""Bytes; a longer file is no list of classes."""

UNLABELLED = frozenset(
    {"__ignore__", "ignore", "ignored", "unlabelled", "unlabeled", "unlabled", "void", "nodata", "no data", "未标注", "忽略"}
)
"""Names that, with a code or a colour, say what is no class. Source: labelme's and Cityscapes' lists, the Dubai set's."""

_NAME = ("name", "class", "label", "class_name", "classname", "label_name", "category", "title", "类别", "名称", "类名")
_COLOUR = ("colour", "color", "hex", "rgb", "background", "颜色")
_BANDS = (("r", "g", "b"), ("red", "green", "blue"))
_ID = ("id", "class_id", "label_id", "index", "编号")
_CODE = ("code", "value", "pixel", "pixel_value", "pixel value", "grey", "gray", "gray_value", "像素值")


@dataclass(frozen=True)
class Entry:
    """One class as its file gives it: colour ``#rrggbb``, and the numbers or the place that stand for it in label files."""

    name: str
    colour: str | None = None
    codes: tuple[int, ...] = ()
    id: int | None = None


@dataclass(frozen=True)
class ClassFile:
    """The classes of a file in their order, and the keys of `dataset.yaml` that it gives beside them."""

    entries: tuple[Entry, ...]
    keys: Mapping[str, Any] = field(default_factory=dict)


KEYS = ("ignore_index", "label_encoding", "ignore_colours", "remap")


def read_class_file(path: Path) -> ClassFile:
    """Read a file of classes; its ending tells YAML, CSV, JSON and XML, anything else is text.

    Raises:
        LandsegError: It cannot be read or understood.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise LandsegError(path, f"{path.stat().st_size:,} bytes", "a text file of class names", "name the file of classes")
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise LandsegError(path, f"it cannot be read ({reason})", "a text file of class names", "save it as UTF-8") from error
    try:
        return _parse(content, path.suffix.lower())
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, RecursionError, csv.Error, ElementTree.ParseError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise LandsegError(
            path, f"not a list of classes ({reason})", "a list of names or of {name, colour, code}", "docs/how-to/labels.md shows each form"
        ) from error


def parse_colour(value: object) -> str:
    """A colour as people write it → ``#rrggbb``: hex with or without ``#``, three numbers, or a name of CSS.

    Raises:
        ValueError, TypeError: It is none.
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        bands = [int(band) for band in value][:3]
        if len(bands) < 3 or any(not 0 <= band <= 255 for band in bands):
            raise ValueError(f"{bands} is no colour: three numbers from 0 to 255")
        return "#{:02x}{:02x}{:02x}".format(*bands)
    if not isinstance(value, str):
        raise TypeError(f"{_brief(value)} is no colour; it stands in quotes: '#c8553d'")
    text = value.strip()
    if numbers := re.fullmatch(r"(?:rgba?)?\s*[\[(]?\s*(\d+)[\s,;]+(\d+)[\s,;]+(\d+)(?:[\s,;]+[\d.]+)?\s*[\])]?", text):
        return parse_colour([int(band) for band in numbers.groups()])
    if re.fullmatch(r"(#|0[xX])?[0-9a-fA-F]{6}([0-9a-fA-F]{2})?", text):
        digits = text.removeprefix("#").removeprefix("0x").removeprefix("0X")
        return f"#{digits[:6].lower()}"
    if text.lower() in ImageColor.colormap:
        return "#{:02x}{:02x}{:02x}".format(*ImageColor.getrgb(text.lower())[:3])
    raise ValueError(f"{text!r} is no colour such as '#c8553d'")


def _parse(content: str, suffix: str) -> ClassFile:
    if suffix in (".yaml", ".yml"):
        return _from_document(yaml.safe_load(content), is_list_plain=True)
    if suffix == ".json":
        return _from_document(json.loads(content), is_list_plain=False)
    if suffix in (".xml", ".html"):
        return ClassFile(tuple(_from_xml(content)))
    if suffix in (".csv", ".tsv"):
        return ClassFile(tuple(_from_table(content)))
    return ClassFile(tuple(_from_text(content)))


def _from_document(document: Any, *, is_list_plain: bool) -> ClassFile:
    """YAML or JSON: a list, a map that holds one, or a map of names.

    `is_list_plain`: an ``id`` in a bare list is the user's. In JSON such a list is CVAT's, whose ids are numbers of its data base.
    """
    keys: dict[str, Any] = {}
    has_ids = is_list_plain
    if isinstance(document, dict):
        keys = {key: document[key] for key in KEYS if key in document}
        listed = next((key for key in ("classes", "names", "categories", "labels", "id2label") if key in document), None)
        if listed is None and not (document and all(_is_pair(key, value) for key, value in document.items())):
            raise ValueError(f"it has the keys {', '.join(map(str, list(document)[:5]))}, and no classes")
        document, has_ids = document if listed is None else document[listed], True
    if isinstance(document, dict):
        return ClassFile(tuple(_from_pairs(document)), keys)
    if not isinstance(document, list):
        raise TypeError(f"it is a {type(document).__name__}")
    entries = [_from_map(item, has_ids=has_ids) if isinstance(item, dict) else Entry(_text(item)) for item in document]
    return ClassFile(tuple(entries), keys)


def _is_pair(key: object, value: object) -> bool:
    """``building: '#c8553d'`` or ``0: building``."""
    if str(key).isdigit() and isinstance(value, str):
        return True
    try:
        parse_colour(value)
    except (ValueError, TypeError):
        return False
    return True


def _from_pairs(document: Mapping[Any, Any]) -> Iterable[Entry]:
    for key, value in document.items():
        yield Entry(_text(value), id=int(key)) if str(key).isdigit() else Entry(_text(key), parse_colour(value))


def _from_map(item: Mapping[str, Any], *, has_ids: bool) -> Entry:
    known = {str(key).strip().lower(): value for key, value in item.items()}
    name = next((known[key] for key in _NAME if isinstance(known.get(key), str | int | float)), None)
    if name is None:
        raise ValueError(f"a class without a name: it has {', '.join(map(_brief, list(item)[:5]))}")
    colour = next((known[key] for key in _COLOUR if known.get(key) is not None), None)
    code = next((known[key] for key in _CODE if known.get(key) is not None), None)
    place = next((known[key] for key in _ID if known.get(key) is not None), None) if has_ids else None
    codes = tuple(_whole(value) for value in (code if isinstance(code, list) else [code])) if code is not None else ()
    return Entry(_text(name), None if colour is None else parse_colour(colour), codes, None if place is None else _whole(place))


def _from_text(content: str) -> Iterable[Entry]:
    lines = [line.strip() for line in content.splitlines() if line.strip() and not line.startswith("# label:color_rgb")]
    cvat = [re.fullmatch(r"([^:]+):\s*(\d+\s*,\s*\d+\s*,\s*\d+)?\s*(?::[^:]*){0,2}", line) for line in lines]
    if lines and all(cvat):
        return [Entry(found[1].strip(), parse_colour(found[2]) if found[2] else None) for found in cvat if found]
    try:
        table = list(_from_table(content))
    except ValueError:
        table = []
    # Names may hold commas: only where every line gives a colour or a code is it a table.
    return table if table and all(entry.colour or entry.id is not None for entry in table) else [Entry(line) for line in lines]


def _from_xml(content: str) -> Iterable[Entry]:
    labels = [item for item in ElementTree.fromstring(content).iter() if item.tag in ("Label", "label") and item.get("value")]
    if not labels:
        raise ValueError("no <Label value=…> in it")
    return [Entry(str(item.get("value")), parse_colour(item.get("background")) if item.get("background") else None) for item in labels]


def _from_table(content: str) -> Iterable[Entry]:
    lines = [line for line in content.splitlines() if line.strip()]
    if not lines:
        raise ValueError("it is empty")
    mark = max("\t;,", key=lines[0].count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO("\n".join(lines)), delimiter=mark, skipinitialspace=True)]
    head = [cell.lower() for cell in rows[0]]
    name_at = next((head.index(key) for key in _NAME if key in head), None)
    if name_at is None:
        return [_from_cells(row) for row in rows if any(row)]
    return [_from_row(dict(zip(head, row, strict=False)), head[name_at]) for row in rows[1:] if any(row)]


def _from_row(row: Mapping[str, str], name: str) -> Entry:
    """A row under a header."""
    if not row.get(name):
        raise ValueError(f"a line without a name: {dict(row)}")
    colour = next((row[key] for key in _COLOUR if row.get(key)), None)
    for bands in _BANDS:
        if colour is None and all(row.get(band) for band in bands):
            colour = ",".join(row[band] for band in bands)
    code = next((row[key] for key in _CODE if row.get(key)), None)
    place = next((row[key] for key in _ID if row.get(key)), None)
    return Entry(
        row[name], None if colour is None else parse_colour(colour), () if code is None else (_whole(code),),
        None if place is None else _whole(place),
    )  # fmt: skip


def _from_cells(row: Sequence[str]) -> Entry:
    """A row without a header: the cell that is neither number nor colour is the name, three numbers a colour, another one the id."""
    cells = [cell for cell in row if cell]
    numbers = [_number(cell) for cell in cells]
    colour, used = None, set()
    for i in range(len(cells) - 2):
        triple = [number for number in numbers[i : i + 3] if number is not None]
        if len(triple) == 3 and (i + 3 == len(cells) or numbers[i + 3] is None):
            colour, used = parse_colour(triple), {i, i + 1, i + 2}
    if colour is None:
        for i, cell in enumerate(cells):
            if re.fullmatch(r"#[0-9a-fA-F]{6}|\(?\d+[ ,]+\d+[ ,]+\d+\)?", cell):
                colour, used = parse_colour(cell), {i}
    words = [cell for i, cell in enumerate(cells) if i not in used and numbers[i] is None]
    ids = [number for i, number in enumerate(numbers) if i not in used and number is not None]
    if len(words) != 1 or len(ids) > 1:
        raise ValueError(f"no name, colour and code in the line {','.join(row)!r}")
    return Entry(words[0], colour, (), ids[0] if ids else None)


def _number(cell: str) -> int | None:
    return int(cell) if re.fullmatch(r"-?\d{1,6}", cell) else None


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not re.fullmatch(r"-?\d{1,6}(\.0+)?", str(value)):
        raise ValueError(f"{_brief(value)} is no code: a whole number")
    return int(float(str(value)))


def _text(value: object) -> str:
    if not isinstance(value, str | int | float):
        raise TypeError(f"a {type(value).__name__} is no name")
    return str(value).strip()


def _brief(value: object) -> str:
    """A value in a message; not what a list holds, which in YAML can be without end."""
    return repr(value)[:60] if isinstance(value, str | int | float) or value is None else f"a {type(value).__name__}"
