"""Stream a data set through inspection and say what is in it. It judges nothing itself (`findings` does) and changes nothing.

Memory holds a few facts a tile, never its pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from landseg.core.classes import IGNORE_INDEX, LandClass
from landseg.core.errors import LandsegError
from landseg.core.progress import parallel_map, progress
from landseg.data.copies import find_copies, group_copies, turned
from landseg.data.findings import find_problems
from landseg.data.inspection import AS_THEY_STAND, Inspector, TileFacts, class_colours
from landseg.data.labels import NO_MEND, LabelRules, read_label
from landseg.data.mending import LabelFacts, Remedy, choose
from landseg.data.survey import CopyGroup, Problem, Survey, illegal_values
from landseg.data.suspicions import also_from_one
from landseg.data.tally import BandStatistics, BandTally
from landseg.data.tiles import UnreadableTile, decode_image, read_bytes

_CHUNK = 16
"""Tiles a job: handing single tiles to threads costs a tenth of decoding them."""

_REFERENCE = 400  # tiles that tell the usual colours of the classes


@dataclass(frozen=True)
class Subject:
    """What is audited.

    Args:
        name: Of the data set, for headlines.
        images: Image files by tile name.
        labels: Label files by tile name; None for a set without labels.
        classes: Empty where nobody has named them: codes are then shown as they stand.
        bands: Their names, as far as they are known.
        rules: How labels are read; None without classes.
        is_stated: The user said what the codes in labels mean: no other reading is looked for.
        unlabelled: Tile name → why it has no label where one is expected.
        passed_over: Files that are no part of the set, and why.
    """

    name: str
    images: Mapping[str, Path]
    labels: Mapping[str, Path] | None
    classes: tuple[LandClass, ...] = ()
    bands: tuple[str, ...] = ()
    rules: LabelRules | None = None
    is_stated: bool = False
    unlabelled: Mapping[str, str] = field(default_factory=dict)
    passed_over: tuple[str, ...] = ()

    @property
    def label_rules(self) -> LabelRules:
        """How labels are read, where no classes are known too."""
        return self.rules if self.rules is not None and self.classes else AS_THEY_STAND


@dataclass(frozen=True)
class ClassRow:
    """One class, or one code where no classes are known: its labelled pixels and the tiles that hold it."""

    id: int
    name: str
    colour: str
    pixels: int
    tiles: int


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Args:
        subject: What was audited.
        tiles: Facts of every image, by name.
        classes: One row a class.
        bands: Statistics by (bands, dtype), the most frequent kind first.
        copies: Groups of copies.
        problems: Errors first.
        illegal: Illegal label values with their files.
        label_orphans: Labels without an image.
        page: Where ``audit.html`` lies, once it is written.
    """

    subject: Subject
    tiles: tuple[TileFacts, ...]
    classes: tuple[ClassRow, ...]
    bands: Mapping[tuple[int, str], tuple[BandStatistics, ...]]
    copies: tuple[CopyGroup, ...]
    problems: tuple[Problem, ...]
    illegal: tuple[dict[str, Any], ...]
    label_orphans: tuple[str, ...]
    page: Path | None = None

    @property
    def has_labels(self) -> bool:
        """Whether the set has labels at all."""
        return self.subject.labels is not None

    @property
    def pairs(self) -> int:
        """Images that have a label."""
        return sum(tile.label_path is not None for tile in self.tiles)

    @property
    def unlabelled_tiles(self) -> int:
        """Readable labels that are unlabelled throughout."""
        return sum(tile.label is not None and not tile.label.labelled and not tile.label.illegal for tile in self.tiles)

    @property
    def labelled_pixels(self) -> int:
        """Pixels that have a class."""
        return sum(row.pixels for row in self.classes)

    @property
    def pixels(self) -> int:
        """Pixels of all readable labels."""
        return sum(tile.label.size[0] * tile.label.size[1] for tile in self.tiles if tile.label)

    @property
    def faults(self) -> tuple[Problem, ...]:
        """Errors and warnings: what ``--require clean`` refuses."""
        return tuple(problem for problem in self.problems if problem.severity != "note")

    def counted(self, of: str) -> dict[str, int]:
        """Images by ``size``, ``dtype``, ``format`` or ``label_format``, the most frequent first."""
        found: Counter[str] = Counter()
        for tile in self.tiles:
            if of == "label_format" and tile.label is not None:
                found[tile.label_container] += 1
            elif of == "format" and tile.image is not None:
                found[tile.image_container] += 1
            elif of == "size" and tile.image is not None:
                found[f"{tile.image.size[0]} × {tile.image.size[1]}"] += 1
            elif of == "dtype" and tile.image is not None:
                found[tile.image.dtype] += 1
        return dict(found.most_common())

    def band_names(self, bands: int) -> tuple[str, ...]:
        """Names of so many bands: the data set's own where they fit, colours where it has named none, else numbers."""
        if bands == 3 and not self.subject.bands:
            return "red", "green", "blue"
        return self.subject.bands if len(self.subject.bands) == bands else tuple(f"band {number}" for number in range(1, bands + 1))

    def as_json(self) -> dict[str, Any]:
        """The document of ``--json`` and of ``audit.json``."""
        whole = max(self.labelled_pixels, 1)
        return {
            "name": self.subject.name,
            "images": len(self.tiles),
            "pairs": self.pairs,
            "orphans": [
                *({"tile": tile.name, "missing": "label"} for tile in self.tiles if self.has_labels and tile.is_orphan),
                *({"tile": name, "missing": "image"} for name in self.label_orphans),
            ],
            "unreadable": [
                {"tile": tile.name, "file": str(path or tile.image_path), "reason": reason}
                for tile in self.tiles
                for path, reason in ((tile.image_path, tile.image_fault), (tile.label_path, tile.label_fault))
                if reason
            ],
            "classes": [{"id": row.id, "name": row.name, "colour": row.colour, "pixels": row.pixels} for row in self.classes],
            "class_share": {row.name: round(row.pixels / whole, 6) for row in self.classes},
            "class_tiles": {row.name: row.tiles for row in self.classes},
            "labelled_share": round(self.labelled_pixels / max(self.pixels, 1), 6),
            "unlabelled_tiles": self.unlabelled_tiles,
            "illegal_labels": list(self.illegal),
            "duplicates": [group.as_json() for group in self.copies],
            "sizes": self.counted("size"),
            "dtypes": self.counted("dtype"),
            "formats": self.counted("format"),
            "label_formats": self.counted("label_format"),
            "bands": [
                {"name": name, "dtype": dtype, **band.as_json()}
                for (count, dtype), found in self.bands.items()
                for name, band in zip(self.band_names(count), found, strict=True)
            ],
            "problems": [problem.as_json() for problem in self.problems],
            "is_clean": not self.faults,
            "page": None if self.page is None else str(self.page),
        }


def audit_tiles(subject: Subject) -> Audit:
    """Decode every file of a data set once, compare what may be copies, and judge.

    Args:
        subject: The data set.

    Returns:
        What was found; dirty data is in it, never an error.

    Raises:
        LandsegError: There is no image at all, or none can be read.
    """
    tiles, tallies = _inspect_all(subject)
    if not any(tile.image for tile in tiles):
        first = tiles[0] if tiles else None
        found = f"{first.image_fault}, as all {len(tiles):,} images" if first else "no images"
        raise LandsegError(first.image_path if first else subject.name, found, "readable images", "get the files again")
    copies = _find_groups(subject, tiles)
    orphans = tuple(sorted((subject.labels or {}).keys() - subject.images.keys()))
    rules = subject.label_rules
    survey = Survey(
        tiles, subject.labels is not None, orphans, subject.classes, rules.encoding, copies, subject.passed_over, mend=rules.mend
    )  # fmt: skip
    survey = replace(survey, also_from_one=_also_from_one(subject, survey), remedy=_remedy(subject, survey))
    ordered = sorted(tallies.items(), key=lambda item: (-item[1].tiles, item[0]))
    bands = {kind: tally.statistics() for kind, tally in ordered}
    return Audit(subject, tiles, _class_rows(subject, tiles), bands, copies, find_problems(survey), tuple(illegal_values(survey)), orphans)


def _inspect_all(subject: Subject) -> tuple[tuple[TileFacts, ...], dict[tuple[int, str], BandTally]]:
    labels = subject.labels or {}
    inspector = Inspector(subject.label_rules, two_classes=len(subject.classes) in (0, 2))
    jobs = [(name, subject.images[name], labels.get(name)) for name in sorted(subject.images)]

    def inspect(chunk: Sequence[tuple[str, Path, Path | None]]) -> tuple[list[TileFacts], dict[tuple[int, str], BandTally]]:
        tallies: dict[tuple[int, str], BandTally] = {}

        def tally(bands: int, dtype: str) -> BandTally:
            return tallies.setdefault((bands, dtype), BandTally(bands, dtype))

        seen = [inspector.inspect(*job, tally) for job in chunk]
        return [replace(tile, label_fault=subject.unlabelled.get(tile.name, tile.label_fault)) for tile in seen], tallies

    tiles: list[TileFacts] = []
    whole: dict[tuple[int, str], BandTally] = {}
    chunks = [jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK)]
    for facts in progress(_spread(parallel_map(inspect, chunks, ahead=4), whole), "auditing", len(jobs)):
        tiles.append(facts)
    return tuple(tiles), whole


def _spread(
    done: Iterable[tuple[list[TileFacts], dict[tuple[int, str], BandTally]]], whole: dict[tuple[int, str], BandTally]
) -> Iterable[TileFacts]:
    """Tiles one by one, for the bar; tallies into `whole`."""
    for facts, tallies in done:
        for kind, tally in tallies.items():
            whole.setdefault(kind, BandTally(*kind)).merge(tally)
        yield from facts


def _find_groups(subject: Subject, tiles: Sequence[TileFacts]) -> tuple[CopyGroup, ...]:
    shown = [(tile, tile.image) for tile in tiles if tile.image is not None]
    signatures = np.stack([image.signature for _, image in shown])
    copies = find_copies(signatures, lambda i: decode_image(read_bytes(shown[i][0].image_path)))
    groups = []
    for numbers, turns, is_exact in group_copies(copies):
        members = [shown[number][0] for number in numbers]
        groups.append(CopyGroup(tuple(tile.name for tile in members), turns, is_exact, _labels_differ(subject, members, turns)))
    return tuple(groups)


def _labels_differ(subject: Subject, members: Sequence[TileFacts], turns: Sequence[str]) -> bool | None:
    """Whether the labels of copies contradict the first one's, once turned alike; None where fewer than two can be read."""
    first: np.ndarray | None = None
    compared = False
    for tile, turn in zip(members, turns, strict=True):
        if tile.label_path is None or tile.label is None:
            continue
        try:
            ids = read_label(read_bytes(tile.label_path), subject.label_rules, tile.image.size if tile.image else None).ids
        except UnreadableTile:
            continue
        if first is None:
            # Brought back to how the group's first tile lies.
            first = _turned_back(ids, turn)
            continue
        compared = True
        if not np.array_equal(first, _turned_back(ids, turn)):
            return True
    return False if compared else None


def _also_from_one(subject: Subject, survey: Survey) -> frozenset[str]:
    """Where some tiles surely count from 1 and others do not: the tiles without 0 among which only colours tell."""
    count = len(subject.classes)
    zero = [tile for tile, label in survey.labelled if 0 in label.pixels and not label.illegal]
    asked = [tile for tile, label in survey.labelled if label.labelled and 0 not in label.pixels and not label.illegal]
    if not survey.from_one or survey.is_from_one or not zero or not asked:
        return frozenset()
    step = -(-len(zero) // _REFERENCE)

    def colours(tile: TileFacts) -> np.ndarray:
        ids = read_label(read_bytes(tile.label_path or Path()), subject.label_rules).ids
        image = decode_image(read_bytes(tile.image_path))
        fits = ids.shape == image.shape[:2]
        return class_colours(image, ids if fits else np.full(image.shape[:2], IGNORE_INDEX, np.uint8), count)

    kinds = Counter((tile.image.bands, tile.image.dtype) for tile in zero if tile.image)
    usual = kinds.most_common(1)[0][0]
    zero, asked = (
        [tile for tile in tiles if tile.image and (tile.image.bands, tile.image.dtype) == usual] for tiles in (zero[::step], asked)
    )
    if not zero or not asked:
        return frozenset()
    known, doubtful = (np.stack(list(parallel_map(colours, tiles))) for tiles in (zero, asked))
    return frozenset(tile.name for tile, is_shifted in zip(asked, also_from_one(known, doubtful), strict=True) if is_shifted)


def _remedy(subject: Subject, survey: Survey) -> Remedy:
    """What `prepare --mend` would do; nothing where rules mend already, or nobody has named the classes."""
    rules = subject.label_rules
    if not subject.classes or rules.mend != NO_MEND:
        return Remedy()
    facts = LabelFacts()
    for tile, label in survey.labelled:
        if tile.image is not None:
            pixels = np.zeros(IGNORE_INDEX + 1, np.int64)
            pixels[list(label.pixels)] = list(label.pixels.values())
            facts.count(pixels, label.illegal, label.size, tile.image.size)
    return choose(facts, rules, is_stated=subject.is_stated)


def _turned_back(ids: np.ndarray, turn: str) -> np.ndarray:
    back = {"turned 90° clockwise": "turned 90° anticlockwise", "turned 90° anticlockwise": "turned 90° clockwise"}
    return turned(ids, back.get(turn, turn))


def _class_rows(subject: Subject, tiles: Sequence[TileFacts]) -> tuple[ClassRow, ...]:
    if subject.labels is None:
        return ()
    pixels: Counter[int] = Counter()
    holding: Counter[int] = Counter()
    for tile in tiles:
        if tile.label is not None:
            pixels.update(tile.label.pixels)
            holding.update(tile.label.pixels.keys())
    if subject.classes:
        return tuple(ClassRow(item.id, item.name, item.colour, pixels[item.id], holding[item.id]) for item in subject.classes)
    codes = sorted(pixels.keys() - {IGNORE_INDEX})
    return tuple(ClassRow(code, str(code), "", pixels[code], holding[code]) for code in codes)
