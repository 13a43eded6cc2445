"""Land classes: ids, names, colours, the ignore index, and the remap from a file's codes to ids."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from landseg.core.class_files import UNLABELLED, Entry, parse_colour, read_class_file
from landseg.core.errors import LandsegError

IGNORE_INDEX = 255
"""The label value that neither trains nor scores. Source: PASCAL VOC's convention, kept by every toolkit since."""

MAX_CLASSES = 255
"""Ids are uint8 and one value is the ignore index."""

PRESETS: dict[str, str] = {"parcels4": "building 建筑,farmland 耕地,forest 林地,other 其他"}
"""Class lists known by name; ``parcels4`` is the competition's own."""

_FILES = frozenset({".yaml", ".yml", ".csv", ".tsv", ".json", ".xml", ".txt"})
"""Endings of which no class name is."""

# Colours that a map reader expects, by words found in a class name; tested in this order.
_EXPECTED: tuple[tuple[str, str], ...] = (
    ("background|unknown|背景", "#d9d4cb"),
    ("building|house|roof|urban|建筑|房", "#c8553d"),
    ("road|street|pavement|道路|路", "#6c6f7d"),
    ("water|river|lake|sea|水|河|湖", "#3d7ea6"),
    ("forest|tree|wood|林", "#2e6b4f"),
    ("farm|field|crop|agri|耕|田", "#e3b448"),
    ("grass|vegetation|meadow|shrub|草|植被", "#8ab17d"),
    ("land|bare|soil|sand|裸", "#dcc7a1"),
    ("other|其他|其它", "#a9a3b5"),
)


class LandClass(BaseModel):
    """One class: its id, its name and its colour on maps (``#rrggbb``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: int
    name: str
    colour: str

    @field_validator("colour")
    @classmethod
    def _hex(cls, value: str) -> str:
        if not re.fullmatch("#[0-9a-fA-F]{6}", value):
            raise ValueError("a colour is written '#rrggbb'")
        return value.lower()

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour as three numbers, 0..255."""
        return int(self.colour[1:3], 16), int(self.colour[3:5], 16), int(self.colour[5:7], 16)


def make_classes(names: Sequence[str], colours: Sequence[str | None] | None = None) -> tuple[LandClass, ...]:
    """Give each name its id (its place) and, where none is given, the colour a map reader expects.

    Args:
        names: K names, 1 ≤ K ≤ 255, none empty, none twice.
        colours: K colours ``#rrggbb``, or None for our own choice.

    Raises:
        LandsegError: No names, too many, an empty one or one twice.
    """
    clean = [name.strip() for name in names]
    if not 1 <= len(clean) <= MAX_CLASSES:
        raise LandsegError("--classes", f"{len(clean)} names", f"1 to {MAX_CLASSES}", "write the names in the order of their ids")
    twice = sorted({name for name in clean if clean.count(name) > 1 or not name})
    if twice:
        raise LandsegError(
            "--classes", f"{twice[0]!r} is empty or stands there twice", "one name a class", "name each class once, in the order of its id"
        )
    chosen = list(colours) if colours is not None else [None] * len(clean)
    taken = {colour.lower() for colour in chosen if colour}
    result = []
    for i, (name, given) in enumerate(zip(clean, chosen, strict=True)):
        colour = given or _colour(name, i, len(clean), taken)
        taken.add(colour)
        result.append(LandClass(id=i, name=name, colour=colour))
    return tuple(result)


@dataclass(frozen=True)
class ClassList:
    """What ``--classes`` says: the classes, and how label files mean them where it says so.

    Args:
        classes: In the order of their ids.
        has_colours: Every colour was given; none is our own choice.
        remap: Code → class id, from codes that are not the ids; empty where they are.
        ignore_index: The code that means unlabelled, where given.
        label_encoding: ``index``, ``palette`` or ``rgb``, where given.
        ignore_colours: Colours ``#rrggbb`` that mean unlabelled.
    """

    classes: tuple[LandClass, ...] = ()
    has_colours: bool = False
    remap: Mapping[int, int] = field(default_factory=dict)
    ignore_index: int | None = None
    label_encoding: str | None = None
    ignore_colours: tuple[str, ...] = ()


def parse_classes(text: str) -> tuple[LandClass, ...]:
    """The classes that ``--classes`` names; see `read_classes`."""
    return read_classes(text).classes


def read_classes(text: str) -> ClassList:
    """Read ``--classes``: a preset, a file as `class_files` reads them, or names with commas between them.

    In a file, entries with an id come in the order of their ids, others in the order of the file. An entry that is called unlabelled,
    ignore or void and has a code or a colour is no class: its code or colour is unlabelled.

    Raises:
        LandsegError: The file cannot be understood, the names are not distinct, or one code stands for two classes.
    """
    if text in PRESETS:
        return ClassList(make_classes(PRESETS[text].split(",")))
    path = Path(text)
    if path.suffix.lower() in _FILES and not path.is_file():
        raise LandsegError(path, "it is not there", "a file of classes, or class names", "check the path")
    if not path.suffix or not path.is_file():
        return ClassList(make_classes(re.split("[,，]", text)))
    found = read_class_file(path)
    entries = list(found.entries)
    if entries and all(entry.id is not None for entry in entries):
        entries.sort(key=lambda entry: entry.id or 0)
    unlabelled = [entry for entry in entries if entry.name.lower() in UNLABELLED and (entry.codes or entry.id is not None or entry.colour)]
    kept = [entry for entry in entries if entry not in unlabelled]
    colours = [entry.colour for entry in kept]
    classes = make_classes([entry.name for entry in kept], colours)
    try:
        stated = _Stated.model_validate(dict(found.keys))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise LandsegError(path, f"{key}: {first['msg']}", "a key of dataset.yaml", "see docs/reference/dataset.md") from error
    remap = dict(stated.remap) or _remap(path, kept, unlabelled)
    if stated.ignore_index is not None and (target := remap.get(stated.ignore_index, IGNORE_INDEX)) < len(classes):
        raise LandsegError(
            path, f"code {stated.ignore_index} is the ignore_index and {classes[target].name}", "one meaning a code", "take one of them out"
        )
    ignored = (*stated.ignore_colours, *(entry.colour for entry in unlabelled if entry.colour))
    has_colours = bool(colours) and all(colours)
    return ClassList(classes, has_colours, remap, stated.ignore_index, stated.label_encoding, tuple(dict.fromkeys(ignored)))


class _Stated(BaseModel):
    """Keys of `dataset.yaml` that a file of classes may give."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    ignore_index: int | None = None
    label_encoding: Literal["index", "palette", "rgb"] | None = None
    ignore_colours: tuple[str, ...] = ()
    remap: dict[int, int] = {}

    @field_validator("ignore_colours", mode="before")
    @classmethod
    def _hex(cls, value: object) -> object:
        return tuple(parse_colour(colour) for colour in value) if isinstance(value, list | tuple) else value


def _remap(path: Path, kept: Sequence[Entry], unlabelled: Sequence[Entry]) -> dict[int, int]:
    """Code → class id where the entries give codes; empty where these are the ids."""
    remap: dict[int, int] = {}
    targets = [*enumerate(kept), *((IGNORE_INDEX, entry) for entry in unlabelled)]
    coded = [(target, entry, entry.codes or (() if entry.id is None else (entry.id,))) for target, entry in targets]
    missing = [entry.name for target, entry, codes in coded if not codes and target != IGNORE_INDEX]
    if len(missing) == len(kept):
        return {}
    if missing:
        raise LandsegError(path, f"no code for {missing[0]}, but for others", "a code for each class, or for none", "add it")
    for target, entry, codes in coded:
        for code in codes:
            if code in remap:
                raise LandsegError(path, f"code {code} stands for {entry.name} and for another", "one class a code", "mend one of them")
            remap[code] = target
    return {} if all(code == target for code, target in remap.items()) else remap


def palette(classes: Sequence[LandClass]) -> list[int]:
    """256 × 3 numbers for a palette image: the classes' colours, white for the rest and so for the ignore index."""
    table = np.full((256, 3), 255, np.uint8)
    for item in classes:
        table[item.id] = item.rgb
    return [int(value) for value in table.ravel()]


def paint(labels: np.ndarray, classes: Sequence[LandClass]) -> np.ndarray:
    """Class ids (H, W) uint8 → an RGB picture (H, W, 3) uint8; the ignore index is white."""
    colours: np.ndarray = np.asarray(palette(classes), np.uint8).reshape(256, 3)
    return np.asarray(colours[labels])


def lookup_table(count: int, ignore_index: int, remap: dict[int, int]) -> np.ndarray:
    """The table that turns a file's codes into class ids.

    Args:
        count: Number of classes K; ids are 0..K-1.
        ignore_index: The code that means "unlabelled" in the files; -1 and the like too.
        remap: Code → class id (or the ignore index). When it is not empty, codes that it does not name are illegal, the ignore index apart;
            what it says of the ignore index itself holds.

    Returns:
        (65536,) int16: class id, `IGNORE_INDEX` for unlabelled, -1 for an illegal code.

    Raises:
        LandsegError: The ignore index or a code is no number of a label file, or a target is no class.
    """
    table = np.full(65536, -1, np.int16)
    for code in (ignore_index, *remap):
        if not -32768 <= code < len(table):
            raise LandsegError("ignore_index or remap in dataset.yaml", f"code {code}", "-32768 to 65535", "mend it there")
    for code, target in remap.items():
        if not (0 <= target < count or target in (ignore_index, IGNORE_INDEX)):
            needed = f"a class id, 0..{count - 1}, or {ignore_index} for unlabelled"
            raise LandsegError("remap in dataset.yaml", f"{code} → {target}", needed, "mend it there")
    if remap:
        for code, target in remap.items():
            # A class id first: where the files' unlabelled code is 0, the target 0 is still the first class.
            table[code] = target if target < count else IGNORE_INDEX  # a negative code from the end, as two's complement has it
    else:
        table[:count] = np.arange(count)
    if ignore_index not in remap:
        table[ignore_index] = IGNORE_INDEX
    return table


def _colour(name: str, i: int, count: int, taken: set[str]) -> str:
    for pattern, colour in _EXPECTED:
        if re.search(pattern, name.lower()) and colour not in taken:
            return colour
    shift = 0.0
    while True:
        red, green, blue = colorsys.hls_to_rgb((i / max(count, 1) + 0.58 + shift) % 1, 0.52, 0.45)
        colour = f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
        if colour not in taken:
            return colour
        shift += 0.017
