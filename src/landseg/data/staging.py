"""The unfinished data set: what is unpacked where, what will become images and labels, and how it takes an old set's place.

Zips are unpacked into the result; folders are referred to, not copied, unless images and labels lie mixed in them: then their files are
linked (copied where the disk cannot link) into the result under their tile names. A packed result holds no tile files: zips without
annotations and lists are read where they lie, and what would be a folder of files is a zip. Nothing is written outside the result. Until
`dataset.yaml` is there, the last file to be written, the folder is an interrupted prepare: the next one with the same result begins anew.
It decides nothing about the tiles.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from landseg.core.errors import LandsegError
from landseg.core.files import refuse_existing, require_room, unwritable
from landseg.core.progress import progress
from landseg.data import places
from landseg.data.annotations import ANNOTATION_SUFFIXES, is_marked
from landseg.data.archive import DamagedEntry, list_members, unpack
from landseg.data.dataset import FILE, DatasetInfo, list_files, write_info
from landseg.data.documents import MAX_BYTES, decode
from landseg.data.lists import LIST_SUFFIXES
from landseg.data.sink import Sink
from landseg.data.tiles import SUFFIXES

log = logging.getLogger("landseg")

STAGING = ".prepare"
"""Where an unfinished prepare keeps its files, inside the result. Without `dataset.yaml` beside it, it marks an interrupted one."""

_TILES = ("images", "labels", "images.zip", "labels.zip")

KNOWN = (FILE, *_TILES, "splits", "audit", "pack")
"""What a dataset folder holds (the contract's "Dataset folder"); ``--overwrite`` deletes nothing else."""

SIDE = ANNOTATION_SUFFIXES | LIST_SUFFIXES
"""Endings of annotations and file lists, which are unpacked with the tiles."""

_BETWEEN = re.compile(r"[/\\\t|,; ]")
"""What stands before a file's name in a list."""

_LONGEST = 255
"""Characters of a file's name at most, in every system."""


@dataclass(frozen=True)
class Staging:
    """The unfinished result: what is unpacked where, and what will become `images` and `labels`."""

    out: Path
    is_packed: bool = False
    archives: dict[Path, Path] = field(default_factory=dict)
    """Where the files of a zip are read → the zip."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Entries of zips that do not come out, and why."""
    _others: list[tuple[Path, str]] = field(default_factory=list)
    _names: dict[Path, Path] = field(default_factory=dict)
    """Where the files of a zip are read → the folder that they count as in the names of tiles."""

    @property
    def staging(self) -> Path:
        """Where everything lies until it is committed."""
        return self.out / STAGING

    @property
    def _unpacked(self) -> Path:
        return self.staging.resolve() / "unpacked"

    @property
    def sink(self) -> Sink:
        """Where new files of tiles go."""
        return Sink(self.staging.resolve(), is_packed=self.is_packed)

    def enter(self, sources: Sequence[Path], labels: Path | None = None) -> tuple[list[Path], Path | None]:
        """Where the files of the sources and of the labels are read: in folders, in zips as they lie, or where zips were unpacked.

        Raises:
            LandsegError: A zip is damaged or hostile, or the disk has no room for it.
        """
        everything: dict[Path, Path] = {}
        for source in (*sources, *([labels] if labels else [])):
            everything.setdefault(source.resolve(), source)
        folders = [place for place in everything if place.is_dir()]
        above = [source.resolve().parent for source in sources if source.is_dir()]
        # Beside folders a zip counts as one of them; zips alone are named by their stems, wherever they lie.
        beside = Path(os.path.commonpath(above)) if above else self._unpacked
        roots = {place: place if place in folders else self._open(zipped, beside, folders) for place, zipped in everything.items()}
        return [roots[source.resolve()] for source in sources], roots[labels.resolve()] if labels else None

    def _open(self, source: Path, beside: Path, folders: Sequence[Path]) -> Path:
        """Where the files of a zip are read; no other source has its name."""
        name, count = source.stem, 0
        while beside / name in self._names.values() or any(folder.is_relative_to(beside / name) for folder in folders):
            count += 1
            name = f"{source.stem}-{count}"
        root = source.resolve() if self.is_packed and self._refer(source) else self._unpack(source, self._unpacked / name)
        self.archives[root] = source
        self._names[root] = beside / name
        return root

    def _unpack(self, source: Path, folder: Path) -> Path:
        unpacked = unpack(source, folder, keep=lambda name: Path(name).suffix.lower() in SUFFIXES | SIDE)
        folder.mkdir(parents=True, exist_ok=True)
        self.damaged.update({f"{source.name}/{name}": reason for name, reason in unpacked.damaged.items()})
        self._others.extend((source, name) for name in unpacked.skipped)
        self._others.extend((source, name) for name in unpacked.files if Path(name).suffix.lower() in SIDE)
        return folder

    def _refer(self, source: Path) -> bool:
        """Whether a zip is read where it lies: no annotation or list is in it, which need their images as files."""
        place = source.resolve()
        if place.suffix.lower() != places.ENDING:
            return False
        members = list_members(place)
        endings = {name: Path(name).suffix.lower() for name in members}
        tiles = frozenset(Path(name).name for name, ending in endings.items() if ending in SUFFIXES)
        side = [name for name, ending in endings.items() if ending in SIDE]
        for name in progress(side, f"looking at texts in {source.name}", len(side), "files"):
            # What is too large is unpacked: its reader says so.
            if members[name].size > MAX_BYTES or _is_told_by(place / name, tiles):
                return False
        others = [name for name, ending in endings.items() if ending not in SUFFIXES | SIDE]
        self._others.extend((source, name) for name in (*others, *side))
        return True

    def named(self, path: Path) -> Path:
        """What a path counts as in the names of tiles, which do not tell where a zip lies or was unpacked."""
        return next((name / path.relative_to(root) for root, name in self._names.items() if path.is_relative_to(root)), path)

    def left_out(self, *, side_is_used: bool) -> list[str]:
        """What of the zips is no part of the set, and why.

        Args:
            side_is_used: Texts beside the tiles were annotations or lists, and are no news.
        """
        lines = []
        for source in self.archives.values():
            names = [name for owner, name in self._others if owner == source]
            inner = [name for name in names if name.lower().endswith(".zip")]
            others = [name for name in names if name not in inner and not (side_is_used and Path(name).suffix.lower() in SIDE)]
            lines += [f"{source.name}/{name}: a zip in a zip is not opened" for name in inner]
            if others:
                lines.append(f"{source.name}/{others[0]}{f' and {len(others) - 1} more files' if len(others) > 1 else ''}: no image files")
        return lines

    def shown(self, path: Path) -> str:
        """A path as the user knows it: below the zip, not below the folder it was unpacked into."""
        for folder, source in self.archives.items():
            if path.is_relative_to(folder):
                return (source.name / path.relative_to(folder)).as_posix()
        return str(path)

    def place(self, files: dict[str, Path], folder: Path | None, role: str) -> str:
        """Bring files to their place: what `dataset.yaml` says for them, relative where both lie on one tree."""
        inside = self.staging.resolve()
        ready = self.sink.place(role)
        if folder is not None and folder.is_relative_to(inside):
            if folder == ready:
                return ready.name
            if self.is_packed:
                return self._pack(list_files(folder), role)
            folder.rename(ready)
            return ready.name
        home = self.out.resolve()
        if folder is not None:
            if home.is_relative_to(folder):
                raise LandsegError(
                    self.out, f"it lies in {folder}, which the data set refers to", "a place beside it", "choose another --out"
                )
            return _reference(folder, home)
        if self.is_packed:
            return self._pack(files, role)
        # What lies in the result already is moved.
        require_room(self.out, _bytes_of(path for path in files.values() if not path.is_relative_to(inside)), f"gathering {role}")
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

    def _pack(self, files: dict[str, Path], role: str) -> str:
        """Write files into a zip; what cannot be read was named when it was checked, and is left out."""
        require_room(self.out, _bytes_of(files.values()), f"packing {role}")
        with self.sink as sink:
            for name, path in progress(sorted(files.items()), f"packing {role}", len(files)):
                try:
                    data = places.read(path)
                except (OSError, DamagedEntry):
                    continue
                sink.put(role, name + path.suffix, data)
        return sink.name(role)

    def commit(self, info: DatasetInfo) -> None:
        """Put the new data set in the place of an old one; `dataset.yaml` goes first and comes last.

        What belongs to it lies in the staging folder by now: nothing is written once something has been deleted.
        """
        places.forget(self.out)
        write_info(self.staging, info)
        if any((self.out / "splits").glob("*.csv")):
            log.warning("%s: its splits go with the data set that is replaced; split again", self.out)
        for name in KNOWN:
            _delete(self.out / name)
        for name in (*_TILES, "splits", FILE):
            if (self.staging / name).exists():
                (self.staging / name).rename(self.out / name)
        shutil.rmtree(self.staging)

    def abandon(self, *, is_new: bool) -> None:
        """Take back what an error left unfinished; an old data set in the same place stays.

        Where it was being replaced already, the folder stays an interrupted prepare, which the next one begins anew.
        """
        if (self.staging / FILE).exists() and not (self.out / FILE).exists():
            return
        places.forget(self.staging)
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


def claim(out: Path, *, overwrite: bool) -> bool:
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


def _bytes_of(paths: Iterable[Path]) -> int:
    """Bytes of some files; what is not there takes none."""
    total = 0
    for path in paths:
        with suppress(OSError):
            total += places.size(path)
    return total


def _is_told_by(path: Path, tiles: frozenset[str]) -> bool:
    """Whether a text in a zip may be an annotation or a list: it has what all of them have. Others are no reason to unpack the zip.

    Args:
        path: Its place.
        tiles: Names of the image files in the zip: one of them ends a line of every list.
    """
    suffix = path.suffix.lower()
    try:
        text = decode(places.read(path), path)
    except DamagedEntry:
        return True  # unpacked, it is named
    except LandsegError:  # no text that we can read; XML says itself how it is written
        return suffix == ".xml"
    if suffix in ANNOTATION_SUFFIXES:
        return is_marked(text, suffix)
    ends = (line.strip()[-_LONGEST:] for line in text.splitlines())
    return any(end in tiles or any(end[mark.end() :] in tiles for mark in _BETWEEN.finditer(end)) for end in ends)
