"""Parts are drawn by a seed, hold what was asked of them, and never divide a group."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core.errors import LandsegError
from landseg.splitting.groups import assign


def tiles(count: int) -> list[str]:
    return [f"tile {i}" for i in range(count)]


@pytest.mark.parametrize(
    ("count", "val", "test", "expected"),
    [
        (1000, 0.1, 0.0, {"train": 900, "val": 100}),
        (1000, 0.05, 0.15, {"train": 800, "val": 50, "test": 150}),
        (2, 0.1, 0.0, {"train": 1, "val": 1}),
        (3, 0.01, 0.01, {"train": 1, "val": 1, "test": 1}),
        (9, 0.5, 0.0, {"train": 4, "val": 5}),
        (10, 0.29, 0.0, {"train": 7, "val": 3}),
        (30, 0.1, 0.1, {"train": 24, "val": 3, "test": 3}),
    ],
)
def test_tiles_on_their_own_give_the_shares(count: int, val: float, test: float, expected: dict[str, int]) -> None:
    for seed in range(5):
        assert Counter(assign(tiles(count), val, test, seed)) == expected


def test_the_seed_decides_and_nothing_else() -> None:
    names = tiles(200)
    assert assign(names, 0.2, 0.1, 5) == assign(names, 0.2, 0.1, 5)
    assert len({tuple(assign(names, 0.2, 0.1, seed)) for seed in range(20)}) == 20


def test_the_order_of_the_tiles_does_not_matter() -> None:
    names = tiles(50)
    forward = dict(zip(names, assign(names, 0.2, 0.2, 1), strict=True))
    backward = dict(zip(names[::-1], assign(names[::-1], 0.2, 0.2, 1), strict=True))
    assert forward == backward


def test_every_tile_is_in_val_for_some_seed() -> None:
    names = tiles(20)
    seen = {name for seed in range(150) for name, part in zip(names, assign(names, 0.1, 0, seed), strict=True) if part == "val"}
    assert seen == set(names)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([f"g{i}" for i in range(12)]), min_size=1, max_size=80),
    st.floats(0.01, 0.98), st.just(0.0) | st.floats(0.01, 0.98), st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_groups_are_never_divided_and_parts_are_as_close_as_they_can_be(groups: list[str], val: float, test: float, seed: int) -> None:
    if val + test >= 1:
        with pytest.raises(LandsegError):
            assign(groups, val, test, seed)
        return
    try:
        parts = assign(groups, val, test, seed)
    except LandsegError as error:
        assert "empty" in str(error)
        return
    pairs = set(zip(groups, parts, strict=True))
    assert len(pairs) == len(set(groups))
    sizes, part_of = Counter(groups), dict(pairs)
    for part, share in (("val", val), ("test", test)):
        filled, target = parts.count(part), share * len(groups)
        assert (filled > 0) == (share > 0)
        for group, size in sizes.items():
            if part_of[group] == "train" and share:
                assert abs(filled + size - target) >= abs(filled - target) - 1e-6


def test_a_large_group_does_not_swallow_a_small_share() -> None:
    groups = ["big"] * 100 + [f"small {i}" for i in range(10)]
    for seed in range(20):
        parts = assign(groups, 0.05, 0.0, seed)
        assert set(parts[:100]) == {"train"} and parts.count("val") in (5, 6)


@pytest.mark.parametrize(
    ("count", "val", "test", "found"),
    [
        (1, 0.1, 0.0, "train empty"),
        (3, 0.9, 0.0, "train empty"),
        (2, 0.1, 0.1, "train empty"),
        (1, 0.1, 0.1, "val"),
        (0, 0.1, 0.0, "empty"),
    ],
)
def test_too_few_tiles_say_which_part_stays_empty(count: int, val: float, test: float, found: str) -> None:
    with pytest.raises(LandsegError, match=found):
        assign(tiles(count), val, test, 0)


@pytest.mark.parametrize(("val", "test"), [(0.0, 0.0), (1.0, 0.0), (-0.1, 0.0), (0.5, 0.5), (0.1, -0.1), (1.5, 0.0), (float("nan"), 0.0)])
def test_shares_that_are_none_are_refused(val: float, test: float) -> None:
    with pytest.raises(LandsegError, match="--val"):
        assign(tiles(10), val, test, 0)
