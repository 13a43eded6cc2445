"""The unfinished data set: what is unpacked where, what will become images and labels, and how it takes an old set's place.

Zips are unpacked into the result; folders are referred to, not copied, unless images and labels lie mixed in them: then their files are
linked (copied where the disk cannot link) into the result under their tile names. A packed result holds no tile files: zips of nothing but
tiles are referred to as folders are, and what would be a folder of files is a zip. Nothing is written outside the result. Until
`dataset.yaml` is there, the last file to be written, the folder is an interrupted prepare: the next one with the same result begins anew.
It decides nothing about the tiles.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from landseg.core.errors import LandsegError
from landseg.core.files import refuse_existing, require_room, unwritable
from landseg.core.progress import progress
from landseg.data import places
from landseg.data.annotations import ANNOTATION_SUFFIXES
from landseg.data.archive import DamagedEntry, list_members, unpack
from landseg.data.dataset import FILE, DatasetInfo, list_files, write_info
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


@dataclass(frozen=True)
class Staging:
    """The unfinished result: what is unpacked where, and what will become `images` and `labels`."""

    out: Path
    is_packed: bool = False
    archives: dict[Path, Path] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    """Entries of zips that do not come out, and why."""
    _others: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def staging(self) -> Path:
        """Where everything lies until it is committed."""
        return self.out / STAGING

    @property
    def sink(self) -> Sink:
        """Where new files of tiles go."""
        return Sink(self.staging.resolve(), is_packed=self.is_packed)

    def enter(self, source: Path) -> Path:
        """The folder of a source: itself, its zip where that is read as it lies, or where its zip was unpacked."""
        if source.is_dir() or (self.is_packed and self._refer(source)):
            return source.resolve()
        base = self.staging.resolve() / "unpacked"
        folder = base / source.stem
        while folder in self.archives:
            folder = folder.with_name(f"{folder.name}-{len(self.archives)}")
        self.archives[folder] = source
        unpacked = unpack(source, folder, keep=lambda name: Path(name).suffix.lower() in SUFFIXES | SIDE)
        folder.mkdir(parents=True, exist_ok=True)
        self.damaged.update({f"{source.name}/{name}": reason for name, reason in unpacked.damaged.items()})
        self._others.extend((source, name) for name in unpacked.skipped)
        self._others.extend((source, name) for name in unpacked.files if Path(name).suffix.lower() in SIDE)
        return folder

    def _refer(self, source: Path) -> bool:
        """Whether a zip is read where it lies: no annotation or list is in it, which are read as files."""
        if source.suffix.lower() != places.ENDING:
            return False
        names = list(list_members(source))
        if any(Path(name).suffix.lower() in SIDE for name in names):
            return False
        self.archives[source.resolve()] = source
        self._others.extend((source, name) for name in names if Path(name).suffix.lower() not in SUFFIXES)
        return True

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

    def _pack(self, files: dict[str, Path], role: str) -> str:
        """Write files into a zip; what cannot be read was named when it was checked, and is left out."""
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


def _bytes_to_copy(files: dict[str, Path], staging: Path) -> int:
    """Bytes that gathering may take: nothing for what is moved."""
    return sum(path.stat().st_size for path in files.values() if not path.is_relative_to(staging))
