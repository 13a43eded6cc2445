"""What lies where in an invented landscape: exact class ids and everything that has a place. It chooses no colours.

Every pixel carries the number of its *surface*; tables by surface give class, parcel, use and row direction, so that truth, parcels and
picture cannot disagree. Land cover is complete: gardens and grass are farmland, single trees and hedges are forest, sealed yards are road.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from landseg.core.classes import make_classes
from landseg.data.plots import House, Line, Plan, Polygon, Rank, Use, Village, divide

CLASSES = make_classes(["building", "farmland", "forest", "road", "water"])
BUILDING, FARMLAND, FOREST, ROAD, WATER = range(5)

ROAD_WIDTH = {Rank.MAIN: 5, Rank.MINOR: 3, Rank.TRACK: 2}
"""Pixels of 2 m: a main road with shoulders, a village street, a farm track."""

_SUBPIXEL = 4  # fractional bits of the coordinates that OpenCV draws
_CLASS_OF = {Use.BERM: FARMLAND, Use.FIELD: FARMLAND, Use.GARDEN: FARMLAND, Use.YARD: ROAD, Use.COPSE: FOREST, Use.POND: WATER}
# Surfaces that are no plot; plots follow, then buildings.
BERM, WOOD, RIVER, MAIN, MINOR, TRACK, PLOTS = range(7)


@dataclass(frozen=True)
class Terrain:
    """A landscape without colours.

    `surface` (H, W) intp indexes the tables `classes` (uint8), `owner` (int32 parcel id, 0 = none), `use` (uint8), `block` (int32),
    `direction` (float32, radians; rows in `straight` coordinates) and `draws` (N, 6) float32 in [0, 1) for the painter's choices.
    `straight` holds the unbent x and y (2, H, W) float32 that rows follow. `outlines` are the plots as drawn, `roads` polylines by rank,
    both in 1/16 pixel; `corners` (N, 4, 2) float32 are those of `houses`. `truth` (H, W) uint8 and `parcels` (H, W) int32 are what the
    tables say, every connected wood and water a parcel of its own.
    """

    surface: np.ndarray
    classes: np.ndarray
    owner: np.ndarray
    use: np.ndarray
    block: np.ndarray
    direction: np.ndarray
    draws: np.ndarray
    straight: np.ndarray
    outlines: list[np.ndarray]
    roads: dict[Rank, list[np.ndarray]]
    corners: np.ndarray
    houses: list[House]
    truth: np.ndarray
    parcels: np.ndarray


@dataclass(frozen=True)
class _Bend:
    """A smooth displacement of the plane: a few long waves."""

    waves: np.ndarray  # (K, 2) radians a pixel
    phases: np.ndarray  # (K,)
    shifts: np.ndarray  # (K, 2) pixels

    @classmethod
    def draw(cls, rng: np.random.Generator, strength: float) -> _Bend:
        lengths, angles = rng.uniform(420, 1300, 5), rng.uniform(0, 2 * np.pi, 5)
        waves = (2 * np.pi / lengths)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        # Shift across the wave's own direction bends lines; the slope stays below a quarter so that nothing folds.
        sizes = strength * rng.uniform(0.35, 1.0, 5) * lengths * 0.021
        return cls(waves, rng.uniform(0, 2 * np.pi, 5), sizes[:, None] * np.stack([-np.sin(angles), np.cos(angles)], 1))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(points + np.sin(points @ self.waves.T + self.phases) @ self.shifts)

    def inverse(self, points: np.ndarray) -> np.ndarray:
        """Where bent points came from, by fixed-point iteration (the slope is small, four steps do)."""
        origin = points
        for _ in range(4):
            origin = points - (self(origin) - origin)
        return origin


def lay_out(rng: np.random.Generator, height: int, width: int) -> Terrain:
    """Invent a landscape: fields in blocks, woods, a river, ponds, villages and the roads between them.

    Args:
        rng: Where all draws come from.
        height: Pixels of 2 m.
        width: Pixels of 2 m.

    Returns:
        The terrain; every surface has one class, every parcel one class.
    """
    scale = min(1.0, max(0.3, math.sqrt(min(height, width) / 900)))
    bend = _Bend.draw(rng, scale)
    river, breadth = _river(rng, height, width, scale)
    villages = _villages(rng, height, width, scale, river)
    plan = divide(rng, height, width, villages, scale=scale, margin=12 + 48 * scale)
    outlines = _bent([plot.polygon for plot in plan.plots], bend, is_closed=True)
    surface = np.zeros((height, width), np.int32)
    core_of = _draw_plots(surface, plan, outlines, bend)
    _plant_woods(rng, surface, villages, scale)
    roads = _roads(plan.lines, bend)
    _plant_rows(rng, surface, roads, river, breadth)
    for rank, code in ((Rank.TRACK, TRACK), (Rank.MINOR, MINOR)):
        cv2.polylines(surface, roads[rank], False, code, ROAD_WIDTH[rank], shift=_SUBPIXEL)
    cv2.polylines(surface, roads[Rank.CANAL], False, RIVER, max(2, round(4 * scale)), shift=_SUBPIXEL)
    _flow(surface, river, breadth)
    _dig_pond(rng, surface, villages, scale)
    cv2.polylines(surface, roads[Rank.MAIN], False, MAIN, ROAD_WIDTH[Rank.MAIN], shift=_SUBPIXEL)
    first_house = PLOTS + len(plan.plots) + len(core_of)
    _plant_gardens(rng, surface, plan)
    corners = bend(np.array([house.corners for house in plan.houses]).reshape(-1, 2)).reshape(-1, 4, 2).astype(np.float32)
    for i, points in enumerate(np.round(corners * 2**_SUBPIXEL).astype(np.int32)):
        cv2.fillConvexPoly(surface, points, first_house + i, shift=_SUBPIXEL)
    tables = _tables(rng, plan, core_of, len(corners))
    index = surface.astype(np.intp)
    truth = tables["classes"][index]
    return Terrain(
        surface=index, straight=_straight(bend, height, width), outlines=outlines, roads=roads, corners=corners, houses=plan.houses,
        truth=truth, parcels=_number(tables["owner"][index], truth), **tables,
    )  # fmt: skip


def noise(rng: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    """Smooth noise (H, W) uint8, mean about 128, with features of about `cell` pixels."""
    rows, cols = height // cell + 4, width // cell + 4
    coarse = rng.integers(0, 256, (rows, cols), dtype=np.uint8)
    fine = cv2.resize(coarse, (cols * cell, rows * cell), interpolation=cv2.INTER_CUBIC)
    return fine[cell : cell + height, cell : cell + width]


def _bent(shapes: list[Polygon], bend: _Bend, *, is_closed: bool, step: float = 20.0) -> list[np.ndarray]:
    """Shapes with points along their edges, at most `step` apart, bent, in OpenCV's fixed-point form."""
    if not shapes:
        return []
    starts = np.array([point for shape in shapes for point in (shape if is_closed else shape[:-1])])
    ends = np.array([point for shape in shapes for point in (shape[1:] + shape[:1] if is_closed else shape[1:])])
    parts = np.maximum(1, np.ceil(np.hypot(*(ends - starts).T) / step)).astype(np.int64)
    first = np.cumsum(parts) - parts
    share = (np.arange(parts.sum()) - np.repeat(first, parts)) / np.repeat(parts, parts)
    points = np.repeat(starts, parts, 0) + share[:, None] * np.repeat(ends - starts, parts, 0)
    edges = np.array([len(shape) if is_closed else len(shape) - 1 for shape in shapes])
    counts = np.add.reduceat(parts, np.cumsum(edges) - edges)
    return _fixed_point(bend(points), counts)


def _fixed_point(points: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Points as OpenCV draws them with fractional bits, one array (N, 1, 2) int32 a shape of `counts` points."""
    whole = np.round(points * 2**_SUBPIXEL).astype(np.int32).reshape(-1, 1, 2)
    return np.split(whole, np.cumsum(counts)[:-1])


def _draw_plots(surface: np.ndarray, plan: Plan, outlines: list[np.ndarray], bend: _Bend) -> list[int]:
    """Draw plots and the cores of fields; returns for each core the plot that it belongs to."""
    core_of = [i for i, plot in enumerate(plan.plots) if plot.core]
    shapes = _bent([plot.core for plot in plan.plots if plot.core], bend, is_closed=True)
    for i, outline in enumerate(outlines):
        cv2.fillPoly(surface, [outline], PLOTS + i, shift=_SUBPIXEL)
    # A filled polygon covers its border too: drawn at once, a core would lose its rim to the next plot.
    first = PLOTS + len(plan.plots)
    for i, shape in enumerate(shapes):
        cv2.fillPoly(surface, [shape], first + i, shift=_SUBPIXEL)
    return core_of


def _tables(rng: np.random.Generator, plan: Plan, core_of: list[int], houses: int) -> dict[str, np.ndarray]:
    plots = len(plan.plots)
    belongs = np.concatenate([np.arange(plots), np.asarray(core_of, np.int64)])
    use = np.array([plot.use for plot in plan.plots], np.uint8)[belongs]
    direction = np.array([plot.direction for plot in plan.plots], np.float32)[belongs]
    direction[:plots][core_of] += math.pi / 2  # what is left of such a plot is its headland
    block = np.array([plot.block for plot in plan.plots], np.int32)[belongs]
    classes = np.array([_CLASS_OF[value] for value in Use], np.uint8)[use]
    owner = np.where(classes == FARMLAND, belongs + 1, 0).astype(np.int32)
    draws = rng.random((PLOTS + plots + houses, 6), dtype=np.float32)
    return {
        "classes": np.concatenate([np.array([FARMLAND, FOREST, WATER, ROAD, ROAD, ROAD], np.uint8), classes, np.zeros(houses, np.uint8)]),
        "owner": np.concatenate([np.zeros(PLOTS, np.int32), owner, np.arange(plots + 1, plots + 1 + houses, dtype=np.int32)]),
        "use": np.concatenate([np.zeros(PLOTS, np.uint8), use, np.zeros(houses, np.uint8)]),
        "block": np.concatenate([np.zeros(PLOTS, np.int32), block, np.zeros(houses, np.int32)]),
        "direction": np.concatenate([np.zeros(PLOTS, np.float32), direction, np.zeros(houses, np.float32)]),
        "draws": draws[np.concatenate([np.arange(PLOTS), PLOTS + belongs, PLOTS + plots + np.arange(houses)])],
    }


def _number(owner: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Parcel ids: fields and houses as they are, each connected wood and water its own."""
    parcels = owner
    for code in (FOREST, WATER):
        is_here = (truth == code).view(np.uint8)
        count, components = cv2.connectedComponents(is_here, connectivity=4, ltype=cv2.CV_32S)
        if count > 1:
            components += int(parcels.max())
            cv2.copyTo(components, is_here, parcels)
    return parcels


def _straight(bend: _Bend, height: int, width: int, cell: int = 16) -> np.ndarray:
    rows, cols = height // cell + 4, width // cell + 4
    y, x = np.mgrid[0:rows, 0:cols]
    coarse = (np.stack([x.ravel(), y.ravel()], 1) - 0.5) * cell - 0.5
    origin = bend.inverse(coarse).astype(np.float32).reshape(rows, cols, 2)
    planes = [cv2.resize(origin[..., i], (cols * cell, rows * cell))[cell : cell + height, cell : cell + width] for i in (0, 1)]
    return np.stack(planes)


def _river(rng: np.random.Generator, height: int, width: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Midline (N, 2) and breadth (N,) of a meandering river.

    Source: sine-generated curve, Langbein & Leopold 1966 (USGS Professional Paper 422-H), with a wandering amplitude.
    """
    reach = 1.5 * math.hypot(height, width)
    step = 3.0
    count = int(2.4 * reach / step)
    s = np.arange(count) * step
    wave = rng.uniform(230, 420) * scale
    swing = np.interp(s, np.linspace(0, s[-1], 8), rng.uniform(0.35, 1.25, 8))
    drift = np.interp(s, np.linspace(0, s[-1], 12), rng.normal(0, 0.22, 12))
    heading = swing * np.sin(2 * np.pi * s / wave + rng.uniform(0, 6) + 1.3 * np.sin(2 * np.pi * s / (wave * 4.3))) + drift
    track = np.stack([np.cumsum(np.cos(heading)), np.cumsum(np.sin(heading))], 1) * step
    along = track[-1] - track[0]
    angle = rng.uniform(0, 2 * np.pi) - math.atan2(along[1], along[0])
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    place = np.array([width, height]) * rng.uniform(0.2, 0.8, 2)
    path = (track - track[count // 2]) @ turn + place
    typical = rng.uniform(9, 24) * max(scale, 0.4)
    breadth = typical * np.interp(s, np.linspace(0, s[-1], 40), rng.uniform(0.75, 1.3, 40))
    near = (np.abs(path - [width / 2, height / 2]) < np.array([width, height]) / 2 + 60).all(1)
    near = np.convolve(near, [1, 1, 1], "same") > 0
    kept = np.flatnonzero(near)
    chosen = slice(kept[0], kept[-1] + 1)
    return path[chosen], breadth[chosen]


def _villages(rng: np.random.Generator, height: int, width: int, scale: float, river: np.ndarray) -> list[Village]:
    count = max(1, round(height * width / 520_000 * rng.uniform(0.8, 1.5)))
    villages: list[Village] = []
    for _ in range(count):
        spots = rng.uniform(0.12, 0.88, (10, 2)) * [width, height]
        gaps = np.min(np.hypot(spots[:, None, 0] - river[None, ::4, 0], spots[:, None, 1] - river[None, ::4, 1]), 1)
        for v in villages:
            gaps = np.minimum(gaps, 0.5 * np.hypot(spots[:, 0] - v.x, spots[:, 1] - v.y))
        best = spots[int(np.argmax(gaps))]
        villages.append(Village(float(best[0]), float(best[1]), float(rng.uniform(95, 190)) * scale))
    return villages


def _plant_woods(rng: np.random.Generator, surface: np.ndarray, villages: list[Village], scale: float) -> None:
    """Woods with ragged borders where slow noise is high, never in a village."""
    height, width = surface.shape
    quarter = height // 4 + 2, width // 4 + 2
    slow = noise(rng, *quarter, max(6, round(42 * scale))).astype(np.float32)
    slow += 0.55 * noise(rng, *quarter, max(3, round(15 * scale)))
    y, x = np.ogrid[: quarter[0], : quarter[1]]
    for village in villages:
        near = ((4 * x - village.x) ** 2 + (4 * y - village.y) ** 2).astype(np.float32) / np.float32(village.radius**2)
        slow -= 260 * np.maximum(0, 1.45 - near)
    ragged = cv2.addWeighted(noise(rng, height, width, 13), 0.7, noise(rng, height, width, 4), 0.3, 0.0)
    wildness = cv2.resize(slow, (4 * quarter[1], 4 * quarter[0]))[:height, :width] + np.float32(0.32) * ragged
    level = float(np.quantile(wildness[::4, ::4], 1 - rng.uniform(0.13, 0.24)))
    cv2.copyTo(np.full_like(surface, WOOD), (wildness > level).view(np.uint8), surface)


def _roads(lines: list[Line], bend: _Bend) -> dict[Rank, list[np.ndarray]]:
    # The end stands there twice, because the last point of an open shape begins no edge and would be left out.
    return {rank: _bent([[line.start, line.end, line.end] for line in lines if line.rank == rank], bend, is_closed=False) for rank in Rank}


def _plant_rows(
    rng: np.random.Generator, surface: np.ndarray, roads: dict[Rank, list[np.ndarray]], river: np.ndarray, breadth: np.ndarray
) -> None:
    """Hedges, avenues and the trees of the river bank: rows of crowns with gaps."""
    spots: list[np.ndarray] = []
    lines: list[tuple[np.ndarray, float, float]] = [(line, 0.86, 0.0) for line in roads[Rank.HEDGE]]
    for rank, often, beside in ((Rank.MAIN, 0.5, 5.0), (Rank.MINOR, 0.3, 3.6), (Rank.CANAL, 0.5, 4.0)):
        lines += [(line, rng.uniform(0.15, 0.85), beside) for line in roads[rank] if rng.random() < often]
    for line, share, beside in lines:
        points = line[:, 0].astype(np.float64) / 2**_SUBPIXEL
        spots += _along(rng, points, share, beside) + (_along(rng, points, share, -beside) if beside else [])
    across = _across(river)
    for side in (-1, 1):
        off = breadth / 2 + rng.uniform(-1, 5, len(river))
        stretches = np.arange(0, len(river) + 25, 25)
        wooded = np.interp(np.arange(len(river)), stretches, rng.random(len(stretches))) > 0.45
        spots.append((river + side * off[:, None] * across)[wooded])
    _plant(rng, surface, np.concatenate(spots), 1.3, 2.9)


def _along(rng: np.random.Generator, line: np.ndarray, share: float, beside: float) -> list[np.ndarray]:
    """Points every few pixels along a polyline, `beside` it, in stretches that together cover `share` of it."""
    lengths = np.hypot(*np.diff(line, axis=0).T)
    total = float(lengths.sum())
    if total < 8:
        return []
    at = np.arange(2, total - 2, 2.6)
    at = at + rng.uniform(-0.8, 0.8, len(at))
    stretches = rng.random(int(total // 30) + 2)
    at = at[stretches[(at // 30).astype(np.int64).clip(0)] < share]
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    x, y = np.interp(at, along, line[:, 0]), np.interp(at, along, line[:, 1])
    if beside:
        slope = np.interp(at + 1, along, line[:, 0]) - x, np.interp(at + 1, along, line[:, 1]) - y
        x, y = x - slope[1] * beside, y + slope[0] * beside
    return [np.stack([x, y], 1)]


def _plant(rng: np.random.Generator, surface: np.ndarray, spots: np.ndarray, smallest: float, largest: float) -> None:
    height, width = surface.shape
    spots = spots[(spots > -3).all(1) & (spots < [width + 3, height + 3]).all(1)]
    radii = np.round(rng.uniform(smallest, largest, len(spots)) * 2**_SUBPIXEL).astype(np.int32).tolist()
    centres = np.round(spots * 2**_SUBPIXEL).astype(np.int32).tolist()
    for centre, radius in zip(centres, radii, strict=True):
        cv2.circle(surface, centre, radius, WOOD, -1, shift=_SUBPIXEL)


def _plant_gardens(rng: np.random.Generator, surface: np.ndarray, plan: Plan) -> None:
    """Single trees on garden plots, and here and there on a berm."""
    height, width = surface.shape
    use = np.array([0] * PLOTS + [plot.use for plot in plan.plots], np.uint8)
    count = height * width // 70
    spots = rng.uniform(0, 1, (count, 2)) * [width, height]
    under = surface[spots[:, 1].astype(np.int64), spots[:, 0].astype(np.int64)]
    is_plot = (under >= PLOTS) & (under < len(use))
    is_garden = is_plot & (use[np.where(is_plot, under, 0)] == Use.GARDEN)
    is_lone = is_plot & ~is_garden & (rng.random(count) < 0.006)
    _plant(rng, surface, spots[is_garden | is_lone], 1.0, 2.6)


def _across(line: np.ndarray) -> np.ndarray:
    """Unit normals (N, 2) of a polyline."""
    ahead = np.gradient(line, axis=0)
    return np.asarray(np.stack([-ahead[:, 1], ahead[:, 0]], 1) / np.hypot(*ahead.T)[:, None])


def _flow(surface: np.ndarray, river: np.ndarray, breadth: np.ndarray) -> None:
    across = _across(river)
    left, right = river + across * breadth[:, None] / 2, river - across * breadth[:, None] / 2
    quads = np.round(np.stack([left[:-1], left[1:], right[1:], right[:-1]], 1) * 2**_SUBPIXEL).astype(np.int32)
    for quad in quads:  # one by one: a single polygon would leave holes where a bend is tight
        cv2.fillConvexPoly(surface, quad, RIVER, shift=_SUBPIXEL)


def _dig_pond(rng: np.random.Generator, surface: np.ndarray, villages: list[Village], scale: float) -> None:
    """One pond at the edge of each village: an ellipse with a wavy shore."""
    for village in villages:
        angle = rng.uniform(0, 2 * np.pi)
        size = rng.uniform(9, 20) * max(scale, 0.45)
        middle = np.array([village.x, village.y]) + village.radius * 0.95 * np.array([math.cos(angle), math.sin(angle)])
        around = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        radius = size * (1 + 0.16 * np.sin(2 * around + angle * 3) + 0.1 * np.sin(3 * around + angle * 7))
        shore = middle + np.stack([np.cos(around) * radius, np.sin(around) * radius * rng.uniform(0.5, 0.9)], 1)
        cv2.fillPoly(surface, [np.round(shore * 2**_SUBPIXEL).astype(np.int32)], RIVER, shift=_SUBPIXEL)
