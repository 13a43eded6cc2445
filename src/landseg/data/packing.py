"""Write the memory-mapped store: decode every tile once, in parallel, resumably. `pack` reads it.

Files in ``pack/``: ``images.bin`` and ``labels.bin`` (tiles one after the other; rows of pixels of bands), ``index.csv`` (a line a tile)
and ``pack.json`` (what it was made of), written last. ``index.partial`` is there while the store is being written.
"""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from landseg.core.errors import LandsegError
from landseg.core.files import write_json, write_text
from landseg.core.progress import parallel_map, progress
from landseg.data.dataset import Dataset, Tile
from landseg.data.tiles import TileHeader, UnreadableTile, codes_to_ids, decode_codes, decode_image, illegal_labels, read_bytes, read_header

log = logging.getLogger("landseg")

VERSION = 1
"""Of the store's layout; another one is rebuilt."""

HEADER = "tile,image_at,label_at,height,width,image_hash,label_hash,class_pixels"

_SYNC_EVERY = 2000
"""Tiles between two notes of what is on the disk for good."""


@dataclass(frozen=True)
class Entry:
    """One tile of the store: its place in the bin files (bytes), its shape, checksums, and labelled pixels a class."""

    name: str
    image_at: int
    label_at: int
    height: int
    width: int
    image_hash: str
    label_hash: str
    class_pixels: tuple[int, ...]

    def as_line(self) -> str:
        """A line of ``index.csv``."""
        quoted = '"' + self.name.replace('"', '""') + '"' if set(self.name) & set(',"\n') else self.name
        places = f"{self.image_at},{self.label_at},{self.height},{self.width},{self.image_hash},{self.label_hash}"
        return f"{quoted},{places},{' '.join(map(str, self.class_pixels))}"


@dataclass(frozen=True)
class Layout:
    """Where each tile will lie, decided from the headers before a pixel is decoded."""

    tiles: tuple[Tile, ...]
    headers: tuple[TileHeader, ...]
    image_at: tuple[int, ...]
    label_at: tuple[int, ...]
    image_bytes: int
    label_bytes: int
    bands: int
    dtype: str


@dataclass(frozen=True)
class _Fault:
    """Why a tile did not go into the store; only an unreadable file is passed over."""

    reason: str = ""
    illegal: dict[int, int] | None = None
    label_size: tuple[int, int] | None = None


def plan(dataset: Dataset, workers: int | None) -> Layout:
    """Read every header and decide where each tile goes; files that cannot be read or differ in kind are named and left out.

    Raises:
        LandsegError: Nothing is left.
    """

    def header(tile: Tile) -> TileHeader | str:
        try:
            return read_header(read_bytes(tile.image))
        except UnreadableTile as error:
            return str(error)

    found = list(progress(parallel_map(header, dataset.tiles, workers=workers), "reading headers", len(dataset.tiles)))
    dtypes = [item.dtype for item in found if not isinstance(item, str)]
    bands, dtype = len(dataset.info.bands), max(sorted(set(dtypes)), key=dtypes.count, default="uint8")
    reasons: dict[str, str] = {}
    kept: list[tuple[Tile, TileHeader]] = []
    for tile, item in zip(dataset.tiles, found, strict=True):
        if isinstance(item, str):
            reasons[tile.name] = item
        elif (item.bands, item.dtype) != (bands, dtype):
            reasons[tile.name] = f"{item.bands} bands of {item.dtype}, the data set has {bands} of {dtype}"
        else:
            kept.append((tile, item))
    _say_left_out(reasons)
    if not kept:
        raise _nothing_left(dataset, reasons)
    pixels = np.array([0, *(item.height * item.width for _, item in kept)], np.int64).cumsum()
    image_at = (pixels * bands * np.dtype(dtype).itemsize).tolist()
    label_at = (pixels * (dataset.info.labels is not None)).tolist()
    tiles, headers = zip(*kept, strict=True)
    return Layout(tiles, headers, tuple(image_at[:-1]), tuple(label_at[:-1]), image_at[-1], label_at[-1], bands, dtype)


def write(dataset: Dataset, layout: Layout, fingerprint: str, folder: Path, *, is_stored: bool, workers: int | None) -> None:
    """Decode every tile, check it and, where `is_stored`, put it into the bin files; then write the index.

    A second call after an interruption goes on where the first was. A tile that does not decode is left out and named.

    Raises:
        LandsegError: A label holds a value that no class has, a label's size is not its image's, or nothing can be read.
        OSError: The disk does not take it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pack.json").unlink(missing_ok=True)
    if not is_stored:
        for stale in folder.glob("*.bin"):
            stale.unlink()
    done = _read_partial(folder, layout, fingerprint) if is_stored else {}
    images = _sized(folder / "images.bin", layout.image_bytes) if is_stored else None
    labels = _sized(folder / "labels.bin", layout.label_bytes) if is_stored and layout.label_bytes else None

    def job(i: int) -> Entry | _Fault:
        return done.get(layout.tiles[i].name) or _write_tile(dataset, layout, i, images, labels)

    results: list[Entry | _Fault] = []
    fresh: list[Entry] = []
    try:
        what = "packing tiles" if is_stored else "checking tiles"
        for result in progress(parallel_map(job, range(len(layout.tiles)), workers=workers), what, len(layout.tiles)):
            results.append(result)
            if is_stored and isinstance(result, Entry) and result.name not in done:
                fresh.append(result)
            if len(fresh) >= _SYNC_EVERY:
                _note(folder, fingerprint, fresh, (images, labels))
    finally:
        _note(folder, fingerprint, fresh, (images, labels))
    entries = [result for result in results if isinstance(result, Entry)]
    _refuse_faults(dataset, layout, results)
    facts = {
        "version": VERSION,
        "fingerprint": fingerprint,
        "is_stored": is_stored,
        "tiles": len(entries),
        "bands": layout.bands,
        "dtype": layout.dtype,
        "image_bytes": layout.image_bytes,
        "label_bytes": layout.label_bytes,
    }
    index = "\n".join([HEADER, *(entry.as_line() for entry in entries)]) + "\n"
    write_text(folder / "index.csv", index)
    write_json(folder / "pack.json", {**facts, "index_hash": xxhash.xxh3_128_hexdigest(index.encode())})
    (folder / "index.partial").unlink(missing_ok=True)


def hash_bytes(data: Any) -> str:
    """The checksum of a tile. Source: XXH3, 64 bit; it costs a tenth of decoding, where CRC-32 costs a quarter."""
    return xxhash.xxh3_64_hexdigest(data)


def parse_index(text: str) -> list[Entry]:
    """Entries of an ``index.csv``; ValueError where it is none."""
    rows = csv.reader(io.StringIO(text))
    if ",".join(next(rows, [])) != HEADER:
        raise ValueError("not an index")
    return [
        Entry(name, int(image_at), int(label_at), int(height), int(width), image_hash, label_hash, tuple(map(int, pixels.split())))
        for name, image_at, label_at, height, width, image_hash, label_hash, pixels in rows
    ]


def _write_tile(dataset: Dataset, layout: Layout, i: int, images: np.ndarray | None, labels: np.ndarray | None) -> Entry | _Fault:
    tile, header = layout.tiles[i], layout.headers[i]
    try:
        image = decode_image(read_bytes(tile.image))
        if (*image.shape, image.dtype.name) != (header.height, header.width, header.bands, header.dtype):
            raise UnreadableTile("its pixels are not what its header says")
        ids = None
        if tile.label is not None:
            ids, illegal = codes_to_ids(decode_codes(read_bytes(tile.label)), dataset.table)
            if illegal:
                return _Fault(illegal=illegal)
            if ids.shape != image.shape[:2]:
                return _Fault(label_size=(ids.shape[0], ids.shape[1]))
    except UnreadableTile as error:
        return _Fault(str(error))
    raw = image.reshape(-1).view(np.uint8)
    if images is not None:
        images[layout.image_at[i] : layout.image_at[i] + raw.size] = raw
    label_hash, counts = "", ()
    if ids is not None:
        flat = ids.reshape(-1)
        if labels is not None:
            labels[layout.label_at[i] : layout.label_at[i] + flat.size] = flat
        label_hash = hash_bytes(flat)
        counts = tuple(np.bincount(flat, minlength=256)[: len(dataset.info.classes)].tolist())
    return Entry(tile.name, layout.image_at[i], layout.label_at[i], header.height, header.width, hash_bytes(raw), label_hash, counts)


def _refuse_faults(dataset: Dataset, layout: Layout, results: Sequence[Entry | _Fault]) -> None:
    faults = [
        (tile, header, item) for tile, header, item in zip(layout.tiles, layout.headers, results, strict=True) if isinstance(item, _Fault)
    ]
    illegal = {str(tile.label): fault.illegal for tile, _, fault in faults if fault.illegal}
    if illegal:
        raise illegal_labels(illegal, len(dataset.info.classes), dataset.folder)
    wrong = [(tile, header, fault.label_size) for tile, header, fault in faults if fault.label_size]
    if wrong:
        tile, header, size = wrong[0]
        raise LandsegError(
            tile.label,
            f"{size[0]} × {size[1]} pixels" + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""),
            f"the size of its image, {header.height} × {header.width}",
            "make the label anew at the image's size, or move the pair elsewhere",
        )
    reasons = {tile.name: fault.reason for tile, _, fault in faults}
    _say_left_out(reasons)
    if len(faults) == len(results):
        raise _nothing_left(dataset, reasons)


def _say_left_out(reasons: dict[str, str]) -> None:
    for name, reason in list(reasons.items())[:5]:
        log.warning("%s: left out, %s", name, reason)
    if len(reasons) > 5:
        log.warning("… and %d more tiles left out for such reasons", len(reasons) - 5)


def _nothing_left(dataset: Dataset, reasons: dict[str, str]) -> LandsegError:
    name, reason = next(iter(reasons.items()))
    return LandsegError(
        dataset.folder, f"none of its {len(dataset.tiles)} tiles can be read ({name}: {reason})", "readable tiles", "prepare it again"
    )


def _note(folder: Path, fingerprint: str, fresh: list[Entry], maps: Sequence[np.memmap | None]) -> None:
    """Flush the bin files, then note which tiles lie in them for good."""
    if not fresh:
        return
    for item in maps:
        if item is not None:
            item.flush()
    with (folder / "index.partial").open("a", encoding="utf-8") as handle:
        if handle.tell() == 0:
            handle.write(f"{fingerprint}\n{HEADER}\n")
        handle.writelines(f"{entry.as_line()}\n" for entry in fresh)
    fresh.clear()


def _read_partial(folder: Path, layout: Layout, fingerprint: str) -> dict[str, Entry]:
    """Tiles that an interrupted writing of this very store has finished; the bin files are from another one otherwise."""
    path = folder / "index.partial"
    try:
        data = path.read_bytes()
        complete = data[: data.rfind(b"\n") + 1]  # a kill may have cut the last line
        os.truncate(path, len(complete))
        head, _, text = complete.decode().partition("\n")
        found = {entry.name: entry for entry in parse_index(text)} if head == fingerprint else {}
        for name, size in (("images.bin", layout.image_bytes), ("labels.bin", layout.label_bytes)):
            if size and (folder / name).stat().st_size != size:
                found = {}
    except (OSError, ValueError, IndexError, TypeError):
        found = {}
    place = dict(zip((tile.name for tile in layout.tiles), layout.image_at, strict=True))
    if not found or any(place.get(entry.name) != entry.image_at for entry in found.values()):
        path.unlink(missing_ok=True)
        return {}
    return found


def _sized(path: Path, size: int) -> np.memmap:
    """A writable memory map of `size` bytes, its room taken on the disk; what an interrupted writing left in it stays."""
    if not path.exists() or path.stat().st_size != size:
        path.unlink(missing_ok=True)
        try:
            with path.open("wb") as handle:
                # Reserved, not only sized: writing into a hole of a full disk through a memory map ends the process.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(handle.fileno(), 0, size)
                else:
                    handle.truncate(size)
        except OSError:
            path.unlink(missing_ok=True)  # the disk is full enough
            raise
    return np.memmap(path, np.uint8, "r+")
