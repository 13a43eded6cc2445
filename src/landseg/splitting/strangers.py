"""Tiles of any source, opened as a data set's are: a folder, a zip or another data set to compare with. It keeps nothing on the disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from landseg.core.errors import LandsegError
from landseg.core.progress import parallel_map, progress
from landseg.data.inputs import TileInput, find_inputs
from landseg.data.pack import TileStore
from landseg.data.packing import Entry
from landseg.data.tiles import TileHeader, UnreadableTile, decode_image, read_header

log = logging.getLogger("landseg")

_NAMED = 5


class Strangers:
    """Images decoded from their files at each reading; they have no labels."""

    is_mapped = False

    def __init__(self, tiles: Sequence[TileInput], entries: Sequence[Entry], bands: int, dtype: str) -> None:
        self.entries, self.bands, self.dtype = entries, bands, dtype
        self._tiles = tiles

    def image(self, i: int) -> np.ndarray:
        """Image of entry `i`, (H, W, C).

        Raises:
            LandsegError: Its header was read and its pixels cannot be.
        """
        tile = self._tiles[i]
        try:
            return decode_image(tile.read())
        except UnreadableTile as error:
            raise LandsegError(tile.what, str(error), "a picture", "mend it, or move it elsewhere") from error

    def label(self, i: int) -> np.ndarray:
        """There are none.

        Raises:
            LandsegError: Always.
        """
        raise LandsegError(self._tiles[i].what, "a tile without a label", "labels", "name a data set that was prepared with labels")


def open_strangers(path: Path, like: TileStore) -> Strangers:
    """Open the images of a data set, a folder or a zip to compare them with those of a data set.

    Args:
        path: Where they are.
        like: The store of the data set; images of other bands or depth cannot be compared with its own.

    Raises:
        LandsegError: Nothing is there, or none of it can be compared.
    """
    found = find_inputs([path])
    headers = list(progress(parallel_map(_header, found), "reading headers", len(found)))
    kept = [(tile, header) for tile, header in zip(found, headers, strict=True) if isinstance(header, TileHeader)]
    bad = [f"{tile.name} ({header})" for tile, header in zip(found, headers, strict=True) if not isinstance(header, TileHeader)]
    kinds = {(header.bands, header.dtype) for _, header in kept}
    wanted = like.bands, like.dtype
    alike = [(tile, header) for tile, header in kept if (header.bands, header.dtype) == wanted]
    if not alike:
        others = ", ".join(f"{bands} bands of {dtype}" for bands, dtype in sorted(kinds)) or "no readable image"
        raise LandsegError(path, others, f"images of {like.bands} bands of {like.dtype}, as the data set's", "compare with images alike")
    bad += [f"{tile.name} ({header.bands} bands of {header.dtype})" for tile, header in kept if (header.bands, header.dtype) != wanted]
    if bad:
        log.warning("%s: %s images are left out: %s", path, f"{len(bad):,}", ", ".join(bad[:_NAMED]) + (", …" if len(bad) > _NAMED else ""))
    entries = [Entry(tile.name, 0, 0, header.height, header.width, "", "", ()) for tile, header in alike]
    return Strangers([tile for tile, _ in alike], entries, like.bands, like.dtype)


def _header(tile: TileInput) -> TileHeader | str:
    try:
        data = tile.read()
        header = read_header(data)
        decode_image(data)  # a header promises what the pixels may not hold
    except UnreadableTile as error:
        return str(error)
    return header
