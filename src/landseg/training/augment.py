"""Random changes to a batch on its device; image and label move together, exposed pixels become the ignore index.

Labels are never interpolated. Every draw is a function of (seed, epoch, tile). What is done to a tile, and how, is in the rooms `warp`,
`colour` and `radiometry`; here is the order. Mixing tiles with others is not: that happens while batches are made.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from landseg.core.classes import IGNORE_INDEX
from landseg.core.settings import AugmentConfig
from landseg.training import radiometry
from landseg.training.choices import Choices
from landseg.training.colour import Bands, Linear, bend, drawn_powers
from landseg.training.upload import floats, put
from landseg.training.warp import symmetries, warp, warps

__all__ = ["Bands", "augment"]

_VEIL_STD = 2.0
"""How bright haze is, in a band's deviations above its mean."""


@dataclass(frozen=True)
class _Step:
    """A change of values: which tiles have it, (N,) bool, and what it does to the images of the tiles of the given numbers."""

    chosen: np.ndarray
    change: Callable[[Tensor, np.ndarray], Tensor]


def augment(
    images: Tensor, labels: Tensor, settings: AugmentConfig, bands: Bands, *, seed: int, epoch: int, keys: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Change a batch at random.

    Args:
        images: (N, C, H, W) of any dtype and any number of bands. In fractions, NaN and infinite values are missing.
        labels: (N, H, W) uint8 ids.
        settings: Which changes, how strong.
        bands: What the images' values are; strengths are in its deviations.
        seed: Of the run.
        epoch: From 0.
        keys: (N,) uint64, the tiles' keys (`draws.tile_keys`).

    Returns:
        The changed batch, the arguments untouched. Images keep their dtype as long as pixels are only moved or cut out, else they are
        float32 within `bands.low` and `bands.high`. A missing value stays missing (NaN) where it goes. With nothing set, the arguments
        themselves. On a CPU a tile's result is the same in every batch; on other devices its draws are, and its values to rounding.
    """
    choices = Choices(seed, epoch, keys)
    given_images, given_labels = images, labels
    images, labels = symmetries(images, labels, settings, choices)
    is_warped, maps = warps(settings, choices, *labels.shape[-2:])
    if is_warped.all() and len(is_warped):
        images, labels = warp(images, labels, maps)
    elif is_warped.any():
        index = put(np.flatnonzero(is_warped), images.device)
        some = warp(images[index], labels[index], maps[is_warped])
        images, labels = images.float().index_copy(0, index, some[0]), labels.index_copy(0, index, some[1])
    steps = _steps(settings, choices, bands)
    if any(step.chosen.any() for step in steps):
        images = _changed(images, steps, bands, given_images.is_floating_point())
    rectangles = _rectangles(settings, choices, *labels.shape[-2:])
    if rectangles:
        images = images.clone() if images is given_images else images
        labels = labels.clone() if labels is given_labels else labels
        mean = floats(bands.mean, images)[:, None, None]
        # Not asked of `images`, which are fractions where another tile of the batch was changed.
        mean = mean if given_images.is_floating_point() else mean.round()
        for tile, rows, cols in rectangles:
            images[tile, :, rows, cols] = mean.to(images.dtype)
            labels[tile, rows, cols] = IGNORE_INDEX
    return images, labels


def _steps(settings: AugmentConfig, choices: Choices, bands: Bands) -> list[_Step]:
    """The changes of values in the order of light: ground, air, lens, sensor."""
    count, size = len(choices.keys), len(bands.mean)
    linear, powers = Linear.drawn(settings, choices, bands), drawn_powers(settings, choices)
    low, high = bands.range
    bright = np.minimum(high, np.array(bands.mean) + _VEIL_STD * np.array(bands.std))
    haze, dark = choices.between(*radiometry.HAZE, "haze density"), choices.between(*radiometry.SHADOW, "shadow density")
    is_blurred, is_sharpened = choices.happens(settings.blur, "blur"), choices.happens(settings.sharpen, "sharpen")
    sigmas, amounts = choices.between(*radiometry.BLUR_SIGMA, "sigma"), choices.between(*radiometry.SHARPEN, "sharpness")
    is_noisy, is_hazy = choices.happens(settings.noise, "noise"), choices.happens(settings.haze, "haze")
    stds = choices.between(*radiometry.NOISE_STD, "noise strength")[:, None] * np.array(bands.std)
    seeds, dropped = choices.whole(2**32, "noise seed"), choices.whole(size, "band dropout band")
    # One band alone is not dropped: nothing would be left to learn from.
    is_dropped = choices.happens(settings.band_dropout if size > 1 else 0.0, "band dropout")
    knots = radiometry.haze_knots(choices) if is_hazy.any() else np.zeros(0)
    shade = _shadows(choices)
    return [
        _Step(np.full(count, not linear.is_neutral), lambda tiles, which: linear.change(tiles, which, bands)),
        _Step(powers != 1, lambda tiles, which: bend(tiles, powers[which], bands)),
        _Step(
            choices.happens(settings.shadow, "shadow"),
            lambda tiles, which: radiometry.cover(tiles, shade(tiles, which, dark[which]), low),
        ),
        _Step(is_hazy, lambda tiles, which: radiometry.cover(tiles, radiometry.haze_density(knots[which], haze[which], tiles), bright)),
        _Step(is_blurred, lambda tiles, which: radiometry.blend_blurred(tiles, sigmas[which], np.ones(len(which)))),
        _Step(is_sharpened, lambda tiles, which: radiometry.blend_blurred(tiles, np.ones(len(which)), -amounts[which])),
        _Step(is_noisy, lambda tiles, which: radiometry.add_noise(tiles, seeds[which], stds[which])),
        _Step(is_dropped, lambda tiles, which: radiometry.drop_band(tiles, dropped[which], bands.mean)),
    ]


def _shadows(choices: Choices) -> Callable[[Tensor, np.ndarray, np.ndarray], Tensor]:
    """Half of the shadows are strips of a tenth to a half of the tile, half have no end within it."""
    angles, begins = choices.between(0, 2 * np.pi, "shadow angle"), choices.either_way(0.4, "shadow begin")
    widths = np.where(choices.happens(0.5, "shadow strip"), choices.between(0.1, 0.5, "shadow width"), np.inf)

    def density(tiles: Tensor, which: np.ndarray, strengths: np.ndarray) -> Tensor:
        side = min(tiles.shape[-2:])
        return radiometry.shadow_density(angles[which], begins[which] * side, widths[which] * side, strengths, tiles)

    return density


def _changed(images: Tensor, steps: list[_Step], bands: Bands, may_miss: bool) -> Tensor:
    """All steps over a batch, into a new one of float32.

    On a CPU tiles go one by one, each on one thread. There a loop's last few numbers are computed otherwise than the rest, so that a value
    would depend on where in a batch it lies; a tile stays in the cache from step to step; and no thread waits for another after each.
    """
    if images.device.type != "cpu":
        tiles = images.to(torch.float32, copy=True)
        return _change(tiles, np.arange(len(images)), steps, bands, may_miss)
    result = torch.empty(images.shape)

    def change(k: int) -> None:
        tile = images[k : k + 1].to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        number = np.array([k])
        result[k] = _change(tile, number, steps, bands, may_miss)[0] if any(step.chosen[k] for step in steps) else tile[0]

    for _ in _threads(torch.get_num_threads(), os.getpid()).map(change, range(len(images))):
        pass
    return result


@cache
def _threads(count: int, _process: int) -> ThreadPoolExecutor:
    """Threads within which torch computes on one thread; another process, which has none of them, gets its own."""
    started = threading.Barrier(count)

    def alone() -> None:
        torch.set_num_threads(1)  # holds for the calling thread, and for threads that torch sees for the first time later
        started.wait()

    pool = ThreadPoolExecutor(count, "landseg-augment", initializer=alone)
    for job in [pool.submit(int) for _ in range(count)]:
        job.result()
    torch.set_num_threads(count)
    return pool


def _change(tiles: Tensor, numbers: np.ndarray, steps: list[_Step], bands: Bands, may_miss: bool) -> Tensor:
    """All steps over the tiles of these numbers; a missing value counts as its band's mean, which is what the network sees there."""
    missing = ~torch.isfinite(tiles) if may_miss else None
    if missing is not None:
        tiles = torch.where(missing, floats(bands.mean, tiles)[:, None, None], tiles)
    for step in steps:
        chosen = step.chosen[numbers]
        if chosen.all():
            tiles = step.change(tiles, numbers)
        elif chosen.any():
            index = put(np.flatnonzero(chosen), tiles.device)
            tiles = tiles.index_copy(0, index, step.change(tiles[index], numbers[chosen]))
    low, high = (floats(limits, tiles)[:, None, None] for limits in (bands.low, bands.high))
    tiles = tiles.clamp_(low, high) if np.isfinite((bands.low, bands.high)).any() else tiles
    return tiles if missing is None else tiles.masked_fill_(missing, torch.nan)


def _rectangles(settings: AugmentConfig, choices: Choices, height: int, width: int) -> list[tuple[int, slice, slice]]:
    """What is cut out: number of the tile, rows, cols; sides of a tenth to a half of the tile's."""
    chosen = np.flatnonzero(choices.happens(settings.cutout, "cutout"))
    spans = []
    for length, side in ((height, "rows"), (width, "cols")):
        size = np.maximum(length * choices.between(0.1, 0.5, f"cutout {side}"), 1).astype(np.int64)
        begin = (choices.between(0, 1, f"cutout first of {side}") * (length - size + 1)).astype(np.int64)
        spans.append([slice(int(first), int(first + many)) for first, many in zip(begin, size, strict=True)])
    return [(int(tile), spans[0][tile], spans[1][tile]) for tile in chosen]
