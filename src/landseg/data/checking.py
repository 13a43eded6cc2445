"""Decode every tile of a set once and say what stops its use. It writes nothing; duplicates, leaks and oddities are for `audit`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from landseg.core.classes import IGNORE_INDEX
from landseg.core.errors import LandsegError
from landseg.core.progress import parallel_map, progress
from landseg.data.labels import LabelPixels, LabelRules, illegal_labels, read_label
from landseg.data.mending import LabelFacts, Remedy
from landseg.data.tiles import UnreadableTile, decode_image, read_bytes, read_palette

_NAMED = 4
"""Illegal values of a tile that are kept, the most frequent ones: 66,652 tiles are."""


@dataclass(frozen=True)
class TileCheck:
    """What one tile is: its image, and what its label holds; or the problem that keeps it from being read.

    Args:
        name: Of the tile.
        problem: Why it cannot be read; empty where it can.
        file: The file with the problem.
        size: (height, width) of the image.
        bands: Of the image.
        dtype: Of the image.
        label_size: (height, width) of the label; None without one.
        pixels: Labelled pixels by class id.
        illegal: The most frequent codes or colours that no class has → pixels.
        mended: Rule → pixels that it changed.
    """

    name: str
    problem: str = ""
    file: Path | None = None
    size: tuple[int, int] = (0, 0)
    bands: int = 0
    dtype: str = ""
    label_size: tuple[int, int] | None = None
    pixels: tuple[int, ...] = ()
    illegal: Mapping[int | str, int] = field(default_factory=dict)
    mended: Mapping[str, int] = field(default_factory=dict)


def check_tiles(
    images: Mapping[str, Path], labels: Mapping[str, Path] | None, rules: LabelRules, *, shown: Callable[[Path], str] = str
) -> tuple[list[TileCheck], LabelFacts]:
    """Decode the tiles of a set: all images when it has no labels, else those with a label.

    Args:
        images: Image files by tile name.
        labels: Label files by tile name, or None.
        rules: How labels are read.
        shown: How a path is written in messages.

    Returns:
        One check a tile, by name, tiles that cannot be read among them; and what all labels hold together.

    Raises:
        LandsegError: No tile can be read.
    """
    names = [name for name in sorted(images) if labels is None or name in labels]
    jobs = [(name, images[name], labels[name] if labels is not None else None, rules) for name in names]
    checked, facts = _counted(progress(parallel_map(lambda job: _check_tile(*job), jobs), "checking", len(jobs)), shown)
    if all(tile.problem for tile in checked):
        first = checked[0]
        also = f", as with all {len(checked):,} tiles" if len(checked) > 1 else ""
        raise LandsegError(shown(first.file or images[first.name]), f"{first.problem}{also}", "readable tiles", "get the files again")
    return checked, facts


def check_labels(
    checked: Sequence[TileCheck], labels: Mapping[str, Path], rules: LabelRules, *, shown: Callable[[Path], str] = str
) -> tuple[list[TileCheck], LabelFacts]:
    """Read the labels of checked tiles again, by other rules; unreadable tiles stay as they are."""
    jobs = [(tile, labels[tile.name], rules) for tile in checked]
    return _counted(progress(parallel_map(lambda job: _check_label(*job), jobs), "checking labels anew", len(jobs)), shown)


def refuse_labels(
    checked: Sequence[TileCheck],
    facts: LabelFacts,
    labels: Mapping[str, Path],
    rules: LabelRules,
    remedy: Remedy,
    *,
    shown: Callable[[Path], str] = str,
    source: str = "SOURCE",
) -> None:
    """Refuse labels that cannot be meant.

    Args:
        checked: From `check_tiles`.
        facts: Of the same labels.
        labels: Label files by tile name.
        rules: As the labels were read.
        remedy: What would mend them: the error says so.
        shown: How a path is written in messages.
        source: What the user named, for the commands in messages.

    Raises:
        LandsegError: What the codes mean cannot be told; a label has another size than its image; there are labels but no classes; a label
            holds a code that no class has; all labels are unlabelled throughout.
    """
    readable = [tile for tile in checked if not tile.problem]
    if remedy.doubt:
        raise _doubtful(readable, facts, labels, rules, remedy, shown)
    mend = f"add --mend ({'; '.join(remedy.reasons)}; what no rule mends is left out)" if remedy.is_needed else ""
    wrong = [tile for tile in readable if tile.label_size != tile.size]
    if wrong:
        first = wrong[0]
        mine, theirs = (f"{size[0]} × {size[1]}" for size in (first.label_size or (0, 0), first.size))
        raise LandsegError(
            shown(labels[first.name]),
            f"a label of {mine} pixels for an image of {theirs}{_more(len(wrong))}",
            "labels of the size of their images",
            mend or f"export the labels again, or leave these tiles out with --mend; `landseg audit {source}` shows them",
        )
    refuse_unlabelled(checked, facts, labels, shown=shown)
    if not len(rules.colours):
        values = sorted(code for code in facts.illegal if isinstance(code, int))
        example = ",".join(f"name{i}" for i in range(min(max(values, default=0) + 1, 6)))
        raise LandsegError(
            "--classes",
            f"no names for labels with the values {_listed(values)}",
            "a name for each id, from 0 on",
            f'add --classes "{example}" in your own words',
        )
    if not facts.illegal or not rules.refuses_illegal:
        return
    illegal = {shown(labels[tile.name]): tile.illegal for tile in readable if tile.illegal}
    count = len(rules.colours)
    values = _values(facts, count)
    if values and values[-1] == count and (values[0] > 0 or len(values) > count):
        raise _class_k(illegal, facts, rules, remedy, mend)
    do = f"name the missing classes with --classes, or {mend or 'take the tiles out'}; `landseg audit {source}` shows them"
    raise illegal_labels(illegal, count, "the set", do)


def _doubtful(
    readable: Sequence[TileCheck],
    facts: LabelFacts,
    labels: Mapping[str, Path],
    rules: LabelRules,
    remedy: Remedy,
    shown: Callable[[Path], str],
) -> LandsegError:
    """The error for labels that can be read in two ways, with what to write for each."""
    if remedy.doubt == "from_one":
        return _class_k({shown(labels[tile.name]): tile.illegal for tile in readable if tile.illegal}, facts, rules, remedy)
    file = next(shown(labels[tile.name]) for tile in readable if not any(tile.pixels[1:]))
    first, second = map(_brief, rules.names)
    as_mask = _write([f"{{name: {first}, code: 0}}", f"{{name: {second}, code: {rules.ignore_index}}}"])
    return LandsegError(
        file,
        f"the values 0 and {rules.ignore_index} alone, as in all labels: {rules.ignore_index} may be {second}, or unlabelled",
        "which of the two it is",
        f"for {second}, {as_mask}; for unlabelled, write {{classes: [{first}, {second}], ignore_index: {rules.ignore_index}}} there",
    )


def _class_k(
    illegal: Mapping[str, Mapping[int | str, int]], facts: LabelFacts, rules: LabelRules, remedy: Remedy, mend: str = ""
) -> LandsegError:
    """The error for K classes and the value K: ids that count from 1, or one class too few."""
    count = len(rules.colours)
    entries = [f"{{name: {_brief(name)}, code: {i + 1}}}" for i, name in enumerate(rules.names)]
    if facts.pixels[0]:
        entries.append("{name: unlabelled, code: 0}")
    name, found = next(((name, found) for name, found in illegal.items() if count in found), (next(iter(illegal)), facts.illegal))
    return LandsegError(
        name,
        f"label value {count} in {found[count]} pixels{_more(len(illegal))}; all values: {_listed(_values(facts, count))}",
        f"ids 0..{count - 1} for {count} classes, and {IGNORE_INDEX} for unlabelled",
        f"if the ids count from 1, {mend if remedy.remap else _write(entries)}; if a class has no name, add it to --classes"
        + (f"; else {mend}" if mend and not remedy.remap else "")
        + "; `landseg audit` tells whether all files are so",
    )


def _values(facts: LabelFacts, count: int) -> list[int]:
    return sorted({code for code in facts.illegal if isinstance(code, int)} | set(np.flatnonzero(facts.pixels[:count]).tolist()))


def _write(entries: Sequence[str]) -> str:
    return f"write [{', '.join(entries)}] into classes.yaml and add --classes classes.yaml"


def _brief(name: str) -> str:
    """A class's name as YAML holds it in brackets."""
    return name if re.fullmatch(r"\w[\w -]*", name) and not name.isdecimal() else f'"{name}"'


def refuse_unlabelled(
    checked: Sequence[TileCheck], facts: LabelFacts, labels: Mapping[str, Path], *, shown: Callable[[Path], str] = str
) -> None:
    """Refuse labels without one labelled pixel in all of them.

    Raises:
        LandsegError: There is none.
    """
    if facts.total > facts.pixels[IGNORE_INDEX]:
        return
    readable = [tile for tile in checked if not tile.problem]
    also = f", as are all {len(readable):,} labels" if len(readable) > 1 else ""
    raise LandsegError(
        shown(labels[readable[0].name]),
        f"unlabelled ({IGNORE_INDEX}) throughout{also}",
        "labelled pixels",
        "check that these are the labels",
    )


def palette_colours(data: bytes, label: LabelPixels, rules: LabelRules) -> dict[int, tuple[int, ...]]:
    """The colours of the indices that a palette PNG uses and that its codes tell apart; nothing of other files."""
    palette = read_palette(data) if rules.encoding == "index" else None
    if palette is None:
        return {}
    used = {code for code in label.illegal if isinstance(code, int)}
    codes_of = rules.table[: len(palette)]
    for i in np.flatnonzero(label.pixels):
        codes = np.flatnonzero(codes_of == i)
        used |= {int(codes[0])} if len(codes) == 1 else set()
    return {code: tuple(palette[code].tolist()) for code in used if 0 <= code < len(palette)}


def refuse_palettes(facts: LabelFacts, do: str = "") -> None:
    """Refuse palette PNGs in which one index has several colours: then no index is a class.

    Raises:
        LandsegError: There are two such files; they are named.
    """
    if facts.clash is None:
        return
    first, second, index = facts.clash
    raise LandsegError(
        second,
        f"index {index} has another colour in its palette than in {first}",
        "palettes that agree where the indices are the classes",
        do
        or "give each class its colour in a file of classes with `label_encoding: palette`, or `label_encoding: index` if the indices hold",
    )


_Seen = tuple[TileCheck, LabelPixels | None, Mapping[int, tuple[int, ...]]]


def _counted(seen: Iterator[_Seen], shown: Callable[[Path], str]) -> tuple[list[TileCheck], LabelFacts]:
    """Drain the checks, counting each label when it comes and letting go of its pixels."""
    checked, facts = [], LabelFacts()
    for tile, label, palette in seen:
        checked.append(tile)
        if label is not None:
            facts.add(label, tile.size)
            facts.add_palette(palette, shown(tile.file) if tile.file else tile.name)
    return checked, facts


def _check_tile(name: str, image: Path, label: Path | None, rules: LabelRules) -> _Seen:
    try:
        pixels = decode_image(read_bytes(image))
    except UnreadableTile as error:
        return TileCheck(name, str(error), image), None, {}
    tile = TileCheck(name, "", image, pixels.shape[:2], pixels.shape[2], pixels.dtype.name)
    return (tile, None, {}) if label is None else _check_label(tile, label, rules)


def _check_label(tile: TileCheck, label: Path, rules: LabelRules) -> _Seen:
    if tile.problem:
        return tile, None, {}
    try:
        data = read_bytes(label)
        found = read_label(data, rules, tile.size)
    except UnreadableTile as error:
        return replace(tile, problem=f"its label: {error}", file=label), None, {}
    illegal = dict(sorted(found.illegal.items(), key=lambda item: -item[1])[:_NAMED]) if len(found.illegal) > _NAMED else found.illegal
    height, width = found.ids.shape
    return (
        replace(
            tile, file=label, label_size=(height, width), pixels=tuple(found.pixels[: len(rules.colours)].tolist()),
            illegal=illegal, mended=found.mended,
        ),
        found,
        palette_colours(data, found, rules),
    )  # fmt: skip


def _more(count: int) -> str:
    return f" (and {count - 1:,} more files)" if count > 1 else ""


def _listed(values: Sequence[int]) -> str:
    text = ", ".join(map(str, values[:12]))
    return f"{text} … {values[-1]}" if len(values) > 12 else text
