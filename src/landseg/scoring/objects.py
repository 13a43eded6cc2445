"""Objects of a map against objects of a reference: found, missed and extra ones, how well their shapes and outlines agree.

It reads no files: polygons come on one plane in metres. Every score is a function of sums over blocks of ground, so that its interval comes
from the same function, with blocks drawn again.

Vocabulary: an *object* is a polygon with a class; a *side* is the map's objects or the reference's, with the ground that it knows; *valid*
ground is what both sides know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely

from landseg.core.errors import LandsegError
from landseg.scoring.boundaries import ON_BORDER_M, Ground, walk
from landseg.scoring.intervals import Interval, sum_intervals
from landseg.scoring.matching import LEAST_IOU, ROUNDING, Pairs, covered_area, matched_pairs, overlaps
from landseg.scoring.plane import pieces_of

DEFINITION = (
    "Objects are polygons; a map raster's objects are its areas of one class whose pixels are connected by their edges. Areas are measured "
    "in an equal-area projection about the ground. A map object and a reference object of one class match where IoU > 0.5 (by more "
    "than 0.0001), one to one; where polygons of one layer lie over one another, by the assignment with the most pairs. IoU is "
    "that of their parts on valid ground, which both sides know; an unmatched object with less than half of its area there is left out, "
    "and so is one that lies for the most part on such an object. "
    "precision = matched / (matched + extra), recall = matched / (matched + missed), f1 = 2 matched / (2 matched + missed + extra), all "
    "over objects; f1_50_95 is the mean F1 of these pairs at IoU 0.50, 0.55 … 0.95. rq = f1, sq = mean IoU of the matched pairs, "
    "pq = sq × rq (Kirillov et al. 2019). over_segmentation: mean over reference objects that the map touches of "
    "1 - (the largest area shared with one map object) / (its area); under_segmentation: the same of map objects, with reference objects "
    "(Clinton et al. 2010; pairs by the largest share, as Persello & Bruzzone 2010); 0 is best. boundary_precision is the "
    "share of the length of the map's outlines that lies within tolerance_m of outlines of the same class of the reference, "
    "boundary_recall the reverse, boundary_f1 their harmonic mean; edges of the valid ground, and objects that are left out, do not count. "
    "area_error is the mean of |map area - reference area| / reference area over matched pairs. A score without objects is null. overall "
    "pools objects and outlines of all classes; its pq, sq and rq are means over the classes that have them."
)
"""What every number of `ObjectScores` means, in the words that travel with it."""

BLOCKS = 8
"""Blocks along the longer side of the ground: 64 at the most, and enough of them for an interval."""

MOST_BLOCKS = 10_000
"""So many blocks are enough for any interval, and their sums fit in memory."""

_LEVELS = np.arange(0.5, 0.99, 0.05)
_SUMS = (
    "matched", "missed", "extra", "iou", "over", "overs", "under", "unders", "area_error",
    "map_found", "map_length", "reference_found", "reference_length", *(f"above_{level:.2f}" for level in _LEVELS),
)  # fmt: skip
_AT = {name: i for i, name in enumerate(_SUMS)}

SCORES = (
    "precision", "recall", "f1", "f1_50_95", "pq", "sq", "rq", "over_segmentation", "under_segmentation",
    "boundary_precision", "boundary_recall", "boundary_f1", "area_error",
)  # fmt: skip
"""Names of the scores."""


@dataclass(frozen=True)
class Side:
    """The objects of a map or a reference.

    Args:
        polygons: (N,) valid polygons and multipolygons, on a plane in metres that both sides share.
        kind: (N,) int64 class number 0..K-1; negative ones are not scored.
        ground: What the side knows: polygons without overlaps; None where it knows everything, so that what it does not show is not there.
    """

    polygons: np.ndarray
    kind: np.ndarray
    ground: np.ndarray | None = None


@dataclass(frozen=True)
class ObjectScores:
    """Scores by class and overall; None where a score has no meaning.

    Args:
        classes: Class name → name of the score → value.
        overall: Name of the score → value.
        intervals: ``f1`` or ``f1/CLASS`` and so on → 95 % interval, None where there is none.
        counts: Class name → ``matched``, ``missed``, ``extra``, ``map_objects``, ``reference_objects``.
        left_out: ``map`` and ``reference`` → objects of scored classes that lie for the most part on ground that the other does not know.
        tolerance_m: Of the outlines.
        blocks: Blocks of ground with objects.
        block_m: Their edge.
        state: ``map`` and ``reference`` → (N,) int64: the partner's index, or `UNMATCHED`, `LEFT_OUT`, `NOT_SCORED`.
        iou: ``map`` and ``reference`` → (N,) float64 of the matched pairs, NaN elsewhere.
    """

    classes: dict[str, dict[str, float | None]]
    overall: dict[str, float | None]
    intervals: dict[str, Interval | None]
    counts: dict[str, dict[str, int]]
    left_out: dict[str, int]
    tolerance_m: float
    blocks: int
    block_m: float
    state: dict[str, np.ndarray] = field(compare=False, repr=False)
    iou: dict[str, np.ndarray] = field(compare=False, repr=False)
    definition: str = field(default=DEFINITION, repr=False)

    def as_json(self) -> dict[str, Any]:
        """The scores as a document: overall ones at the top, each class under `classes`, plain numbers, null for None."""
        spans = {name: None if span is None else list(span) for name, span in self.intervals.items()}
        total = {name: sum(counts[name] for counts in self.counts.values()) for name in _COUNTS}
        return {
            **self.overall,
            **total,
            "classes": {name: {**values, **self.counts[name]} for name, values in self.classes.items()},
            "intervals": spans,
            "left_out": dict(self.left_out),
            "iou_threshold": LEAST_IOU,
            "tolerance_m": self.tolerance_m,
            "blocks": self.blocks,
            "block_m": self.block_m,
            "definition": self.definition,
        }


UNMATCHED, LEFT_OUT, NOT_SCORED = -1, -2, -3
_Both = tuple[np.ndarray, np.ndarray]
_COUNTS = ("matched", "missed", "extra", "map_objects", "reference_objects")


def score_objects(
    map_side: Side, reference: Side, names: tuple[str, ...] | list[str], tolerance_m: float, block_m: float | None = None
) -> ObjectScores:
    """Score the objects of a map against those of a reference.

    Args:
        map_side: Of the map.
        reference: What is true, on the same plane.
        names: K class names.
        tolerance_m: Distance within which outlines agree, in metres, above 0.
        block_m: Edge of the blocks of ground that are drawn again for intervals; None for an eighth of the longer side of what is
            scored, or four times the median object where that is larger.

    Raises:
        LandsegError: `block_m` makes too many blocks.
    """
    pairs = overlaps(map_side.polygons, reference.polygons, map_side.kind, reference.kind)
    area = shapely.area(map_side.polygons), shapely.area(reference.polygons)
    valid = _valid(map_side, reference.ground, area[0]), _valid(reference, map_side.ground, area[1])
    union = valid[0][pairs.one] + valid[1][pairs.other] - pairs.area
    # Twelve digits: one and the same polygon has an IoU of 1, not of 1 less the rounding of its pieces.
    iou = np.round(np.clip(pairs.area / np.maximum(union, np.finfo(float).tiny), 0, 1), 12)
    matched = matched_pairs(pairs, iou)
    state, agreed = _states(pairs, iou, matched, (map_side.kind, reference.kind), area, valid)
    tally = _Tally(map_side, reference, state, len(names), block_m)
    tally.objects(pairs, iou, matched, state, valid)
    for i, (name, mine, other) in enumerate((("map", map_side, reference), ("reference", reference, map_side))):
        scored = Side(mine.polygons, np.where(state[i] == LEFT_OUT, -1, mine.kind), mine.ground)
        _outlines(scored, other, valid[i] < area[i] * (1 - ROUNDING**2), tolerance_m, tally.outlines(name))
    sums = tally.sums
    total = sums.sum(0)
    counts = {name: _counted(total[k]) for k, name in enumerate(names)}
    values = _named(total[None], names)
    told = {name: float(value[0]) if np.isfinite(value[0]) else None for name, value in values.items()}
    return ObjectScores(
        classes={name: {score: told[f"{score}/{name}"] for score in SCORES} for name in names},
        overall={score: told[score] for score in SCORES},
        intervals=_intervals(sums, names),
        counts=counts,
        left_out={"map": int((state[0] == LEFT_OUT).sum()), "reference": int((state[1] == LEFT_OUT).sum())},
        tolerance_m=tolerance_m,
        blocks=int(sums.any((1, 2)).sum()),
        block_m=tally.block_m,
        state={"map": state[0], "reference": state[1]},
        iou={"map": agreed[0], "reference": agreed[1]},
    )


def _valid(side: Side, ground: np.ndarray | None, area: np.ndarray) -> np.ndarray:
    """(N,) area of each object on ground that the other side knows."""
    if ground is None:
        return area
    scored = np.flatnonzero(side.kind >= 0)
    valid = np.zeros(len(area))
    valid[scored] = np.minimum(covered_area(side.polygons[scored], ground), area[scored])
    return valid


def _states(pairs: Pairs, iou: np.ndarray, matched: np.ndarray, kind: _Both, area: _Both, valid: _Both) -> tuple[_Both, _Both]:
    """What becomes of each object, and its IoU with its partner, of the map and of the reference.

    Source: Kirillov et al. 2019, §4.1, void: what lies there for the most part is removed where it has no partner. What the other side
    has on the ground of such an object is none of its faults either.
    """
    ends = pairs.one[matched], pairs.other[matched]
    state = [np.where(kind[i] < 0, NOT_SCORED, np.where(valid[i] < area[i] / 2, LEFT_OUT, UNMATCHED)).astype(np.int64) for i in (0, 1)]
    agreed = [np.full(len(state[i]), np.nan) for i in (0, 1)]
    for i in (0, 1):
        state[i][ends[i]], agreed[i][ends[i]] = ends[1 - i], iou[matched]
    is_out = state[0] == LEFT_OUT, state[1] == LEFT_OUT
    for i, (mine, others) in enumerate(((pairs.one, pairs.other), (pairs.other, pairs.one))):
        lost = np.bincount(mine, pairs.area * is_out[1 - i][others], minlength=len(state[i]))
        state[i][(state[i] == UNMATCHED) & (lost > valid[i] / 2)] = LEFT_OUT
    return (state[0], state[1]), (agreed[0], agreed[1])


def _outlines(side: Side, other: Side, is_partial: np.ndarray, tolerance_m: float, add: Callable[..., None]) -> None:
    """Walk one side's outlines on valid ground."""
    grounds = [ground for ground in (side.ground, other.ground) if ground is not None]
    edges = shapely.get_parts(shapely.boundary(np.concatenate(grounds))) if grounds else np.zeros(0, object)
    edges = np.concatenate([_short(line) for line in edges]) if len(edges) else edges
    touched = is_partial.copy()
    if len(edges):
        touched[np.unique(shapely.STRtree(edges).query(side.polygons, predicate="dwithin", distance=ON_BORDER_M)[0])] = True
    pieces = None if other.ground is None else pieces_of(other.ground)[0]
    walk(side.polygons, side.kind, other.polygons, other.kind, tolerance_m, Ground(pieces, edges, touched), add)


def _short(line: shapely.Geometry) -> np.ndarray:
    """A line in stretches of few vertices."""
    places = shapely.get_coordinates(line)
    return np.array([shapely.linestrings(places[i : i + 17]) for i in range(0, len(places) - 1, 16)], object)


class _Tally:
    """Sums by block of ground, class and kind of sum: (B, K, S) float64."""

    def __init__(self, map_side: Side, reference: Side, state: _Both, classes: int, block_m: float | None) -> None:
        scored = np.concatenate([side.polygons[what >= UNMATCHED] for side, what in zip((map_side, reference), state, strict=True)])
        left, bottom, right, top = shapely.total_bounds(scored) if len(scored) else (0.0, 0.0, 1.0, 1.0)
        typical = np.sqrt(np.median(shapely.area(scored))) if len(scored) else 0.0
        longer = max(right - left, top - bottom)
        self.block_m = float(block_m or max(longer / BLOCKS * (1 + 1e-9), 4 * typical))
        self._corner = np.array([left, bottom])
        self._across = int((right - left) // self.block_m) + 1
        count = self._across * (int((top - bottom) // self.block_m) + 1)
        if count > MOST_BLOCKS:
            raise LandsegError("score.block_m", f"{self.block_m:g} m, which are {count:,} blocks", f"{MOST_BLOCKS:,} at most", "raise it")
        self.sums = np.zeros((count, classes, len(_SUMS)))
        self._sides = {"map": map_side, "reference": reference}
        self._blocks = {name: self._block(self._middles(side)) for name, side in self._sides.items()}

    def objects(self, pairs: Pairs, iou: np.ndarray, matched: np.ndarray, state: _Both, valid: _Both) -> None:
        """Add what objects have to say; a matched pair lies where its reference object lies."""
        ours, theirs = pairs.one[matched], pairs.other[matched]
        self._add("reference", theirs, "matched", np.ones(len(theirs)))
        self._add("reference", theirs, "iou", iou[matched])
        self._add("reference", theirs, "area_error", np.abs(valid[0][ours] / valid[1][theirs] - 1))
        for level in _LEVELS:
            self._add("reference", theirs, f"above_{level:.2f}", (iou[matched] > level + ROUNDING).astype(float))
        for side, name, at, of, what in (("reference", "missed", 1, pairs.other, "over"), ("map", "extra", 0, pairs.one, "under")):
            alone = np.flatnonzero(state[at] == UNMATCHED)
            self._add(side, alone, name, np.ones(len(alone)))
            largest = np.zeros(len(state[at]))
            np.maximum.at(largest, of, pairs.area)
            touched = np.flatnonzero((largest > 0) & (state[at] >= UNMATCHED))
            self._add(side, touched, what, np.maximum(1 - largest[touched] / valid[at][touched], 0))
            self._add(side, touched, f"{what}s", np.ones(len(touched)))

    def outlines(self, side: str) -> Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]:
        """What takes the steps along the outlines of a side."""

        def add(middle: np.ndarray, kind: np.ndarray, length: np.ndarray, found: np.ndarray) -> None:
            block = self._block(middle)
            self._sum(block, kind, f"{side}_length", length)
            self._sum(block, kind, f"{side}_found", length * found)

        return add

    def _add(self, side: str, index: np.ndarray, name: str, values: np.ndarray) -> None:
        self._sum(self._blocks[side][index], self._sides[side].kind[index], name, values)

    def _sum(self, block: np.ndarray, kind: np.ndarray, name: str, values: np.ndarray) -> None:
        blocks, classes, _ = self.sums.shape
        added = np.bincount(block * classes + kind, values, minlength=blocks * classes)
        self.sums[:, :, _AT[name]] += added.reshape(blocks, classes)

    def _middles(self, side: Side) -> np.ndarray:
        return shapely.get_coordinates(shapely.centroid(side.polygons)) if len(side.polygons) else np.zeros((0, 2))

    def _block(self, places: np.ndarray) -> np.ndarray:
        """(N,) int64: the block of each place; a place beyond the scored objects is in one at the edge."""
        down = len(self.sums) // self._across
        steps = np.floor((places - self._corner) / self.block_m).astype(np.int64)
        return np.asarray(np.clip(steps[:, 1], 0, down - 1) * self._across + np.clip(steps[:, 0], 0, self._across - 1))


def _scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of sums: (..., S) → name → (...) float64, NaN where one has no meaning."""
    of = {name: sums[..., i] for name, i in _AT.items()}
    objects = 2 * of["matched"] + of["missed"] + of["extra"]
    found = {
        "precision": _ratio(of["matched"], of["matched"] + of["extra"]),
        "recall": _ratio(of["matched"], of["matched"] + of["missed"]),
        "f1": _ratio(2 * of["matched"], objects),
        "f1_50_95": _ratio(2 * np.mean([of[f"above_{level:.2f}"] for level in _LEVELS], 0), objects),
        "pq": _ratio(2 * of["iou"], objects),
        "sq": _ratio(of["iou"], of["matched"]),
        "over_segmentation": _ratio(of["over"], of["overs"]),
        "under_segmentation": _ratio(of["under"], of["unders"]),
        "boundary_precision": _ratio(of["map_found"], of["map_length"]),
        "boundary_recall": _ratio(of["reference_found"], of["reference_length"]),
        "area_error": _ratio(of["area_error"], of["matched"]),
    }
    both = found["boundary_precision"], found["boundary_recall"]
    # Where one side alone has outlines nothing agrees; where neither has, nothing is to be said.
    known = np.isfinite(both[0]) | np.isfinite(both[1])
    first, second = (np.nan_to_num(value) for value in both)
    mean = np.divide(2 * first * second, first + second, out=np.zeros_like(first), where=first + second > 0)
    return {**found, "rq": found["f1"], "boundary_f1": np.where(known, mean, np.nan)}


def _named(stack: np.ndarray, names: tuple[str, ...] | list[str]) -> dict[str, np.ndarray]:
    """Every score of (R, K, S) sums by its name, ``f1`` overall and ``f1/CLASS``: (R,) each."""
    by_class, pooled = _scores(stack), _scores(stack.sum(1))
    for name in ("pq", "sq", "rq"):
        known = np.isfinite(by_class[name])
        pooled[name] = _ratio(np.where(known, by_class[name], 0).sum(1), known.sum(1))
    found = {name: pooled[name] for name in SCORES}
    return found | {f"{score}/{name}": by_class[score][:, k] for score in SCORES for k, name in enumerate(names)}


def _intervals(sums: np.ndarray, names: tuple[str, ...] | list[str]) -> dict[str, Interval | None]:
    """Of every score that two blocks tell something about."""
    found = sum_intervals(sums, lambda stack: _named(stack, names))
    telling = {name: int(sums[:, k].any(1).sum()) for k, name in enumerate(names)}
    return {key: span if telling.get(key.partition("/")[2], 2) >= 2 else None for key, span in found.items()}


def _counted(sums: np.ndarray) -> dict[str, int]:
    matched, missed, extra = (round(float(sums[_AT[name]])) for name in ("matched", "missed", "extra"))
    return {"matched": matched, "missed": missed, "extra": extra, "map_objects": matched + extra, "reference_objects": matched + missed}


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part` / `whole`, NaN where `whole` is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    result: np.ndarray = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return result
