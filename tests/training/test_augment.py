"""A tile is changed alike in whatever batch it comes, image and label together, and only as the settings say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from landseg.core.classes import IGNORE_INDEX
from landseg.core.settings import AugmentConfig
from landseg.training import augment as module
from landseg.training.augment import Bands, augment
from landseg.training.choices import Choices
from landseg.training.draws import tile_keys

KEYS = tile_keys([f"tile {i}" for i in range(1000)])
STILL = {"flips": False, "quarter_turns": False}
NONE = AugmentConfig(**STILL)
SHARES = ("blur", "sharpen", "noise", "haze", "shadow", "band_dropout", "cutout")
STRENGTHS = ("brightness", "contrast", "tint", "gamma", "saturation", "hue_deg")
ALL = AugmentConfig(
    warp=0.7,
    rotation_deg=30,
    scale=(0.7, 1.4),
    aspect=1.2,
    shear_deg=10,
    shift=0.1,
    **dict.fromkeys(SHARES, 0.5),
    **dict.fromkeys(STRENGTHS, 0.5),
)


def bands(count: int, low: float = 0, high: float = 255) -> Bands:
    span = high - low
    return Bands((low + span / 2,) * count, (span / 5,) * count, (low,) * count, (high,) * count, count == 3)


def tiles(count: int, size: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, height, width, size), generator=generator).permute(0, 3, 1, 2).to(dtype)
    return images, torch.randint(0, 5, (count, height, width), generator=generator, dtype=torch.uint8)


def draw(
    images: Tensor, labels: Tensor, config: AugmentConfig, of: Bands | None = None, chosen: list[int] | None = None, epoch: int = 0
) -> tuple[Tensor, Tensor]:
    keys = KEYS[: len(images)] if chosen is None else KEYS[chosen]
    return augment(images, labels, config, of or bands(images.shape[1]), seed=0, epoch=epoch, keys=keys)


def only(name: str, strength: float = 1.0) -> AugmentConfig:
    return AugmentConfig(**STILL, **{name: strength})


@pytest.mark.parametrize(("size", "dtype"), [(3, torch.uint8), (4, torch.int16), (1, torch.int32), (5, torch.float32)])
@pytest.mark.parametrize(("height", "width"), [(37, 37), (20, 33)])
def test_a_tile_is_changed_alike_in_every_batch(size: int, dtype: torch.dtype, height: int, width: int) -> None:
    images, labels = tiles(12, size, height, width, dtype)
    whole = [draw(images, labels, ALL, epoch=epoch) for epoch in range(2)]

    @settings(max_examples=12, deadline=None)
    @given(st.permutations(range(12)), st.integers(1, 12), st.integers(0, 1))
    def check(order: list[int], count: int, epoch: int) -> None:
        chosen = order[:count]
        some_images, some_labels = draw(images[chosen], labels[chosen], ALL, chosen=chosen, epoch=epoch)
        assert torch.equal(some_labels, whole[epoch][1][chosen])
        assert some_images.dtype == whole[epoch][0].dtype == torch.float32
        assert torch.equal(some_images, whole[epoch][0][chosen])

    check()


@pytest.mark.parametrize("name", [*SHARES, *STRENGTHS])
def test_each_change_alone_is_alike_in_every_batch_and_moves_no_label(name: str) -> None:
    images, labels = tiles(7, 3, 23, 29, torch.uint8)
    found, same = draw(images, labels, only(name, 0.6))
    for k in range(7):
        alone = draw(images[k : k + 1], labels[k : k + 1], only(name, 0.6), chosen=[k])
        assert torch.equal(alone[0][0].float(), found[k].float()) and torch.equal(alone[1][0], same[k])
    is_kept = same == labels
    assert is_kept.all() if name != "cutout" else (same[~is_kept] == IGNORE_INDEX).all()
    assert (found != images).any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_where_few_tiles_are_changed_and_the_mean_is_no_whole_number_a_tile_is_alike_in_every_batch(dtype: torch.dtype) -> None:
    config, of = AugmentConfig(warp=0.3, rotation_deg=30, blur=0.3, cutout=0.5), bands(3)
    images, labels = tiles(24, 3, 16, 16, dtype)
    found, found_labels = draw(images, labels, config, of)
    kinds = set()
    for k in range(24):
        alone, alone_label = draw(images[k : k + 1], labels[k : k + 1], config, of, chosen=[k])
        assert torch.equal(alone[0].float(), found[k].float()) and torch.equal(alone_label[0], found_labels[k])
        kinds.add((alone.dtype, bool((alone_label == IGNORE_INDEX).any())))
    assert found.dtype == torch.float32 and {(dtype, False), (dtype, True)} <= kinds, "some are not changed but cut out"
    with_fractions, ids = draw(images.float(), labels, only("cutout"), of)
    assert (with_fractions[:, 0][ids == IGNORE_INDEX] == 127.5).all(), "fractions are not rounded"


def test_the_number_of_threads_changes_nothing_and_stays() -> None:
    images, labels = tiles(5, 3, 120, 130, torch.uint8)
    alone = draw(images, labels, ALL)
    try:
        torch.set_num_threads(3)
        found = draw(images, labels, ALL)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert torch.equal(found[0], alone[0]) and torch.equal(found[1], alone[1])


def test_a_whole_batch_at_once_as_on_a_gpu_is_the_same_to_rounding() -> None:
    images, labels = tiles(9, 3, 21, 30)
    images[:, 1, 3:5] = torch.nan
    still = ALL.model_copy(update={"flips": False, "quarter_turns": False, "warp": 0.0, "cutout": 0.0})
    steps = module._steps(still, Choices(0, 0, KEYS[:9]), bands(3))
    found = module._change(images.clone(), np.arange(9), steps, bands(3), True)
    assert torch.allclose(found, draw(images, labels, still)[0], atol=1e-2, equal_nan=True)


def test_epochs_and_seeds_draw_anew() -> None:
    images, labels = tiles(64, 3, 16, 16)
    base = draw(images, labels, ALL)[0]
    assert torch.equal(base, draw(images, labels, ALL)[0])
    others = [draw(images, labels, ALL, epoch=1), augment(images, labels, ALL, bands(3), seed=1, epoch=0, keys=KEYS[:64])]
    assert all((base != other).flatten(1).any(1).float().mean() > 0.9 for other, _ in others)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
def test_nothing_asked_is_nothing_done_nor_copied(dtype: torch.dtype) -> None:
    images, labels = tiles(3, 4, 9, 12, dtype)
    found = draw(images, labels, NONE)
    assert found[0] is images and found[1] is labels


@pytest.mark.parametrize("config", [ALL, AugmentConfig(), only("cutout"), only("haze"), AugmentConfig(warp=0.5, shift=0.2)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_arguments_are_left_as_they_were(config: AugmentConfig, dtype: torch.dtype) -> None:
    images, labels = tiles(8, 3, 16, 16, dtype)
    before = images.clone(), labels.clone()
    draw(images, labels, config)
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])


def test_moving_and_cutting_keeps_the_type() -> None:
    images, labels = tiles(20, 2, 16, 16, torch.uint8)
    found, _ = draw(images, labels, AugmentConfig(cutout=1.0))
    assert found.dtype == torch.uint8


@pytest.mark.parametrize("name", SHARES)
def test_a_share_of_tiles_is_changed(name: str) -> None:
    images, labels = tiles(1000, 3, 8, 8)
    found, _ = draw(images, labels, only(name, 0.3))
    assert 240 < int((found != images).flatten(1).any(1).sum()) < 360


@pytest.mark.parametrize("size", [1, 2, 9])
def test_results_stay_within_the_limits_of_the_bands(size: int) -> None:
    images, labels = tiles(40, size, 12, 12, torch.int32)
    strong = AugmentConfig(**dict.fromkeys(STRENGTHS, 3.0), noise=1, sharpen=1, haze=0.5, shadow=0.5)
    found, _ = draw(images * 100, labels, strong, bands(size, 0, 25_500))
    assert found.min() == 0 and found.max() == 25_500 and torch.isfinite(found).all()
    unbounded = Bands((12_750.0,) * size, (5000.0,) * size, (-math.inf,) * size, (math.inf,) * size, False)
    found, _ = draw(images * 100, labels, strong, unbounded)
    assert found.min() < 0 and found.max() > 25_500 and torch.isfinite(found).all()


@pytest.mark.parametrize("name", [*SHARES, *STRENGTHS])
def test_missing_values_stay_missing_where_they_are(name: str) -> None:
    images, labels = tiles(6, 3, 20, 20)
    missing = torch.zeros_like(images, dtype=torch.bool)
    missing[:, 0, 5, 6] = missing[:, 2, 10:15, 10:15] = True
    gapped = images.masked_fill(missing, torch.nan)
    gapped[:, 0, 5, 6] = torch.inf
    found, found_labels = draw(gapped, labels, only(name))
    is_uncut = (found_labels != IGNORE_INDEX)[:, None].expand_as(missing)
    assert torch.equal(~torch.isfinite(found)[is_uncut], missing[is_uncut])
    # The network sees the mean there, so what is computed from the values around is as if it were the mean.
    filled, _ = draw(images.masked_fill(missing, bands(3).mean[0]), labels, only(name))
    assert torch.equal(found[~missing], filled[~missing])


def test_a_cut_out_rectangle_holds_the_mean_and_is_ignored() -> None:
    images, labels = tiles(200, 2, 30, 50, torch.uint8)
    of = Bands((7.0, 9.0), (1.0, 1.0), (0.0, 0.0), (255.0, 255.0), False)
    found, found_labels = draw(images, labels, only("cutout"), of)
    sizes = []
    for k in range(200):
        rows, cols = np.nonzero(found_labels[k].numpy() == IGNORE_INDEX)
        taken = slice(rows.min(), rows.max() + 1), slice(cols.min(), cols.max() + 1)
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(cols) + 1) <= 30 * 50 / 4
        assert (found[k, 0][taken] == 7).all() and (found[k, 1][taken] == 9).all()
        is_kept = found_labels[k] != IGNORE_INDEX
        assert torch.equal(found[k][:, is_kept], images[k][:, is_kept]) and torch.equal(found_labels[k][is_kept], labels[k][is_kept])
        sizes.append((len(rows), rows.min(), rows.max(), cols.min(), cols.max()))
    size, top, bottom, left, right = zip(*sizes, strict=True)
    assert max(size) > 300 and min(size) < 60
    assert min(top) == 0 and max(bottom) == 29 and min(left) == 0 and max(right) == 49


def test_one_band_of_each_tile_is_dropped_and_never_the_only_one() -> None:
    images, labels = tiles(60, 4, 8, 8)
    found, _ = draw(images, labels, only("band_dropout"))
    is_mean = (found == bands(4).mean[0]).flatten(2).all(2)
    assert (is_mean.sum(1) == 1).all() and is_mean.any(0).all()
    alone, _ = draw(images[:, :1], labels, only("band_dropout"))
    assert torch.equal(alone, images[:, :1])


def test_shadow_darkens_and_haze_brightens_and_greys() -> None:
    images, labels = tiles(100, 3, 32, 32)
    shadowed, _ = draw(images, labels, only("shadow"))
    assert (shadowed <= images + 1e-3).all()
    share = (shadowed < images - 1).flatten(1).float().mean(1)
    assert share.min() < 0.3 and share.max() > 0.6
    hazy, _ = draw(images, labels, only("haze"))
    assert hazy.mean() > images.mean() + 10 and (hazy.flatten(1).std(1) < images.flatten(1).std(1)).all()


def test_image_and_label_stay_together_through_everything_that_moves() -> None:
    labels = (torch.arange(64 * 64).view(64, 64) // (8 * 64) * 20 + torch.arange(64) // 8 * 2).to(torch.uint8)[None].repeat(12, 1, 1)
    moving = AugmentConfig(rotation_deg=180, scale=(0.8, 1.5), aspect=1.2, shear_deg=10, shift=0.2)
    found, found_labels = draw(labels[:, None], labels, moving, bands(1))
    inside = found_labels != IGNORE_INDEX
    far = abs(found[:, 0] - found_labels.float())[inside] > 1e-2
    assert 0.2 < inside.float().mean() < 1 and far.float().mean() < 0.45, "they may part at the borders of the squares alone"
    shown = set(found_labels[inside].unique().tolist())
    assert shown <= set(labels.unique().tolist()) and len(shown) == 64


@pytest.mark.parametrize("size", [1, 3, 12])
def test_a_single_tile_of_any_size_passes(size: int) -> None:
    everything = ALL.model_copy(update=dict.fromkeys(SHARES, 1.0))
    for height, width in ((1, 1), (1, 7), (5, 2), (33, 64)):
        images, labels = tiles(1, size, height, width, torch.uint8)
        found, found_labels = draw(images, labels, everything)
        assert found.shape == images.shape and found_labels.shape == labels.shape and torch.isfinite(found).all()
