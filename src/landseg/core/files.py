"""Files that are written whole or not at all. It knows nothing of what is in them."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from landseg.core.errors import LandsegError

try:
    import fcntl
except ImportError:  # Windows has no flock; two processes in one folder are then not told apart
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends well.

    Args:
        path: The file to write; its folder is created.
        sync: Flush the file before the rename and its folder after it, and folders that are new, to the disk (checkpoints): a power cut
            leaves the old file or the new one too.

    Raises:
        LandsegError: The folder cannot be written, or the disk is full. The old file, if any, is untouched.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        new = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()] if sync else []
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if sync:
            _sync_file(partial)
        os.replace(partial, path)
        if sync:
            sync_folder(path.parent)
            for folder in new:
                sync_folder(folder.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def lock(path: Path, *, wait: bool) -> IO[str]:
    """Hold a lock file for this process; close the handle to let go. The system lets go when the process ends, however it ends.

    Args:
        path: The lock file; stays when the lock is gone.
        wait: Wait for another holder, or raise `BlockingIOError`.

    Raises:
        OSError: The file cannot be made, or (not `wait`) somebody holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = path.open("w", encoding="utf-8")
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            handle.close()
            raise
    return handle


def sweep_partials(folder: Path) -> None:
    """Remove what a killed process was writing below `folder`; only for who holds the folder's lock."""
    for path in folder.rglob(".*.partial"):
        with suppress(OSError):
            path.unlink()


def write_bytes(path: Path, *parts: bytes | memoryview, sync: bool = False) -> None:
    """Write `parts`, one after the other, to `path`, whole or not at all; see `replacing`."""
    with replacing(path, sync=sync) as partial, partial.open("wb", buffering=0) as handle:
        for part in parts:
            _write_all(handle.fileno(), part)


def write_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode(), sync=sync)


def write_json(path: Path, document: Any, *, sync: bool = False) -> None:
    """Write a JSON document for people: indented, Chinese as Chinese, one trailing newline."""
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n", sync=sync)


class Growing:
    """A file that grows by whole pieces: what a full disk takes only half of is taken back, and waits for the next piece.

    Args:
        path: Created where it is not there; pieces come after what is in it.

    Attributes:
        pieces: How many have come since, those that wait included.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._handle = path.open("ab", buffering=0)
        self._end = os.fstat(self._handle.fileno()).st_size
        self._waiting: list[bytes] = []
        self._is_torn = False
        self.pieces = 0

    def add(self, piece: bytes) -> None:
        """Write a piece, after those that wait.

        Raises:
            OSError: The system does not take it; it waits.
        """
        self._waiting.append(piece)
        self.pieces += 1
        self._write()

    def _write(self) -> None:
        handle, data = self._handle.fileno(), b"".join(self._waiting)
        try:
            if self._is_torn:
                os.ftruncate(handle, self._end)
            _write_all(handle, data)
        except OSError:
            self._is_torn = True
            with suppress(OSError):
                os.ftruncate(handle, self._end)
                self._is_torn = False
            raise
        self._is_torn = False
        self._end += len(data)
        self._waiting.clear()

    def sync(self) -> None:
        """Write what waits, and flush all to the disk.

        Raises:
            OSError: The system refuses.
        """
        if self._waiting:
            self._write()
        os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file; what waits even now is lost."""
        with suppress(OSError):
            if self._waiting and not self._handle.closed:
                self._write()
        self._handle.close()


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Refuse an output that exists, unless the user said ``--overwrite``.

    Raises:
        LandsegError: `path` is a file or a folder with something in it.
    """
    try:
        if overwrite or not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
    except OSError as error:
        raise unwritable(path, error) from error
    raise LandsegError(path, "it exists already", "an output is written to a new place", "choose another --out or add --overwrite")


def require_writable(path: Path) -> None:
    """Refuse a file that could not be written, before the work that it is to hold.

    Raises:
        LandsegError: Its folder cannot be made or takes no files.
    """
    probe = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise unwritable(path, error) from error


def require_room(folder: Path, need_bytes: int, purpose: str) -> None:
    """Refuse to begin what the disk of `folder` cannot hold.

    Args:
        folder: Where the bytes go; need not exist yet.
        need_bytes: How many.
        purpose: What for, as the message says it.

    Raises:
        LandsegError: Less is free.
    """
    free = free_bytes(folder)
    if need_bytes > free:
        raise LandsegError(
            folder, f"{human_bytes(free)} free", f"{purpose} takes {human_bytes(need_bytes)}",
            "free some space or choose another folder",
        )  # fmt: skip


def free_bytes(folder: Path) -> int:
    """Bytes free for the user on the disk of `folder`, which need not exist yet."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def human_bytes(count: float) -> str:
    """``1536`` → ``1.5 kB``: decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def unwritable(path: Path, error: OSError) -> LandsegError:
    """The four-part error for a file that the system would not let us write."""
    return LandsegError(
        path, f"it cannot be written ({error.strerror or error})", "a writable place with room",
        "free some space, mend the permissions or choose another --out",
    )  # fmt: skip


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can: a file's new name is then there after a power cut.

    Raises:
        OSError: The disk refuses.
    """
    if os.name == "nt":
        return  # Windows opens no folder; it writes names through its journal
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks cannot, and need not
            raise
    finally:
        os.close(handle)


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)  # Windows flushes only what may be written
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes | memoryview) -> None:
    """Write all of `data` to an open file; the system may take a part of it at a time (2 GB at most)."""
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]
