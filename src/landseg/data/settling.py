"""Settle how the labels of a set are read: their encoding, their codes, the rules that mend, and which tiles are left out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from landseg.core.classes import IGNORE_INDEX, ClassList, LandClass
from landseg.data.checking import TileCheck, check_labels, check_tiles, refuse_labels, refuse_palettes, refuse_unlabelled
from landseg.data.colours import colours_needed, looks_coloured
from landseg.data.labels import NO_MEND, LabelEncoding, LabelRules, Mend, label_rules
from landseg.data.mending import LabelFacts, Remedy, choose

log = logging.getLogger("landseg")

_NAMED = 8


@dataclass(frozen=True)
class Settled:
    """How labels are read, and what they then hold.

    Args:
        checked: One check a tile, by name.
        encoding: As in `dataset.yaml`; so are `ignore_index`, `remap`, `ignore_colours` and `mend`.
        mended: Rule → tiles that it changed.
        left_out: Tile → why no rule mends it.
        reasons: The rules in words.
        unknown: The most frequent colours that no class has → pixels; they are unlabelled.
    """

    checked: Sequence[TileCheck]
    encoding: LabelEncoding = "index"
    ignore_index: int = IGNORE_INDEX
    remap: Mapping[int, int] = field(default_factory=dict)
    ignore_colours: tuple[str, ...] = ()
    mend: Mend = NO_MEND
    mended: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    unknown: Mapping[str, int] = field(default_factory=dict)

    def keys(self) -> dict[str, Any]:
        """The keys of `dataset.yaml`."""
        return {
            "label_encoding": self.encoding,
            "ignore_index": self.ignore_index,
            "remap": dict(self.remap),
            "ignore_colours": self.ignore_colours,
            "mend": self.mend,
            "mended": dict(self.mended),
            "left_out": dict(self.left_out),
        }


def settle(
    images: Mapping[str, Path],
    labels: Mapping[str, Path] | None,
    listed: ClassList,
    *,
    mend: bool,
    shown: Callable[[Path], str] = str,
    source: str = "SOURCE",
    is_drawn: bool = False,
) -> Settled:
    """Decode every tile and settle how its label is read.

    Args:
        images: Image files by tile name.
        labels: Label files by tile name, or None.
        listed: The classes, and what the user says of their codes and colours.
        mend: Choose rules for what is wrong, and leave out what none mends; otherwise it is refused.
        shown: How a path is written in messages.
        source: What the user named, for the commands in messages.
        is_drawn: The labels were rasterised from annotations: their codes are ids.

    Raises:
        LandsegError: Nothing can be read; labels cannot be meant, and may not or cannot be mended.
    """
    if labels is None:
        return Settled(check_tiles(images, None, _rules(listed, "index"), shown=shown)[0])
    paired = {name: path for name, path in labels.items() if name in images}
    rules = first_rules(listed, paired)
    encoding = rules.encoding
    if encoding != "index" and not listed.has_colours:
        raise colours_needed(paired, shown)
    checked, facts = check_tiles(images, paired, rules, shown=shown)
    reasons: tuple[str, ...] = ()
    if facts.clash and encoding == "index" and listed.label_encoding is None:
        if not (mend and listed.has_colours):
            refuse_palettes(facts)
        encoding, reasons = "palette", ("palettes differ between the files: their colours are the code (label_encoding: palette)",)
        rules = _rules(listed, encoding)
        checked, facts = check_labels(checked, paired, rules, shown=shown)
    is_stated = is_drawn or bool(listed.remap) or listed.ignore_index is not None
    remedy = choose(facts, rules, is_stated=is_stated) if listed.classes else Remedy()
    if facts.clash and encoding == "index":
        # The user said that the indices hold.
        rules = replace(rules, mend=Mend(palettes="ignore"))
        remedy = replace(remedy, mend=remedy.mend.model_copy(update={"palettes": "ignore"}))
    if not mend or not listed.classes or remedy.doubt:
        refuse_labels(checked, facts, paired, rules, remedy, shown=shown, source=source)
        _refuse_colourless(facts, rules, paired, shown)
        if remedy.is_needed:
            log.warning("the labels may not be read as they are meant: %s; add --mend", "; ".join(remedy.reasons))
        return _settled(checked, facts, rules, listed, reasons=reasons)
    found = checked, facts
    if remedy.is_needed:
        rules = _rules(listed, encoding, remedy)
        checked, facts = check_labels(checked, paired, rules, shown=shown)
    left_out = _faults(checked, rules, listed.classes)
    readable = sum(not tile.problem for tile in checked)
    if 2 * len(left_out) > readable:
        refuse_labels(*found, paired, _rules(listed, encoding), Remedy(), shown=shown, source=source)
    refuse_unlabelled(checked, facts, paired, shown=shown)
    _refuse_colourless(facts, rules, paired, shown)
    return _settled(checked, facts, rules, listed, remedy, (*reasons, *remedy.reasons), left_out)


def first_rules(listed: ClassList, labels: Mapping[str, Path]) -> LabelRules:
    """How labels are read before anything is mended: as the user says, else as a sample of them looks."""
    return _rules(listed, cast(LabelEncoding, listed.label_encoding) or ("rgb" if looks_coloured(labels) else "index"))


def _rules(listed: ClassList, encoding: LabelEncoding, remedy: Remedy | None = None) -> LabelRules:
    remedy = remedy or Remedy()
    stated = IGNORE_INDEX if listed.ignore_index is None else listed.ignore_index
    return label_rules(
        listed.classes,
        encoding=encoding,
        ignore_index=stated if remedy.ignore_index is None else remedy.ignore_index,
        remap=remedy.remap or listed.remap,
        ignore_colours=[LandClass(id=IGNORE_INDEX, name="unlabelled", colour=colour).rgb for colour in listed.ignore_colours],
        mend=remedy.mend,
    )


def _faults(checked: Sequence[TileCheck], rules: LabelRules, classes: Sequence[LandClass]) -> dict[str, str]:
    """Tiles that no rule mends."""
    faults = {}
    for tile in checked:
        if tile.problem:
            continue
        if tile.label_size != tile.size and tile.label_size is not None:
            (had, across), (height, width) = tile.label_size, tile.size
            faults[tile.name] = f"a label of {had} × {across} pixels for an image of {height} × {width}"
        elif tile.illegal and rules.refuses_illegal:
            code, pixels = next(iter(tile.illegal.items()))
            faults[tile.name] = f"label value {code} in {pixels} pixels, there are {len(classes)} classes"
    return faults


def _settled(
    checked: Sequence[TileCheck],
    facts: LabelFacts,
    rules: LabelRules,
    listed: ClassList,
    remedy: Remedy | None = None,
    reasons: tuple[str, ...] = (),
    left_out: Mapping[str, str] | None = None,
) -> Settled:
    remedy, left_out = remedy or Remedy(), left_out or {}
    kept = [tile for tile in checked if not tile.problem and tile.name not in left_out]
    mended: Counter[str] = Counter()
    for tile in kept:
        mended.update(tile.mended.keys())
    if remedy.remap:
        mended["remap"] = len(kept)
    if remedy.ignore_index is not None:
        mended["ignore_index"] = len(kept)
    unknown = {} if rules.refuses_illegal else {str(colour): pixels for colour, pixels in facts.illegal.most_common(_NAMED)}
    return Settled(
        checked,
        rules.encoding,
        rules.ignore_index,
        remedy.remap or listed.remap,
        listed.ignore_colours,
        rules.mend,
        dict(sorted(mended.items())),
        left_out,
        reasons,
        unknown,
    )


def _refuse_colourless(facts: LabelFacts, rules: LabelRules, labels: Mapping[str, Path], shown: Callable[[Path], str]) -> None:
    """Refuse pictures in which no pixel has a class's colour."""
    if not rules.refuses_illegal and not facts.pixels[:IGNORE_INDEX].any():
        raise colours_needed(labels, shown)
