"""Smoothed borders stay a coverage whatever the raster, keep what must stay, give no ground away, and are smoother."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st

from landseg.product.components import NOTHING, find_runs, label
from landseg.product.outlines import Outlines, trace
from landseg.product.smoothing import STEPS, border_length, smooth

CHECKERBOARD = np.indices((7, 9)).sum(0).astype(np.uint8) % 2
HOLES_IN_HOLES = np.array([[min(r, c, 8 - r, 8 - c) % 2 for c in range(9)] for r in range(9)], np.uint8)
PINCHED = np.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], np.uint8)
TOUCHES_ITSELF = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 1], [0, 1, 1, 1]], np.uint8)
NECK = np.array([[1] * 7, [1, 0, 0, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0, 1], [1, 0, 0, 1, 0, 0, 1], [1] * 7], np.uint8)
COMB = np.array([[c % 2 if 0 < r < 6 else 0 for c in range(9)] for r in range(7)], np.uint8)
ISLAND = np.pad(np.ones((1, 1), np.uint8), 2)
ISLANDS = np.where(np.indices((7, 7)).sum(0) % 3 == 0, NOTHING, HOLES_IN_HOLES[:7, :7]).astype(np.uint8)

rasters = arrays.arrays(np.uint8, st.tuples(st.integers(1, 10), st.integers(1, 10)), elements=st.sampled_from([0, 0, 1, 1, 2, NOTHING]))


def traced(values: np.ndarray) -> tuple[Outlines, Outlines]:
    runs = find_runs([values], *values.shape)
    labels, count = label(runs)
    outlines = trace(runs.with_labels(labels), count)
    return outlines, smooth(outlines)


@given(rasters)
@example(CHECKERBOARD)
@example(HOLES_IN_HOLES)
@example(PINCHED)
@example(TOUCHES_ITSELF)
@example(NECK)
@example(COMB)
@example(ISLAND)
@example(ISLANDS)
@example(np.zeros((3, 4), np.uint8))
@example(np.full((3, 4), NOTHING, np.uint8))
@settings(max_examples=250, deadline=None)
def test_a_coverage_stays_a_coverage(values: np.ndarray) -> None:
    outlines, smoothed = traced(values)
    before, after = outlines.polygons(), smoothed.polygons()
    assert len(after) == len(before) and shapely.is_valid(after).all() and shapely.coverage_is_valid(after)
    assert shapely.area(after).sum() == pytest.approx((values != NOTHING).sum(), rel=1e-12)
    # Where areas end at nothing, and where more than two borders meet, all is as it was.
    if len(before):
        assert shapely.union_all(after).equals(shapely.union_all(before))
    # A border leaves its place by less than half a pixel, and holes stay holes.
    for one, other in zip(before, after, strict=True):
        assert len(one.interiors) == len(other.interiors)
        assert shapely.hausdorff_distance(one.boundary, other.boundary) < np.sqrt(0.5)
    assert (smoothed.places * STEPS == np.rint(smoothed.places * STEPS)).all()


@given(rasters)
@settings(max_examples=100, deadline=None)
def test_the_middle_of_every_pixel_keeps_its_parcel(values: np.ndarray) -> None:
    outlines, smoothed = traced(values)
    before, after = outlines.polygons(), smoothed.polygons()
    rows, cols = np.nonzero(values != NOTHING)
    middles = shapely.points(cols + 0.5, rows + 0.5)
    for one, other in zip(before, after, strict=True):
        assert (shapely.contains(one, middles) == shapely.contains(other, middles)).all()


@given(rasters)
@example(TOUCHES_ITSELF)
@example(CHECKERBOARD)
@settings(max_examples=60, deadline=None)
def test_corners_where_more_than_two_borders_meet_stay(values: np.ndarray) -> None:
    """Also where one area touches itself at a corner: it does not grow together there."""
    runs = find_runs([values], *values.shape)
    labels, count = label(runs)
    ids = np.repeat(labels, runs.lengths).reshape(runs.height, runs.width)
    north, south = ids[:-1, 1:] != ids[:-1, :-1], ids[1:, 1:] != ids[1:, :-1]
    west, east = ids[1:, :-1] != ids[:-1, :-1], ids[1:, 1:] != ids[:-1, 1:]
    rows, cols = np.nonzero(north * 1 + south + west + east > 2)
    kept = {tuple(place) for place in smooth(trace(runs.with_labels(labels), count)).places.tolist()}
    assert set(zip(cols.astype(float).tolist(), rows.astype(float).tolist(), strict=True)) <= kept


def test_each_parcel_keeps_its_ground() -> None:
    rng = np.random.default_rng(2)
    values = np.kron(rng.integers(0, 3, (12, 12)), np.ones((9, 9), int)).astype(np.uint8)
    values[30:60, 30:60][np.hypot(*(np.indices((30, 30)) - 14.5)) < 12] = 1
    outlines, smoothed = traced(values)
    before, after = (shapely.area(item.polygons()) for item in (outlines, smoothed))
    assert np.abs(after - before).max() < 0.3  # of at least 81 pixels; the rounding to a 64th
    single, alone = traced(ISLAND)
    assert shapely.area(alone.polygons()) == pytest.approx(shapely.area(single.polygons()), abs=0.1)


@pytest.mark.parametrize("slope", [1.0, 0.5, 0.21, 0.0])
def test_the_stairs_of_a_straight_line_become_a_line(slope: float) -> None:
    rows, cols = np.indices((60, 60))
    _, smoothed = traced((rows > 20 + slope * (cols - 30) / 1.5).astype(np.uint8))
    border = shapely.intersection(*smoothed.polygons())
    inner = shapely.get_coordinates(shapely.intersection(shapely.line_merge(border), shapely.box(8, 0, 52, 60)))
    fit = np.polynomial.Polynomial.fit(inner[:, 0], inner[:, 1], 1)
    assert np.abs(fit(inner[:, 0]) - inner[:, 1]).max() < 0.12


def test_a_disc_becomes_round() -> None:
    rows, cols = np.indices((41, 41))
    outlines, smoothed = traced((np.hypot(rows - 20, cols - 20) < 15.3).astype(np.uint8))
    stairs, disc = (item.polygons()[1] for item in (outlines, smoothed))
    round_length = 2 * np.pi * np.sqrt(stairs.area / np.pi)
    assert stairs.length > 1.2 * round_length and disc.length < 1.02 * round_length
    assert disc.area == pytest.approx(stairs.area, rel=0.003)


def test_the_length_of_borders_is_counted_in_pixel_edges() -> None:
    outlines, _ = traced(HOLES_IN_HOLES)
    assert border_length(outlines) == shapely.length(outlines.polygons()).sum()
