"""Where a tile's bytes lie: in a file of a folder, or in a zip that is read where it lies. It decodes and unpacks nothing.

A file in a zip is named as if the zip were a folder: ``data/images.zip/north/0000_0001.tif``; so is a folder in it. A zip is known by its
ending. Its directory is read once; then each file is read by its place in the zip, from any thread and after a fork.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import weakref
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from landseg.data.archive import DamagedEntry, Member, is_litter, list_members

ENDING = ".zip"
"""Of zips that are read where they lie, in any case."""

_KEPT = 8
"""Zips whose directories are kept: a data set has two, and one may be compared with others."""

_HEADER = struct.Struct("<4s22xHH")
"""A file's header in a zip: its mark, and the lengths of the name and the extra field behind it. Source: PKWARE APPNOTE 6.3.10, 4.3.7."""

_MARK = b"PK\3\4"

_BEYOND = (NotADirectoryError, FileNotFoundError)
"""What systems say of a path that leads through a file."""


class _Archive:
    """An open zip. Its handle has no position that readers could take from one another: each read says where."""

    def __init__(self, path: Path, version: tuple[int, ...]) -> None:
        self.path, self.version = path, version
        self.members = list_members(path)
        self._handle = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)

    def member(self, name: str) -> Member:
        found = self.members.get(name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path / name))
        return found

    def begin(self, member: Member) -> int:
        """Where a file's bytes begin."""
        head = self._read(_HEADER.size, member.at)
        if len(head) < _HEADER.size or not head.startswith(_MARK):
            raise DamagedEntry("damaged in the zip (it does not begin where the zip says)")
        _, name, extra = _HEADER.unpack(head)
        return member.at + _HEADER.size + int(name) + int(extra)

    def read(self, name: str) -> bytes:
        member = self.member(name)
        data = self._read(member.packed, self.begin(member))
        if len(data) < member.packed:
            raise DamagedEntry("damaged in the zip (the zip ends before it does)")
        if member.is_deflated:
            try:
                # One byte more than it declares tells that it holds more.
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size + 1)
            except zlib.error as error:
                raise DamagedEntry(f"damaged in the zip ({error})") from error
        if len(data) != member.size:
            raise DamagedEntry(f"damaged in the zip ({len(data)} bytes of {member.size})")
        if zlib.crc32(data) != member.crc:
            raise DamagedEntry("damaged in the zip (its checksum differs)")
        return data

    def _read(self, size: int, at: int) -> bytes:
        parts = []
        while size > 0 and (part := os.pread(self._handle, size, at)):  # the system may give a part of it (2 GB at most)
            parts.append(part)
            size, at = size - len(part), at + len(part)
        return b"".join(parts)


_archives: dict[str, _Archive] = {}
_lock = threading.Lock()


def _unlock() -> None:
    """A fork may have come while another thread held the lock."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


def read(path: Path) -> bytes:
    """The bytes of a file, or of one in a zip.

    Raises:
        OSError: It is not there or cannot be read.
        DamagedEntry: The zip does not give the bytes that went into it.
        LandsegError: The zip itself is damaged or hostile.
    """
    try:
        return path.read_bytes()
    except _BEYOND:
        inside = _inside(path)
        if inside is None:
            raise
    archive, name = inside
    return archive.read(name)


def version(path: Path) -> str:
    """Changes when a file does: its size and time; of a file in a zip, which may be copied, its size and checksum.

    Raises:
        OSError: It is not there.
        LandsegError: The zip is damaged or hostile.
    """
    try:
        status = path.stat()
    except _BEYOND:
        inside = _inside(path)
        if inside is None:
            raise
        archive, name = inside
        member = archive.member(name)
        return f"{member.size} {member.crc:08x}"
    return f"{status.st_size} {status.st_mtime_ns}"


def size(path: Path) -> int:
    """Bytes of a file, or of one in a zip once it is unpacked.

    Raises:
        OSError: It is not there.
        LandsegError: The zip is damaged or hostile.
    """
    try:
        return path.stat().st_size
    except _BEYOND:
        inside = _inside(path)
        if inside is None:
            raise
    archive, name = inside
    return archive.member(name).size


def forget(folder: Path) -> None:
    """Close the zips at or below a folder before they are moved or deleted: the disk keeps a deleted file for as long as it is open."""
    top = folder.resolve()
    with _lock:
        for key in [key for key, archive in _archives.items() if archive.path.resolve().is_relative_to(top)]:
            del _archives[key]


def gdal_name(path: Path) -> str | None:
    """How GDAL calls a file, so that it reads no more of it than it needs; None of one that is deflated in a zip.

    ``/vsisubfile/`` is a part of a file: no directory is read again for each tile, and a name in any encoding is found.

    Raises:
        DamagedEntry: The zip does not hold it where it says.
        LandsegError: The zip itself is damaged or hostile.
    """
    inside = None if path.exists() else _inside(path)
    if inside is None:
        return str(path)
    archive, name = inside
    member = archive.member(name)
    return None if member.is_deflated else f"/vsisubfile/{archive.begin(member)}_{member.size},{archive.path.absolute()}"


def is_zipped(path: Path) -> bool:
    """Whether a file or folder is a zip, or lies in one."""
    return _zip_of(path) is not None


def is_there(place: Path) -> bool:
    """Whether a folder is there: on the disk, as a zip, or in a zip.

    Raises:
        LandsegError: The zip is damaged or hostile.
    """
    if place.is_dir():
        return True
    inside = _inside(place)
    return inside is not None and (not inside[1] or any(name.startswith(f"{inside[1]}/") for name in inside[0].members))


def folders(place: Path, leave: Path | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Each folder at or below a place, which may be a zip or lie in one, with the names of its files; all sorted, without litter.

    Zips below a folder are files like others: who means one names it.

    Args:
        place: Nothing comes where it is not there.
        leave: A folder that is not looked into.

    Raises:
        LandsegError: The zip is damaged or hostile.
    """
    inside = None if place.is_dir() else _inside(place)
    if inside is not None:
        yield from _folders_in(place, *inside)
        return
    for root, below, names in os.walk(place):
        here = Path(root)
        below[:] = sorted(name for name in below if not is_litter(name) and here / name != leave)
        yield here, sorted(name for name in names if not is_litter(name))


def _folders_in(place: Path, archive: _Archive, top: str) -> Iterator[tuple[Path, list[str]]]:
    found: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    lead = f"{top}/" if top else ""
    for name in archive.members:
        if name.startswith(lead):
            *parts, last = name[len(lead) :].split("/")
            found[tuple(parts)].append(last)
    for parents in sorted(found):
        yield place.joinpath(*parents), sorted(found[parents])


def _zip_of(path: Path) -> Path | None:
    """The zip that a path leads to or through."""
    return next((above for above in (path, *path.parents) if above.suffix.lower() == ENDING and above.is_file()), None)


def _inside(path: Path) -> tuple[_Archive, str] | None:
    """The zip that a path leads to or through, and the name in it (empty: the zip itself); None where there is none."""
    above = _zip_of(path)
    return None if above is None else (_opened(above), "" if above == path else path.relative_to(above).as_posix())


def _opened(path: Path) -> _Archive:
    """A zip with its directory, which is read again only where another file has taken its place."""
    status, key = path.stat(), str(path)
    version = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    found = _archives.get(key)
    if found is not None and found.version == version:
        return found
    with _lock:
        found = _archives.get(key)
        if found is None or found.version != version:
            found = _Archive(path, version)
            _archives.pop(key, None)
            while len(_archives) >= _KEPT:
                _archives.pop(next(iter(_archives)))
            _archives[key] = found
    return found
