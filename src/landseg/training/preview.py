"""Tiles drawn as training draws them, for a look before anything trains. It draws by the loop's own path and makes no page."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from landseg.core.settings import Recipe
from landseg.data.pack import TileStore
from landseg.data.packing import Entry
from landseg.network.sizes import STRIDE, fitted_shape
from landseg.network.torch_engine import to_tensor
from landseg.training.augment import Bands, augment
from landseg.training.batches import Batches
from landseg.training.draws import tile_keys, uniform
from landseg.training.preview_page import RGB, Epoch, Seen, Sight
from landseg.training.sizing import sized

EPOCHS = 5
"""Epochs of which each tile's draw is shown: enough to see what is rare among the changes, few enough to stand beside each other."""

MOST, FEWEST = 12, 10
"""Tiles that are shown: as many as it takes to show each class."""

_CLEAR = 0.02
"""Of a tile's labelled pixels, from which a class is seen in it; a class that no tile shows so well is seen where it shows most."""

_VALUES = 1 << 20
"""Values of a tile that tell between what its pictures are stretched."""

_CLEARER = 0.75
"""Quantile of a class's share of the tiles that show it, from which one is drawn: what is looked for should be seen at once."""


def choose_tiles(entries: Sequence[Entry], numbers: Sequence[int], seed: int) -> list[int]:
    """Tiles that together show all classes, the rarest first, and others drawn by the seed.

    Args:
        entries: All tiles of the store.
        numbers: Those of the train part.
        seed: Of the run.

    Returns:
        Numbers of `FEWEST` to `MOST` tiles with a label, fewer where there are fewer.
    """
    pixels = np.array([entries[i].class_pixels for i in numbers], np.int64)
    labelled = np.flatnonzero(pixels.sum(1))
    pixels = pixels[labelled]
    shares = pixels / pixels.sum(1, keepdims=True)
    chance = uniform(seed, 0, tile_keys([entries[numbers[i]].name for i in labelled.tolist()]), "preview")
    is_seen = (shares >= np.minimum(_CLEAR, shares.max(0, initial=0))) & (shares > 0)
    wanted = [int(k) for k in np.argsort(pixels.sum(0), kind="stable") if is_seen[:, k].any()]
    chosen: list[int] = []
    while wanted and len(chosen) < MOST:
        able = np.setdiff1d(np.flatnonzero(is_seen[:, wanted[0]]), chosen)
        done = {wanted[0]}
        if able.size and len(wanted) <= MOST - len(chosen):
            # Room for a tile a class: one of those that show most of it.
            able = able[shares[able, wanted[0]] >= np.quantile(shares[able, wanted[0]], _CLEARER)]
        elif able.size:
            new = is_seen[np.ix_(able, np.array(wanted))].sum(1)
            able = able[new == new.max()]
        if able.size:
            chosen.append(int(able[np.argmin(chance[able])]))
            done |= set(wanted) & {int(k) for k in np.flatnonzero(is_seen[chosen[-1]])} if len(wanted) > MOST - len(chosen) else set()
        wanted = [k for k in wanted if k not in done]
    others = [int(i) for i in np.argsort(chance, kind="stable") if int(i) not in chosen]
    chosen += others[: max(0, FEWEST - len(chosen))]
    return [numbers[labelled[i]] for i in chosen]


def draw_tiles(batches: Batches, store: TileStore, tiles: Sequence[int], recipe: Recipe, bands: Bands, factor: float) -> list[Seen]:
    """What the first `EPOCHS` epochs show of some tiles.

    Args:
        batches: What training would draw from.
        store: The tiles.
        tiles: Their numbers in it.
        recipe: All settings.
        bands: What the values of the bands are.
        factor: By which images are made larger or smaller for the network.
    """
    draws: dict[int, list[Sight | None]] = {i: [] for i in tiles}
    for epoch in range(EPOCHS):
        found, batch = batches.samples(epoch, tiles)
        if not found:  # rarer ones came in place of all of them
            for i in tiles:
                draws[i].append(None)
            continue
        images, labels = to_tensor(batch.images, torch.device("cpu")), torch.from_numpy(batch.labels)
        images, labels = sized(images, labels, factor)
        images, labels = augment(images, labels, recipe.augment, bands, seed=recipe.train.seed, epoch=epoch, keys=batch.keys)
        pixels = images.permute(0, 2, 3, 1).numpy()
        sights = {i: Sight(pixels[n], labels[n].numpy()) for n, i in enumerate(found)}
        for i in tiles:
            draws[i].append(sights.get(i))
    return [Seen(store.entries[i].name, Sight(store.image(i), store.label(i)), draws[i]) for i in tiles]


def look_at_epoch(batches: Batches, entries: Sequence[Entry], numbers: Sequence[int], factor: float) -> Epoch:
    """What the first epoch is made of.

    Args:
        batches: What training would draw from.
        entries: All tiles of the store.
        numbers: Those of the train part.
        factor: By which images are made larger or smaller for the network.
    """
    pixels = np.array([entries[i].class_pixels for i in numbers], np.float64)
    often = batches.often(0)
    before, drawn = pixels.sum(0), np.array([often.get(i, 0.0) for i in numbers]) @ pixels
    shares = zip((before / max(before.sum(), 1)).tolist(), (drawn / max(drawn.sum(), 1)).tolist(), strict=True)
    height, width = fitted_shape(*batches.shape, factor)
    shape = height + -height % STRIDE, width + -width % STRIDE
    return Epoch(len(numbers), batches.dropped, batches.images, batches.count, batches.shape, shape, tuple(shares))


def stretch(store: TileStore, tiles: Sequence[int], bands: Sequence[str]) -> list[tuple[float, float]]:
    """(low, high) a band between which all pictures are stretched alike, so that a change of brightness is seen as one.

    Eight-bit colours are shown as they are; anything else from the 2nd to the 98th percentile of the tiles that are shown.
    """
    if store.dtype == "uint8" and (tuple(bands) == RGB or len(bands) == 1):
        return [(0.0, 255.0)] * len(bands)
    pixels = [store.image(i).reshape(-1, store.bands) for i in tiles]
    values = np.concatenate([flat[:: math.ceil(flat.size / _VALUES)].astype(np.float64) for flat in pixels])
    found = []
    for band in values.T:
        usable = band[np.isfinite(band)]
        found.append(tuple(np.percentile(usable, (2, 98)).tolist()) if usable.size else (0.0, 1.0))
    return found
