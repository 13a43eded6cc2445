"""Write the memory-mapped store: decode every tile once, in parallel, resumably. `pack` reads it.

Files in ``pack/``: ``images.bin`` and ``labels.bin`` (tiles one after the other; rows of pixels of bands), ``index.csv`` (a line a tile)
and ``pack.json`` (what it was made of), written last. ``index.partial`` is there while the store is being written.
"""

from __future__ import annotations

import csv
import io
import itertools
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from landseg.core.errors import LandsegError
from landseg.core.files import sweep_partials, write_json, write_text
from landseg.core.progress import parallel_map, progress
from landseg.data.checking import palette_colours, refuse_palettes
from landseg.data.dataset import Dataset, Tile
from landseg.data.labels import illegal_labels, read_label
from landseg.data.mending import LabelFacts
from landseg.data.tiles import TileHeader, UnreadableTile, decode_image, read_bytes, read_header

log = logging.getLogger("landseg")

VERSION = 1
"""Of the store's layout; another one is rebuilt."""

HEADER = "tile,image_at,label_at,height,width,image_hash,label_hash,class_pixels"

_NOTE_EVERY = 2000
"""Tiles between two notes of what has been written."""

_CHUNK = 16
"""Tiles a job: handing single tiles to threads costs a tenth of decoding them."""


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
    is_guessed: bool = False


_Palette = Mapping[int, tuple[int, ...]]
"""Index → its colour, of the indices that a palette PNG uses."""


class NotUniform(Exception):
    """A tile is not of the shape that was guessed from the first; its layout must be planned from all headers."""


@dataclass(frozen=True)
class _Fault:
    """Why a tile did not go into the store; only an unreadable file is passed over."""

    reason: str = ""
    illegal: Mapping[int | str, int] | None = None
    label_size: tuple[int, int] | None = None


def guess(dataset: Dataset) -> Layout | None:
    """The layout of a data set whose tiles are all like the first, or None where the first tells nothing.

    Reading every header costs a third of decoding; most data sets are uniform, and `write` notices one that is not.
    """
    tile = dataset.tiles[0]
    header = _header(tile)
    if isinstance(header, str) or header.bands != len(dataset.info.bands):
        return None
    pixels, count = header.height * header.width, len(dataset.tiles)
    size = pixels * header.bands * np.dtype(header.dtype).itemsize
    label_size = pixels * (dataset.info.labels is not None)
    places = tuple(range(0, count * size, size)), tuple(range(0, count * label_size, label_size)) if label_size else (0,) * count
    headers = (header,) * count
    return Layout(dataset.tiles, headers, *places, count * size, count * label_size, header.bands, header.dtype, is_guessed=True)


def _header(tile: Tile) -> TileHeader | str:
    try:
        return read_header(read_bytes(tile.image))
    except UnreadableTile as error:
        return str(error)


def plan(dataset: Dataset, workers: int | None) -> Layout:
    """Read every header and decide where each tile goes; files that cannot be read or differ in kind are named and left out.

    Raises:
        LandsegError: Nothing is left.
    """
    found = list(progress(parallel_map(_header, dataset.tiles, workers=workers), "reading headers", len(dataset.tiles)))
    bands = len(dataset.info.bands)
    # The first of two that are as frequent, as `prepare` has it.
    dtypes = Counter(item.dtype for item in found if not isinstance(item, str) and item.bands == bands)
    dtype = dtypes.most_common(1)[0][0] if dtypes else "uint8"
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
    sweep_partials(folder)
    done = _read_partial(folder, layout, fingerprint) if is_stored else {}
    if not done:
        # New files, not new bytes in the old ones: a process that has mapped those goes on reading what it opened.
        for stale in folder.glob("*.bin"):
            stale.unlink()
    images = _sized(folder / "images.bin", layout.image_bytes) if is_stored else None
    labels = _sized(folder / "labels.bin", layout.label_bytes) if is_stored and layout.label_bytes else None

    palettes: dict[int, _Palette] = {}
    seen = LabelFacts()

    def job(chunk: range) -> list[Entry | _Fault]:
        return [done.get(layout.tiles[i].name) or _write_tile(dataset, layout, i, images, labels, palettes) for i in chunk]

    count = len(layout.tiles)
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    results: list[Entry | _Fault] = []
    fresh: list[Entry] = []
    try:
        each = itertools.chain.from_iterable(parallel_map(job, chunks, workers=workers, ahead=8))
        for result in progress(each, "packing tiles" if is_stored else "checking tiles", count):
            seen.add_palette(palettes.pop(len(results), {}), str(layout.tiles[len(results)].label))
            results.append(result)
            if is_stored and isinstance(result, Entry) and result.name not in done:
                fresh.append(result)
            if len(fresh) >= _NOTE_EVERY:
                _note(folder, fingerprint, fresh)
    finally:
        for handle in (images, labels):
            if handle is not None:
                os.close(handle)
        _note(folder, fingerprint, fresh)
    entries = [result for result in results if isinstance(result, Entry)]
    _refuse_faults(dataset, layout, results)
    if dataset.label_rules.mend.palettes == "agree":
        refuse_palettes(seen, "write `label_encoding: palette` into dataset.yaml, or `mend: {palettes: ignore}` if the indices hold")
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


def _write_tile(
    dataset: Dataset, layout: Layout, i: int, images: int | None, labels: int | None, palettes: dict[int, _Palette]
) -> Entry | _Fault:
    tile, header = layout.tiles[i], layout.headers[i]
    try:
        image = decode_image(read_bytes(tile.image))
        if (*image.shape, image.dtype.name) != (header.height, header.width, header.bands, header.dtype):
            if layout.is_guessed:
                raise NotUniform
            raise UnreadableTile("its pixels are not what its header says")
        ids, pixels = None, np.zeros(256, np.int64)
        if tile.label is not None:
            data = read_bytes(tile.label)
            label = read_label(data, dataset.label_rules, (header.height, header.width))
            if label.illegal and dataset.label_rules.refuses_illegal:
                return _Fault(illegal=label.illegal)
            ids, pixels = label.ids, label.pixels
            palettes[i] = palette_colours(data, label, dataset.label_rules)
            if ids.shape != image.shape[:2]:
                return _Fault(label_size=(ids.shape[0], ids.shape[1]))
    except UnreadableTile as error:
        return _Fault(str(error))
    raw = np.ascontiguousarray(image).reshape(-1).view(np.uint8)
    if images is not None:
        _put(images, raw, layout.image_at[i])
    label_hash, counts = "", tuple(pixels[:0].tolist())
    if ids is not None:
        flat = ids.reshape(-1)
        if labels is not None:
            _put(labels, flat, layout.label_at[i])
        label_hash = hash_bytes(flat)
        counts = tuple(pixels[: len(dataset.info.classes)].tolist())
    places = layout.image_at[i], layout.label_at[i], header.height, header.width
    return Entry(tile.name, *places, hash_bytes(raw), label_hash, counts)


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
            "make the label anew at the image's size, or write `mend: {resize_within: 1}` (pixels) into dataset.yaml",
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


def _put(handle: int, data: np.ndarray, at: int) -> None:
    """Write bytes at a place of a file; quicker than through a memory map, and a full disk is an error, not the end of the process."""
    view = memoryview(data.data)
    while view:
        written = os.pwrite(handle, view, at)
        view, at = view[written:], at + written


def _note(folder: Path, fingerprint: str, fresh: list[Entry]) -> None:
    """Note which tiles have been written, so that a killed writing can go on.

    What a process has written outlives it; should the machine itself lose power, the checksums tell.
    """
    if not fresh:
        return
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


def _sized(path: Path, size: int) -> int:
    """An open file of `size` bytes, its room taken on the disk; what an interrupted writing left in it stays."""
    if not path.exists() or path.stat().st_size != size:
        path.unlink(missing_ok=True)
        try:
            with path.open("wb") as handle:
                # Reserved, not only sized, so that a disk without room is told before the work and not in the middle of it.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(handle.fileno(), 0, size)
                else:
                    handle.truncate(size)
        except OSError:
            path.unlink(missing_ok=True)  # the disk is full enough
            raise
    return os.open(path, os.O_RDWR)
