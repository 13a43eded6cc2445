"""Where the tiles of a new data set are written: a file each in folders, or a zip of images and one of labels. It encodes nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from landseg.core.files import write_bytes
from landseg.data.archive import packing
from landseg.data.places import ENDING


class Sink:
    """Takes the files of tiles. Zips are whole, and can be read, when its block has ended.

    Args:
        folder: Gets ``images`` and ``labels``, or ``images.zip`` and ``labels.zip``.
        is_packed: Zips, in which files are stored as they are, one after the other.
    """

    def __init__(self, folder: Path, *, is_packed: bool = False) -> None:
        self.is_packed = is_packed
        self._folder = folder
        self._zips: dict[str, Callable[[str, bytes], None]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._zips.clear()
        self._stack.__exit__(kind, error, trace)

    def name(self, role: str) -> str:
        """What `dataset.yaml` says for ``images`` or ``labels`` that were written here."""
        return f"{role}{ENDING}" if self.is_packed else role

    def place(self, role: str) -> Path:
        """The folder or the zip of ``images`` or ``labels``."""
        return self._folder / self.name(role)

    def put(self, role: str, name: str, data: bytes) -> Path:
        """Write a file, whole or not at all. From any thread into folders; from one into zips, which keep the order of the calls.

        Args:
            role: ``images`` or ``labels``.
            name: Below its folder, with ``/`` between folders.
            data: Its bytes.

        Returns:
            Its place, as `places` has it.

        Raises:
            LandsegError: It cannot be written, or stands in the zip already.
        """
        path = self.place(role) / name
        if not self.is_packed:
            write_bytes(path, data)
            return path
        if role not in self._zips:
            self._zips[role] = self._stack.enter_context(packing(self.place(role), is_stored=True, sync=True))
        self._zips[role](name, data)
        return path
