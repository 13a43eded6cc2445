"""Class weights keep the mean at 1 whatever the counts; a border's weight falls with the distance to it."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from landseg.core.classes import IGNORE_INDEX
from landseg.core.errors import LandsegError
from landseg.core.settings import LossConfig
from landseg.network.loss_weights import border_weights, class_weights

COUNTS = st.lists(st.integers(0, 10**12) | st.sampled_from([0, 1, 2]), min_size=1, max_size=12)


def weights(kind: str, counts: list[int]) -> list[float]:
    found = class_weights(LossConfig(class_weights=kind), len(counts), counts)  # type: ignore[arg-type]
    assert found is not None and found.dtype == torch.float32
    return found.tolist()


@pytest.mark.parametrize("kind", ["inverse", "effective"])
@settings(max_examples=200, deadline=None)
@given(counts=COUNTS)
def test_the_mean_weight_of_the_labelled_pixels_is_one_and_rarer_classes_weigh_more(kind: str, counts: list[int]) -> None:
    found = weights(kind, counts)
    assert all(math.isfinite(weight) and weight > 0 for weight in found)
    if sum(counts):
        assert sum(w * n for w, n in zip(found, counts, strict=True)) / sum(counts) == pytest.approx(1, rel=1e-4)
    present = sorted((n, w) for n, w in zip(counts, found, strict=True) if n)
    assert all(b[1] <= a[1] * (1 + 1e-5) for a, b in pairwise(present))
    assert all(w == 1.0 for n, w in zip(counts, found, strict=True) if not n), "a class without pixels weighs as the mean pixel"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(10**3, 10**6), min_size=2, max_size=6))
def test_only_the_shares_matter_not_the_resolution(counts: list[int]) -> None:
    for kind in ("inverse", "effective"):
        assert weights(kind, counts) == pytest.approx(weights(kind, [100 * n for n in counts]), rel=2e-3)


def test_inverse_is_one_over_the_share() -> None:
    assert weights("inverse", [80, 16, 4, 0]) == pytest.approx([100 / 80 / 3, 100 / 16 / 3, 100 / 4 / 3, 1.0])


def test_effective_is_inverse_among_the_rare_and_alike_among_the_frequent() -> None:
    found = weights("effective", [5_000_000, 4_000_000, 2_000, 1_000])
    assert found[3] / found[2] == pytest.approx(2, rel=1e-3)
    assert 1 < found[1] / found[0] < 1.1
    ratio = found[3] / found[0]
    assert 1_000 < ratio < 5_000, "less far apart than by inverse"


def test_none_and_lists() -> None:
    assert class_weights(LossConfig(), 3, None) is None
    found = class_weights(LossConfig(class_weights=(1.0, 0.0, 2.0)), 3, None)
    assert found is not None and found.tolist() == [1.0, 0.0, 2.0]


@pytest.mark.parametrize("kind", ["inverse", "effective"])
@pytest.mark.parametrize("counts", [None, [1, 2]])
def test_weights_of_what_nobody_counted_are_our_bug(kind: str, counts: list[int] | None) -> None:
    with pytest.raises(ValueError, match="must be counted"):
        class_weights(LossConfig(class_weights=kind), 3, counts)  # type: ignore[arg-type]


def test_a_list_that_does_not_fit_says_how_many_are_needed() -> None:
    with pytest.raises(LandsegError, match=r"loss\.class_weights: \[1\.0, 2\.0\], 3 numbers.*in the order of the ids"):
        class_weights(LossConfig(class_weights=(1.0, 2.0)), 3, None)
    with pytest.raises(LandsegError, match=r"\[-1\.0\], 1 number, none negative"):
        class_weights(LossConfig(class_weights=(-1.0,)), 1, None)


def world(seed: int) -> np.ndarray:
    """Three tiles of a few blobs, one of them with a hole of ignored pixels, one of a single class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.repeat(rng.integers(0, 3, (3, 4, 5)), 9, 1), 8, 2).astype(np.uint8)
    labels[1, 10:20, 5:30] = IGNORE_INDEX
    labels[2] = 1
    return labels


@pytest.mark.parametrize("distance", [0.5, 1.0, 3.0, 64.0])
def test_borders_weigh_by_the_euclidean_distance_to_them(distance: float) -> None:
    labels = world(1)
    found = border_weights(torch.from_numpy(labels), 4.0, distance).numpy()
    for tile, weight in zip(labels, found, strict=True):
        touches = np.zeros(tile.shape, bool)
        for r, c in np.ndindex(tile.shape):
            for y, x in ((r + 1, c), (r, c + 1)):
                if y < tile.shape[0] and x < tile.shape[1] and tile[r, c] != tile[y, x] and IGNORE_INDEX not in (tile[r, c], tile[y, x]):
                    touches[r, c] = touches[y, x] = True
        if not touches.any():
            assert (weight == 1).all()
            continue
        apart = distance_transform_edt(~touches)
        expected = 1 + 4 * np.exp(-((apart / distance) ** 2))
        is_near = apart <= 2.5 * distance
        np.testing.assert_allclose(weight[is_near], expected[is_near], rtol=1e-5)
        assert (weight[~is_near] <= 1 + 4 * math.exp(-(2.5**2))).all()


def test_the_ignored_make_no_border() -> None:
    labels = torch.zeros(1, 12, 12, dtype=torch.uint8)
    labels[0, 3:9, 3:9] = IGNORE_INDEX
    assert (border_weights(labels, 5.0, 3.0) == 1).all()
    labels[0, :, 10:] = 1
    assert border_weights(labels, 5.0, 3.0)[0, 5, 9:11].tolist() == [6.0, 6.0]


def test_a_tile_of_one_pixel_has_no_border() -> None:
    assert border_weights(torch.zeros(2, 1, 1, dtype=torch.uint8), 5.0, 64.0).tolist() == [[[1.0]], [[1.0]]]
