"""How invented land is divided: roads, field blocks, strips, village plots and houses, as straight lines on a plane. It draws no pixels.

The plane is cut again and again, as land is: the first cuts become roads, the last ones field borders. `terrain` bends the result so that
roads curve and rows follow them. Coordinates are (x, y) in pixels, y downwards; a *plot* is what one owner works, a *cell* is land that
no further road crosses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

Point = tuple[float, float]
Polygon = list[Point]


class Use(IntEnum):
    """What a plot is used for; `BERM` is the grass that no plot covers."""

    BERM = 0
    FIELD = 1
    GARDEN = 2
    YARD = 3
    COPSE = 4
    POND = 5


class Rank(IntEnum):
    """What a cut of the plane became."""

    MAIN = 0
    MINOR = 1
    TRACK = 2
    HEDGE = 3
    CANAL = 4


@dataclass(frozen=True)
class Plot:
    """One parcel of land; rows run along `direction` (radians) and across it in the headland round `core`."""

    polygon: Polygon
    use: Use
    direction: float
    block: int
    core: Polygon | None = None


@dataclass(frozen=True)
class Line:
    """A straight cut of the plane that is seen on the ground."""

    start: Point
    end: Point
    rank: Rank


@dataclass(frozen=True)
class House:
    """A building: corners in order, the ridge parallel to the first edge; `is_hall` for the flat and large."""

    corners: Polygon
    height_m: float
    is_hall: bool


@dataclass
class Plan:
    """All of it, in the order in which it was cut."""

    plots: list[Plot] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    houses: list[House] = field(default_factory=list)


@dataclass(frozen=True)
class Village:
    """Where a settlement lies and how far it reaches, in pixels."""

    x: float
    y: float
    radius: float


class Dice:
    """Uniform draws taken from a generator a thousand at a time: a single draw costs more than what it decides."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._drawn: list[float] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        if not self._drawn:
            self._drawn = self._rng.random(1024).tolist()
        return low + (high - low) * self._drawn.pop()

    def bell(self, spread: float) -> float:
        """A number round 0 with standard deviation `spread`, never beyond 3 of them (sum of three draws)."""
        return (self.uniform() + self.uniform() + self.uniform() - 1.5) * 2.0 * spread

    def chance(self, probability: float) -> bool:
        """True in that share of calls."""
        return self.uniform() < probability


def divide(rng: np.random.Generator, height: int, width: int, villages: list[Village], *, scale: float = 1.0, margin: float = 48.0) -> Plan:
    """Divide the land of a scene.

    Args:
        rng: Where the draws come from.
        height: Pixels.
        width: Pixels.
        villages: Land near them is cut into small cells with houses.
        scale: Size of blocks and villages against those of a large scene, 0..1; small scenes would otherwise lie inside one field.
        margin: Pixels beyond the scene that are divided too, because `terrain` bends the plane.

    Returns:
        The plan. Plots cover the scene and its margin.
    """
    dice, plan = Dice(rng), Plan()
    angle, reach = dice.uniform(0, math.pi), 0.75 * math.hypot(height, width) + margin
    cos, sin = math.cos(angle) * reach, math.sin(angle) * reach
    middle_x, middle_y = width / 2 + dice.bell(0.1) * width, height / 2 + dice.bell(0.1) * height
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    stack: list[tuple[Polygon, int]] = [([(middle_x + a * cos - b * sin, middle_y + a * sin + b * cos) for a, b in corners], 0)]
    block = 0
    while stack:
        polygon, depth = stack.pop()
        if not _touches(polygon, -margin, -margin, width + margin, height + margin):
            continue
        x, y = _centre(polygon)
        nearness = max((1.0 - math.hypot(x - v.x, y - v.y) / v.radius for v in villages), default=-1.0)
        in_village = nearness > 0
        target = dice.uniform(1700, 3200) if in_village else dice.uniform(14000, 42000) * scale**2
        size = _area(polygon)
        if size > target:
            (ax, ay), (dx, dy), length = _longest_edge(polygon)
            turn = dice.bell(0.05 if in_village else 0.16)
            share = dice.uniform(0.38, 0.62)
            nx, ny = -dy * math.cos(turn) - dx * math.sin(turn), dx * math.cos(turn) - dy * math.sin(turn)
            px, py = ax + dx * length * share, ay + dy * length * share
            left, right, ends = cut(polygon, px, py, nx, ny)
            if ends and len(left) > 2 and len(right) > 2:
                rank = _rank(dice, size / scale**2, depth, in_village)
                if rank is not None:
                    plan.lines.append(Line(ends[0], ends[1], rank))
                stack += [(left, depth + 1), (right, depth + 1)]
                continue
        block += 1
        if in_village and dice.chance(0.55 + 0.6 * nearness):
            _settle(dice, plan, polygon, block)
        else:
            _farm(dice, plan, polygon, block, scale)
    return plan


def cut(polygon: Polygon, px: float, py: float, dx: float, dy: float) -> tuple[Polygon, Polygon, list[Point]]:
    """Cut a convex polygon by the line through (px, py) along (dx, dy): both parts and the two points of the cut."""
    left: Polygon = []
    right: Polygon = []
    ends: list[Point] = []
    sides = [(x - px) * dy - (y - py) * dx for x, y in polygon]
    for i, (point, side) in enumerate(zip(polygon, sides, strict=True)):
        (left if side >= 0 else right).append(point)
        following, other = polygon[(i + 1) % len(polygon)], sides[(i + 1) % len(polygon)]
        if (side >= 0) != (other >= 0):
            t = side / (side - other)
            crossing = (point[0] + t * (following[0] - point[0]), point[1] + t * (following[1] - point[1]))
            left.append(crossing)
            right.append(crossing)
            ends.append(crossing)
    return left, right, ends


def _rank(dice: Dice, size: float, depth: int, in_village: bool) -> Rank | None:
    if depth < 2 or (size > 500_000 and dice.chance(0.6)):
        return Rank.MAIN
    if in_village:
        return Rank.MINOR
    if size > 120_000:
        return Rank.MINOR
    draw = dice.uniform()
    for limit, rank in ((0.16, Rank.MINOR), (0.56, Rank.TRACK), (0.72, Rank.HEDGE), (0.79, Rank.CANAL)):
        if draw < limit:
            return rank
    return None


def _farm(dice: Dice, plan: Plan, polygon: Polygon, block: int, scale: float) -> None:
    (_, _), (dx, dy), _ = _longest_edge(polygon)
    use = Use.POND if dice.chance(0.035) else Use.FIELD
    direction = math.atan2(dy, dx)
    low, high = _extent(polygon, dx, dy)
    longest = dice.uniform(110, 320) * max(scale, 0.5)
    pieces = [polygon]
    if high - low > longest:
        at = low + (high - low) * dice.uniform(0.4, 0.6)
        left, right, _ = cut(polygon, dx * at, dy * at, -dy, dx)
        pieces = [part for part in (left, right) if len(part) > 2]
    for piece in pieces:
        widest = 80 if dice.chance(0.25) else 34
        typical = math.exp(dice.uniform(math.log(7), math.log(widest))) * max(scale, 0.5)
        if use == Use.POND:
            typical = dice.uniform(22, 40) * max(scale, 0.4)
        for strip in _strips(dice, piece, dx, dy, typical, 0.35):
            kind = use
            if use == Use.FIELD and dice.chance(0.025):
                kind = Use.COPSE
            if kind == Use.POND:
                basin = _inset(strip, 1.6)  # round it stays a dike
                plan.plots += [Plot(strip, Use.BERM, direction, block)] + ([Plot(basin, kind, direction, block)] if basin else [])
                continue
            core = _core(strip, dx, dy) if kind == Use.FIELD and typical > 12 else None
            plan.plots.append(Plot(strip, kind, direction, block, core))
            if kind == Use.FIELD and dice.chance(0.012) and _area(strip) > 900:
                _hall(dice, plan, strip, dx, dy)


def _settle(dice: Dice, plan: Plan, polygon: Polygon, block: int) -> None:
    _, (dx, dy), _ = _longest_edge(polygon)
    direction = math.atan2(dy, dx)
    if dice.chance(0.12):
        plan.plots.append(Plot(polygon, Use.YARD if dice.chance(0.6) else Use.GARDEN, direction, block))
        across = _extent(polygon, -dy, dx)
        for strip in _strips(dice, polygon, dx, dy, max(13.0, (across[1] - across[0]) / 2.2), 0.1):
            low, high = _extent(strip, dx, dy)
            at = low + 7
            while at + 12 < high:
                length = dice.uniform(10, 19)
                _build(dice, plan, strip, dx, dy, at + length / 2, length, dice.uniform(5.5, 10), is_hall=True)
                at += length + dice.uniform(3, 9)
        return
    # Plots stand across the cell, so that each has a house at one street and a garden behind it.
    low, high = _extent(polygon, -dy, dx)
    is_dense = dice.chance(0.6)
    for strip in _strips(dice, polygon, -dy, dx, dice.uniform(7.5, 12), 0.15):
        plan.plots.append(Plot(strip, Use.YARD if dice.chance(0.1) else Use.GARDEN, direction + math.pi / 2, block))
        first, last = _extent(strip, -dy, dx)
        sides = _extent(strip, dx, dy)
        frontage = min(sides[1] - sides[0] - 1.6, dice.uniform(4.6, 8.5))
        if frontage < 4 or last - first < 11:
            continue
        depth = dice.uniform(4, 5.6)
        setback = 3.2 + dice.uniform(0, 1.8)
        for at in (first + setback + depth / 2, last - setback - depth / 2):
            if dice.chance(0.88 if is_dense else 0.6):
                _build(dice, plan, strip, -dy, dx, at, depth, frontage, is_hall=False)
        if is_dense and last - first > 30 and dice.chance(0.5):
            _build(dice, plan, strip, -dy, dx, (first + last) / 2 + dice.bell(2), dice.uniform(4, 7), frontage * 0.7, is_hall=False)


def _hall(dice: Dice, plan: Plan, strip: Polygon, dx: float, dy: float) -> None:
    low, high = _extent(strip, dx, dy)
    length = dice.uniform(9, 20)
    across = _extent(strip, -dy, dx)
    breadth = min(across[1] - across[0] - 4, dice.uniform(5, 9))
    if breadth >= 4.5 and high - low > length + 10:
        _build(dice, plan, strip, dx, dy, low + 6 + length / 2, length, breadth, is_hall=True)


def _build(dice: Dice, plan: Plan, plot: Polygon, dx: float, dy: float, at: float, along: float, across: float, *, is_hall: bool) -> None:
    """Put a building into a plot, `at` along (dx, dy) and midway between its sides, unless it would stand over the border."""
    low, high = _middle(plot, dx, dy, at)
    if high - low < across + 1.2:
        return
    middle = (low + high) / 2
    x, y = dx * at - dy * middle, dy * at + dx * middle
    turn = dice.bell(0.03)
    ux, uy = dx * math.cos(turn) - dy * math.sin(turn), dx * math.sin(turn) + dy * math.cos(turn)
    a, b = along / 2, across / 2
    corners = [(x + i * a * ux - j * b * uy, y + i * a * uy + j * b * ux) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    if across > along:  # the ridge runs along the longer side
        corners = corners[1:] + corners[:1]
    if all(_inside(plot, corner) for corner in corners):
        plan.houses.append(House(corners, dice.uniform(5, 10) if is_hall else dice.uniform(4, 7.5), is_hall))


def _strips(dice: Dice, polygon: Polygon, dx: float, dy: float, typical: float, spread: float) -> list[Polygon]:
    """Cut a convex polygon into strips along (dx, dy), about `typical` wide."""
    low, high = _extent(polygon, -dy, dx)
    strips, rest, at = [], polygon, low
    while True:
        at += typical * (1 + dice.bell(spread))
        if at > high - 0.6 * typical:
            break
        strip, rest, _ = cut(rest, -dy * at, dx * at, dx, dy)
        if len(strip) > 2:
            strips.append(strip)
        if len(rest) < 3:
            return strips
    strips.append(rest)
    return strips


def _core(strip: Polygon, dx: float, dy: float) -> Polygon | None:
    """The strip without its headlands, or None where it is too short for any."""
    low, high = _extent(strip, dx, dy)
    width = 6.0
    if high - low < 6 * width:
        return None
    _, rest, _ = cut(strip, dx * (low + width), dy * (low + width), dy, -dx)
    core, _, _ = cut(rest, dx * (high - width), dy * (high - width), dy, -dx)
    return core if len(core) > 2 else None


def _inset(polygon: Polygon, by: float) -> Polygon:
    """A convex polygon without a rim of `by` pixels; nothing of one that is too small."""
    x, y = _centre(polygon)
    rest = polygon
    for (ax, ay), (bx, end_y) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        length = math.hypot(bx - ax, end_y - ay) or 1.0
        dx, dy = (bx - ax) / length, (end_y - ay) / length
        side = 1.0 if (x - ax) * dy - (y - ay) * dx >= 0 else -1.0
        left, right, _ = cut(rest, ax + side * dy * by, ay - side * dx * by, dx, dy)
        rest = left if side > 0 else right
        if len(rest) < 3:
            return []
    return rest


def _extent(polygon: Polygon, dx: float, dy: float) -> tuple[float, float]:
    along = [x * dx + y * dy for x, y in polygon]
    return min(along), max(along)


def _middle(polygon: Polygon, dx: float, dy: float, at: float) -> tuple[float, float]:
    """From where to where a polygon reaches across (dx, dy) at the place `at` along it."""
    _, _, ends = cut(polygon, dx * at, dy * at, -dy, dx)
    if len(ends) < 2:
        return 0.0, 0.0
    across = [y * dx - x * dy for x, y in ends]
    return min(across), max(across)


def _inside(polygon: Polygon, point: Point) -> bool:
    x, y = point
    sides = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0 for (ax, ay), (bx, by) in zip(polygon, polygon[1:] + polygon[:1], strict=True)]
    return all(sides) or not any(sides)


def _area(polygon: Polygon) -> float:
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in pairs)) / 2


def _centre(polygon: Polygon) -> Point:
    return sum(x for x, _ in polygon) / len(polygon), sum(y for _, y in polygon) / len(polygon)


def _longest_edge(polygon: Polygon) -> tuple[Point, Point, float]:
    """Start, unit direction and length of the longest edge."""
    length, (ax, ay), (bx, by) = max(
        (math.hypot(b[0] - a[0], b[1] - a[1]), a, b) for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True)
    )
    return (ax, ay), ((bx - ax) / length, (by - ay) / length), length


def _touches(polygon: Polygon, left: float, top: float, right: float, bottom: float) -> bool:
    xs, ys = [x for x, _ in polygon], [y for _, y in polygon]
    return min(xs) < right and max(xs) > left and min(ys) < bottom and max(ys) > top
