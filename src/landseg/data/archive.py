"""Unpack, list and pack zips safely. It decodes no picture and opens no zip that lies in a zip.

An archive is judged by its directory before a byte of it is written: a name that leads out of the folder, a link, a password, a bomb
refuse it whole.
A damaged entry does not: it is left out by name.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from landseg.core.errors import LandsegError
from landseg.core.files import human_bytes, replacing, require_room
from landseg.core.progress import progress

MAX_ENTRIES = 500_000
"""Entries in one archive; the largest tile set that we know of has 133,304."""

MAX_ENTRY_BYTES = 4_000_000_000
"""Unpacked size of one entry."""

MAX_RATIO = 200
"""Unpacked bytes of all entries to bytes of the archive: pictures reach 2, raw label rasters 100, a bomb deflate's limit of 1032."""

SMALL_BYTES = 10_000_000
"""An archive that unpacks to less is harmless at any ratio (a few empty labels reach 1000)."""

_CHUNK = 1 << 20
_BLOCK = 4096
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF8 = 0x800
_METHODS = {1: "shrink", 6: "implode", 9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 98: "PPMd"}
_PACKED = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


class DamagedEntry(Exception):
    """An entry whose bytes do not come out as they went in. Its text is the reason."""


@dataclass(frozen=True)
class Unpacked:
    """What came out of an archive: names with ``/`` below the folder, in the archive's order.

    `skipped` holds what was not wanted, zips in the zip among it; operating systems' litter is not even named. `damaged` says why, by name.
    """

    files: tuple[str, ...]
    skipped: tuple[str, ...]
    damaged: dict[str, str]


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive that is read where it lies: the place of its header, its bytes there and unpacked, their checksum (CRC-32)."""

    at: int
    packed: int
    size: int
    crc: int
    is_deflated: bool


@dataclass(frozen=True)
class _Entry:
    name: str
    info: zipfile.ZipInfo


def unpack(archive: Path, folder: Path, *, keep: Callable[[str], bool] = lambda name: True) -> Unpacked:
    """Unpack an archive into a folder of its own.

    Args:
        archive: The zip.
        folder: Made here; it may exist but must be empty, so that nothing in it can lead elsewhere.
        keep: Which names to unpack; all by default.

    Raises:
        LandsegError: It is no zip, it is hostile (see `iter_files`), the folder is not empty, or the disk has no room. Nothing is
        written then.
    """
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise LandsegError(folder, "it is not empty", "a new folder to unpack into", "choose another one")
    opened, entries = _open(archive)
    with opened:
        wanted = [entry for entry in entries if _is_wanted(entry.name, keep)]
        skipped = tuple(entry.name for entry in entries if not _is_wanted(entry.name, keep))
        # Small files take whole blocks of the disk.
        require_room(folder, sum(-(-entry.info.file_size // _BLOCK) * _BLOCK for entry in wanted), f"unpacking {archive.name}")
        files: list[str] = []
        damaged: dict[str, str] = {}
        for entry in progress(wanted, f"unpacking {archive.name}", len(wanted), "files"):
            try:
                with replacing(folder / entry.name) as partial, partial.open("wb") as target:
                    for chunk in _stream(opened, entry):
                        target.write(chunk)
            except DamagedEntry as error:
                damaged[entry.name] = str(error)
            else:
                files.append(entry.name)
    return Unpacked(tuple(files), skipped, damaged)


def iter_files(archive: Path, *, keep: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """Name, unpacked size and reader of each file in an archive, without unpacking it.

    The readers may be called from threads and after the iteration has ended; the archive stays open as long as one of them lives.
    A reader raises `DamagedEntry` when the bytes do not match their checksum.

    Raises:
        LandsegError: At the call, not at the first item: it is no zip, or it is hostile: a name that leads out of the folder
        (``..``, absolute, a drive,
            a backslash), a link or device, an encrypted entry, a compression that we do not read, two names that would be one
            file, more than
            `MAX_ENTRIES`, `MAX_ENTRY_BYTES` or `MAX_RATIO`, entries that share bytes.
    """
    opened, entries = _open(archive)

    def reader(entry: _Entry) -> Callable[[], bytes]:
        return lambda: b"".join(_stream(opened, entry))

    return ((entry.name, entry.info.file_size, reader(entry)) for entry in entries if _is_wanted(entry.name, keep))


def list_members(archive: Path) -> dict[str, Member]:
    """The files of an archive that is read where it lies, by name, in the archive's order.

    Raises:
        LandsegError: As with `iter_files`, but for what concerns unpacking alone: any number of files, and names that differ by case alone.
    """
    opened, entries = _open(archive, is_unpacked=False)
    with opened:
        return {
            entry.name: Member(
                entry.info.header_offset, entry.info.compress_size, entry.info.file_size, entry.info.CRC,
                entry.info.compress_type == zipfile.ZIP_DEFLATED,
            )
            for entry in entries
        }  # fmt: skip


@contextmanager
def packing(path: Path, *, is_stored: bool = False, sync: bool = False) -> Iterator[Callable[[str, bytes], None]]:
    """Write a zip file by file; it takes its place when the block ends well. Its bytes depend on its content alone.

    Every entry is dated 1980-01-01, the format's first day; PNG and JPEG are stored, for they are compressed already, all else is deflated.

    Args:
        path: The zip; an old one is replaced once the new one is whole.
        is_stored: Store everything, so that each file can be read at its place.
        sync: Flush it to the disk before it takes its place.

    Returns:
        What takes a file's name (``/`` between folders) and content; one thread at a time.

    Raises:
        LandsegError: A name comes twice or may not stand in a zip, or the file cannot be written.
    """
    names: set[str] = set()
    with replacing(path, sync=sync) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as target:

        def put(name: str, content: bytes) -> None:
            if name in names:
                raise LandsegError(path, f"{name} twice", "one entry a name", "rename one of the two files")
            try:
                _safe_parts(path, name)
                name.encode()
            except (LandsegError, UnicodeEncodeError) as error:  # it would refuse the whole zip to its reader
                found = error.found if isinstance(error, LandsegError) else f"a file is named {name!r}, which is not UTF-8"
                raise LandsegError(path, found, "a name that may stand in a zip", "rename the file that it is made of") from error
            names.add(name)
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.compress_type = zipfile.ZIP_STORED if is_stored or content.startswith(_PACKED) else zipfile.ZIP_DEFLATED
            target.writestr(info, content)

        yield put


def write_zip(path: Path, entries: Iterable[tuple[str, bytes]]) -> None:
    """Write a zip at once; see `packing`.

    Args:
        path: The zip; an old one is replaced once the new one is whole.
        entries: Name (``/`` between folders) and content, in the order in which they shall stand.

    Raises:
        LandsegError: A name comes twice, or the file cannot be written.
    """
    with packing(path) as put:
        for name, content in entries:
            put(name, content)


def is_zip(path: Path) -> bool:
    """True for a file that calls itself a zip or is one."""
    return path.is_file() and (path.suffix.lower() == ".zip" or zipfile.is_zipfile(path))


def _open(archive: Path, *, is_unpacked: bool = True) -> tuple[zipfile.ZipFile, list[_Entry]]:
    """Open an archive and list the files in it that are not litter, after every rule has been held against it."""
    try:
        opened = zipfile.ZipFile(archive)
    except FileNotFoundError as error:
        raise LandsegError(archive, "it is not there", "a zip", "check the path") from error
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, struct.error, ValueError) as error:
        raise LandsegError(archive, f"not a readable zip ({error})", "a whole zip", "download or copy it again") from error
    except OSError as error:
        raise LandsegError(
            archive, f"it cannot be read ({error.strerror or error})", "a zip that you may read", "mend its permissions"
        ) from error
    try:
        return opened, _judge(archive, opened.infolist(), is_unpacked=is_unpacked)
    except BaseException:
        opened.close()
        raise


def _judge(archive: Path, infos: list[zipfile.ZipInfo], *, is_unpacked: bool) -> list[_Entry]:
    if is_unpacked and len(infos) > MAX_ENTRIES:
        raise _hostile(archive, f"{len(infos):,} entries", f"{MAX_ENTRIES:,} at most")
    entries: list[_Entry] = []
    seen: dict[str, str] = {}
    # What is unpacked may come to a disk on which A and a are one file.
    fold = str.casefold if is_unpacked else str
    for info, raw in zip(infos, _names(infos), strict=True):
        parts = _safe_parts(archive, raw)
        _check_kind(archive, raw, info)
        if raw.endswith("/") or not parts or any(map(is_litter, parts)):
            continue
        name = "/".join(parts)
        known = seen.setdefault(fold(name), name)
        if known is not name:
            other = "stands there twice" if known == name else f"and {known!r} differ by case alone"
            raise LandsegError(
                archive, f"{name!r} {other}", "one entry a file", "rename one of them, or unpack the zip and name the folder"
            )
        entries.append(_Entry(name, info))
    for entry in entries:
        above = fold(entry.name)
        while "/" in above:
            above = above.rpartition("/")[0]
            if above in seen:
                raise _hostile(archive, f"{seen[above]!r} is a file and also the folder of {entry.name!r}", "one or the other")
    _check_bomb(archive, infos)
    return entries


def _safe_parts(archive: Path, name: str) -> list[str]:
    """The name's folders and file, or an error for a name that leads anywhere but down."""
    where = "a name below the folder it is unpacked into"
    if "\0" in name or "\\" in name:
        raise _hostile(archive, f"entry {name!r} has a backslash or a zero byte in its name", where)
    if name.startswith("/") or name[1:2] == ":":
        raise _hostile(archive, f"entry {name!r} has an absolute path", where)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _hostile(archive, f"entry {name!r} leads out of the folder", where)
    return parts


def _check_kind(archive: Path, name: str, info: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _hostile(archive, f"entry {name!r} is a {'link' if kind == stat.S_IFLNK else 'special file'}", "plain files only")
    if info.flag_bits & _ENCRYPTED:
        raise LandsegError(
            archive, f"entry {name!r} is encrypted", "a zip without a password", "unpack it with its password and name the folder"
        )
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # bzip2 and LZMA among them: zipfile gives out what they expand to in one piece of any size.
        method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
        raise LandsegError(
            archive, f"entry {name!r} is compressed by {method}", "store or deflate", "unpack it by other means and name the folder"
        )


def _check_bomb(archive: Path, infos: list[zipfile.ZipInfo]) -> None:
    """Hold the declared sizes against the bounds; what declares less than it holds fails its checksum when it is read."""
    for info in infos:
        if info.file_size > MAX_ENTRY_BYTES:
            raise _hostile(
                archive, f"entry {info.filename!r} unpacks to {human_bytes(info.file_size)}", f"{human_bytes(MAX_ENTRY_BYTES)} at most"
            )
    total, packed = sum(info.file_size for info in infos), archive.stat().st_size
    if total > SMALL_BYTES and total > MAX_RATIO * packed:
        largest = max(infos, key=lambda info: info.file_size)
        raise _hostile(
            archive, f"it unpacks to {human_bytes(total)}, {total / packed:,.0f} times its size (entry {largest.filename!r} most of all)",
            f"{MAX_RATIO} times at most",
        )  # fmt: skip
    end, previous = 0, ""
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise _hostile(archive, f"entries {previous!r} and {info.filename!r} share bytes", "bytes of its own for each")
        end, previous = info.header_offset + 30 + info.compress_size, info.filename


def _hostile(archive: Path, found: str, needed: str) -> LandsegError:
    return LandsegError(archive, found, needed, "have it packed anew, or, if you trust it, unpack it yourself and name the folder")


def _names(infos: list[zipfile.ZipInfo]) -> list[str]:
    """Names as they were meant.

    An entry says by a flag that its name is UTF-8, or carries a UTF-8 name beside the old one. Else the bytes are UTF-8 when all such
    names of the
    archive are, and GBK (Windows in Chinese) when not; `zipfile` has read them as code page 437, which keeps every byte.

    Source: PKWARE APPNOTE 6.3.10, 4.4.4 bit 11 and 4.6.9 (Info-ZIP Unicode Path, 0x7075).
    """
    plain = [None if info.flag_bits & _UTF8 else info.orig_filename.encode("cp437") for info in infos]
    codec = "gb18030" if any(raw is not None and _decoded(raw, "utf-8") is None for raw in plain) else "utf-8"
    names = []
    for info, raw in zip(infos, plain, strict=True):
        name = info.orig_filename
        if raw is not None:
            name = _unicode_path(info.extra, raw) or _decoded(raw, codec) or name
        names.append(name)
    return names


def _decoded(raw: bytes, codec: str) -> str | None:
    try:
        return raw.decode(codec)
    except UnicodeDecodeError:
        return None


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    while len(extra) >= 4:
        tag, size = struct.unpack("<HH", extra[:4])
        body, extra = extra[4 : 4 + size], extra[4 + size :]
        # Version 1, then the checksum of the old name: a tool that renamed the entry and left the field behind is found out.
        if tag == 0x7075 and len(body) > 5 and body[0] == 1 and struct.unpack("<I", body[1:5])[0] == zlib.crc32(raw):
            return _decoded(body[5:], "utf-8")
    return None


def _is_wanted(name: str, keep: Callable[[str], bool]) -> bool:
    return not name.lower().endswith(".zip") and keep(name)


def is_litter(part: str) -> bool:
    """True for what operating systems leave behind: hidden files, ``__MACOSX``, ``Thumbs.db``."""
    return part.startswith(".") or part in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _stream(opened: zipfile.ZipFile, entry: _Entry) -> Iterator[bytes]:
    """The entry's bytes, never more than it declares."""
    done = 0
    try:
        with opened.open(entry.info) as source:
            while chunk := source.read(_CHUNK):
                done += len(chunk)
                yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, struct.error) as error:
        raise DamagedEntry(f"damaged in the zip ({str(error) or type(error).__name__})") from error
    if done != entry.info.file_size:
        raise DamagedEntry(f"damaged in the zip ({done} bytes of {entry.info.file_size})")
