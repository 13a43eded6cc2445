"""Objects against objects: worked by hand, and held against a slow computation of all pairs and against distances on a raster."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import rasterio.features
import scipy.ndimage
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from shapely.geometry import shape

from landseg.core.errors import LandsegError
from landseg.scoring.boundaries import Ground, walk
from landseg.scoring.intervals import sum_intervals
from landseg.scoring.matching import LEAST_IOU, ROUNDING, Pairs, covered_area, matched_pairs, overlaps
from landseg.scoring.objects import LEFT_OUT, NOT_SCORED, SCORES, UNMATCHED, ObjectScores, Side, score_objects

SYMMETRIC = ("f1", "f1_50_95", "pq", "sq", "rq", "boundary_f1")
MIRRORED = (("precision", "recall"), ("over_segmentation", "under_segmentation"), ("boundary_precision", "boundary_recall"))
SQUARE = shapely.box(0, 0, 10, 10)


def side(*polygons: shapely.Polygon, kind: Sequence[int] | None = None, ground: Sequence[shapely.Polygon] | None = None) -> Side:
    kinds = np.array(kind if kind is not None else [0] * len(polygons), np.int64)
    return Side(np.array(polygons, object), kinds, None if ground is None else np.array(ground, object))


def one_class(ours: Side, theirs: Side, tolerance: float = 0.5) -> tuple[dict[str, float | None], tuple[int, int, int]]:
    found = score_objects(ours, theirs, ["a"], tolerance)
    counts = found.counts["a"]
    return found.classes["a"], (counts["matched"], counts["missed"], counts["extra"])


def areas(labels: np.ndarray, values: np.ndarray, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The areas of a label raster as polygons, and the value under each."""
    found = list(rasterio.features.shapes(labels.astype(np.int32), transform=Affine.scale(scale)))
    return np.array([shape(item) for item, _ in found], object), np.array([values[int(label)] for _, label in found], np.int64)


def coverage(seed: int, cells: int = 9, size: int = 14, kinds: int = 3) -> Side:
    """A random coverage: each pixel belongs to its nearest of some seeds; a kind of -1 is not scored."""
    generator = np.random.default_rng(seed)
    rows, cols = generator.uniform(0, size, (2, cells))
    grid = np.indices((size, size)) + 0.5
    labels = np.hypot(grid[0][..., None] - rows, grid[1][..., None] - cols).argmin(-1)
    return Side(*areas(labels, generator.integers(-1, kinds, cells)))


def slow_scores(ours: Side, theirs: Side, kind: int) -> dict[str, float]:
    """The formulas in plain Python over all pairs, with an optimal assignment of the whole matrix."""
    mine, others = ([p for p, k in zip(s.polygons, s.kind, strict=True) if k == kind] for s in (ours, theirs))
    shared = np.array([[a.intersection(b).area for b in others] for a in mine]).reshape(len(mine), len(others))
    iou = np.array([[a.intersection(b).area / a.union(b).area for b in others] for a in mine]).reshape(shared.shape)
    gain = np.where(iou > LEAST_IOU + ROUNDING, 1000 + iou, 0)
    rows, columns = linear_sum_assignment(-gain)
    pairs = [(i, j) for i, j in zip(rows, columns, strict=True) if gain[i, j]]
    tp, fp, fn = len(pairs), len(mine) - len(pairs), len(others) - len(pairs)
    nan = float("nan")
    over = [1 - shared[:, j].max() / others[j].area for j in range(len(others)) if shared[:, j].any()]
    under = [1 - shared[i].max() / mine[i].area for i in range(len(mine)) if shared[i].any()]
    total = sum(iou[pair] for pair in pairs)
    return {
        "precision": tp / (tp + fp) if mine else nan,
        "recall": tp / (tp + fn) if others else nan,
        "f1": tp / (tp + (fp + fn) / 2) if mine or others else nan,
        "sq": total / tp if tp else nan,
        "pq": total / (tp + (fp + fn) / 2) if mine or others else nan,
        "over_segmentation": float(np.mean(over)) if over else nan,
        "under_segmentation": float(np.mean(under)) if under else nan,
        "area_error": float(np.mean([abs(mine[i].area / others[j].area - 1) for i, j in pairs])) if tp else nan,
        "f1_50_95": float(np.mean([sum(iou[p] > t + ROUNDING for p in pairs) for t in np.arange(0.5, 0.99, 0.05)])) / (tp + (fp + fn) / 2)
        if mine or others
        else nan,
    }


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_scores_are_those_of_all_pairs(one: int, other: int) -> None:
    ours, theirs = coverage(one), coverage(other if other % 3 else one)
    found = score_objects(ours, theirs, ["a", "b", "c"], 1.0)
    for kind, name in enumerate("abc"):
        wanted = slow_scores(ours, theirs, kind)
        got = {score: math.nan if (value := found.classes[name][score]) is None else value for score in wanted}
        assert got == pytest.approx(wanted, abs=1e-9, nan_ok=True)


def with_gaps(whole: Side, seed: int) -> Side:
    """Without some of its areas, and knowing only the ground of the others."""
    keep = np.random.default_rng(seed).random(len(whole.kind)) < 0.75
    return Side(whole.polygons[keep], whole.kind[keep], shapely.get_parts(shapely.union_all(whole.polygons[keep])))


def slow_states(ours: Side, theirs: Side) -> tuple[list[str], list[str], float]:
    """What becomes of each object, and the sum of the matched pairs' IoU, in plain Python: known ground alone counts."""
    sides, states = (ours, theirs), []
    known = [shapely.union_all(other.ground) for other in (theirs, ours)]
    valid = [[p.intersection(ground).area for p in side.polygons] for side, ground in zip(sides, known, strict=True)]
    shared = np.array([[p.intersection(q).area * (k == m >= 0) for q, m in zip(theirs.polygons, theirs.kind, strict=True)]
                       for p, k in zip(ours.polygons, ours.kind, strict=True)]).reshape(len(ours.kind), len(theirs.kind))  # fmt: skip
    iou = np.array([[s / (valid[0][i] + valid[1][j] - s) if s else 0 for j, s in enumerate(row)] for i, row in enumerate(shared)])
    pairs = np.argwhere(iou.reshape(shared.shape) > LEAST_IOU + ROUNDING)  # layers without overlaps: one partner each
    for i, side in enumerate(sides):
        of = zip(side.polygons, side.kind, valid[i], strict=True)
        state = ["none" if k < 0 else "out" if v < p.area / 2 else "alone" for p, k, v in of]
        for pair in pairs:
            state[pair[i]] = "matched"
        states.append(state)
    outside = [np.array([word == "out" for word in state], bool) for state in states]
    for state, lost, area in ((states[0], shared @ outside[1], valid[0]), (states[1], shared.T @ outside[0], valid[1])):
        state[:] = ["out" if word == "alone" and gone > v / 2 else word for word, gone, v in zip(state, lost, area, strict=True)]
    return states[0], states[1], float(sum(iou[i, j] for i, j in pairs))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_only_known_ground_is_scored_whatever_is_known(one: int, other: int) -> None:
    whole = [coverage(one, 24, kinds=2), coverage(other, 6, kinds=2)]
    if other % 3 == 0:
        whole[1] = Side(shapely.transform(whole[0].polygons, lambda places: places + 0.7), whole[0].kind)
    ours, theirs = (with_gaps(side, one + i) for i, side in enumerate(whole))
    found = score_objects(ours, theirs, ["a", "b", "c"], 1.0)
    words = {UNMATCHED: "alone", LEFT_OUT: "out", NOT_SCORED: "none"}
    got = tuple([words.get(int(state), "matched") for state in found.state[name]] for name in ("map", "reference"))
    *wanted, total = slow_states(ours, theirs)
    assert got == tuple(wanted)
    assert np.nansum(found.iou["map"]) == pytest.approx(total)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_exchanging_map_and_reference_exchanges_the_scores(one: int, other: int) -> None:
    ours, theirs = coverage(one), coverage(other)
    found, back = score_objects(ours, theirs, ["a", "b", "c"], 1.0), score_objects(theirs, ours, ["a", "b", "c"], 1.0)
    for mine, yours in [(found.overall, back.overall), *((found.classes[name], back.classes[name]) for name in "abc")]:
        for first, second in [*((name, name) for name in SYMMETRIC), *MIRRORED, *(pair[::-1] for pair in MIRRORED)]:
            assert mine[first] == (None if yours[second] is None else pytest.approx(yours[second], abs=1e-12))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_a_map_against_itself_is_perfect(seed: int) -> None:
    ours = coverage(seed)
    found = score_objects(ours, ours, ["a", "b", "c"], 0.2)
    scored = int((ours.kind >= 0).sum())
    assert sum(counts["matched"] for counts in found.counts.values()) == scored
    for values in (found.overall, *found.classes.values()):
        for name in SCORES:
            worst = 0.0 if name in ("over_segmentation", "under_segmentation", "area_error") else 1.0
            assert values[name] is None or values[name] == pytest.approx(worst, abs=1e-12)
    assert found.overall["f1"] is None or scored


HALVES = shapely.box(0, 0, 5, 10), shapely.box(5, 0, 10, 10)


@pytest.mark.parametrize(
    ("ours", "theirs", "counts", "scores"),
    [
        (HALVES, [SQUARE], (0, 1, 2), {"f1": 0, "sq": None, "over_segmentation": 0.5, "under_segmentation": 0, "area_error": None}),
        ([SQUARE], HALVES, (0, 2, 1), {"over_segmentation": 0, "under_segmentation": 0.5, "boundary_recall": (40 + 4 * 0.5) / 60}),
        ([shapely.box(2, 0, 12, 10)], [SQUARE], (1, 0, 0), {"f1": 1, "sq": 2 / 3, "pq": 2 / 3, "f1_50_95": 0.4, "area_error": 0}),
        ([shapely.box(10 / 3, 0, 40 / 3, 10)], [SQUARE], (0, 1, 1), {"f1": 0}),
        ([shapely.box(0, 0, 10, 8)], [SQUARE], (1, 0, 0), {"sq": 0.8, "area_error": 0.2, "over_segmentation": 0.2}),
        (HALVES, HALVES, (2, 0, 0), {"f1": 1, "pq": 1, "boundary_f1": 1}),
        ([SQUARE], [SQUARE.difference(shapely.box(2, 2, 7, 7))], (1, 0, 0), {"sq": 0.75, "boundary_recall": 40 / 60, "f1_50_95": 0.5}),
        ([], [SQUARE], (0, 1, 0), {"precision": None, "recall": 0, "f1": 0, "pq": 0, "boundary_f1": 0, "under_segmentation": None}),
        ([SQUARE], [], (0, 0, 1), {"precision": 0, "recall": None, "f1": 0, "pq": 0, "boundary_f1": 0, "over_segmentation": None}),
        ([], [], (0, 0, 0), dict.fromkeys(SCORES)),
        ([shapely.MultiPolygon([SQUARE, shapely.box(20, 0, 30, 10)])], [SQUARE], (0, 1, 1), {"under_segmentation": 0.5}),
    ],
    ids=["split", "merged", "shifted", "half", "smaller", "touching", "hole", "empty map", "empty reference", "nothing", "two parts"],
)  # fmt: skip
def test_cases_by_hand(
    ours: Sequence[shapely.Polygon], theirs: Sequence[shapely.Polygon], counts: tuple[int, int, int], scores: dict[str, float | None]
) -> None:
    values, found = one_class(side(*ours), side(*theirs))
    assert found == counts
    assert {name: values[name] for name in scores} == {name: pytest.approx(value, abs=1e-9) for name, value in scores.items()}


def test_other_classes_do_not_match_and_overall_pools_them() -> None:
    ours, theirs = side(*HALVES, kind=[0, 1]), side(*HALVES, kind=[0, 0])
    found = score_objects(ours, theirs, ["a", "b"], 0.5)
    assert found.counts["a"]["missed"] == found.counts["b"]["extra"] == 1 and found.counts["a"]["matched"] == 1
    assert found.overall["f1"] == 0.5 and found.classes["b"]["recall"] is None
    assert found.overall["pq"] == pytest.approx((2 / 3 + 0) / 2) and found.overall["sq"] == 1
    assert score_objects(side(*HALVES, kind=[0, -1]), theirs, ["a"], 0.5).state["map"].tolist() == [0, NOT_SCORED]


def test_polygons_over_one_another_are_assigned_as_well_as_can_be() -> None:
    """Best first would pair the first map object with the reference that the second one needs."""
    references = [shapely.box(0, 0, 10, 10), shapely.box(0, 0, 10, 7)]
    maps = [shapely.box(0, 0, 10, 7.5), shapely.box(0, 0, 10, 4)]
    values, counts = one_class(side(*maps), side(*references))
    assert counts == (2, 0, 0) and values["sq"] == pytest.approx((7.5 / 10 + 4 / 7) / 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6))
def test_the_assignment_is_the_best_of_all(seed: int, rows: int, columns: int) -> None:
    generator = np.random.default_rng(seed)
    iou = np.where(generator.random((rows, columns)) < 0.7, generator.random((rows, columns)), 0)
    one, other = np.nonzero(iou)
    chosen = matched_pairs(Pairs(one, other, np.ones(len(one))), iou[one, other])
    gain = np.where(iou > LEAST_IOU + ROUNDING, 1000 + iou, 0)
    best = linear_sum_assignment(-gain)
    assert len({*one[chosen]}) == len({*other[chosen]}) == len(chosen)
    assert gain[one[chosen], other[chosen]].sum() == pytest.approx(gain[best].sum())


def test_only_ground_that_both_know_counts() -> None:
    """The map ends at x = 10: what the reference has beyond is neither missed nor part of a shape."""
    ground = [SQUARE]
    cut, beyond, mostly = shapely.box(6, 0, 14, 4), shapely.box(20, 0, 30, 9), shapely.box(8, 6, 20, 9)
    ours = side(shapely.box(6, 0, 10, 4), shapely.box(0, 6, 3, 9), ground=ground)
    found = score_objects(ours, side(cut, beyond, mostly, shapely.box(0, 6, 3, 9)), ["a"], 0.1)
    assert found.state["reference"].tolist() == [0, LEFT_OUT, LEFT_OUT, 1] and found.left_out == {"map": 0, "reference": 2}
    assert {found.overall[name] for name in ("f1", "pq", "boundary_precision", "boundary_recall")} == {1.0}
    open_ended = score_objects(side(*ours.polygons), side(cut, beyond), ["a"], 0.1)
    assert open_ended.state["reference"].tolist() == [UNMATCHED, UNMATCHED]


def test_what_lies_on_a_left_out_object_is_left_out_too() -> None:
    """Of a house at the edge the map has a sliver, which matches nothing: no fault of the map's."""
    ours = side(shapely.box(9, 0, 10, 1), shapely.box(0, 8, 1, 9), ground=[SQUARE])
    found = score_objects(ours, side(shapely.box(9, 0, 19, 9)), ["a"], 0.1)
    assert found.state["map"].tolist() == [LEFT_OUT, UNMATCHED] and found.left_out == {"map": 1, "reference": 1}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 4))
def test_outlines_agree_as_distances_on_a_raster_say(seed: int, tolerance: float) -> None:
    generator, fine, size = np.random.default_rng(seed), 8, 12
    masks = [scipy.ndimage.gaussian_filter(generator.random((size, size)), 1.5) > 0.5 for _ in range(2)]
    if any(mask.all() or not mask.any() for mask in masks):
        return
    shapes = [areas(mask, np.array([-1, 0])) for mask in masks]
    outlines = []
    for mask in masks:
        framed = np.pad(np.kron(mask, np.ones((fine, fine), bool)), 1)
        corner = np.stack([framed[i : i + size * fine + 1, j : j + size * fine + 1] for i in (0, 1) for j in (0, 1)])
        outlines.append(corner.any(0) & ~corner.all(0))
    shares = []
    for mine, other in ((0, 1), (1, 0)):
        sums = np.zeros(2)

        def add(middle: np.ndarray, kind: np.ndarray, length: np.ndarray, found: np.ndarray, sums: np.ndarray = sums) -> None:
            assert (kind == 0).all() and len(middle) == len(length)
            sums += [length.sum(), (length * found).sum()]

        nothing = Ground(None, np.zeros(0, object), np.zeros(len(shapes[mine][0]), bool))
        walk(*shapes[mine], *shapes[other], tolerance, nothing, add)
        far = scipy.ndimage.distance_transform_edt(~outlines[other])[outlines[mine]] / fine
        shares.append(sums[1] / sums[0])
        # Points of the raster stand 1/8 apart, steps of the walk half a tolerance.
        assert (far <= tolerance - 0.2).mean() - 0.1 <= shares[-1] <= (far <= tolerance + 0.2).mean() + 0.1
        assert sums[0] == pytest.approx(sum(p.length for p, k in zip(*shapes[mine], strict=True) if k == 0))
    precision, recall = (
        score_objects(Side(*shapes[0]), Side(*shapes[1]), ["a"], tolerance).overall[f"boundary_{n}"] for n in ("precision", "recall")
    )
    assert [precision, recall] == pytest.approx(shares)


def test_a_shift_within_the_tolerance_leaves_the_outline_whole() -> None:
    ours = side(shapely.box(1, 0, 11, 10))
    assert one_class(ours, side(SQUARE), 1.0)[0]["boundary_f1"] == 1
    assert one_class(ours, side(SQUARE), 0.9)[0]["boundary_f1"] == pytest.approx((2 * 9.9 + 2 * 0.9) / 40, abs=0.01)


def test_large_polygons_in_pieces_share_what_they_share_whole() -> None:
    angles = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    radius = 50 + 10 * np.cos(40 * angles)
    star = shapely.Polygon(
        np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1), [shapely.box(-9, -9, 9, 9).exterior.coords[::-1]]
    )
    grid = np.array([shapely.box(x, y, x + 11, y + 11) for x in range(-60, 60, 11) for y in range(-60, 60, 11)], object)
    zeros = np.zeros(len(grid), np.int64)
    pairs = overlaps(np.array([star]), grid, zeros[:1], zeros)
    wanted = shapely.area(shapely.intersection(star, grid))
    assert pairs.other.tolist() == np.flatnonzero(wanted).tolist() and pairs.area == pytest.approx(wanted[wanted > 0])
    assert covered_area(grid, np.array([star])) == pytest.approx(wanted)


def test_intervals_come_from_blocks_of_ground() -> None:
    """Half of the ground is mapped well and half not at all: the interval knows how much hangs on the draw."""
    places = [(x, y) for x in range(0, 80, 10) for y in range(0, 80, 10)]
    reference = [shapely.box(x + 2, y + 2, x + 8, y + 8) for x, y in places]
    found = score_objects(side(*reference[:32]), side(*reference), ["a"], 0.5, block_m=10)
    low, high = found.intervals["recall"] or (0, 0)
    assert found.blocks == 64 and found.overall["recall"] == 0.5
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.5 / 8, 0.5 + 1.96 * 0.5 / 8), abs=0.03)
    assert found.intervals["precision"] == (1.0, 1.0)
    single = score_objects(side(SQUARE), side(SQUARE), ["a"], 0.5)
    assert single.blocks == 1 and set(single.intervals.values()) == {None}


def test_blocks_lie_where_something_is_scored() -> None:
    """A reference of a whole country does not put a map of a town into one block."""
    boxes = [shapely.box(x, y, x + 6, y + 6) for x in range(0, 80, 10) for y in range(0, 80, 10)]
    ours, country = side(*boxes[:32], ground=[shapely.box(0, 0, 80, 80)]), shapely.box(1e5, 0, 1e5 + 6, 6)
    near, far = (score_objects(ours, side(*reference), ["a"], 0.5) for reference in (boxes, [*boxes, country]))
    assert far.left_out["reference"] == 1 and far.blocks == near.blocks > 9
    assert far.intervals == near.intervals and near.intervals["f1"] is not None


def test_a_class_in_one_block_has_no_interval() -> None:
    boxes = [shapely.box(x, 0, x + 5, 5) for x in (0, 100, 200)]
    found = score_objects(side(*boxes, kind=[0, 0, 1]), side(*boxes, kind=[0, 0, 1]), ["a", "b"], 0.5, block_m=50)
    assert found.intervals["f1/a"] == (1.0, 1.0) and found.intervals["f1/b"] is None and found.intervals["f1"] == (1.0, 1.0)


def test_too_small_blocks_are_refused() -> None:
    with pytest.raises(LandsegError, match=r"score\.block_m: 0\.01 m"):
        score_objects(side(SQUARE), side(SQUARE), ["a"], 0.5, block_m=0.01)


def test_intervals_of_sums_hold_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(5)
    draws = [sum_intervals(generator.normal(3, 1, (40, 1)), lambda s: {"sum": s[:, 0]})["sum"] or (0, 0) for _ in range(40)]
    assert sum(low <= 120 <= high for low, high in draws) >= 33
    assert sum_intervals(np.array([[0.0], [2.0]]), lambda s: {"sum": s[:, 0]}) == {"sum": None}


def test_the_document_has_every_score_by_class_and_overall() -> None:
    found: ObjectScores = score_objects(side(SQUARE), side(SQUARE), ["a"], 0.5)
    document = found.as_json()
    assert set(SCORES) <= set(document) and set(SCORES) <= set(document["classes"]["a"])
    assert document["matched"] == document["classes"]["a"]["matched"] == 1 and document["tolerance_m"] == 0.5
    assert "Kirillov" in document["definition"] and document["intervals"]["f1/a"] is None
