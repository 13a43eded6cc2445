"""A file layer that fails: what the n-th change of files below a folder does to the process, or the disk to it.

A change is one call that the system sees: a file opened for writing, a write, a flush, a new name, a removal, a folder made or removed, a
file cut short. Flushes are counted and left out: a killed process loses nothing that the system has taken, and disks are slow.

    python tests/e2e/faults.py RUN 17 half train DATA --out RUN

is that command of landseg, killed when half of the 17th change below RUN is written.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
from pathlib import Path

NAMED = {"open": "open", "os.rename": "rename", "os.remove": "remove", "os.mkdir": "mkdir", "os.rmdir": "rmdir", "os.truncate": "cut"}
"""The interpreter's audit events of changes, and what they are called here."""

NEED_ROOM = ("open", "mkdir", "rename", "write", "flush")
"""What a full disk refuses; the rest makes room."""


class Faults:
    """Counts the changes below a folder from `install` on, and fails at one of them. For a process that ends soon: nothing is put back.

    Args:
        folder: Changes of other files are not seen.
        at: Number of the change, from 0, that fails; None only counts.
        how: ``kill``: killed before it. ``half``: killed when half of it is written. ``full``: no room for it, but half of what is written.
        span: Changes for which the disk is full.

    Attributes:
        seen: What has been changed, in order: the kind of change and the file's name.
    """

    def __init__(self, folder: Path, at: int | None = None, how: str = "kill", span: int = 1) -> None:
        self.folder, self.at, self.how, self.span = str(folder.resolve()), at, how, span
        self.seen: list[tuple[str, str]] = []
        self._write = os.write

    def install(self) -> Faults:
        """See the changes of this process from here on."""
        sys.addaudithook(self._hear)
        os.write, os.fsync = self._writing, self._flushing
        return self

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in NAMED or (event == "open" and not _is_for_writing(arguments[1], arguments[2])):
            return
        # The second argument of these two is the open folder that the name is in.
        where = arguments[1] if event in ("os.remove", "os.rmdir") else arguments[2] if event in ("os.mkdir", "os.rename") else -1
        path = _path(arguments[0], where)
        if path is not None and path.startswith(self.folder):
            self._count(NAMED[event], path)

    def _writing(self, handle: int, data: bytes | memoryview) -> int:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return self._write(handle, data)
        path = _path(handle, -1) or ""
        if not path.startswith(self.folder):
            return self._write(handle, data)
        if self.at is not None and self.how == "half" and len(self.seen) == self.at:
            self._write(handle, memoryview(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        if self._is_full() and len(data) > 1:
            return self._write(handle, memoryview(data)[: len(data) // 2])  # the rest is refused
        self._count("write", path)
        return self._write(handle, data)

    def _flushing(self, handle: int) -> None:
        path = _path(handle, -1) or ""
        if path.startswith(self.folder):
            self._count("flush", path)

    def _is_full(self) -> bool:
        return self.at is not None and self.how == "full" and self.at <= len(self.seen) < self.at + self.span

    def _count(self, kind: str, path: str) -> None:
        number, is_full = len(self.seen), self._is_full()
        self.seen.append((kind, Path(path).name))
        if number == self.at and self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if is_full and kind in NEED_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _is_for_writing(mode: object, flags: object) -> bool:
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _path(what: object, where: object) -> str | None:
    """The whole path of a name, of a name in an open folder, or of an open file."""
    if isinstance(what, int):
        return str(Path(f"/proc/self/fd/{what}").readlink())
    if not isinstance(what, str | bytes | os.PathLike):
        return None
    name = os.fsdecode(what)
    if isinstance(where, int) and where >= 0:
        name = str(Path(f"/proc/self/fd/{where}").readlink() / name)
    return str(Path(name).absolute())


def main() -> None:
    """See the room's docstring."""
    folder, at, how, *words = sys.argv[1:]
    Faults(Path(folder), int(at), how).install()
    sys.argv = ["landseg", *words]
    from landseg.__main__ import run

    run()


if __name__ == "__main__":
    main()
