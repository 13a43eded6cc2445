"""How fast this machine decodes tiles, writes and reads, measured in a moment. It judges nothing and imports no torch."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from landseg.data.tiles import UnreadableTile, decode_image

EDGE = 256
"""Pixels a side of the tiles that are invented."""

FILE_BYTES = 64_000_000
"""Written and read for the disk's speed, where it has ten times as much free."""

LEAST_BYTES = 4_000_000
"""Written at least, and at a time."""


@dataclass(frozen=True)
class DiskSpeed:
    """Bytes a second of one large file, written and flushed, then read with the system's cache let go where it lets itself be."""

    write: float
    read: float


def invented_tiles(edge: int = EDGE) -> dict[str, bytes]:
    """A JPEG and a PNG of one invented tile whose files are about as large as those of real ones: name of the format → the file."""
    random = np.random.default_rng(0)
    coarse = random.integers(40, 210, (8, 8, 3)).astype(np.float32)
    fine = random.normal(0, 6, (edge, edge, 3))
    picture = np.clip(cv2.resize(coarse, (edge, edge), interpolation=cv2.INTER_CUBIC) + fine, 0, 255).astype(np.uint8)
    found = {}
    for name, suffix, options in (("JPEG", ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 90]), ("PNG", ".png", [])):
        _, data = cv2.imencode(suffix, picture, options)
        found[name] = data.tobytes()
    return found


def decode_rate(files: Sequence[bytes], seconds: float) -> float:
    """Tiles a second that one core decodes.

    Args:
        files: Decoded over and over; those that do not decode count for nothing.
        seconds: How long, at least; one tile is always tried.

    Returns:
        0.0 when none decodes.
    """
    start, decoded, tried = time.perf_counter(), 0, 0
    while files and (tried % len(files) or not tried or time.perf_counter() - start < seconds):
        with suppress(UnreadableTile):
            decode_image(files[tried % len(files)])
            decoded += 1
        tried += 1
        if time.perf_counter() - start > 2 * seconds:
            break
    return decoded / (time.perf_counter() - start) if decoded else 0.0


def disk_speed(folder: Path, size: int = FILE_BYTES, limit_s: float = 3.0) -> DiskSpeed:
    """Write and read a temporary file in `folder`, which is removed.

    Args:
        folder: Must exist.
        size: Bytes; fewer are written where the disk is slow.
        limit_s: Seconds of writing after which no more is written.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """
    path = folder / f".landseg-doctor.{os.getpid()}.partial"
    chunk, written = os.urandom(min(LEAST_BYTES, size)), 0
    try:
        with path.open("wb", buffering=0) as handle:
            start = time.perf_counter()
            while written < size and (not written or time.perf_counter() - start < limit_s):
                written += handle.write(chunk)
            os.fsync(handle.fileno())
            write_s = time.perf_counter() - start
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with path.open("rb", buffering=0) as handle:
            start = time.perf_counter()
            while handle.read(LEAST_BYTES):
                pass
            read_s = time.perf_counter() - start
    finally:
        with suppress(OSError):
            path.unlink()
    return DiskSpeed(written / max(write_s, 1e-9), written / max(read_s, 1e-9))
