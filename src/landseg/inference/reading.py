"""Tiles decoded ahead of the network, in the bands and the type that the model was trained on. It writes nothing and knows no engine."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from landseg.core.errors import LandsegError
from landseg.core.machine import cores
from landseg.data.inputs import TileInput
from landseg.data.tiles import UnreadableTile, decode_image

if TYPE_CHECKING:
    from landseg.network.card import ModelCard

log = logging.getLogger("landseg")

HELD_BYTES = 256_000_000
"""Decoded pixels that may wait for the network, all tiles together."""


def decoded(
    tiles: Iterable[TileInput], card: ModelCard, bands: tuple[int, ...] | None, unreadable: dict[str, str]
) -> Generator[tuple[str, np.ndarray], None, None]:
    """The readable tiles in their order, decoded ahead on threads within `HELD_BYTES`; to be closed where it is left early.

    Args:
        tiles: Any.
        card: The model's.
        bands: Bands to take of each image, counted from 1; None takes all.
        unreadable: The others are noted here: why, by name.

    Yields:
        Name, and image (H, W, C) in the model's bands and dtype.

    Raises:
        LandsegError: A tile does not fit the model.
    """
    workers = room = cores()
    largest = 1
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[TileInput, Future[np.ndarray]]] = deque()
        source = iter(tiles)
        try:
            while True:
                while len(ahead) < room and (tile := next(source, None)) is not None:
                    ahead.append((tile, pool.submit(_decode, tile, card, bands)))
                if not ahead:
                    return
                tile, future = ahead.popleft()
                try:
                    image = future.result()
                except UnreadableTile as reason:
                    unreadable[tile.name] = str(reason)
                    log.warning("%s left out: %s", tile.what, reason)
                    continue
                largest = max(largest, image.nbytes)
                room = max(1, min(8 * workers, HELD_BYTES // largest))
                yield tile.name, image
        finally:
            for _, future in ahead:
                future.cancel()


def _decode(tile: TileInput, card: ModelCard, bands: tuple[int, ...] | None) -> np.ndarray:
    image = decode_image(tile.read())
    count = image.shape[2]
    if bands is not None:
        if max(bands) > count:
            raise LandsegError(
                tile.what,
                f"{count} bands",
                f"predict.bands={list(bands)} takes band {max(bands)}",
                "choose bands that every image has",
            )
        image = np.ascontiguousarray(image[:, :, [band - 1 for band in bands]])
    elif count != len(card.bands):
        found = f"{count} band{'s' if count > 1 else ''}"
        needed = f"the model was trained on {len(card.bands)} ({', '.join(card.bands)})"
        if count < len(card.bands):
            raise LandsegError(tile.what, found, needed, "predict images that have them all, or train a model on these")
        example = ",".join(str(band + 1) for band in range(len(card.bands)))
        raise LandsegError(tile.what, found, needed, f"choose them with --set predict.bands=[{example}]")
    if image.dtype != np.dtype(card.dtype):
        raise LandsegError(
            tile.what,
            f"{image.dtype} pixels",
            f"the model was trained on {card.dtype}",
            "predict images of the same kind, or train a model on these",
        )
    return image
