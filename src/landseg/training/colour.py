"""Colour of augmentation: brightness, tint, contrast, saturation, hue and gamma, for any bands. It moves no pixel.

Strengths are in the deviations by which the network's first layer divides each band, so that they mean the same for photographs and for
16-bit sensors: those of the train part, or those that the pretrained weights bring along (ImageNet's, of 8-bit red, green and blue).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landseg.core.settings import AugmentConfig
from landseg.network.card import Normalisation
from landseg.training.choices import Choices
from landseg.training.upload import floats

_RANGE_STD = 4.0
"""A band's range ends this many deviations from its mean, or at its limits: beyond lie no values that a curve should be bent for."""


@dataclass(frozen=True)
class Bands:
    """What the values of each band are to the network, in the images' own units.

    `mean` and `std` are those of its normalisation: what a pretrained network expects where it brings its own, else what the train part
    was measured to have. `low` and `high` are the limits of valid values, infinite where there are none.
    `is_rgb`: the bands are red, green and blue.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    is_rgb: bool

    @classmethod
    def of(cls, normalisation: Normalisation, dtype: str, names: Sequence[str]) -> Bands:
        """What a network's normalisation and the files' type (``uint8``, ``int16``, ``float32`` …) say of the bands called `names`."""
        mean, std = np.array(normalisation.mean), np.array(normalisation.std)
        if normalisation.scaling is not None:
            low, high = np.array(normalisation.scaling, float).T
            mean, std = low + mean * (high - low), std * (high - low)
        else:
            limits = (-math.inf, math.inf) if np.dtype(dtype).kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
            low, high = (np.full(len(mean), float(limit)) for limit in limits)
        is_rgb = tuple(names) == ("red", "green", "blue")
        return cls(_floats(mean), _floats(std), _floats(low), _floats(high), is_rgb)

    @property
    def range(self) -> tuple[np.ndarray, np.ndarray]:
        """(C,) each: where the values of a band begin and end, never infinite."""
        mean, std = np.array(self.mean), np.maximum(self.std, 1e-12)
        return np.maximum(self.low, mean - _RANGE_STD * std), np.minimum(self.high, mean + _RANGE_STD * std)


@dataclass(frozen=True)
class Linear:
    """Linear changes of colour, drawn for N tiles and done in one: saturation and hue, then contrast, then brightness and tint.

    contrast and saturation (N,) factors; hue (N,) radians; shift (N, C) in the images' units.
    """

    contrast: np.ndarray
    saturation: np.ndarray
    hue: np.ndarray
    shift: np.ndarray

    @classmethod
    def drawn(cls, settings: AugmentConfig, choices: Choices, bands: Bands) -> Linear:
        """What the settings allow."""
        shift = np.repeat(choices.either_way(settings.brightness, "brightness")[:, None], len(bands.mean), 1)
        if settings.tint:
            shift = shift + np.stack([choices.either_way(settings.tint, f"tint {band}") for band in range(len(bands.mean))], 1)
        return cls(
            _strength(choices, settings.contrast, "contrast"),
            _strength(choices, settings.saturation, "saturation"),
            np.radians(choices.either_way(settings.hue_deg if bands.is_rgb else 0.0, "hue")),
            shift * bands.std,
        )

    @property
    def is_neutral(self) -> bool:
        """Nothing changes, for no tile."""
        return bool((self.contrast == 1).all() and (self.saturation == 1).all()) and not (self.hue.any() or self.shift.any())

    def change(self, images: Tensor, which: np.ndarray, bands: Bands) -> Tensor:
        """(n, C, H, W) float32, the tiles of the numbers `which` → the same, changed; what fills a tile up is part of its mean."""
        contrast, shift = floats(self.contrast[which][:, None], images), floats(self.shift[which], images)
        # The mean of a linear change is the change of the mean, so that the tile is read once.
        mean = images.mean((2, 3)) if (self.contrast[which] != 1).any() else torch.zeros_like(shift)
        if bands.is_rgb:
            matrix = floats(self._matrices(which), images)
            offset = shift + (1 - contrast) * (matrix * mean[:, None, :]).sum(2)
            matrix = matrix * contrast[:, :, None]
            result = images[:, :1] * matrix[:, :, 0, None, None]
            for band in (1, 2):  # a sum of products, as a matrix product may round otherwise in another batch
                result.add_(images[:, band : band + 1] * matrix[:, :, band, None, None])
            return result.add_(offset[:, :, None, None])
        return self._towards_grey(images, which, bands, mean, contrast, shift)

    def _matrices(self, which: np.ndarray) -> np.ndarray:
        """(n, 3, 3): a turn about the axis of greys, and differences from the mean of the three multiplied. Grey stays, and so the mean.

        Source: Rodrigues' rotation formula about (1, 1, 1) / sqrt(3).
        """
        cos, sin = np.cos(self.hue[which])[:, None, None], np.sin(self.hue[which])[:, None, None]
        grey = np.full((3, 3), 1 / 3)
        cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
        turned = cos * (np.eye(3) - grey) + sin * cross
        return np.asarray(grey + self.saturation[which][:, None, None] * turned)

    def _towards_grey(self, images: Tensor, which: np.ndarray, bands: Bands, mean: Tensor, contrast: Tensor, shift: Tensor) -> Tensor:
        """Bands that share no unit: their differences are those of their deviations from each band's mean."""
        result = images * floats((self.contrast * self.saturation)[which], images)[:, None, None, None]
        if (self.saturation[which] == 1).all():
            return result.add_((shift + (1 - contrast) * mean)[:, :, None, None])
        middle, unit = floats(np.array(bands.mean), images), floats(np.maximum(bands.std, 1e-12), images)
        pull = floats(1 - self.saturation[which][:, None], images)
        grey = images[:, :1] * (1 / unit[0])
        for band in range(1, images.shape[1]):
            grey.add_(images[:, band : band + 1] * (1 / unit[band]))
        grey.sub_((middle / unit).sum()).mul_(1 / images.shape[1])
        changed_mean = mean + pull * (middle + unit * ((mean - middle) / unit).mean(1, keepdim=True) - mean)
        offset = shift + (1 - contrast) * changed_mean + contrast * pull * middle
        return result.add_(grey * (contrast * pull * unit)[:, :, None, None]).add_(offset[:, :, None, None])


def bend(images: Tensor, powers: np.ndarray, bands: Bands) -> Tensor:
    """Gamma: raise (n, C, H, W) float32 within the range of each band to the tiles' powers (n,); what lies beyond the range stays."""
    low, high = (floats(values, images)[:, None, None] for values in bands.range)
    share = ((images - low) / (high - low)).clamp_(0, 1)
    return images.add_(share.pow(floats(powers, images)[:, None, None, None]).sub_(share).mul_(high - low))


def drawn_powers(settings: AugmentConfig, choices: Choices) -> np.ndarray:
    """(N,) powers for `bend`."""
    return _strength(choices, settings.gamma, "gamma")


def _strength(choices: Choices, strength: float, purpose: str) -> np.ndarray:
    """(N,) factors between 1/(1+strength) and 1+strength."""
    return choices.factor(1 / (1 + strength), 1 + strength, purpose) if strength else np.ones(len(choices.keys))


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
