"""What is drawn for a batch stays within its limits, fills them, and belongs to the tile alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.training.choices import Choices
from landseg.training.draws import tile_keys

KEYS = tile_keys([f"tile {i}" for i in range(4000)])
ALL = Choices(0, 0, KEYS)


def test_numbers_are_even_within_their_limits() -> None:
    values = ALL.between(-3, 5, "x")
    assert values.min() >= -3 and values.max() < 5
    assert np.all(abs(np.histogram(values, 8, (-3, 5))[0] - 500) < 110)  # five deviations of a count
    assert abs(ALL.either_way(2, "x")).max() <= 2 and not ALL.either_way(0, "x").any()


def test_factors_double_as_often_as_they_halve() -> None:
    values = ALL.factor(0.5, 2, "x")
    assert values.min() >= 0.5 and values.max() <= 2
    assert abs((values > 1).mean() - 0.5) < 0.04 and abs((values > 2**0.5).mean() - 0.25) < 0.04


def test_a_share_is_met() -> None:
    assert abs(ALL.happens(0.3, "x").mean() - 0.3) < 0.04
    assert ALL.happens(1, "x").all() and not ALL.happens(0, "x").any()


def test_whole_numbers_come_alike() -> None:
    assert np.all(abs(np.bincount(ALL.whole(4, "x"), minlength=4) - 1000) < 140)
    assert ALL.whole(2**32, "x").max() > 2**31


def test_a_field_has_independent_knots() -> None:
    field = ALL.field(2, 3, "x")
    assert field.shape == (4000, 2, 3)
    assert abs(np.corrcoef(field.reshape(4000, 6).T) - np.eye(6)).max() < 0.08


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3999), min_size=1, max_size=20), st.integers(0, 9), st.integers(0, 9))
def test_a_tile_draws_the_same_in_any_batch(chosen: list[int], seed: int, epoch: int) -> None:
    some, whole = Choices(seed, epoch, KEYS[chosen]), Choices(seed, epoch, KEYS)
    assert np.array_equal(some.factor(0.5, 3, "x"), whole.factor(0.5, 3, "x")[chosen])
    assert np.array_equal(some.field(4, 4, "y"), whole.field(4, 4, "y")[chosen])
