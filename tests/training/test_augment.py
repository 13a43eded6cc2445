"""Image and label move together, no class appears that was not there, and what a rotation exposes is ignored."""

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
from landseg.core.config import AugmentConfig
from landseg.training.augment import augment, blur, rotate
from landseg.training.draws import tile_keys

torch.set_num_threads(1)

KEYS = tile_keys([f"tile {i}" for i in range(64)])
D4 = AugmentConfig(flips=True, quarter_turns=True)
ALL = AugmentConfig(flips=True, quarter_turns=True, rotation_deg=30, blur=0.5)
NONE = AugmentConfig(flips=False, quarter_turns=False)


def land(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Labels of smooth fields with some unlabelled pixels."""
    rng = np.random.default_rng(seed)
    fields = [
        cv2.resize(rng.integers(0, 5, (5, 5)).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) for _ in range(count)
    ]
    labels = np.stack(fields)
    labels[:, : height // 8, : width // 8] = IGNORE_INDEX
    return torch.from_numpy(labels)


def draw(
    images: Tensor, labels: Tensor, config: AugmentConfig, keys: np.ndarray | None = None, seed: int = 0, epoch: int = 0
) -> tuple[Tensor, Tensor]:
    return augment(images, labels, config, seed=seed, epoch=epoch, keys=KEYS[: len(images)] if keys is None else keys)


def symmetries(tile: np.ndarray) -> list[np.ndarray]:
    turned = [np.rot90(tile, k) for k in range(4)]
    return turned + [np.fliplr(item) for item in turned]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
@pytest.mark.parametrize("bands", [1, 3, 4, 8])
def test_a_label_in_the_image_stays_equal_to_the_label(bands: int, dtype: torch.dtype) -> None:
    labels = land(64, 24, 24)
    images = labels[:, None].repeat(1, bands, 1, 1).to(dtype)
    for epoch in range(3):
        new_images, new_labels = draw(images, labels, D4, epoch=epoch)
        assert new_images.dtype == dtype and new_labels.dtype == torch.uint8
        assert torch.equal(new_images, new_labels[:, None].expand_as(new_images).to(dtype))


def test_all_eight_symmetries_are_drawn_alike_and_nothing_else() -> None:
    tile = np.arange(12 * 12, dtype=np.uint8).reshape(12, 12)
    expected = symmetries(tile)
    keys = tile_keys([f"{i}" for i in range(1600)])
    labels = torch.from_numpy(tile)[None].expand(1600, -1, -1)
    _, found = draw(labels[:, None], labels, D4, keys)
    counts = [int((found == torch.from_numpy(item.copy())).all((1, 2)).sum()) for item in expected]
    assert sum(counts) == 1600
    assert all(150 < count < 250 for count in counts), counts


@pytest.mark.parametrize(
    ("config", "allowed"),
    [
        (AugmentConfig(flips=False, quarter_turns=True), (0, 1, 2, 3)),
        (AugmentConfig(flips=True, quarter_turns=False), (0, 2, 4, 6)),
        (NONE, (0,)),
    ],
)
def test_only_what_was_asked_for_is_done(config: AugmentConfig, allowed: tuple[int, ...]) -> None:
    tile = np.random.default_rng(0).integers(0, 255, (9, 9)).astype(np.uint8)
    labels = torch.from_numpy(tile)[None].expand(64, -1, -1)
    _, found = draw(labels[:, None], labels, config)
    expected = symmetries(tile)
    drawn = {next(k for k, item in enumerate(expected) if np.array_equal(item, each)) for each in found.numpy()}
    assert drawn == set(allowed)


@pytest.mark.parametrize(("height", "width"), [(20, 33), (1, 7), (40, 16)])
def test_tiles_that_are_not_square_keep_their_shape(height: int, width: int) -> None:
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (64, height, width)).astype(np.uint8))
    for config in (D4, ALL):
        images, found = draw(labels[:, None].repeat(1, 2, 1, 1), labels, config)
        assert images.shape == (64, 2, height, width) and found.shape == (64, height, width)
    images, found = draw(labels[:, None], labels, D4)
    assert torch.equal(images[:, 0], found)
    for before, after in zip(labels.numpy(), found.numpy(), strict=True):
        assert any(np.array_equal(item, after) for item in (before, before[::-1], before[:, ::-1], before[::-1, ::-1]))


def test_the_input_is_left_as_it_was() -> None:
    labels = land(8, 16, 16)
    images = torch.rand(8, 3, 16, 16)
    before = images.clone(), labels.clone()
    draw(images, labels, ALL)
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 12), st.integers(0, 5))
def test_a_tile_gets_the_same_changes_in_any_batch(order: list[int], count: int, epoch: int) -> None:
    labels = land(12, 20, 20, seed=1)
    images = torch.rand(12, 4, 20, 20, generator=torch.Generator().manual_seed(0)) * 255
    whole_images, whole_labels = draw(images, labels, ALL, epoch=epoch)
    chosen = order[:count]
    some_images, some_labels = draw(images[chosen], labels[chosen], ALL, KEYS[chosen], epoch=epoch)
    assert torch.equal(some_labels, whole_labels[chosen])
    assert torch.equal(some_images.float(), whole_images[chosen].float())


def test_epochs_and_seeds_draw_anew() -> None:
    labels = land(64, 16, 16)
    base = draw(labels[:, None], labels, ALL)[0]
    assert torch.equal(base, draw(labels[:, None], labels, ALL)[0])
    for other in (draw(labels[:, None], labels, ALL, epoch=1)[0], draw(labels[:, None], labels, ALL, seed=1)[0]):
        assert (base != other).flatten(1).any(1).float().mean() > 0.9


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 50), st.integers(3, 50), st.floats(0.5, 180), st.integers(0, 99))
def test_no_new_classes_appear(height: int, width: int, degrees: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.choice([3, 200, 254], (6, height, width)).astype(np.uint8))
    _, found = draw(labels[:, None], labels, AugmentConfig(rotation_deg=degrees, blur=1.0), seed=seed)
    assert set(found.unique().tolist()) <= {3, 200, 254, IGNORE_INDEX}


def sources(height: int, width: int, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """(row, col) in the tile before, of each pixel after an anticlockwise rotation about the centre."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # y runs down, so an anticlockwise turn takes the pixel at angle a from the one at angle a - degrees.
    return sin * x + cos * y + (height - 1) / 2, cos * x - sin * y + (width - 1) / 2


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80), (75, 33)])
@pytest.mark.parametrize("degrees", [10.0, -10.0, 33.0, 90.0, 180.0])
def test_a_rotation_exposes_exactly_the_corners(height: int, width: int, degrees: float) -> None:
    labels = torch.zeros(1, height, width, dtype=torch.uint8)
    _, found = rotate(labels[:, None], labels, torch.tensor([math.radians(degrees)]))
    row, col = sources(height, width, degrees)
    depth = np.minimum.reduce([row + 0.5, height - 0.5 - row, col + 0.5, width - 0.5 - col])
    is_exposed = found[0].numpy() == IGNORE_INDEX
    is_clear = abs(depth) > 1e-2
    assert np.array_equal(is_exposed[is_clear], (depth < 0)[is_clear])
    assert set(found.unique().tolist()) <= {0, IGNORE_INDEX}
    if degrees % 90:
        assert is_exposed.any()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80)])
@pytest.mark.parametrize("degrees", [12.0, -40.0, 90.0])
def test_a_rotation_turns_as_opencv_does(height: int, width: int, degrees: float) -> None:
    labels = land(1, height, width, seed=3)
    image = cv2.GaussianBlur(np.random.default_rng(0).random((height, width, 3)).astype(np.float32), (0, 0), 3)
    turned, found = rotate(torch.from_numpy(image).permute(2, 0, 1)[None], labels, torch.tensor([math.radians(degrees)]))
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    expected = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    exact = cv2.warpAffine(labels[0].numpy(), matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=IGNORE_INDEX)
    is_inside = cv2.erode((exact != IGNORE_INDEX).astype(np.uint8), np.ones((3, 3))) > 0
    assert abs(turned[0].permute(1, 2, 0).numpy() - expected)[is_inside].max() < 5e-3
    assert (found[0].numpy() == exact).mean() > 0.98


def test_image_and_label_turn_about_the_same_point() -> None:
    labels = land(16, 72, 72, seed=2)
    images, found = rotate(labels[:, None].float(), labels, torch.linspace(-3, 3, 16))
    found, image = found.numpy(), images[:, 0].numpy()
    flat = np.stack([(cv2.dilate(item, np.ones((5, 5))) == cv2.erode(item, np.ones((5, 5)))) & (item != IGNORE_INDEX) for item in found])
    assert flat.mean() > 0.15
    assert np.allclose(image[flat], found[flat], atol=1e-3)
    is_labelled = found != IGNORE_INDEX
    # Bilinear and nearest may part only where fields meet; a shift of one pixel would double this.
    assert (np.rint(image)[is_labelled] != found[is_labelled]).mean() < 0.2


def test_no_rotation_is_no_change() -> None:
    labels = land(2, 31, 50)
    images = torch.rand(2, 3, 31, 50)
    turned, found = rotate(images, labels, torch.zeros(2))
    assert torch.allclose(turned, images, atol=1e-4) and torch.equal(found, labels)


def test_exposed_pixels_of_the_image_hold_the_image_and_no_black() -> None:
    images = torch.full((4, 2, 40, 56), 90.0)
    turned, _ = rotate(images, land(4, 40, 56), torch.tensor([0.3, -0.7, 1.5, 3.0]))
    assert torch.allclose(turned, images, atol=1e-2)


def test_rotation_draws_stay_within_the_limit() -> None:
    labels = torch.zeros(64, 41, 41, dtype=torch.uint8)
    labels[:, 20, 25:41] = 1
    _, found = draw(labels[:, None], labels, AugmentConfig(flips=False, quarter_turns=False, rotation_deg=20))
    angles = []
    for tile in found.numpy():
        rows, cols = np.nonzero(tile == 1)
        angles.append(math.degrees(math.atan2(20 - rows.mean(), cols.mean() - 20)))
    assert max(angles) < 21 and min(angles) > -21 and max(angles) > 15 and min(angles) < -15


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.5])
def test_blur_is_opencvs(sigma: float) -> None:
    images = torch.rand(2, 5, 30, 44, generator=torch.Generator().manual_seed(0))
    found = blur(images, torch.full((2,), sigma))
    for tile, blurred in zip(images, found, strict=True):
        for band, result in zip(tile.numpy(), blurred.numpy(), strict=True):
            expected = cv2.GaussianBlur(band, (9, 9), sigma, borderType=cv2.BORDER_REPLICATE)
            assert abs(result - expected).max() < 1e-4


def test_blur_touches_its_share_of_images_and_no_label() -> None:
    keys = tile_keys([f"{i}" for i in range(1000)])
    images = torch.rand(1000, 1, 8, 8)
    labels = torch.randint(0, 5, (1000, 8, 8), dtype=torch.uint8)
    found, same = draw(images, labels, AugmentConfig(flips=False, quarter_turns=False, blur=0.3), keys)
    assert torch.equal(labels, same)
    assert 250 < int((found != images).flatten(1).any(1).sum()) < 350


def test_nothing_asked_is_nothing_done() -> None:
    labels = land(3, 9, 12)
    images = (labels[:, None] * 2).to(torch.uint8)
    found_images, found_labels = draw(images, labels, NONE)
    assert torch.equal(found_images, images) and torch.equal(found_labels, labels) and found_images.dtype == torch.uint8
