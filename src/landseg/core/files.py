"""Files that are written whole or not at all. It knows nothing of what is in them."""

from __future__ import annotations

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
        sync: Flush the file and its folder to the disk before and after the rename (checkpoints).

    Raises:
        LandsegError: The folder cannot be written, or the disk is full. The old file, if any, is untouched.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if sync:
            _fsync(partial)
        os.replace(partial, path)
        if sync:
            _fsync(path.parent)
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


def write_bytes(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path, sync=sync) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document for people: indented, Chinese as Chinese, one trailing newline."""
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


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


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
