"""Groups are never divided, parts are as large as was asked and as like the whole as can be, and the seed decides alone."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core.errors import LandsegError
from landseg.splitting.groups import Assignment, assign, deviation


def tiles(count: int) -> list[str]:
    return [f"tile {i}" for i in range(count)]


def invented(count: int, seed: int = 0, classes: int = 5, smallest: int = 8, largest: int = 40) -> tuple[list[str], np.ndarray]:
    """Groups of different size and look: names a tile, and labelled pixels a tile and class."""
    rng = np.random.Generator(np.random.PCG64(seed))
    sizes = rng.integers(smallest, largest + 1, count)
    shares = rng.dirichlet(rng.dirichlet(np.ones(classes)) * 3 + 0.05, count)
    pixels = np.repeat(shares, sizes, axis=0) * rng.uniform(30_000, 65_536, (int(sizes.sum()), 1))
    return np.repeat([f"scene {i:05d}" for i in range(count)], sizes).tolist(), pixels.astype(np.int64)


def counts(assignment: Assignment) -> Counter[str]:
    return Counter(assignment.parts)


@pytest.mark.parametrize(
    ("count", "val", "test", "expected"),
    [
        (1000, 0.1, 0.0, {"train": 900, "val": 100}),
        (1000, 0.05, 0.15, {"train": 800, "val": 50, "test": 150}),
        (2, 0.1, 0.0, {"train": 1, "val": 1}),
        (3, 0.01, 0.01, {"train": 1, "val": 1, "test": 1}),
        (10, 0.29, 0.0, {"train": 7, "val": 3}),
        (30, 0.1, 0.1, {"train": 24, "val": 3, "test": 3}),
    ],
)
def test_tiles_on_their_own_give_the_shares(count: int, val: float, test: float, expected: dict[str, int]) -> None:
    for seed in range(3):
        assert counts(assign(tiles(count), val, test, seed)) == expected


def test_the_seed_decides_and_nothing_else() -> None:
    names = tiles(200)
    assert assign(names, 0.2, 0.1, 5) == assign(names, 0.2, 0.1, 5)
    assert len({assign(names, 0.2, 0.1, seed).parts for seed in range(8)}) == 8


@pytest.mark.parametrize("count", [20, 300])
def test_the_order_of_the_tiles_does_not_matter(count: int) -> None:
    groups, pixels = invented(count)
    forward = dict(zip(groups, assign(groups, 0.2, 0.2, 1, class_pixels=pixels).parts, strict=True))
    backward = dict(zip(groups[::-1], assign(groups[::-1], 0.2, 0.2, 1, class_pixels=pixels[::-1]).parts, strict=True))
    assert forward == backward


def test_every_tile_is_in_val_for_some_seed() -> None:
    names = tiles(12)
    seen = {name for seed in range(60) for name, part in zip(names, assign(names, 0.2, 0, seed).parts, strict=True) if part == "val"}
    assert seen == set(names)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([f"g{i}" for i in range(9)]), min_size=1, max_size=60),
    st.floats(0.01, 0.98), st.just(0.0) | st.floats(0.01, 0.98), st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_groups_are_never_divided_and_no_part_is_empty(groups: list[str], val: float, test: float, seed: int) -> None:
    if val + test >= 1:
        with pytest.raises(LandsegError):
            assign(groups, val, test, seed)
        return
    wanted = {"train", "val"} | ({"test"} if test else set())
    if len(set(groups)) < len(wanted):
        with pytest.raises(LandsegError, match="group"):
            assign(groups, val, test, seed)
        return
    parts = assign(groups, val, test, seed).parts
    assert len(set(zip(groups, parts, strict=True))) == len(set(groups))
    assert set(parts) == wanted


def test_class_shares_of_few_groups_come_as_near_as_any_assignment_does() -> None:
    """Held against every one of the assignments whose val is within a fiftieth of what was asked."""
    groups, pixels = invented(12, seed=3)
    names = sorted(set(groups))
    own = np.array(groups)
    sizes, amounts = np.array([(own == name).sum() for name in names]), np.array([pixels[own == name].sum(0) for name in names])
    target = 0.3 * len(groups)
    possible = []
    for chosen in product((False, True), repeat=len(names)):
        inside = np.array(chosen)
        if abs(sizes[inside].sum() / target - 1) <= 0.02:
            possible.append(deviation(amounts[inside].sum(0), amounts.sum(0)))
    found = assign(groups, 0.3, 0.0, 0, class_pixels=pixels)
    assert abs(counts(found)["val"] / target - 1) <= 0.03
    assert len(possible) > 50
    assert found.deviation["val"] <= np.quantile(possible, 0.05)


def test_class_shares_of_dozens_of_groups_are_within_two_points() -> None:
    groups, pixels = invented(45, seed=1)
    for seed in range(3):
        found = assign(groups, 0.1, 0.0, seed, class_pixels=pixels)
        assert found.deviation["val"] < 0.02 and found.deviation["train"] < 0.005
        assert abs(counts(found)["val"] / len(groups) - 0.1) < 0.005
        assert found.compromises == ()
    by_lot = [assign(groups, 0.1, 0.0, seed).parts for seed in range(5)]
    assert min(deviation(pixels[np.array(parts) == "val"].sum(0), pixels.sum(0)) for parts in by_lot) > 0.02


def test_thousands_of_groups_are_quick_and_nearly_exact() -> None:
    groups, pixels = invented(5000, smallest=1, largest=12)
    found = assign(groups, 0.1, 0.05, 0, class_pixels=pixels)
    assert max(found.deviation.values()) < 0.001
    assert abs(counts(found)["val"] / len(groups) - 0.1) < 0.001


def test_the_deviation_is_that_of_the_parts() -> None:
    groups, pixels = invented(10, seed=5)
    found = assign(groups, 0.2, 0.2, 0, class_pixels=pixels)
    parts, whole = np.array(found.parts), pixels.sum(0) / pixels.sum()
    for part in ("train", "val", "test"):
        inside = pixels[parts == part].sum(0)
        assert found.deviation[part] == pytest.approx(np.abs(inside / inside.sum() - whole).max())


@pytest.mark.parametrize("test", [0.0, 0.15])
def test_folds_hold_every_tile_once_and_are_alike(test: float) -> None:
    groups, pixels = invented(40, seed=2)
    found = assign(groups, 0.1, test, 0, folds=5, class_pixels=pixels)
    assert len(set(zip(groups, found.parts, strict=True))) == len(set(groups))
    sizes = counts(found)
    assert set(sizes) == {f"fold {k}" for k in range(1, 6)} | ({"test"} if test else set())
    for k in range(1, 6):
        assert sizes[f"fold {k}"] / len(groups) == pytest.approx((1 - test) / 5, rel=0.06)
        assert found.deviation[f"fold {k}"] < 0.06
    assert assign(groups, 0.7, test, 0, folds=5, class_pixels=pixels) == found, "val has no say where there are folds"


def test_unplaced_tiles_train_as_long_as_there_are_others() -> None:
    groups, pixels = invented(20, seed=4)
    alone = len(groups) // 2
    names = [*groups, *tiles(alone)]
    # What is unplaced would make val more like the whole: it is nearly all of one class.
    of_class = np.zeros((alone, pixels.shape[1]), np.int64)
    of_class[:, 0] = 60_000
    is_unplaced = np.arange(len(names)) >= len(groups)
    found = assign(names, 0.15, 0.1, 0, class_pixels=np.concatenate([pixels, of_class]), is_unplaced=is_unplaced)
    assert {part for part, unplaced in zip(found.parts, is_unplaced, strict=True) if unplaced} == {"train"}
    assert not any("recognised" in words for words in found.compromises)


def test_many_unplaced_tiles_train_too() -> None:
    names = [*(f"s{i // 20}" for i in range(10_000)), *(f"u{i}" for i in range(10_000))]
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 1000, (20_000, 5))
    found = assign(names, 0.1, 0.0, 0, class_pixels=pixels, is_unplaced=np.arange(20_000) >= 10_000)
    assert set(found.parts[10_000:]) == {"train"} and counts(found)["val"] == pytest.approx(2000, rel=0.02)
    assert found.compromises == ()


def test_unplaced_tiles_in_val_are_not_said_to_be_for_want_of_others_where_there_are_enough() -> None:
    names = ["scene"] * 900 + tiles(10)
    found = assign(names, 0.01, 0.0, 0, is_unplaced=np.arange(910) >= 900)
    assert any("do not fit" in words for words in found.compromises) and not any("not enough" in words for words in found.compromises)


def test_where_too_little_was_recognised_unplaced_tiles_fill_val_and_that_is_said() -> None:
    names = ["scene"] * 5 + tiles(95)
    found = assign(names, 0.2, 0.0, 0, is_unplaced=np.arange(100) >= 5)
    assert counts(found)["val"] == 20
    assert any("not recognised" in words for words in found.compromises)


def test_all_unplaced_is_a_split_by_lot() -> None:
    assert counts(assign(tiles(100), 0.1, 0.0, 0, is_unplaced=np.ones(100, bool))) == {"train": 90, "val": 10}


def test_unlabelled_tiles_are_spread_like_a_class() -> None:
    groups = [f"g{i // 4}" for i in range(400)]
    pixels = np.full((400, 2), 500)
    pixels[200:] = 0
    found = assign(groups, 0.2, 0.0, 0, class_pixels=pixels, tile_pixels=np.full(400, 1000))
    in_val = [i for i, part in enumerate(found.parts) if part == "val"]
    assert len(in_val) == 80 and sum(i >= 200 for i in in_val) == pytest.approx(40, abs=4)


def test_val_is_never_unlabelled_where_something_is_labelled() -> None:
    pixels = np.zeros((20, 3), np.int64)
    pixels[:2] = 100
    for seed in range(5):
        found = assign(tiles(20), 0.1, 0.0, seed, class_pixels=pixels, tile_pixels=np.full(20, 300))
        assert sum(part == "val" for part in found.parts[:2]) == 1


def test_labels_may_be_missing_altogether() -> None:
    found = assign(tiles(50), 0.2, 0.0, 0, class_pixels=np.zeros((50, 4), np.int64), tile_pixels=np.full(50, 64))
    assert counts(found) == {"train": 40, "val": 10} and found.deviation == {"train": 0.0, "val": 0.0}


def test_more_classes_than_groups_is_a_stated_compromise() -> None:
    pixels = np.eye(5, dtype=np.int64)[np.repeat(np.arange(5), 10) % 5] * 100
    groups = [f"g{i // 10}" for i in range(50)]
    found = assign(groups, 0.2, 0.2, 0, class_pixels=pixels.repeat(1, 0))
    assert set(found.parts) == {"train", "val", "test"}
    assert any("no pixel of" in words for words in found.compromises)


def test_a_group_too_large_for_val_trains_and_a_lone_alternative_is_said() -> None:
    groups = ["big"] * 100 + [f"small {i}" for i in range(10)]
    for seed in range(5):
        found = assign(groups, 0.05, 0.0, seed)
        assert set(found.parts[:100]) == {"train"} and counts(found)["val"] in (5, 6)
    halves = assign(["a"] * 50 + ["b"] * 50, 0.1, 0.0, 0)
    assert counts(halves) == {"train": 50, "val": 50}
    assert any("val holds 50.0% of the tiles, 10.0% was asked" in words for words in halves.compromises)


@pytest.mark.parametrize(
    ("groups", "test", "folds"), [(["one"] * 30, 0.0, None), (["a", "b"], 0.1, None), (["a", "b", "c"], 0.0, 4), ([], 0.0, None)]
)
def test_too_few_groups_say_how_many_are_needed(groups: list[str], test: float, folds: int | None) -> None:
    with pytest.raises(LandsegError, match=r"at least \d groups"):
        assign(groups, 0.1, test, 0, folds=folds)


@pytest.mark.parametrize(("val", "test"), [(0.0, 0.0), (1.0, 0.0), (-0.1, 0.0), (0.5, 0.5), (0.1, -0.1), (1.5, 0.0), (float("nan"), 0.0)])
def test_shares_that_are_none_are_refused(val: float, test: float) -> None:
    with pytest.raises(LandsegError, match="--val"):
        assign(tiles(10), val, test, 0)


@pytest.mark.parametrize(("folds", "test"), [(1, 0.0), (0, 0.0), (3, 1.0), (3, float("nan"))])
def test_folds_that_are_none_are_refused(folds: int, test: float) -> None:
    with pytest.raises(LandsegError, match="--folds"):
        assign(tiles(10), 0.1, test, 0, folds=folds)
