"""Blocks of a large scene never touch across parts, and as few tiles as need be are left out between them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.splitting.blocks import LEAST, divide, settle


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rows, cols = (axis.ravel() for axis in np.mgrid[:height, :width])
    return rows, cols


def touching(rows: np.ndarray, cols: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of tiles that share an edge or a corner."""
    near = (abs(rows[:, None] - rows) <= 1) & (abs(cols[:, None] - cols) <= 1)
    return [(int(a), int(b)) for a, b in np.argwhere(near) if a < b]


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 26), st.integers(8, 26), st.floats(0, 0.3), st.integers(0, 2**31 - 1))
def test_tiles_of_two_parts_never_touch(height: int, width: int, missing: float, seed: int) -> None:
    rng = np.random.Generator(np.random.PCG64(seed))
    rows, cols = grid(height, width)
    kept = rng.random(len(rows)) >= missing
    rows, cols = rows[kept], cols[kept]
    scene = np.zeros(len(rows), np.int64)
    block = divide(scene, rows, cols, 0.1)
    part_of = np.where(rng.random(int(block.max()) + 1) < 0.3, "val", "train")
    parts = ["" if b < 0 else str(part_of[b]) for b in block]
    joined = settle(parts, scene, rows, cols, block)
    settled = ["" if k < 0 else parts[k] for k in joined]
    assert all(new == old for new, old in zip(settled, parts, strict=True) if old), "blocks keep their part"
    for a, b in touching(rows, cols):
        assert not settled[a] or not settled[b] or settled[a] == settled[b]
        assert block[a] < 0 or block[b] < 0 or block[a] == block[b]


def test_nothing_is_left_out_where_all_blocks_are_in_one_part() -> None:
    rows, cols = grid(20, 20)
    scene = np.zeros(400, np.int64)
    block = divide(scene, rows, cols, 0.1)
    joined = settle(["" if b < 0 else "train" for b in block], scene, rows, cols, block)
    assert (joined >= 0).all() and (block < 0).any()


def test_blocks_are_about_a_fortieth_of_the_tiles() -> None:
    rows, cols = grid(50, 50)
    block = divide(np.zeros(2500, np.int64), rows, cols, 0.1)
    sizes = np.bincount(block[block >= 0])
    assert sizes.min() >= 40 and sizes.max() <= 81 and len(sizes) >= 25


def test_scenes_that_fit_a_part_stay_whole() -> None:
    rows, cols = (np.tile(axis, 12) for axis in grid(10, 10))
    scene = np.repeat(np.arange(12), 100)
    assert (divide(scene, rows, cols, 0.1) == 0).all()
    assert (divide(scene, rows, cols, 0.05) < 0).any()


@pytest.mark.parametrize("count", [1, 2, 36, LEAST - 1])
def test_a_small_scene_stays_whole_even_when_it_is_all_there_is(count: int) -> None:
    rows, cols = grid(count, 1)
    assert (divide(np.zeros(count, np.int64), rows, cols, 0.1) == 0).all()


def test_a_scene_without_places_stays_whole() -> None:
    unknown = np.full(400, -1)
    assert (divide(np.zeros(400, np.int64), unknown, unknown, 0.1) == 0).all()


def test_a_tile_without_a_place_in_a_divided_scene_is_left_out() -> None:
    rows, cols = grid(20, 20)
    rows[7] = cols[7] = -1
    scene = np.zeros(400, np.int64)
    block = divide(scene, rows, cols, 0.1)
    joined = settle(["" if b < 0 else "train" for b in block], scene, rows, cols, block)
    assert block[7] == -1 and joined[7] == -1


def test_a_tile_between_blocks_goes_where_what_shows_its_ground_is_or_nowhere() -> None:
    rows, cols = (np.append(axis, 0) for axis in grid(20, 20))
    scene = np.append(np.zeros(400, np.int64), 1)
    block = divide(scene, rows, cols, 0.1)
    between = np.flatnonzero(block < 0)
    pairs = np.array([(between[0], 400), (401 - 1, between[1])])
    for part, expected in (("val", False), ("train", True)):
        parts = ["" if b < 0 else "train" for b in block[:400]] + [part]
        joined = settle(parts, scene, rows, cols, block, pairs)
        assert ((joined[between[:2]] >= 0) == expected).all() and (joined[between[2:]] >= 0).all()
        assert 400 not in joined[:400], "it keeps the group of its block"


def test_several_tiles_in_a_cell_make_no_larger_blocks() -> None:
    rows, cols = (np.tile(axis, 10) for axis in grid(16, 16))
    block = divide(np.zeros(2560, np.int64), rows, cols, 0.1)
    assert block.max() + 1 >= 9
    few = [np.tile(axis, 30) for axis in grid(3, 5)]
    assert divide(np.zeros(450, np.int64), *few, 0.1).max() > 0, "a small area with many dates is divided too"


def test_a_scene_of_most_tiles_is_divided_whatever_share_is_asked() -> None:
    rows, cols = grid(30, 30)
    assert (divide(np.zeros(900, np.int64), rows, cols, 1.2) < 0).any()
