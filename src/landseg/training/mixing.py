"""Tiles made of two: pixels of another tile are copied into one, labels too. It draws where and what; `batches` draws with which."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from landseg.core.classes import IGNORE_INDEX
from landseg.core.settings import AugmentConfig
from landseg.training.draws import uniform

T = TypeVar("T")


def pastes(
    partner: Callable[[str], T], label_of: Callable[[T], np.ndarray], settings: AugmentConfig, *, seed: int, epoch: int, key: np.ndarray
) -> Iterator[tuple[T, np.ndarray]]:
    """What is copied into a tile, one after the other: another tile, and which of its pixels; those without a label never.

    Args:
        partner: Draws another tile for a purpose; asked only where something is to be copied.
        label_of: Its label, (H, W) uint8 ids, which may be smaller than the tile that it goes into: its first rows and columns.
        settings: `augment.class_mix` and `augment.cut_mix`, each drawn for itself, with a partner of its own.
        seed: Of the run.
        epoch: From 0.
        key: (1,) uint64, the tile's key.

    Yields:
        The other tile, and (H, W) bool of its label's shape.

    Source: Olsson et al. 2021, "ClassMix"; Yun et al. 2019, "CutMix".
    """

    def draw(purpose: str) -> float:
        return float(uniform(seed, epoch, key, purpose)[0])

    ways: tuple[tuple[str, float, Callable[[np.ndarray, Callable[[str], float]], np.ndarray]], ...] = (
        ("class_mix", settings.class_mix, half_of_classes),
        ("cut_mix", settings.cut_mix, rectangle),
    )
    for name, share, choose in ways:
        if draw(name) < share:
            other = partner(name)
            label = label_of(other)
            yield other, choose(label, draw) & (label != IGNORE_INDEX)


def paste(image: np.ndarray, label: np.ndarray, other_image: np.ndarray, other_label: np.ndarray, is_copied: np.ndarray) -> None:
    """Copy pixels of another tile into one, in place, each at the same row and column.

    Args:
        image: (H, W, C) of any dtype, which stays; contiguous.
        label: (H, W) uint8 ids.
        other_image: (h, w, C) of the same dtype; its first rows and columns are those of `image`.
        other_label: (h, w).
        is_copied: (h, w) bool.
    """
    height, width = is_copied.shape
    np.copyto(_pixels(image)[:height, :width], _pixels(np.ascontiguousarray(other_image)), where=is_copied)
    np.copyto(label[:height, :width], other_label, where=is_copied)


def _pixels(image: np.ndarray) -> np.ndarray:
    """(H, W) of whole pixels, a view: a mask then chooses as many values as it has, which is 50 times as fast as choosing all bands."""
    return image.view(f"V{image.shape[2] * image.itemsize}")[..., 0]


def half_of_classes(label: np.ndarray, draw: Callable[[str], float]) -> np.ndarray:
    """(H, W) bool: the pixels of half of the classes present, drawn; of an odd number the smaller half.

    So a tile of one class gives nothing: it would not be mixed with the other, but take its place.
    """
    present = np.flatnonzero(np.bincount(label.ravel(), minlength=IGNORE_INDEX)[:IGNORE_INDEX])
    drawn = sorted(present, key=lambda k: draw(f"class_mix {k}"))[: len(present) // 2]
    is_chosen = np.zeros(IGNORE_INDEX + 1, bool)
    is_chosen[drawn] = True
    return is_chosen.take(label)


def rectangle(label: np.ndarray, draw: Callable[[str], float]) -> np.ndarray:
    """(H, W) bool: a rectangle of the tile's proportions, its share of the area drawn evenly, its place too, wholly inside."""
    edge = math.sqrt(draw("cut_mix area"))
    sides = [max(1, round(edge * side)) for side in label.shape]
    row, col = (int(draw(f"cut_mix {k}") * (side - sides[k] + 1)) for k, side in enumerate(label.shape))
    is_chosen = np.zeros(label.shape, bool)
    is_chosen[row : row + sides[0], col : col + sides[1]] = True
    return is_chosen
