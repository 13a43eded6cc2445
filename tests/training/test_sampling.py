"""An epoch keeps its length; tiles of rare classes come as often as the formula says, on average and nearly so in each epoch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core.settings import SampleConfig
from landseg.data.packing import Entry
from landseg.training.draws import tile_keys
from landseg.training.sampling import class_pixels, copies, factors, with_labels

FACTORS = st.lists(st.floats(1, 100), min_size=1, max_size=60)


def entries(counts: list[tuple[int, ...]]) -> list[Entry]:
    return [Entry(f"tile {i}", 0, 0, 10, 10, "", "", pixels) for i, pixels in enumerate(counts)]


def keys(count: int) -> np.ndarray:
    return tile_keys([f"tile {i}" for i in range(count)])


def test_tiles_without_a_label_are_left_out() -> None:
    found = entries([(5, 0), (0, 0), (0, 1), (0, 0), ()])
    assert with_labels(found, [4, 3, 2, 1], SampleConfig()) == [4, 2], "who was not counted may have labels"
    assert with_labels(found, [4, 3, 2, 1], SampleConfig(drop_unlabelled=False)) == [4, 3, 2, 1]
    assert with_labels(found, [1, 3], SampleConfig()) == [1, 3], "else nothing would be left"


def test_pixels_are_those_of_the_tiles_asked_for() -> None:
    found = entries([(5, 0, 1), (10, 20, 30), (1, 2, 3)])
    assert class_pixels(found, [0, 2]) == [6, 2, 4]


def test_a_tile_is_wanted_as_its_rarest_class_is_and_by_how_much_of_it_there_is() -> None:
    found = entries([(900, 0, 0, 0), (9, 80, 0, 0), (1, 0, 9, 0), (90, 20, 1, 0), (0, 0, 0, 0), (999, 0, 0, 99)])
    wanted = factors(found, [0, 1, 2, 3, 4], SampleConfig(repeat=2.5, rare=0.1))
    shares = np.array([1000, 100, 10]) / 1110
    second = math.sqrt(0.1 / shares[1])
    of_third = 1 + 1.5 * (1 / 111) / (2.5 * shares[2])
    assert 1 < second < of_third
    assert wanted.tolist() == pytest.approx([1, second, 2.5, of_third, 1])
    assert factors(found, [0, 1], SampleConfig(repeat=100, rare=1.0))[1] == pytest.approx(math.sqrt(989 / 80))
    share = 99 / 1998
    assert factors(found, [0, 5], SampleConfig(repeat=100, rare=0.99 * share)).tolist() == [1, 1], "a class of that share is not rare"


@pytest.mark.parametrize("rare", [0.1, 0.5, 0.9])
def test_a_stray_pixel_does_not_make_a_tile_rare(rare: float) -> None:
    """Else all ten would come alike, and the class as seldom as ever."""
    counts = [(65_535, 1)] * 9 + [(32_768, 32_768)]
    wanted = factors(entries(counts), range(10), SampleConfig(repeat=4.0, rare=rare))
    full = min(4.0, math.sqrt(rare / (32_777 / 655_360)))
    assert wanted[9] == pytest.approx(full) and full > 1.4
    assert (wanted[:9] < 1.001).all() and (wanted[:9] >= 1).all()
    drawn = sum(copies(wanted, 0, epoch, keys(10))[9] for epoch in range(300)) / 300
    assert drawn == pytest.approx(10 * full / (9 + full), abs=0.05)


def test_the_share_of_a_rare_class_rises_where_nearly_every_tile_holds_a_little() -> None:
    """A landscape: 95 tiles with a speckle of the third class each, five where it is a third."""
    rng = np.random.default_rng(0)
    counts = [(6000 + int(rng.integers(900)), 3000, int(rng.integers(1, 30))) for _ in range(95)] + [(4000, 3000, 3500)] * 5
    wanted = factors(entries(counts), range(100), SampleConfig(repeat=3.0))
    pixels = np.array(counts)
    before, after = (found[2] / found.sum() for found in (pixels.sum(0), (pixels * wanted[:, None]).sum(0)))
    assert before == pytest.approx(0.02, abs=0.005) and after > 1.8 * before


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 1000)] * 3), min_size=1, max_size=20), st.floats(1.5, 100), st.floats(0.01, 1), st.integers(1, 50)
)
def test_it_depends_on_shares_alone_and_stays_between_one_and_repeat(
    counts: list[tuple[int, ...]], repeat: float, rare: float, times: int
) -> None:
    sample = SampleConfig(repeat=repeat, rare=rare)
    wanted = factors(entries(counts), range(len(counts)), sample)
    assert (wanted >= 1).all() and (wanted <= repeat * (1 + 1e-12)).all()
    finer = factors(entries([tuple(times * count for count in pixels) for pixels in counts]), range(len(counts)), sample)
    np.testing.assert_allclose(finer, wanted, rtol=1e-9)


def test_nothing_is_rare_in_a_set_of_one_class_or_that_nobody_counted() -> None:
    assert factors(entries([(10,), (20,), (0,)]), [0, 1, 2], SampleConfig(repeat=9)).tolist() == [1, 1, 1]
    assert factors(entries([(), ()]), [0, 1], SampleConfig(repeat=9)).tolist() == [1, 1]


@settings(max_examples=200, deadline=None)
@given(FACTORS, st.integers(0, 5), st.integers(0, 50))
def test_an_epoch_keeps_its_length_and_each_tile_comes_as_often_as_wanted_but_for_rounding(
    wanted: list[float], seed: int, epoch: int
) -> None:
    count = len(wanted)
    found = copies(np.array(wanted), seed, epoch, keys(count))
    expected = np.array(wanted) * count / sum(wanted)
    assert found.sum() == count and found.min() >= 0
    assert (np.abs(found - expected) < 1 + 1e-9).all()


def test_over_many_epochs_each_tile_comes_as_often_as_wanted() -> None:
    wanted = np.array([1.0] * 30 + [1.5] * 6 + [4.0] * 4)
    found = np.mean([copies(wanted, 1, epoch, keys(40)) for epoch in range(2000)], axis=0)
    np.testing.assert_allclose(found, wanted * 40 / wanted.sum(), atol=0.06)


def test_neighbours_in_the_list_are_not_tied_to_each_other() -> None:
    """Systematic sampling in one order would never draw two tiles that follow each other where each comes every second time."""
    wanted = np.array([1.0] * 20 + [3.0] * 20)
    both = sum(bool((copies(wanted, 0, epoch, keys(40))[:2] == 1).all()) for epoch in range(300))
    assert 40 < both < 110


def test_all_alike_is_each_tile_once() -> None:
    for epoch in range(20):
        assert (copies(np.full(37, 1.0), 3, epoch, keys(37)) == 1).all()


def test_the_draw_belongs_to_seed_epoch_and_tile_not_to_its_place() -> None:
    wanted = np.linspace(1, 5, 30)
    first = copies(wanted, 2, 7, keys(30))
    assert np.array_equal(first, copies(wanted, 2, 7, keys(30)))
    assert np.array_equal(first[::-1], copies(wanted[::-1], 2, 7, keys(30)[::-1]))
    assert len({copies(wanted, seed, epoch, keys(30)).tobytes() for seed in (0, 1) for epoch in range(5)}) == 10
