"""Land classes: ids, names, colours, the ignore index, and the remap from a file's codes to ids."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, field_validator

from landseg.core.errors import LandsegError

IGNORE_INDEX = 255
"""The label value that neither trains nor scores. Source: PASCAL VOC's convention, kept by every toolkit since."""

MAX_CLASSES = 255
"""Ids are uint8 and one value is the ignore index."""

PRESETS: dict[str, str] = {"parcels4": "building 建筑,farmland 耕地,forest 林地,other 其他"}
"""Class lists known by name; ``parcels4`` is the competition's own."""

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


def parse_classes(text: str) -> tuple[LandClass, ...]:
    """Read ``--classes``: a preset, a file of names, or names with commas between them.

    A file holds one name a line, or (``.yaml``) a list of names or of ``{name, colour}``, in the order of the ids.

    Raises:
        LandsegError: The file cannot be understood, or the names are not distinct.
    """
    if text in PRESETS:
        return make_classes(PRESETS[text].split(","))
    path = Path(text)
    if not path.suffix or not path.is_file():
        return make_classes(re.split("[,，]", text))
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise LandsegError(path, f"it cannot be read ({reason})", "a text file of class names", "save it as UTF-8") from error
    if path.suffix.lower() not in (".yaml", ".yml"):
        return make_classes([line for line in content.splitlines() if line.strip()])
    try:
        entries = yaml.safe_load(content)
        if isinstance(entries, dict):
            entries = entries["classes"]
        if not isinstance(entries, list):
            raise TypeError(f"it is a {type(entries).__name__}")
        named = [entry if isinstance(entry, dict) else {"name": str(entry)} for entry in entries]
        return make_classes([str(entry["name"]) for entry in named], [entry.get("colour") for entry in named])
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise LandsegError(
            path,
            f"not a list of classes ({str(error).splitlines()[0]})",
            "a list of names or of {name, colour}",
            "see `landseg prepare --help`",
        ) from error


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
        ignore_index: The code that means "unlabelled" in the files.
        remap: Code → class id (or the ignore index). When it is not empty, codes that it does not name are illegal, the ignore index apart.

    Returns:
        (65536,) int16: class id, `IGNORE_INDEX` for unlabelled, -1 for an illegal code.

    Raises:
        LandsegError: The ignore index or a code is no number of a label file, or a target is no class.
    """
    table = np.full(65536, -1, np.int16)
    for code in (ignore_index, *remap):
        if not 0 <= code < len(table):
            raise LandsegError("ignore_index or remap in dataset.yaml", f"code {code}", "0 to 65535", "mend it there")
    for code, target in remap.items():
        if not (0 <= target < count or target in (ignore_index, IGNORE_INDEX)):
            needed = f"a class id, 0..{count - 1}, or {ignore_index} for unlabelled"
            raise LandsegError("remap in dataset.yaml", f"{code} → {target}", needed, "mend it there")
    if remap:
        for code, target in remap.items():
            # A class id first: where the files' unlabelled code is 0, the target 0 is still the first class.
            table[code] = target if target < count else IGNORE_INDEX
    else:
        table[:count] = np.arange(count)
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
