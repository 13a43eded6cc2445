"""Decode every tile of a set once and say what stops its use. It writes nothing; duplicates, leaks and oddities are for `audit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from landseg.core.classes import IGNORE_INDEX, LandClass, lookup_table
from landseg.core.errors import LandsegError
from landseg.core.progress import parallel_map, progress
from landseg.data.tiles import UnreadableTile, codes_to_ids, decode_codes, decode_image, illegal_labels, read_bytes


@dataclass(frozen=True)
class TileCheck:
    """What one tile is: its image, and the pixels by code as they stand in its label file; or the problem that keeps it from being read."""

    name: str
    problem: str = ""
    size: tuple[int, int] = (0, 0)
    bands: int = 0
    dtype: str = ""
    label_size: tuple[int, int] | None = None
    codes: Mapping[int, int] | None = None


def check_tiles(
    images: Mapping[str, Path], labels: Mapping[str, Path] | None, classes: Sequence[LandClass], *, shown: Callable[[Path], str] = str
) -> list[TileCheck]:
    """Decode the tiles of a set: all images when it has no labels, else those with a label.

    Args:
        images: Image files by tile name.
        labels: Label files by tile name, or None.
        classes: Their ids are the codes that labels may hold, beside the ignore index.
        shown: How a path is written in messages.

    Returns:
        One check a tile, by name; tiles that cannot be read are among them, with their problem.

    Raises:
        LandsegError: No tile can be read; a label has another size than its image; there are labels but no classes; a label holds a code
            that no class has; all labels are unlabelled throughout.
    """
    names = [name for name in sorted(images) if labels is None or name in labels]
    jobs = [(name, images[name], labels[name] if labels is not None else None) for name in names]
    checked = list(progress(parallel_map(lambda job: _check_tile(*job), jobs), "checking", len(jobs)))
    readable = [tile for tile in checked if not tile.problem]
    if not readable:
        first = checked[0]
        also = f", as with all {len(checked):,} tiles" if len(checked) > 1 else ""
        raise LandsegError(shown(images[first.name]), f"{first.problem}{also}", "readable tiles", "get the files again")
    if labels is not None:
        _check_sizes(readable, labels, shown)
        _check_codes(readable, labels, classes, shown)
    return checked


def _check_tile(name: str, image: Path, label: Path | None) -> TileCheck:
    try:
        pixels = decode_image(read_bytes(image))
    except UnreadableTile as error:
        return TileCheck(name, str(error))
    height, width, bands = pixels.shape
    if label is None:
        return TileCheck(name, "", (height, width), bands, pixels.dtype.name)
    try:
        codes = decode_codes(read_bytes(label))
    except UnreadableTile as error:
        return TileCheck(name, f"its label: {error}")
    counts = np.bincount(codes.ravel())
    present = {int(code): int(counts[code]) for code in np.flatnonzero(counts)}
    return TileCheck(name, "", (height, width), bands, pixels.dtype.name, (codes.shape[0], codes.shape[1]), present)


def _check_sizes(readable: Sequence[TileCheck], labels: Mapping[str, Path], shown: Callable[[Path], str]) -> None:
    wrong = [tile for tile in readable if tile.label_size != tile.size]
    if wrong:
        first = wrong[0]
        mine, theirs = (f"{size[0]} × {size[1]}" for size in (first.label_size or (0, 0), first.size))
        raise LandsegError(
            shown(labels[first.name]),
            f"a label of {mine} pixels for an image of {theirs}{_more(len(wrong))}",
            "labels of the size of their images",
            "export the labels again, or take these tiles out",
        )


def _check_codes(
    readable: Sequence[TileCheck], labels: Mapping[str, Path], classes: Sequence[LandClass], shown: Callable[[Path], str]
) -> None:
    values = sorted({code for tile in readable for code in tile.codes or {}} - {IGNORE_INDEX})
    if not values:
        also = f", as are all {len(readable):,} labels" if len(readable) > 1 else ""
        raise LandsegError(
            shown(labels[readable[0].name]),
            f"unlabelled ({IGNORE_INDEX}) throughout{also}",
            "labelled pixels",
            "check that these are the labels",
        )
    if not classes:
        example = ",".join(f"name{i}" for i in range(min(values[-1] + 1, 6)))
        raise LandsegError(
            "--classes",
            f"no names for labels with the values {_listed(values)}",
            "a name for each id, from 0 on",
            f'add --classes "{example}" in your own words',
        )
    table = lookup_table(len(classes), IGNORE_INDEX, {})
    illegal: dict[str, dict[int, int]] = {}
    for tile in readable:
        codes = tile.codes or {}
        wrong = codes_to_ids(np.fromiter(codes, np.uint16), table)[1]
        if wrong:
            illegal[shown(labels[tile.name])] = {code: codes[code] for code in wrong}
    if not illegal:
        return
    count = len(classes)
    if values[-1] == count and (values[0] > 0 or len(values) > count):
        # K classes and the value K: ids that count from 1, or one class too few.
        name, wrong = next(iter(illegal.items()))
        raise LandsegError(
            name,
            f"label value {count} in {wrong[count]} pixels{_more(len(illegal))}; all values: {_listed(values)}",
            f"ids 0..{count - 1} for {count} classes, and {IGNORE_INDEX} for unlabelled",
            f"if the ids count from 1, write them from 0 and {IGNORE_INDEX} for unlabelled; if a class has no name, add it to --classes",
        )
    raise illegal_labels(illegal, count, "the set")


def _more(count: int) -> str:
    return f" (and {count - 1:,} more files)" if count > 1 else ""


def _listed(values: Sequence[int]) -> str:
    text = ", ".join(map(str, values[:12]))
    return f"{text} … {values[-1]}" if len(values) > 12 else text
