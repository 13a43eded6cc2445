"""Tiles of one data set, decoded and ready: from the memory-mapped store, or from their files. `packing` writes the store."""

from __future__ import annotations

import errno
import json
import logging
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash

from landseg.core.errors import LandsegError
from landseg.core.files import free_bytes, human_bytes, lock, unwritable
from landseg.core.stopwatch import Stopwatch
from landseg.data import packing, places
from landseg.data.dataset import Dataset
from landseg.data.labels import read_label
from landseg.data.packing import Entry
from landseg.data.tiles import UnreadableTile, decode_image, read_bytes

log = logging.getLogger("landseg")

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)

_RELEASE_BYTES = 512 * 2**20
"""Read from a map, after which its pages are let go: they stay in the system's cache, but no longer count as this process's memory."""

READING, DECODING = "reading", "decoding"
"""Kinds of time of a stopwatch."""

READ_BYTES = "bytes read"
"""What it counts."""

SPARE_BYTES = 500_000_000
"""Left free on the disk for the run that follows."""


class TileStore(Protocol):
    """Tiles by number: `entries` says what they are, `image` and `label` give their pixels."""

    entries: Sequence[Entry]
    bands: int
    dtype: str
    is_mapped: bool

    def image(self, i: int) -> np.ndarray:
        """Image of entry `i`, (H, W, C); not to be written to."""
        ...

    def label(self, i: int) -> np.ndarray:
        """Label of entry `i`, (H, W) uint8 ids; not to be written to."""
        ...


class Pack:
    """The store on disk. A tile is a view of the memory map, checked against its checksum when it is first read."""

    is_mapped = True

    def __init__(self, folder: Path, facts: dict[str, Any], entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.bands, self.dtype = int(facts["bands"]), str(facts["dtype"])
        self._folder = folder
        self._images = _Map(folder / "images.bin")
        self._labels = _Map(folder / "labels.bin") if facts["label_bytes"] else None
        self._is_checked = np.zeros((2, len(entries)), bool)

    def image(self, i: int) -> np.ndarray:
        """Image of entry `i`, (H, W, C): a read-only view.

        Raises:
            LandsegError: The stored bytes are not those that were written.
        """
        entry = self.entries[i]
        size = entry.height * entry.width * self.bands * np.dtype(self.dtype).itemsize
        raw = self._checked(0, i, self._images.read(entry.image_at, size), entry.image_hash)
        return raw.view(self.dtype).reshape(entry.height, entry.width, self.bands)

    def label(self, i: int) -> np.ndarray:
        """Label of entry `i`, (H, W) uint8: a read-only view.

        Raises:
            LandsegError: There are no labels, or the stored bytes are not those that were written.
        """
        entry = self.entries[i]
        if self._labels is None:
            raise _no_labels(self._folder.parent)
        raw = self._checked(1, i, self._labels.read(entry.label_at, entry.height * entry.width), entry.label_hash)
        return raw.reshape(entry.height, entry.width)

    def _checked(self, kind: int, i: int, raw: np.ndarray, expected: str) -> np.ndarray:
        if not self._is_checked[kind, i]:
            if packing.hash_bytes(raw) != expected:
                raise LandsegError(
                    self._folder,
                    f"the stored tile {self.entries[i].name} is damaged (its checksum differs)",
                    "the bytes that were written",
                    "delete that folder; it is made anew from the files",
                )
            self._is_checked[kind, i] = True
        return raw


class _Map:
    """A file read through memory, of which at most about `_RELEASE_BYTES` are held in memory at a time, however large it is."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = np.frombuffer(self._memory, np.uint8)
        self._read = 0

    def read(self, at: int, size: int) -> np.ndarray:
        """A read-only view of `size` bytes; it stays valid, letting go only makes the system read them again where they are looked at."""
        self._read += size
        if self._read > _RELEASE_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            self._read = 0
            self._memory.madvise(mmap.MADV_DONTNEED)
        return self._bytes[at : at + size]


class Files:
    """The same tiles decoded from their files at each reading, for a disk without room for the store.

    Attributes:
        watch: Counts what reading and decoding take.
    """

    is_mapped = False

    def __init__(self, dataset: Dataset, facts: dict[str, Any], entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.bands, self.dtype = int(facts["bands"]), str(facts["dtype"])
        self._dataset = dataset
        self._tiles = {tile.name: tile for tile in dataset.tiles}
        self.watch = Stopwatch()

    def image(self, i: int) -> np.ndarray:
        """Image of entry `i`, (H, W, C).

        Raises:
            LandsegError: The file was there when the tiles were checked and cannot be read now.
        """
        tile = self._tiles[self.entries[i].name]
        return self._decoded(tile.image, decode_image)

    def label(self, i: int) -> np.ndarray:
        """Label of entry `i`, (H, W) uint8.

        Raises:
            LandsegError: There are no labels, or the file cannot be read any more.
        """
        entry = self.entries[i]
        tile = self._tiles[entry.name]
        if tile.label is None:
            raise _no_labels(self._dataset.folder)
        rules, size = self._dataset.label_rules, (entry.height, entry.width)
        return self._decoded(tile.label, lambda data: read_label(data, rules, size).ids)

    def _decoded(self, path: Path, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
        try:
            with self.watch.of(READING):
                data = read_bytes(path)
            self.watch.count(READ_BYTES, len(data))
            with self.watch.of(DECODING):
                return decode(data)
        except UnreadableTile as error:
            raise LandsegError(
                path, str(error), "the file as it was when training began", "put it back, then go on with --resume"
            ) from error


def open_tiles(dataset: Dataset, *, use_pack: bool = True, workers: int | None = None) -> TileStore:
    """Open the tiles of a data set for fast repeated reading; write the store first where it is missing or out of date.

    Args:
        dataset: Its unreadable tiles are left out and named in the log. The store lies in its folder, or in the user's cache where that
            cannot be written.
        use_pack: False reads the files each time; so does a disk without room, which is said.
        workers: Threads that decode; every core when None.

    Raises:
        LandsegError: A label holds a value that no class has, a label's size is not its image's, or no tile can be read.
    """
    fingerprint = sources_fingerprint(dataset)
    folders = [dataset.folder / "pack", _cache_folder(dataset)]
    folder, found = next(((place, index) for place in folders if (index := _read_index(place, fingerprint))), (folders[0], None))
    if found is not None and len(found[1]) < len(dataset.tiles):
        readable = {entry.name for entry in found[1]}
        names = [tile.name for tile in dataset.tiles if tile.name not in readable]
        log.warning("%s of %s tiles are left out, they cannot be read: %s", len(names), len(dataset.tiles), ", ".join(names[:5]))
    if found is None or (use_pack and not found[0]["is_stored"]):
        folder, found = _made(dataset, fingerprint, folders, use_pack=use_pack, workers=workers)
    facts, entries = found
    return Pack(folder, facts, entries) if use_pack and facts["is_stored"] else Files(dataset, facts, entries)


def sources_fingerprint(dataset: Dataset) -> str:
    """A hash of what the tiles are made of: every file's name and version, and the keys that decode labels."""
    keys = dataset.info.model_dump(mode="json", exclude={"name", "source", "resolution_m", "scaling", "mended", "left_out"})
    digest = xxhash.xxh3_128(json.dumps([packing.VERSION, keys], sort_keys=True).encode())
    for tile in dataset.tiles:
        digest.update(f"{tile.name}\n".encode())
        for path in (tile.image, tile.label):
            if path is not None:
                try:
                    digest.update(f"{places.version(path)}\n".encode())
                except OSError:  # a link that leads nowhere is an unreadable tile like others
                    digest.update(b"gone\n")
    return digest.hexdigest()


def content_fingerprint(store: TileStore) -> str:
    """A hash of the pixels and labels themselves: equal for equal data on any machine, whatever the files' times."""
    digest = xxhash.xxh3_128()
    for entry in store.entries:
        digest.update(f"{entry.name} {entry.image_hash} {entry.label_hash}\n".encode())
    return digest.hexdigest()


def _made(
    dataset: Dataset, fingerprint: str, folders: Sequence[Path], *, use_pack: bool, workers: int | None
) -> tuple[Path, tuple[dict[str, Any], list[Entry]]]:
    """Write the store, or only its index, into the first of the folders that can be written; where that is, and what it holds."""
    for folder in folders:
        try:
            with lock(folder / ".lock", wait=True):
                # Another process may have written it while this one waited.
                found = _read_index(folder, fingerprint)
                if found is None or (use_pack and not found[0]["is_stored"]):
                    _write(dataset, fingerprint, folder, use_pack=use_pack, is_checked=found is not None, workers=workers)
                    found = _read_index(folder, fingerprint)
        except OSError as error:
            if error.errno not in _READ_ONLY or folder == folders[-1]:
                raise unwritable(folders[0], error) from error
            log.info("pack: %s cannot be written (%s), the pack goes to %s", dataset.folder, error.strerror, folders[-1])
            continue
        if found is None:
            break
        return folder, found
    raise LandsegError(dataset.folder, "files changed while they were read", "a data set at rest", "start again when nothing writes to it")


def _cache_folder(dataset: Dataset) -> Path:
    """Where the store of a data set lies whose folder cannot be written. Source: XDG base directory specification 0.8."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home, as containers have
        return dataset.folder / "pack"
    return cache / "landseg" / packing.hash_bytes(str(dataset.folder.resolve()).encode())


def _write(dataset: Dataset, fingerprint: str, folder: Path, *, use_pack: bool, is_checked: bool, workers: int | None) -> None:
    """Write the store, or only check the tiles and write the index; nothing where that was done and there is still no room."""
    for layout in (packing.guess(dataset), None):
        if layout is None:
            layout = packing.plan(dataset, workers)
        is_stored = use_pack and _has_room(folder, layout)
        if is_checked and not is_stored:
            return
        try:
            packing.write(dataset, layout, fingerprint, folder, is_stored=is_stored, workers=workers)
        except packing.NotUniform:
            continue
        return


def _has_room(folder: Path, layout: packing.Layout) -> bool:
    need = layout.image_bytes + layout.label_bytes
    free = free_bytes(folder) + sum(path.stat().st_size for path in folder.glob("*.bin"))
    if need + SPARE_BYTES > free:
        log.warning("pack: %s needed, %s free; each epoch decodes the tiles anew, which is slower", human_bytes(need), human_bytes(free))
        return False
    log.info("pack: %s tiles, %s in %s", f"{len(layout.tiles):,}", human_bytes(need), folder)
    return True


def _read_index(folder: Path, fingerprint: str) -> tuple[dict[str, Any], list[Entry]] | None:
    """What the store holds, or None where there is none, it is out of date or damaged."""
    try:
        facts: dict[str, Any] = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
        text = (folder / "index.csv").read_text(encoding="utf-8")
        if facts["fingerprint"] != fingerprint or facts["version"] != packing.VERSION:
            return None
        if xxhash.xxh3_128_hexdigest(text.encode()) != facts["index_hash"]:
            return None
        for name, size in (("images.bin", facts["image_bytes"]), ("labels.bin", facts["label_bytes"])):
            if facts["is_stored"] and size and (folder / name).stat().st_size != size:
                return None
        return facts, packing.parse_index(text)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _no_labels(folder: Path) -> LandsegError:
    return LandsegError(folder, "a data set without labels", "labelled tiles", "name a data set that was prepared with labels")
