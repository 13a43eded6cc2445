"""What the rules of an audit know of a data set, and the words in which they say what they found. It holds no rule and reads no file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from landseg.core.classes import LandClass
from landseg.data.inspection import LabelFacts, TileFacts
from landseg.data.labels import NO_MEND, Mend
from landseg.data.mending import Remedy
from landseg.data.suspicions import count_from_one, interpolated

Severity = Literal["error", "warning", "note"]
RANKS: tuple[Severity, ...] = ("error", "warning", "note")

MOST_VALUES, MOST_FILES = 256, 100
"""Illegal label values, and files of each, that are listed one by one: labels saved as JPEG hold others in every file."""


@dataclass(frozen=True)
class Problem:
    """One kind of problem and the tiles that have it.

    Args:
        kind: Its name for programs.
        severity: An *error* stops the use of the tile, a *warning* is suspicious, a *note* is harmless and only said.
        title: Its name for people.
        tiles: All tiles concerned, by name.
        what: What was found, in a sentence.
        do: What mends it.
        sets: Tiles that belong together, for copies.
    """

    kind: str
    severity: Severity
    title: str
    tiles: tuple[str, ...]
    what: str
    do: str
    sets: tuple[tuple[str, ...], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The entry of `problems` in ``audit.json``."""
        return {
            "kind": self.kind, "severity": self.severity, "title": self.title, "count": len(self.tiles), "tiles": list(self.tiles),
            "what": self.what, "do": self.do,
        }  # fmt: skip


@dataclass(frozen=True)
class CopyGroup:
    """Tiles that are copies of one another, how each lies against the first, and whether their labels agree (None: not compared)."""

    tiles: tuple[str, ...]
    turns: tuple[str, ...]
    is_exact: bool
    labels_differ: bool | None

    def as_json(self) -> dict[str, Any]:
        """The entry of `duplicates` in ``audit.json``."""
        turn = ", ".join(dict.fromkeys(self.turns[1:]))
        return {
            "tiles": list(self.tiles), "turn": turn, "turns": list(self.turns), "exact": self.is_exact, "labels_differ": self.labels_differ
        }  # fmt: skip


@dataclass(frozen=True)
class Survey:
    """Everything that the rules know.

    Args:
        tiles: Facts of all images, in order of their names.
        has_labels: Whether the set has labels at all.
        label_orphans: Labels without an image, by name.
        classes: Empty where nobody has named them.
        encoding: How labels are read.
        copies: Groups of copies.
        passed_over: Files that are no part of the set, and why.
        also_from_one: Tiles whose colours say that their ids count from 1.
        mend: The rules that mend labels already.
        remedy: What `prepare --mend` would do about the labels.
    """

    tiles: Sequence[TileFacts]
    has_labels: bool
    label_orphans: Sequence[str] = ()
    classes: Sequence[LandClass] = ()
    encoding: str = "index"
    copies: Sequence[CopyGroup] = ()
    passed_over: Sequence[str] = ()
    also_from_one: frozenset[str] = frozenset()
    mend: Mend = NO_MEND
    remedy: Remedy = field(default_factory=Remedy)

    @cached_property
    def labelled(self) -> list[tuple[TileFacts, LabelFacts]]:
        """Tiles whose label was read."""
        return [(tile, tile.label) for tile in self.tiles if tile.label is not None]

    @cached_property
    def lossy(self) -> frozenset[str]:
        """Tiles whose label was compressed with loss or interpolated: their illegal values have that cause."""
        jpeg = {tile.name for tile, _ in self.labelled if tile.label_container == "JPEG"}
        return interpolated(self.labelled, bool(self.classes)) | jpeg

    @cached_property
    def from_one(self) -> frozenset[str]:
        """Tiles whose ids seem to count from 1."""
        return self.also_from_one | (count_from_one(self.labelled, len(self.classes)) if self.encoding == "index" else frozenset())

    @property
    def is_brought_back(self) -> bool:
        """A rule brings values near a class's back to it."""
        return brings_back(self.mend)

    @property
    def is_from_one(self) -> bool:
        """All labels seem to count from 1."""
        return len(self.from_one) >= sum(label.labelled > 0 or bool(label.illegal) for _, label in self.labelled)


def brings_back(mend: Mend) -> bool:
    """Whether rules undo what interpolation and lossy compression do to labels."""
    return mend.threshold is not None or mend.values_within > 0 or mend.colours_within > 0


def illegal_values(survey: Survey) -> list[dict[str, Any]]:
    """The most frequent illegal label values with their pixels, the number of files that hold them, and `MOST_FILES` of these."""
    pixels: Counter[int | str] = Counter()
    tiles: Counter[int | str] = Counter()
    for _, label in survey.labelled:
        pixels.update(label.illegal)
        tiles.update(label.illegal.keys())
    listed = pixels.most_common(MOST_VALUES)
    files: dict[int | str, list[str]] = {value: [] for value, _ in listed}
    for tile, label in survey.labelled:
        for value in label.illegal.keys() & files.keys():
            if len(files[value]) < MOST_FILES:
                files[value].append(tile.label_path.name if tile.label_path else tile.name)
    return [{"value": value, "pixels": count, "tiles": tiles[value], "files": files[value]} for value, count in listed]


def reasons_of(found: Sequence[tuple[str, str]]) -> str:
    """Reasons in order of how often they stand there, each with its count."""
    counted = Counter(reason for _, reason in found)
    return some((f"{reason} ({count:,})" if len(counted) > 1 else reason for reason, count in counted.most_common()), 3)


def some(words: Iterable[str], most: int = 3) -> str:
    """The first of several words, and how many more there are."""
    listed = list(words)
    return "; ".join(listed[:most]) + (f"; and {len(listed) - most:,} more" if len(listed) > most else "")


def plural(count: int, word: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def so_many(count: int, noun: str, verb: str) -> str:
    """``1 label holds``, ``2 labels hold``."""
    one = {"have": "has", "are": "is"}.get(verb, f"{verb}s")
    return f"{plural(count, noun)} {one if count == 1 else verb}"


def size_of(size: tuple[int, int]) -> str:
    """``128 × 64``."""
    return f"{size[0]}\u00a0×\u00a0{size[1]}"
