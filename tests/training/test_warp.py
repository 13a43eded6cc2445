"""Image and label move together about the same point, ground is shown larger when it is asked for, and what is exposed is ignored."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from landseg.core.classes import IGNORE_INDEX
from landseg.core.config import load_recipe
from landseg.core.settings import AugmentConfig
from landseg.training.choices import Choices
from landseg.training.draws import tile_keys
from landseg.training.warp import affine, symmetries, warp, warps

KEYS = tile_keys([f"tile {i}" for i in range(2000)])
D4 = AugmentConfig()


def land(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Labels of smooth fields with some unlabelled pixels."""
    rng = np.random.default_rng(seed)
    fields = [
        cv2.resize(rng.integers(0, 5, (5, 5)).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) for _ in range(count)
    ]
    labels = np.stack(fields)
    labels[:, : height // 8, : width // 8] = IGNORE_INDEX
    return torch.from_numpy(labels)


def choices(count: int, epoch: int = 0) -> Choices:
    return Choices(0, epoch, KEYS[:count])


def maps(degrees: float = 0, scale: float = 1, stretch: float = 1, shear: float = 0, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    return affine(np.array([math.radians(degrees)]), np.array([scale]), np.array([stretch]), np.array([shear]), np.array([shift]))


def moved_symmetrically(tile: np.ndarray) -> list[np.ndarray]:
    turned = [np.rot90(tile, k) for k in range(4)]
    return turned + [np.fliplr(item) for item in turned]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int16, torch.float32])
@pytest.mark.parametrize("bands", [1, 3, 4, 8])
def test_a_label_in_the_image_stays_equal_to_the_label(bands: int, dtype: torch.dtype) -> None:
    labels = land(64, 24, 24)
    images = labels[:, None].repeat(1, bands, 1, 1).to(dtype)
    for epoch in range(3):
        new_images, new_labels = symmetries(images, labels, D4, choices(64, epoch))
        assert new_images.dtype == dtype and new_labels.dtype == torch.uint8
        assert torch.equal(new_images, new_labels[:, None].expand_as(new_images).to(dtype))


def test_all_eight_symmetries_are_drawn_alike_and_nothing_else() -> None:
    tile = np.arange(12 * 12, dtype=np.uint8).reshape(12, 12)
    labels = torch.from_numpy(tile)[None].expand(1600, -1, -1)
    _, found = symmetries(labels[:, None], labels, D4, choices(1600))
    counts = [int((found == torch.from_numpy(item.copy())).all((1, 2)).sum()) for item in moved_symmetrically(tile)]
    assert sum(counts) == 1600
    assert all(150 < count < 250 for count in counts), counts


@pytest.mark.parametrize(
    ("config", "allowed"),
    [
        (AugmentConfig(flips=False, quarter_turns=True), (0, 1, 2, 3)),
        (AugmentConfig(flips=True, quarter_turns=False), (0, 2, 4, 6)),
        (AugmentConfig(flips=False, quarter_turns=False), (0,)),
    ],
)
def test_only_the_symmetries_that_were_asked_for_are_drawn(config: AugmentConfig, allowed: tuple[int, ...]) -> None:
    tile = np.random.default_rng(0).integers(0, 255, (9, 9)).astype(np.uint8)
    labels = torch.from_numpy(tile)[None].expand(64, -1, -1)
    _, found = symmetries(labels[:, None], labels, config, choices(64))
    expected = moved_symmetrically(tile)
    drawn = {next(k for k, item in enumerate(expected) if np.array_equal(item, each)) for each in found.numpy()}
    assert drawn == set(allowed)


@pytest.mark.parametrize(("height", "width"), [(20, 33), (1, 7), (40, 16)])
def test_tiles_that_are_not_square_keep_their_shape(height: int, width: int) -> None:
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (64, height, width)).astype(np.uint8))
    images, found = symmetries(labels[:, None], labels, D4, choices(64))
    assert torch.equal(images[:, 0], found)
    for before, after in zip(labels.numpy(), found.numpy(), strict=True):
        assert any(np.array_equal(item, after) for item in (before, before[::-1], before[:, ::-1], before[::-1, ::-1]))


def source(item: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, col) in the tile of what each pixel of the result shows, by one map."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    places = np.stack([x - (width - 1) / 2, y - (height - 1) / 2, np.ones_like(x)])
    col, row = np.tensordot(item, places, 1)
    return row + (height - 1) / 2, col + (width - 1) / 2


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80), (75, 33)])
@pytest.mark.parametrize(
    "item",
    [
        maps(10),
        maps(-33),
        maps(90),
        maps(180),
        maps(scale=0.7),
        maps(shear=0.5),
        maps(stretch=1.4),
        maps(shift=(9.5, -4.5)),
        maps(-20, 0.8, 1.2, 0.2, (3, 5)),
    ],
)
def test_exactly_what_is_exposed_is_ignored(height: int, width: int, item: np.ndarray) -> None:
    labels = torch.zeros(1, height, width, dtype=torch.uint8)
    _, found = warp(labels[:, None], labels, item)
    row, col = source(item[0], height, width)
    depth = np.minimum.reduce([row + 0.5, height - 0.5 - row, col + 0.5, width - 0.5 - col])
    is_exposed = found[0].numpy() == IGNORE_INDEX
    is_clear = abs(depth) > 1e-2
    assert np.array_equal(is_exposed[is_clear], (depth < 0)[is_clear])
    assert set(found.unique().tolist()) <= {0, IGNORE_INDEX}
    assert is_exposed.any() == ((depth < 0) & is_clear).any()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80)])
@pytest.mark.parametrize(("degrees", "scale"), [(12.0, 1.0), (-40.0, 1.3), (90.0, 0.8), (0.0, 1.5)])
def test_it_turns_and_scales_as_opencv_does(height: int, width: int, degrees: float, scale: float) -> None:
    labels = land(1, height, width, seed=3)
    image = cv2.GaussianBlur(np.random.default_rng(0).random((height, width, 3)).astype(np.float32), (0, 0), 3)
    moved, found = warp(torch.from_numpy(image).permute(2, 0, 1)[None], labels, maps(degrees, scale))
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, scale)
    expected = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    exact = cv2.warpAffine(labels[0].numpy(), matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=IGNORE_INDEX)
    is_inside = cv2.erode((exact != IGNORE_INDEX).astype(np.uint8), np.ones((3, 3))) > 0
    assert abs(moved[0].permute(1, 2, 0).numpy() - expected)[is_inside].max() < 5e-3
    assert (found[0].numpy() == exact).mean() > 0.97


def square(side: int = 20) -> Tensor:
    labels = torch.zeros(1, 101, 141, dtype=torch.uint8)
    labels[:, 50 - side // 2 : 51 + side // 2, 70 - side // 2 : 71 + side // 2] = 1
    return labels


def extent(labels: Tensor) -> tuple[int, int]:
    """Height and width of what is 1."""
    rows, cols = np.nonzero(labels[0].numpy() == 1)
    return int(np.ptp(rows)) + 1, int(np.ptp(cols)) + 1


def test_a_factor_above_one_shows_the_ground_larger() -> None:
    labels = square()
    found = warp(labels[:, None], labels, maps(scale=2))[1]
    assert extent(found) == pytest.approx((42, 42), abs=1) and IGNORE_INDEX not in found
    assert extent(warp(labels[:, None], labels, maps(scale=0.5))[1]) == pytest.approx((10, 10), abs=1)


def test_a_stretch_widens_and_flattens() -> None:
    labels = square()
    assert extent(warp(labels[:, None], labels, maps(stretch=1.5))[1]) == pytest.approx((14, 31), abs=1)


def test_a_shear_moves_lower_rows_to_the_right_and_keeps_the_area() -> None:
    labels = square()
    found = warp(labels[:, None], labels, maps(shear=0.5))[1]
    is_one = found[0].numpy() == 1
    first, last = np.flatnonzero(is_one.any(1))[[0, -1]]
    assert np.flatnonzero(is_one[last]).mean() - np.flatnonzero(is_one[first]).mean() == pytest.approx(10, abs=1)
    assert is_one.sum() == pytest.approx(21 * 21, rel=0.03)


def test_a_shift_goes_right_and_down() -> None:
    labels = land(1, 30, 41)
    images, found = warp(labels[:, None], labels, maps(shift=(5, 3)))
    assert torch.equal(found[:, 3:, 5:], labels[:, :-3, :-5])
    assert (found[:, :3] == IGNORE_INDEX).all() and (found[:, :, :5] == IGNORE_INDEX).all()
    assert torch.allclose(images[:, 0, 3:, 5:], labels[:, :-3, :-5].float(), atol=0.02)


@pytest.mark.parametrize("degrees", [17.0, 45.0, 90.0])
def test_a_rotation_keeps_shapes_on_tiles_that_are_not_square(degrees: float) -> None:
    y, x = np.mgrid[:101, :141]
    disc = torch.from_numpy(((y - 50) ** 2 + (x - 70) ** 2 < 30**2).astype(np.uint8))[None]
    found = warp(disc[:, None], disc, maps(degrees))[1]
    assert ((found == 1) != (disc == 1)).float().mean() < 0.008, "a ring of half a pixel; a skewed disc has ten times that"


def test_image_and_label_move_about_the_same_point() -> None:
    labels = land(16, 72, 72, seed=2)
    config = AugmentConfig(rotation_deg=180, scale=(0.7, 1.4), aspect=1.3, shear_deg=20, shift=0.1)
    _, drawn = warps(config, choices(16), 72, 72)
    images, found = warp(labels[:, None].float(), labels, drawn)
    found, image = found.numpy(), images[:, 0].numpy()
    near = np.ones((9, 9))  # two pixels of the tile are up to four of the result
    flat = np.stack([(cv2.dilate(item, near) == cv2.erode(item, near)) & (item != IGNORE_INDEX) for item in found])
    flat[:, :4], flat[:, -4:], flat[:, :, :4], flat[:, :, -4:] = False, False, False, False  # what lies beyond is not seen
    assert flat.mean() > 0.1
    assert np.allclose(image[flat], found[flat], atol=1e-2)


def test_no_map_is_no_change() -> None:
    labels = land(1, 31, 50)
    images = torch.rand(1, 3, 31, 50)
    moved, found = warp(images, labels, maps())
    assert torch.allclose(moved, images, atol=1e-4) and torch.equal(found, labels)


def test_exposed_pixels_of_the_image_hold_the_image_and_no_black() -> None:
    images = torch.full((1, 2, 40, 56), 90.0)
    moved, found = warp(images, land(1, 40, 56), maps(30, 0.6))
    assert torch.allclose(moved, images, atol=1e-2) and (found == IGNORE_INDEX).float().mean() > 0.3


def test_a_missing_value_reaches_no_further_than_its_neighbours() -> None:
    images = torch.ones(1, 2, 40, 40)
    images[0, 0, 20, 20] = torch.nan
    moved, _ = warp(images, land(1, 40, 40), maps(33, 1.0))
    rows, cols = np.nonzero(np.isnan(moved[0, 0].numpy()))
    assert 1 <= len(rows) <= 9 and np.ptp(rows) <= 3 and np.ptp(cols) <= 3
    assert torch.isfinite(moved[0, 1]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 50), st.integers(3, 50), st.floats(0.5, 180), st.integers(0, 99))
def test_no_new_classes_appear(height: int, width: int, degrees: float, epoch: int) -> None:
    rng = np.random.default_rng(epoch)
    labels = torch.from_numpy(rng.choice([3, 200, 254], (6, height, width)).astype(np.uint8))
    _, drawn = warps(AugmentConfig(rotation_deg=degrees, scale=(0.5, 2), shear_deg=30, shift=0.3), choices(6, epoch), height, width)
    _, found = warp(labels[:, None], labels, drawn)
    assert set(found.unique().tolist()) <= {3, 200, 254, IGNORE_INDEX}


def test_draws_stay_within_their_limits_and_reach_them() -> None:
    none = {"flips": False, "quarter_turns": False}
    turned = warps(AugmentConfig(rotation_deg=20, **none), choices(2000), 50, 80)[1]
    degrees = np.degrees(np.arctan2(turned[:, 1, 0], turned[:, 0, 0]))
    assert 19.5 < abs(degrees).max() <= 20 and np.allclose(np.linalg.det(turned[:, :, :2]), 1)
    assert abs(degrees.mean()) < 1
    scaled = 1 / np.sqrt(np.linalg.det(warps(AugmentConfig(scale=(0.5, 2), **none), choices(2000), 50, 80)[1][:, :, :2]))
    assert 0.5 <= scaled.min() < 0.51 and 1.96 < scaled.max() <= 2 and abs((scaled > 1).mean() - 0.5) < 0.06
    stretched = warps(AugmentConfig(aspect=1.5, **none), choices(2000), 50, 80)[1]
    ratio = stretched[:, 1, 1] / stretched[:, 0, 0]
    assert 1.48 < ratio.max() <= 1.5 and 1.48 < 1 / ratio.min() <= 1.5
    assert np.allclose(np.linalg.det(stretched[:, :, :2]), 1)
    sheared = warps(AugmentConfig(shear_deg=30, **none), choices(2000), 50, 80)[1]
    assert 29.5 < np.degrees(np.arctan(abs(sheared[:, 0, 1]))).max() <= 30
    shifted = warps(AugmentConfig(shift=0.25, **none), choices(2000), 50, 80)[1][:, :, 2]
    assert np.all(abs(shifted).max(0) <= (20, 12.5)) and np.all(abs(shifted).max(0) > (19.5, 12))


def test_a_share_of_tiles_is_warped_and_none_where_nothing_is_set() -> None:
    assert not warps(D4, choices(100), 9, 9)[0].any()
    assert warps(AugmentConfig(shear_deg=5), choices(100), 9, 9)[0].all()
    assert 0.25 < warps(AugmentConfig(shear_deg=5, warp=0.3), choices(2000), 9, 9)[0].mean() < 0.35


def test_the_competitions_recipe_turns_one_tile_in_two() -> None:
    recipe = load_recipe("seed")
    is_turned, maps = warps(recipe.augment, choices(2000), 64, 64)
    assert 900 < is_turned.sum() < 1100
    degrees = np.degrees(np.arcsin(maps[is_turned, 1, 0]))
    assert 9.9 < abs(degrees).max() <= 10 and abs(degrees.mean()) < 0.5
