"""Colours change as plain arithmetic says, in units of the bands; grey stays grey; what is neutral is nothing."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch

from landseg.core.settings import AugmentConfig
from landseg.network.build import Normalisation
from landseg.training.choices import Choices
from landseg.training.colour import Bands, Linear, bend, drawn_powers
from landseg.training.draws import tile_keys

PHOTO = Bands((120.0, 110.0, 100.0), (50.0, 40.0, 45.0), (0.0,) * 3, (255.0,) * 3, True)
SENSOR = Bands((900.0, 1400.0, 3000.0, 12.5), (300.0, 500.0, 900.0, 2.0), (0.0,) * 4, (65535.0,) * 4, False)
CHOICES = Choices(0, 0, tile_keys([f"{i}" for i in range(1000)]))


def tiles(bands: Bands, count: int = 3) -> torch.Tensor:
    noise = torch.randn(count, len(bands.mean), 9, 14, generator=torch.Generator().manual_seed(0))
    return noise * torch.tensor(bands.std)[:, None, None] + torch.tensor(bands.mean)[:, None, None]


def linear(count: int, bands: Bands, **values: object) -> Linear:
    plain = {"contrast": np.ones(count), "saturation": np.ones(count), "hue": np.zeros(count), "shift": np.zeros((count, len(bands.mean)))}
    return Linear(**{**plain, **{name: np.asarray(value, float) for name, value in values.items()}})  # type: ignore[arg-type]


def reference(image: np.ndarray, bands: Bands, contrast: float, saturation: float, shift: np.ndarray) -> np.ndarray:
    """Step by step, on one (C, H, W) image."""
    image = image.astype(np.float64)
    if bands.is_rgb:
        grey = image.mean(0)
        image = grey + saturation * (image - grey)
    else:
        mean, std = np.array(bands.mean)[:, None, None], np.array(bands.std)[:, None, None]
        standard = (image - mean) / std
        grey = standard.mean(0)
        image = mean + std * (grey + saturation * (standard - grey))
    mean = image.mean((1, 2), keepdims=True)
    return np.asarray(mean + contrast * (image - mean) + shift[:, None, None])


@pytest.mark.parametrize("bands", [PHOTO, SENSOR, Bands((5.0,), (2.0,), (0.0,), (9.0,), False)])
def test_linear_changes_are_those_of_plain_arithmetic(bands: Bands) -> None:
    images, rng = tiles(bands), np.random.default_rng(0)
    contrast, saturation = rng.uniform(0.5, 2, 3), rng.uniform(0.5, 2, 3)
    shift = rng.normal(size=(3, len(bands.mean))) * bands.std
    found = linear(3, bands, contrast=contrast, saturation=saturation, shift=shift).change(images.clone(), np.arange(3), bands)
    for k in range(3):
        expected = reference(images[k].numpy(), bands, contrast[k], saturation[k], shift[k])
        scale = np.array(bands.std)[:, None, None]
        assert abs((found[k].numpy() - expected) / scale).max() < 1e-4


@pytest.mark.parametrize("name", ["contrast", "saturation", "shift"])
@pytest.mark.parametrize("bands", [PHOTO, SENSOR])
def test_each_linear_change_alone_is_that_of_plain_arithmetic(bands: Bands, name: str) -> None:
    images = tiles(bands)
    plain = {"contrast": 1.0, "saturation": 1.0, "shift": np.zeros(len(bands.mean))}
    value = 0.7 * np.array(bands.std) if name == "shift" else 1.6
    found = linear(3, bands, **{name: np.stack([value] * 3)}).change(images.clone(), np.arange(3), bands)
    expected = reference(images[1].numpy(), bands, **{**plain, name: value})  # type: ignore[arg-type]
    assert abs((found[1].numpy() - expected) / np.array(bands.std)[:, None, None]).max() < 1e-4


def test_only_the_numbers_of_the_chosen_tiles_are_used() -> None:
    images = tiles(PHOTO, 2)
    whole = linear(4, PHOTO, contrast=[1, 2, 3, 4], shift=np.arange(12).reshape(4, 3))
    found = whole.change(images.clone(), np.array([3, 1]), PHOTO)
    for k, number in enumerate((3, 1)):
        expected = reference(images[k].numpy(), PHOTO, number + 1, 1, np.arange(12).reshape(4, 3)[number])
        assert abs(found[k].numpy() - expected).max() < 1e-2


@pytest.mark.parametrize("degrees", [-120.0, 30.0, 120.0, 180.0])
def test_hue_turns_colours_and_leaves_greys(degrees: float) -> None:
    red = torch.tensor([200.0, 40.0, 40.0]).view(1, 3, 1, 1)
    change = linear(1, PHOTO, hue=[math.radians(degrees)])
    found = change.change(red.clone(), np.arange(1), PHOTO).flatten().numpy()
    assert found.sum() == pytest.approx(280, abs=1e-3)
    if degrees % 120 == 0:
        hue = colorsys.rgb_to_hsv(*(found / 255))[0] * 360
        assert hue == pytest.approx(degrees % 360, abs=0.1)
    grey = torch.full((1, 3, 4, 4), 77.0)
    assert torch.allclose(change.change(grey.clone(), np.arange(1), PHOTO), grey, atol=1e-3)


def test_a_quarter_of_the_hue_turns_towards_the_next_colour() -> None:
    red = torch.tensor([200.0, 40.0, 40.0]).view(1, 3, 1, 1)
    found = linear(1, PHOTO, hue=[math.radians(20)]).change(red, np.arange(1), PHOTO).flatten()
    assert found[1] > found[2], "towards yellow, not violet"


def test_hue_is_not_drawn_for_other_bands() -> None:
    assert not Linear.drawn(AugmentConfig(hue_deg=90), CHOICES, SENSOR).hue.any()
    hue = Linear.drawn(AugmentConfig(hue_deg=90), CHOICES, PHOTO).hue
    assert 1.5 < abs(hue).max() <= math.pi / 2


def test_draws_stay_within_the_settings() -> None:
    config = AugmentConfig(brightness=0.5, contrast=0.25, saturation=1.0, gamma=0.5)
    drawn = Linear.drawn(config, CHOICES, SENSOR)
    assert 0.8 <= drawn.contrast.min() < 0.81 and 1.24 < drawn.contrast.max() <= 1.25
    assert 0.5 <= drawn.saturation.min() < 0.51 and 1.98 < drawn.saturation.max() <= 2
    in_std = drawn.shift / SENSOR.std
    assert np.allclose(in_std, in_std[:, :1]) and 0.49 < in_std.max() <= 0.5 and -0.5 <= in_std.min() < -0.49
    powers = drawn_powers(config, CHOICES)
    assert 2 / 3 <= powers.min() < 0.675 and 1.48 < powers.max() <= 1.5
    tint = Linear.drawn(AugmentConfig(tint=0.3), CHOICES, SENSOR).shift / SENSOR.std
    assert 0.29 < abs(tint).max() <= 0.3 and abs(np.corrcoef(tint.T) - np.eye(4)).max() < 0.15


def test_neutral_settings_are_neutral() -> None:
    assert Linear.drawn(AugmentConfig(), CHOICES, PHOTO).is_neutral and (drawn_powers(AugmentConfig(), CHOICES) == 1).all()
    for name in ("brightness", "contrast", "tint", "saturation", "hue_deg"):
        assert not Linear.drawn(AugmentConfig(**{name: 0.1}), CHOICES, PHOTO).is_neutral


def test_gamma_is_a_power_of_the_range_and_stays_within_it() -> None:
    images = torch.linspace(0, 255, 512).view(1, 1, 1, -1).repeat(2, 3, 1, 1)
    found = bend(images.clone(), np.array([1.5, 0.6]), PHOTO).numpy()
    for k, power in enumerate((1.5, 0.6)):
        assert np.allclose(found[k], 255 * (images[k].numpy() / 255) ** power, atol=1e-2)


def test_gamma_leaves_what_lies_beyond_the_range() -> None:
    bands = Bands((10.0,), (1.0,), (-math.inf,), (math.inf,), False)
    images = torch.tensor([-100.0, 6.0, 14.0, 1e4, 10.0]).view(1, 1, 1, -1)
    found = bend(images.clone(), np.array([2.0]), bands).flatten()
    assert torch.allclose(found, torch.tensor([-100.0, 6.0, 14.0, 1e4, 8.0]))


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("uint8", 0, 255), ("uint16", 0, 65535), ("int16", -32768, 32767), ("float32", -math.inf, math.inf)]
)
def test_the_limits_of_a_type_are_those_of_its_values(dtype: str, low: float, high: float) -> None:
    found = Bands.of(Normalisation((1.0, 2.0), (3.0, 4.0)), dtype, ["red", "nir"])
    assert found == Bands((1.0, 2.0), (3.0, 4.0), (low, low), (high, high), False)


def test_scaled_bands_are_told_in_the_images_own_units() -> None:
    scaled = Normalisation((0.5, 0.25, 0.5), (0.1, 0.2, 0.3), ((0.0, 1000.0), (200.0, 600.0), (-1.0, 1.0)))
    found = Bands.of(scaled, "int16", ["red", "green", "blue"])
    assert found.mean == (500.0, 300.0, 0.0) and found.std == pytest.approx((100.0, 80.0, 0.6))
    assert found.low == (0.0, 200.0, -1.0) and found.high == (1000.0, 600.0, 1.0) and found.is_rgb
    assert not Bands.of(scaled, "int16", ["blue", "green", "red"]).is_rgb


def test_a_range_is_finite_and_no_wider_than_the_values() -> None:
    low, high = Bands((120.0, 30.0, 5.0), (50.0, 1.0, 0.0), (0.0, 0.0, -math.inf), (255.0, 65535.0, math.inf), False).range
    assert low == pytest.approx([0, 26, 5]) and high == pytest.approx([255, 34, 5]) and (high > low).all()
