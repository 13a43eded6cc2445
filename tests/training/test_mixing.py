"""A mixed tile holds its own pixels and another's, each with its label, at its place; nothing else, and nothing without a label."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core.classes import IGNORE_INDEX
from landseg.core.settings import AugmentConfig
from landseg.training.draws import tile_keys, uniform
from landseg.training.mixing import half_of_classes, paste, pastes, rectangle

SHAPE = (12, 17)
KEY = tile_keys(["tile"])


def tile(number: int, shape: tuple[int, int] = SHAPE, classes: int = 6, dtype: str = "uint16") -> tuple[np.ndarray, np.ndarray]:
    """Number, row and column of each pixel in its bands; labels in blocks, a tenth of them ignored."""
    rng = np.random.default_rng(number)
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    label = np.repeat(np.repeat(rng.integers(0, classes, (shape[0] // 3 + 1, shape[1] // 3 + 1)), 3, 0), 3, 1)
    label = label[: shape[0], : shape[1]].astype(np.uint8)
    label[rng.random(shape) < 0.1] = IGNORE_INDEX
    return np.stack([np.full_like(rows, number), rows, cols], 2).astype(dtype), label


def mixed(
    way: AugmentConfig, number: int, other: tuple[np.ndarray, np.ndarray] | None = None, dtype: str = "uint16"
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Tile `number` with 7 mixed into it, and the purposes for which 7 was asked."""
    (image, label), asked = tile(number, dtype=dtype), []

    def partner(purpose: str) -> tuple[np.ndarray, np.ndarray]:
        asked.append(purpose)
        return other or tile(7, dtype=dtype)

    for another, is_copied in pastes(partner, lambda pair: pair[1], way, seed=1, epoch=2, key=tile_keys([f"tile {number}"])):
        paste(image, label, *another, is_copied)
    return image, label, asked


WAYS = [AugmentConfig(class_mix=1.0), AugmentConfig(cut_mix=1.0), AugmentConfig(class_mix=1.0, cut_mix=1.0)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("shape", [SHAPE, (5, 17), (12, 3), (1, 1)])
def test_every_pixel_is_of_the_tile_or_of_the_other_with_its_label_at_its_place(
    way: AugmentConfig, dtype: str, shape: tuple[int, int]
) -> None:
    other, copied = tile(7, shape, dtype=dtype), 0
    for number in range(20, 45):
        (own_image, own_label), (image, label, _) = tile(number, dtype=dtype), mixed(way, number, other, dtype)
        assert image.dtype == np.dtype(dtype) and label.dtype == np.uint8
        is_copied = image[..., 0] == 7
        assert np.array_equal(image[~is_copied], own_image[~is_copied]) and np.array_equal(label[~is_copied], own_label[~is_copied])
        assert not is_copied[shape[0] :].any() and not is_copied[:, shape[1] :].any()
        inside = is_copied[: shape[0], : shape[1]]
        assert np.array_equal(image[is_copied], other[0][inside]) and np.array_equal(label[is_copied], other[1][inside])
        assert (label[is_copied] != IGNORE_INDEX).all(), "what nobody has labelled is not copied"
        copied += int(is_copied.sum())
    assert copied or shape == (1, 1)


def test_class_mix_copies_whole_classes_half_of_them() -> None:
    other, drawn = tile(7)[1], set()
    present = sorted(set(other[other != IGNORE_INDEX].tolist()))
    assert len(present) == 6
    for number in range(20, 60):
        image, label, _ = mixed(WAYS[0], number)
        is_copied = image[..., 0] == 7
        classes = sorted(set(label[is_copied].tolist()))
        assert len(classes) == 3 and np.array_equal(is_copied, np.isin(other, classes))
        drawn.add(tuple(classes))
    assert len(drawn) > 12, "any three of six"


@pytest.mark.parametrize(("classes", "half"), [(0, 0), (1, 0), (2, 1), (3, 1), (5, 2)])
def test_of_an_odd_number_of_classes_the_smaller_half_is_taken(classes: int, half: int) -> None:
    label = np.full((4, 8), IGNORE_INDEX, np.uint8)
    label[0, :classes] = np.arange(classes) + 3
    assert int(half_of_classes(label, lambda _: 0.3).sum()) == half


def test_every_class_is_drawn_as_often_as_any() -> None:
    counts = np.zeros(6)
    for number in range(100, 500):
        image, label, _ = mixed(WAYS[0], number)
        counts[np.unique(label[image[..., 0] == 7])] += 1
    assert counts.min() > 150 and counts.max() < 250


def test_cut_mix_copies_one_rectangle() -> None:
    other, corners = tile(7)[1], set()
    for number in range(20, 80):
        is_copied = mixed(WAYS[1], number)[0][..., 0] == 7
        rows, cols = np.flatnonzero(is_copied.any(1)), np.flatnonzero(is_copied.any(0))
        if len(rows):
            box = np.zeros(SHAPE, bool)
            box[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] = True
            assert np.array_equal(is_copied, box & (other != IGNORE_INDEX))
            corners.add((rows[0], cols[0]))
    assert len(corners) > 20


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 0.999999), st.floats(0, 0.999999), st.floats(0, 0.999999))
def test_a_rectangle_lies_inside_and_has_the_area_drawn(height: int, width: int, area: float, row: float, col: float) -> None:
    draws = {"cut_mix area": area, "cut_mix 0": row, "cut_mix 1": col}
    found = rectangle(np.zeros((height, width), np.uint8), draws.__getitem__)
    sides = max(1, round(area**0.5 * height)), max(1, round(area**0.5 * width))
    assert found.shape == (height, width) and int(found.sum()) == sides[0] * sides[1]
    assert found.any(1).sum() == sides[0] and found.any(0).sum() == sides[1]


def test_rectangles_reach_every_pixel_and_cover_half_on_average() -> None:
    hits = np.zeros(SHAPE)
    for number in range(400):
        hits += rectangle(np.zeros(SHAPE, np.uint8), lambda purpose, n=number: float(uniform(0, n, KEY, purpose)[0]))  # type: ignore[misc]
    assert hits.min() > 0 and 0.44 < hits.mean() / 400 < 0.56


@pytest.mark.parametrize("share", [0.25, 0.7])
def test_the_share_of_tiles_is_that_which_was_asked_and_each_way_is_drawn_for_itself(share: float) -> None:
    asked = [mixed(AugmentConfig(class_mix=share, cut_mix=0.5), number)[2] for number in range(1000)]
    for way, expected in (("class_mix", share), ("cut_mix", 0.5)):
        assert np.mean([way in purposes for purposes in asked]) == pytest.approx(expected, abs=0.05)
    assert np.mean([len(purposes) == 2 for purposes in asked]) == pytest.approx(share / 2, abs=0.05)


def test_at_zero_nothing_is_asked_and_nothing_changes() -> None:
    for number in range(50):
        (own_image, own_label), (image, label, asked) = tile(number), mixed(AugmentConfig(), number)
        assert not asked and np.array_equal(image, own_image) and np.array_equal(label, own_label)


def test_the_other_tile_is_never_written_to() -> None:
    other = tile(7)
    for array in other:
        array.flags.writeable = False
    assert (mixed(WAYS[2], 3, other)[0][..., 0] == 7).any()
