"""Prepare: anything that holds tiles → a dataset folder.

Zips are unpacked into the result; folders are referred to, not copied, unless images and labels lie mixed in them: then their files are
linked (copied where the disk cannot link) into the result under their tile names. Nothing is written outside the result. Until
`dataset.yaml` is there, the last file to be written, the folder is an interrupted prepare: the next one with the same result begins anew.

It does not mend what is wrong with the tiles, nor look for duplicates or leaks: `audit` does.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landseg.core.classes import IGNORE_INDEX, LandClass, parse_classes
from landseg.core.errors import LandsegError
from landseg.core.files import refuse_existing, require_room, unwritable
from landseg.core.progress import progress
from landseg.data.archive import is_zip, unpack
from landseg.data.checking import TileCheck, check_tiles
from landseg.data.dataset import FILE, DatasetInfo, write_info
from landseg.data.sources import Found, recognise
from landseg.data.tiles import SUFFIXES

log = logging.getLogger("landseg")

STAGING = ".prepare"
"""Where an unfinished prepare keeps its files, inside the result. Without `dataset.yaml` beside it, it marks an interrupted one."""

KNOWN = (FILE, "images", "labels", "splits", "audit", "pack")
"""What a dataset folder holds (the contract's "Dataset folder"); ``--overwrite`` deletes nothing else."""

_BANDS = {1: ("grey",), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "nir")}
_NAMED = 5


@dataclass(frozen=True)
class Prepared:
    """What a prepare made.

    Args:
        dataset: The dataset folder.
        images: Image files in it, with a label or not.
        pairs: Images with a label; 0 for a set without labels.
        orphans: Tile name and what it lacks (``label`` or ``image``).
        unreadable: Tile name and reason: files that will be left out, by name, wherever the set is used.
        classes: Names in the order of their ids.
        class_pixels: Labelled pixels by class name.
        unlabelled_tiles: Pairs without one labelled pixel.
        left_out: Files and folders of the sources that are no part of the set, and why.
        bands: Their names.
        dtype: Of the images.
    """

    dataset: Path
    images: int
    pairs: int
    orphans: tuple[tuple[str, str], ...]
    unreadable: tuple[tuple[str, str], ...]
    classes: tuple[str, ...]
    class_pixels: dict[str, int]
    unlabelled_tiles: int
    left_out: tuple[str, ...]
    bands: tuple[str, ...]
    dtype: str

    def as_json(self) -> dict[str, Any]:
        """The document of ``--json``."""
        return {
            "dataset": str(self.dataset),
            "images": self.images,
            "pairs": self.pairs,
            "orphans": [{"tile": tile, "missing": missing} for tile, missing in self.orphans],
            "unreadable": [{"tile": tile, "reason": reason} for tile, reason in self.unreadable],
            "classes": list(self.classes),
            "class_pixels": dict(self.class_pixels),
            "unlabelled_tiles": self.unlabelled_tiles,
            "left_out": list(self.left_out),
            "bands": list(self.bands),
            "dtype": self.dtype,
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
        lines += [f"  left out: {line}" for line in self.left_out]
        return "\n".join(lines)


def prepare(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    classes: str | None = None,
    labels: str | Path | None = None,
    overwrite: bool = False,
) -> Prepared:
    """Make a dataset folder of zips and folders of tiles.

    Every image and every label is decoded once: what cannot be read is left where it is and named, what cannot be meant is an error.

    Args:
        sources: Zips and folders, together one data set; images and labels in them are told apart by content.
        out: The dataset folder to make.
        classes: Class names in the order of their ids, as `core.classes.parse_classes` reads them; needed for a set with labels.
        labels: The folder or zip of labels, where they cannot be told apart.
        overwrite: Replace the dataset in `out`. It stands until the new one has been checked.

    Returns:
        What was made.

    Raises:
        LandsegError: A source is not there, hostile or empty; labels have illegal values, another size than their images or no class
            names; nothing can be read or nothing is labelled; `out` exists, is no dataset folder or cannot be written.
    """
    given = [Path(source) for source in sources]
    named = parse_classes(classes) if classes is not None else ()
    target, label_source = Path(out), Path(labels) if labels is not None else None
    _check_sources([*given, *([label_source] if label_source else [])], target)
    is_new = _claim(target, overwrite=overwrite)
    work = _Work(target, {})
    try:
        left_out: list[str] = []
        damaged: dict[str, str] = {}
        roots: list[Path] = []
        for source in [*given, *([label_source] if label_source else [])]:
            roots.append(work.enter(source, left_out, damaged))
        label_root = roots.pop() if label_source else None
        found = recognise(roots, label_root, leave=target.resolve(), shown=work.shown)
        left_out += [f"{work.shown(other.folder)} ({other.files:,} files): {other.reason}" for other in found.others]
        checked = check_tiles(found.images, found.labels, named, shown=work.shown)
        prepared = _summary(target, found, checked, named, tuple(left_out), damaged)
        info = DatasetInfo(
            name=target.resolve().name,
            images=work.place(found.images, found.image_folder, "images"),
            labels=None if found.labels is None else work.place(found.labels, found.label_folder, "labels"),
            classes=named if found.labels is not None else (),
            bands=prepared.bands,
            source=", ".join(path.name or str(path) for path in [*given, *([label_source] if label_source else [])]),
        )
        _say(prepared, found, named)
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


@dataclass(frozen=True)
class _Work:
    """The unfinished result: what is unpacked where, and what will become `images` and `labels`."""

    out: Path
    archives: dict[Path, Path]

    @property
    def staging(self) -> Path:
        return self.out / STAGING

    def enter(self, source: Path, left_out: list[str], damaged: dict[str, str]) -> Path:
        """The folder of a source: itself, or where its zip was unpacked."""
        if source.is_dir():
            return source.resolve()
        base = self.staging.resolve() / "unpacked"
        folder = base / source.stem
        while folder in self.archives:
            folder = folder.with_name(f"{folder.name}-{len(self.archives)}")
        self.archives[folder] = source
        unpacked = unpack(source, folder, keep=lambda name: Path(name).suffix.lower() in SUFFIXES)
        folder.mkdir(parents=True, exist_ok=True)
        damaged.update({f"{source.name}/{name}": reason for name, reason in unpacked.damaged.items()})
        inner = [name for name in unpacked.skipped if name.lower().endswith(".zip")]
        left_out += [f"{source.name}/{name}: a zip in a zip is not opened" for name in inner]
        others = len(unpacked.skipped) - len(inner)
        if others:
            first = next(name for name in unpacked.skipped if name not in inner)
            left_out.append(f"{source.name}/{first}{f' and {others - 1} more files' if others > 1 else ''}: no image files")
        return folder

    def shown(self, path: Path) -> str:
        """A path as the user knows it: below the zip, not below the folder it was unpacked into."""
        for folder, source in self.archives.items():
            if path.is_relative_to(folder):
                return (source.name / path.relative_to(folder)).as_posix()
        return str(path)

    def place(self, files: dict[str, Path], folder: Path | None, role: str) -> str:
        """Bring files to their place: what `dataset.yaml` says for them, relative where both lie on one tree."""
        inside = self.staging.resolve()
        ready = inside / role
        if folder is not None and folder.is_relative_to(inside):
            folder.rename(ready)
            return role
        home = self.out.resolve()
        if folder is not None:
            if home.is_relative_to(folder):
                raise LandsegError(
                    self.out, f"it lies in {folder}, which the data set refers to", "a place beside it", "choose another --out"
                )
            return _reference(folder, home)
        require_room(self.out, _bytes_to_copy(files, inside), f"gathering {role}")
        for name, path in progress(files.items(), f"gathering {role}", len(files)):
            goal = ready / (name + path.suffix)
            goal.parent.mkdir(parents=True, exist_ok=True)
            if path.is_relative_to(inside):
                path.rename(goal)
                continue
            try:
                os.link(path.resolve(), goal)
            except OSError:
                shutil.copyfile(path, goal)
        return role

    def commit(self, info: DatasetInfo) -> None:
        """Put the new data set in the place of an old one; `dataset.yaml` goes first and comes last."""
        if any((self.out / "splits").glob("*.csv")):
            log.warning("%s: its splits go with the data set that is replaced; split again", self.out)
        for name in KNOWN:
            _delete(self.out / name)
        for role in ("images", "labels"):
            if (self.staging / role).exists():
                (self.staging / role).rename(self.out / role)
        write_info(self.out, info)
        shutil.rmtree(self.staging)

    def abandon(self, *, is_new: bool) -> None:
        """Take back what an error left unfinished; an old data set in the same place stays."""
        shutil.rmtree(self.staging, ignore_errors=True)
        if is_new and self.out.is_dir() and not any(self.out.iterdir()):
            self.out.rmdir()


def _reference(folder: Path, home: Path) -> str:
    """How a data set in `home` names a folder: relative on one tree, so that both may move together; by its whole path otherwise."""
    try:
        is_one_tree = os.path.commonpath([home, folder]) != home.anchor
    except ValueError:  # Windows: two drives
        is_one_tree = False
    return Path(os.path.relpath(folder, home)).as_posix() if is_one_tree else str(folder)


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


def _claim(out: Path, *, overwrite: bool) -> bool:
    """Make the staging folder in `out`, refusing what is not ours; True when `out` was not there."""
    try:
        is_new = not out.exists()
        if not is_new and not out.is_dir():
            raise LandsegError(out, "it is a file", "a folder to make", "choose another --out")
        is_dataset = (out / FILE).is_file()
        is_interrupted = (out / STAGING).is_dir() and not is_dataset
        if not is_interrupted:
            refuse_existing(out, overwrite=overwrite)
            if not is_new and not is_dataset and any(out.iterdir()):
                raise LandsegError(out, f"files, but no {FILE}: it is no data set", "an empty or a new folder", "choose another --out")
        else:
            log.info("%s: an interrupted prepare, begun anew", out)
        _delete(out / STAGING)
        (out / STAGING).mkdir(parents=True)
    except OSError as error:
        raise unwritable(out, error) from error
    return is_new


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _bytes_to_copy(files: dict[str, Path], staging: Path) -> int:
    """Bytes that gathering may take: nothing for what is moved."""
    return sum(path.stat().st_size for path in files.values() if not path.is_relative_to(staging))


def _summary(
    out: Path,
    found: Found,
    checked: Sequence[TileCheck],
    classes: tuple[LandClass, ...],
    left_out: tuple[str, ...],
    damaged: dict[str, str],
) -> Prepared:
    """Count what the check found; tiles of other bands or type than most cannot be used with them."""
    (bands, dtype), _ = Counter((tile.bands, tile.dtype) for tile in checked if not tile.problem).most_common(1)[0]
    unreadable = dict(damaged)
    pixels: Counter[int] = Counter()
    unlabelled = 0
    for tile in checked:
        if tile.problem:
            unreadable[tile.name] = tile.problem
        elif (tile.bands, tile.dtype) != (bands, dtype):
            unreadable[tile.name] = f"{tile.bands} bands {tile.dtype}, most tiles have {bands} bands {dtype}"
        elif tile.codes is not None:
            pixels.update(tile.codes)
            unlabelled += not tile.codes.keys() - {IGNORE_INDEX}
    is_labelled = found.labels is not None
    orphans = [(name, "label") for name in found.orphan_images] + [(name, "image") for name in found.orphan_labels]
    return Prepared(
        dataset=out,
        images=len(found.images),
        pairs=found.pairs,
        orphans=tuple(orphans),
        unreadable=tuple(unreadable.items()),
        classes=tuple(item.name for item in classes) if is_labelled else (),
        class_pixels={item.name: pixels[item.id] for item in classes} if is_labelled else {},
        unlabelled_tiles=unlabelled,
        left_out=left_out,
        bands=_BANDS.get(bands, tuple(f"band_{i}" for i in range(1, bands + 1))),
        dtype=dtype,
    )


def _say(prepared: Prepared, found: Found, classes: tuple[LandClass, ...]) -> None:
    """Name aloud what is not as it should be."""
    for items, what in (
        ([f"{tile} ({reason})" for tile, reason in prepared.unreadable], "unreadable, left out wherever the set is used"),
        ([f"{tile} (no {missing})" for tile, missing in prepared.orphans], "without a partner"),
        (list(prepared.left_out), "left out"),
    ):
        if items:
            more = f" and {len(items) - _NAMED:,} more" if len(items) > _NAMED else ""
            log.warning("%s: %s %s: %s%s", prepared.dataset, f"{len(items):,}", what, "; ".join(items[:_NAMED]), more)
    if classes and found.labels is None:
        log.warning("%s: --classes is not used: there are images, but no labels", prepared.dataset)
    if found.looks_like_labels:
        log.warning("%s: the images look like labels; if they are, name the folder of their images too", prepared.dataset)
    absent = [name for name, count in prepared.class_pixels.items() if not count]
    if absent:
        log.warning("%s: no label has a pixel of %s", prepared.dataset, ", ".join(absent))
