"""Prepare: anything that holds tiles → a dataset folder.

Zips are unpacked into the result; folders are referred to, not copied, where they can be. No label file is rewritten: what mends it is a
rule in `dataset.yaml`, by which it is read. It does not look for duplicates or leaks: `audit` does.
"""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from landseg.core.classes import ClassList, read_classes
from landseg.core.errors import LandsegError
from landseg.core.files import unwritable
from landseg.data.archive import is_zip
from landseg.data.dataset import Dataset, DatasetInfo
from landseg.data.gathering import Gathered, gather
from landseg.data.settling import Settled, settle
from landseg.data.sources import Found
from landseg.data.staging import KNOWN, STAGING, Staging, claim
from landseg.data.statistics import band_ranges
from landseg.splitting.assignment import Placed, Split, write_split
from landseg.splitting.groups import PARTS

log = logging.getLogger("landseg")

_BANDS = {1: ("grey",), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "nir")}
_NAMED = 5


class Unreadable(NamedTuple):
    """A tile that cannot be used: its name, the file in question as the user knows it, and why."""

    tile: str
    file: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    """What a prepare made.

    Args:
        dataset: The dataset folder.
        images: Image files in it, with a label or not.
        pairs: Images with a label; 0 for a set without labels.
        orphans: Tile name and what it lacks (``label`` or ``image``).
        unreadable: Tiles that will be left out, by name, wherever the set is used.
        classes: Names in the order of their ids.
        class_pixels: Labelled pixels by class name.
        unlabelled_tiles: Pairs without one labelled pixel.
        left_out: Files and folders of the sources that are no part of the set, and why.
        bands: Their names.
        dtype: Of the images.
        label_encoding: How labels are read, as in `dataset.yaml`.
        mend: The rules that mend labels, by name.
        mended: Rule → tiles that it changed.
        reasons: The rules in words.
        unmended: Tile name → why no rule mends its label; it is left out.
        unknown_colours: The most frequent colours that no class has → pixels; they are unlabelled.
        scaling: Range of each band, for images that are not uint8.
        parts: Part → tiles, where file lists gave them: they are the split ``file``.
    """

    dataset: Path
    images: int
    pairs: int
    orphans: tuple[tuple[str, str], ...]
    unreadable: tuple[Unreadable, ...]
    classes: tuple[str, ...]
    class_pixels: dict[str, int]
    unlabelled_tiles: int
    left_out: tuple[str, ...]
    bands: tuple[str, ...]
    dtype: str
    label_encoding: str
    mend: Mapping[str, Any]
    mended: Mapping[str, int]
    reasons: tuple[str, ...]
    unmended: Mapping[str, str]
    unknown_colours: Mapping[str, int]
    scaling: tuple[tuple[float, float], ...] | None
    parts: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """The document of ``--json``."""
        return {
            "dataset": str(self.dataset),
            "images": self.images,
            "pairs": self.pairs,
            "orphans": [{"tile": tile, "missing": missing} for tile, missing in self.orphans],
            "unreadable": [item._asdict() for item in self.unreadable],
            "classes": list(self.classes),
            "class_pixels": dict(self.class_pixels),
            "unlabelled_tiles": self.unlabelled_tiles,
            "left_out": list(self.left_out),
            "bands": list(self.bands),
            "dtype": self.dtype,
            "label_encoding": self.label_encoding,
            "mend": dict(self.mend),
            "mended": dict(self.mended),
            "reasons": list(self.reasons),
            "unmended": [{"tile": tile, "reason": reason} for tile, reason in self.unmended.items()],
            "unknown_colours": dict(self.unknown_colours),
            "scaling": None if self.scaling is None else [list(pair) for pair in self.scaling],
            "parts": dict(self.parts),
        }

    def as_text(self) -> str:
        """A few lines for people; the first is what was made."""
        kind = f"{self.pairs:,} pairs of image and label" if self.classes else f"{self.images:,} images without labels"
        lines = [f"{self.dataset}: {kind}, {len(self.bands)} bands {self.dtype} ({', '.join(self.bands)})"]
        total = sum(self.class_pixels.values())
        lines += [f"  {count / total:7.2%}  {name}" for name, count in self.class_pixels.items()]
        for count, what in (
            (self.unlabelled_tiles, "tiles are wholly unlabelled"),
            (len(self.orphans), "files without a partner"),
            (len(self.unreadable), "unreadable files"),
        ):
            if count:
                lines.append(f"  {count:,} {what}")
        lines += [f"  {item.file}: {item.reason}" for item in self.unreadable[:_NAMED]]
        lines += [f"  mended: {reason}" for reason in self.reasons]
        lines += [f"  {count:,} tiles by {rule}" for rule, count in self.mended.items()]
        if self.unmended:
            named = "; ".join(f"{tile} ({reason})" for tile, reason in list(self.unmended.items())[:_NAMED])
            lines.append(f"  {len(self.unmended):,} tiles left out, no rule mends them: {named}")
        if self.unknown_colours:
            lines.append(f"  colours of no class, unlabelled: {', '.join(f'{c} {n:,} pixels' for c, n in self.unknown_colours.items())}")
        if self.scaling:
            lines.append(f"  scaling: {', '.join(f'{low:g}..{high:g}' for low, high in self.scaling)}")
        if self.parts:
            lines.append(f"  split file: {', '.join(f'{part} {count:,}' for part, count in self.parts.items())}")
        lines += [f"  left out: {line}" for line in self.left_out]
        return "\n".join(lines)


def prepare(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    classes: str | None = None,
    labels: str | Path | None = None,
    mend: bool = False,
    overwrite: bool = False,
) -> Prepared:
    """Make a dataset folder of zips and folders of tiles.

    Every image and every label is decoded once: what cannot be read is left where it is and named, what cannot be meant is an error, or
    mended by a stated rule.

    Args:
        sources: Zips and folders, together one data set; images and labels in them are told apart by content. File lists and other
            tools' annotations are read too.
        out: The dataset folder to make.
        classes: Class names in the order of their ids, or a file of them, as `core.classes.read_classes` reads it; needed for a set with
            labels, unless its lists or annotations name them.
        labels: The folder or zip of labels, where they cannot be told apart.
        mend: Choose stated rules for labels that cannot be meant as they are, and leave out, by name, what none mends.
        overwrite: Replace the dataset in `out`. It stands until the new one has been checked.

    Returns:
        What was made.

    Raises:
        LandsegError: A source is not there, hostile or empty; labels have illegal values, another size than their images or no class
            names, and may not or cannot be mended; nothing can be read or nothing is labelled; `out` exists, is no dataset folder or
            cannot be written.
    """
    given = [Path(source) for source in sources]
    listed = read_classes(classes) if classes is not None else ClassList()
    target, label_source = Path(out), Path(labels) if labels is not None else None
    everything = [*given, *([label_source] if label_source else [])]
    _check_sources(everything, target)
    is_new = claim(target, overwrite=overwrite)
    work = Staging(target)
    try:
        roots = [work.enter(source) for source in everything]
        label_root = roots.pop() if label_source else None
        gathered = gather(roots, label_root, listed, rasters=work.staging.resolve() / "labels", leave=target.resolve(), shown=work.shown)
        found = gathered.found
        settled = settle(
            found.images, found.labels, gathered.listed, mend=mend, shown=work.shown, source=_quoted(given), is_drawn=gathered.is_drawn
        )
        prepared = _summary(target, gathered, settled, work)
        keys: dict[str, Any] = settled.keys() if found.labels is not None else {}
        info = DatasetInfo(
            name=target.resolve().name,
            images=work.place(found.images, found.image_folder, "images"),
            labels=None if found.labels is None else work.place(found.labels, found.label_folder, "labels"),
            classes=gathered.listed.classes if found.labels is not None else (),
            bands=prepared.bands,
            scaling=prepared.scaling,
            source=", ".join(path.name or str(path) for path in everything),
            **keys | {"left_out": {**gathered.unlisted, **settled.left_out}},
        )
        _say(prepared, found, listed)
        _write_parts(Dataset(work.staging, info), gathered, settled)
        work.commit(info)
    except LandsegError as error:
        work.abandon(is_new=is_new)
        if STAGING in Path(error.what).parts:
            # The staging folder is gone by now; the user knows the result alone.
            raise LandsegError(target, error.found, error.needed, error.do) from error
        raise
    except OSError as error:
        work.abandon(is_new=is_new)
        raise unwritable(target, error) from error
    return prepared


def _quoted(sources: Sequence[Path]) -> str:
    return " ".join(shlex.quote(str(source)) for source in sources)


def _write_parts(dataset: Dataset, gathered: Gathered, settled: Settled) -> None:
    """The parts that file lists gave, as the split ``file``; only of tiles that the set has."""
    names = sorted(tile.name for tile in settled.checked if tile.name not in settled.left_out)
    placed = [Placed(name, gathered.parts[name], "") for name in names if name in gathered.parts]
    if placed:
        write_split(dataset, Split("file", tuple(placed)))


def _check_sources(sources: list[Path], out: Path) -> None:
    if not sources:
        raise LandsegError("SOURCE", "none given", "at least one zip or folder of tiles", "name one")
    kept = [(out / name).resolve() for name in (*KNOWN, STAGING)]
    for source in sources:
        if not source.exists():
            raise LandsegError(source, "it is not there", "a zip or a folder of tiles", "check the path")
        if not source.is_dir() and not is_zip(source):
            raise LandsegError(source, "neither a folder nor a zip", "a zip or a folder of tiles", "name the folder that holds the file")
        place = source.resolve()
        if place == out.resolve() or any(place.is_relative_to(name) for name in kept):
            raise LandsegError(source, f"it is a part of {out}", "a result that leaves the sources alone", "choose another --out")


def _summary(out: Path, gathered: Gathered, settled: Settled, work: Staging) -> Prepared:
    """Count what the check found; tiles of other bands or type than most cannot be used with them."""
    found, classes = gathered.found, gathered.listed.classes
    good = [tile for tile in settled.checked if not tile.problem]
    (bands, dtype), _ = Counter((tile.bands, tile.dtype) for tile in good).most_common(1)[0]
    unreadable = [Unreadable(name, name, reason) for name, reason in work.damaged.items()]
    unreadable += [Unreadable(name, work.shown(found.images[name]), reason) for name, reason in gathered.unreadable.items()]
    pixels: np.ndarray = np.zeros(len(classes), np.int64)
    unlabelled = 0
    kept: list[Path] = []
    for tile in settled.checked:
        reason = tile.problem
        if not reason and (tile.bands, tile.dtype) != (bands, dtype):
            reason = f"{tile.bands} bands {tile.dtype}, most tiles have {bands} bands {dtype}"
        if reason:
            file = tile.file if tile.problem and tile.file else found.images[tile.name]
            unreadable.append(Unreadable(tile.name, work.shown(file), reason))
        elif tile.name not in settled.left_out:
            kept.append(found.images[tile.name])
            if tile.label_size is not None:
                pixels += tile.pixels
                unlabelled += not any(tile.pixels)
    is_labelled = found.labels is not None
    orphans = [(name, "label") for name in found.orphan_images if name not in gathered.unreadable]
    orphans += [(name, "image") for name in found.orphan_labels]
    usable = {tile.name for tile in settled.checked} - settled.left_out.keys()
    return Prepared(
        dataset=out,
        images=len(found.images),
        pairs=found.pairs,
        orphans=tuple(orphans),
        unreadable=tuple(unreadable),
        classes=tuple(item.name for item in classes) if is_labelled else (),
        class_pixels={item.name: int(pixels[item.id]) for item in classes} if is_labelled else {},
        unlabelled_tiles=unlabelled,
        left_out=(*work.left_out(side_is_used=gathered.form != "files"), *gathered.left_out),
        bands=_BANDS.get(bands, tuple(f"band_{i}" for i in range(1, bands + 1))),
        dtype=dtype,
        label_encoding=settled.encoding,
        mend=settled.mend.stated(),
        mended=settled.mended,
        reasons=settled.reasons,
        unmended=settled.left_out,
        unknown_colours=settled.unknown,
        scaling=band_ranges(kept) if dtype != "uint8" else None,
        parts={part: sum(gathered.parts.get(name) == part for name in usable) for part in PARTS} if gathered.parts else {},
    )


def _say(prepared: Prepared, found: Found, listed: ClassList) -> None:
    """Name aloud what is not as it should be."""
    for items, what in (
        ([f"{item.file} ({item.reason})" for item in prepared.unreadable], "unreadable, left out wherever the set is used"),
        ([f"{tile} (no {missing})" for tile, missing in prepared.orphans], "without a partner"),
        ([f"{tile} ({reason})" for tile, reason in prepared.unmended.items()], "left out, no rule mends them"),
        (list(prepared.left_out), "left out"),
    ):
        if items:
            more = f" and {len(items) - _NAMED:,} more" if len(items) > _NAMED else ""
            log.warning("%s: %s %s: %s%s", prepared.dataset, f"{len(items):,}", what, "; ".join(items[:_NAMED]), more)
    if listed.classes and found.labels is None:
        log.warning("%s: --classes is not used: there are images, but no labels", prepared.dataset)
    if found.looks_like_labels:
        log.warning("%s: the images look like labels; if they are, name the folder of their images too", prepared.dataset)
    if prepared.unknown_colours:
        colours = ", ".join(prepared.unknown_colours)
        log.warning("%s: colours that no class has are unlabelled: %s", prepared.dataset, colours)
    absent = [name for name, count in prepared.class_pixels.items() if not count]
    if absent:
        log.warning("%s: no label has a pixel of %s", prepared.dataset, ", ".join(absent))
