"""Haze, shadow, blur and noise are what their formulas say, tile by tile."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from landseg.training.radiometry import add_noise, blend_blurred, cover, drop_band, haze_density, shadow_density


def photo(count: int = 2, bands: int = 5, height: int = 30, width: int = 44) -> Tensor:
    return torch.rand(count, bands, height, width, generator=torch.Generator().manual_seed(0)) * 100


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("share", [1.0, -0.7])
def test_blur_and_unsharp_mask_are_opencvs(sigma: float, share: float) -> None:
    images = photo()
    found = blend_blurred(images.clone(), np.array([0.8, sigma]), np.array([share, share]))
    for band, result in zip(images[1].numpy(), found[1].numpy(), strict=True):
        expected = band + share * (cv2.GaussianBlur(band, (9, 9), sigma, borderType=cv2.BORDER_REPLICATE) - band)
        assert abs(result - expected).max() < 1e-2


@pytest.mark.parametrize(("height", "width"), [(1, 7), (3, 2)])
def test_tiles_smaller_than_the_blur_are_blurred_too(height: int, width: int) -> None:
    images = torch.full((1, 2, height, width), 3.0)
    assert torch.allclose(blend_blurred(images.clone(), np.array([1.5]), np.ones(1)), images)


def test_a_cover_hides_as_much_as_its_density() -> None:
    images, density = photo(), torch.rand(2, 1, 30, 44)
    colour = np.arange(5) * 10.0
    found = cover(images.clone(), density, colour)
    expected = images.numpy() * (1 - density.numpy()) + density.numpy() * colour[:, None, None]
    assert np.allclose(found.numpy(), expected, atol=1e-3)


def test_haze_is_smooth_and_not_even() -> None:
    knots = np.random.default_rng(0).random((3, 4, 4))
    field = haze_density(knots, np.array([0.5, 0.2, 0.0]), torch.empty(3, 1, 64, 96))
    assert field.shape == (3, 1, 64, 96) and field.min() >= 0
    assert field[0].max() <= 0.5 and field[0].max() - field[0].min() > 0.2
    assert not field[2].any()
    assert field[0].diff(dim=-1).abs().max() < 0.03 and field[0].diff(dim=-2).abs().max() < 0.04


def test_a_shadow_is_a_half_plane_or_a_strip() -> None:
    like = torch.empty(3, 1, 40, 60)
    angles, begins, widths = np.array([0.0, math.pi / 2, 0.0]), np.array([5.0, -3.0, 0.0]), np.array([math.inf, math.inf, 10.0])
    field = shadow_density(angles, begins, widths, np.array([0.6, 0.5, 0.4]), like)[:, 0].numpy()
    col, row = np.arange(60) - 29.5, np.arange(40) - 19.5
    assert np.allclose(field[0][:, col > 5 + 2], 0.6) and not field[0][:, col < 5 - 2].any()
    assert np.allclose(field[1][row > -3 + 2], 0.5) and not field[1][row < -3 - 2].any()
    assert np.allclose(field[2][:, (col > 2) & (col < 8)], 0.4) and not field[2][:, (col < -2) | (col > 12)].any()
    assert 0 < field[0][0, np.abs(col - 5).argmin()] < 0.6, "its edge is soft"


def test_noise_is_normal_enough_and_of_its_strength() -> None:
    found = add_noise(torch.zeros(2, 3, 128, 128), np.array([1, 2**32 - 5]), np.array([[1.0, 2.0, 0.0], [5.0, 5.0, 5.0]])).numpy()
    assert not found[0, 2].any()
    for values in (found[0, 0], found[0, 1] / 2, found[1, 1] / 5):
        assert abs(values.mean()) < 0.03 and abs(values.std() - 1) < 0.02
        assert abs((values**3).mean()) < 0.05 and 2.6 < (values**4).mean() < 2.8, "the sum of four even numbers has 2.7"


def test_noise_of_neighbours_bands_and_tiles_is_independent() -> None:
    noise = add_noise(torch.zeros(2, 2, 128, 128), np.array([7, 8]), np.ones((2, 2))).numpy()
    pairs = [(noise[0, 0], noise[1, 0]), (noise[0, 0], noise[0, 1]), (noise[0, 0, 1:], noise[0, 0, :-1])]
    pairs += [(noise[0, 0, :, 1:], noise[0, 0, :, :-1]), (noise[0, 0, :, 2:], noise[0, 0, :, :-2])]
    # Five deviations; the tiles' seeds differ by one, so that one sees the other's noise a pixel further.
    assert all(abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.04 for a, b in pairs)


def test_noise_is_the_hash_of_plain_whole_numbers() -> None:
    found = add_noise(torch.zeros(1, 1, 8, 8), np.array([3_000_000_000]), np.ones((1, 1))).flatten().numpy()
    for k, value in enumerate(found):
        z = (3_000_000_000 + k) % 2**32
        z = (z ^ (z >> 16)) * 0x7FEB352D % 2**32
        z = (z ^ (z >> 15)) * 0x846CA68B % 2**32
        z ^= z >> 16
        total = sum((z >> shift) & 255 for shift in (0, 8, 16, 24))
        assert value == pytest.approx((total - 510) / (2 * math.sqrt((256**2 - 1) / 12)), abs=1e-5)


def test_one_band_is_dropped() -> None:
    images = photo(2, 3)
    found = drop_band(images.clone(), np.array([2, 0]), (1.0, 2.0, 3.0))
    assert (found[0, 2] == 3).all() and torch.equal(found[0, :2], images[0, :2])
    assert (found[1, 0] == 1).all() and torch.equal(found[1, 1:], images[1, 1:])
