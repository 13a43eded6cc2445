"""A class map as one picture for people: the map, its legend, a scale bar and an arrow to the north. It computes no class.

Vocabulary: the *sheet* is the whole picture, the *picture* the map on it; all lengths are pixels of the sheet, counted from its lower left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from landseg.core.classes import LandClass, paint
from landseg.core.earth import has_ground, pixel_frame_m
from landseg.core.files import replacing
from landseg.core.grid import Grid, Window
from landseg.data.cog import NODATA, read_reduced
from landseg.data.overlay import Scaling, overlay_jpeg
from landseg.data.raster import Scene
from landseg.inference.plan import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST, LEAST = 1400, 640
"""Longest side of the picture: larger maps are reduced, smaller ones shown with larger pixels."""

_DPI = 100
_MARGIN, _HEAD, _GAP, _PANEL, _LINE = 36, 66, 32, 300, 30
_BAR = 170
"""Longest scale bar."""

_INK, _MUTED, _PAPER = "#1f2430", "#6b7280", "#ffffff"
_NOTHING = (236, 236, 233)
"""Colour of no data."""

_FONTS = (
    "DejaVu Sans", "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Heiti SC", "Arial Unicode MS",
    "Noto Sans CJK JP",
)  # fmt: skip
"""Tried for each character in turn; the first comes with matplotlib, the others have Chinese."""


@dataclass(frozen=True)
class Entry:
    """A line of the legend: a class, and its share of the map, 0..1."""

    item: LandClass
    share: float


def draw_sheet(path: Path, picture: np.ndarray, title: str, grid: Grid, legend: Sequence[Entry], nodata: float) -> None:
    """Draw a sheet as PNG.

    Args:
        path: The file; replaced as a whole.
        picture: (H, W, 3) uint8 of the whole grid, from `class_picture` or `ground_picture`.
        title: Its headline.
        grid: Of the map; without a place on the globe there is neither scale bar nor arrow.
        legend: The classes in the order of their ids.
        nodata: Share of the map without a class, 0..1; mentioned where there is some.

    Raises:
        LandsegError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    frame = pixel_frame_m(grid) if has_ground(grid) else None
    picture = _proportioned(picture, grid, frame)
    lines = len(legend) + (nodata > 0)
    needed = _LINE * lines + (150 if frame is not None else 40)
    height, width = max(picture.shape[0], needed), picture.shape[1]
    size = width + 2 * _MARGIN + _GAP + _PANEL, height + 2 * _MARGIN + _HEAD
    figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI, facecolor=_PAPER)
    FigureCanvasAgg(figure)
    pen = _Pen(figure, size)
    top = _MARGIN + height
    pen.text(_MARGIN, size[1] - _MARGIN - 4, _short(title, size[0] // 16), 17, weight="bold", at="top")
    pen.text(_MARGIN, size[1] - _MARGIN - 34, _described(grid), 10, colour=_MUTED, at="top")
    bottom = top - picture.shape[0]
    figure.figimage(picture, _MARGIN, bottom, origin="upper")
    pen.box(_MARGIN, bottom, width, picture.shape[0], "none", _INK, 0.8)
    _draw_legend(pen, _MARGIN + width + _GAP, top, legend, nodata)
    if frame is not None:
        left = _MARGIN + width + _GAP
        _draw_bar(pen, left, _MARGIN + 22, math.hypot(*frame[:, 0]) * grid.width / width)
        _draw_north(pen, left + _PANEL - 34, _MARGIN + 46, frame * [grid.width / width, grid.height / picture.shape[0]])
    with replacing(path) as partial:
        figure.savefig(partial, format="png", facecolor=_PAPER, metadata={"Software": None})


def class_picture(path: Path, classes: Sequence[LandClass]) -> tuple[np.ndarray, np.ndarray]:
    """A class map reduced to a picture: (H, W, 3) uint8, and the class ids it shows, (H, W) uint8.

    Raises:
        LandsegError: It cannot be read.
    """
    ids, _ = read_reduced(path, MOST)
    picture = paint(ids, classes)
    picture[ids == NODATA] = _NOTHING
    return picture, ids


def ground_picture(
    scene: Scene, plan: Plan, ids: np.ndarray, names: Sequence[str], classes: Sequence[LandClass], scaling: Scaling | None
) -> np.ndarray:
    """The predicted part of a scene under the classes' colours.

    Args:
        scene: Open.
        plan: What of it was predicted, and from which bands.
        ids: (H, W) uint8, reduced.
        names: Of the model's bands.
        classes: Ids and colours.
        scaling: (low, high) a band, as `rgb_picture` takes it.

    Returns:
        (H, W, 3) uint8.
    """
    named = [name.lower() for name in names]
    shown = (
        [named.index(name) for name in ("red", "green", "blue")]
        if {"red", "green", "blue"} <= set(named)
        else list(range(min(3, len(named))))
    )
    shown = shown if len(shown) != 2 else shown[:1]
    height, width = ids.shape
    rows: list[np.ndarray] = []
    edges = [round(i * plan.part.height / height) for i in range(height + 1)]
    each = max(1, (1 << 22) // max(1, plan.part.width * edges[1]))  # 4 Mpx of the scene at a time
    for first in range(0, height, each):
        last = min(first + each, height)
        window = Window(plan.part.row + edges[first], plan.part.col, edges[last] - edges[first], plan.part.width)
        image, _ = scene.read(window, [plan.bands[i] for i in shown])
        image = image if image.dtype in (np.uint8, np.uint16, np.int16) else image.astype(np.float32)
        reduced = cv2.resize(image, (width, last - first), interpolation=cv2.INTER_AREA)
        rows.append(reduced.reshape(last - first, width, len(shown)))
    ground = np.concatenate(rows)
    bands, stretch = [names[i] for i in shown], None if scaling is None else [scaling[i] for i in shown]
    jpeg = np.frombuffer(overlay_jpeg(ground, ids, bands, classes, stretch), np.uint8)
    drawn: np.ndarray = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB))
    drawn[ids == NODATA] = _NOTHING
    return drawn


class _Pen:
    """Draws on a figure in pixels from its lower left."""

    def __init__(self, figure: Figure, size: tuple[int, int]) -> None:
        self._figure, self._size = figure, size

    def text(
        self,
        x: float,
        y: float,
        words: str,
        points: float,
        *,
        colour: str = _INK,
        weight: str = "normal",
        at: str = "center",
        to: str = "left",
    ) -> None:
        from matplotlib.font_manager import FontProperties

        font = FontProperties(family=list(_families()), size=points * 72 / _DPI * 1.3, weight=weight)
        shown = words.replace("$", r"\$")  # no formula
        self._figure.text(x / self._size[0], y / self._size[1], shown, fontproperties=font, color=colour, va=at, ha=to)

    def box(self, x: float, y: float, width: float, height: float, fill: str, line: str, thick: float = 0.6) -> None:
        self.shape([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], fill, line, thick)

    def shape(self, corners: Sequence[tuple[float, float]], fill: str, line: str, thick: float = 0.6) -> None:
        from matplotlib.patches import Polygon

        places = [(x / self._size[0], y / self._size[1]) for x, y in corners]
        patch = Polygon(
            places, closed=True, facecolor=fill, edgecolor=line, linewidth=thick, transform=self._figure.transFigure, joinstyle="miter"
        )
        self._figure.add_artist(patch)


def _draw_legend(pen: _Pen, left: float, top: float, legend: Sequence[Entry], nodata: float) -> None:
    y = top - _LINE / 2
    grey = "#{:02x}{:02x}{:02x}".format(*_NOTHING)
    lines = [(entry.item.colour, _legible(entry.item), entry.share) for entry in legend]
    for colour, name, share in [*lines, *[(grey, "no data", nodata)] * (nodata > 0)]:
        pen.box(left, y - 9, 26, 18, colour, _INK, 0.5)
        pen.text(left + 38, y, _short(name, 24), 10.5)
        pen.text(left + _PANEL, y, _percent(share), 10.5, colour=_MUTED, to="right")
        y -= _LINE


def _draw_bar(pen: _Pen, left: float, y: float, metres: float) -> None:
    """A scale bar of a round length; `metres` is what a pixel of the sheet takes along it."""
    whole = _round_length(_BAR * metres)
    long = whole / metres
    for i in range(4):
        pen.box(left + i * long / 4, y, long / 4, 7, _INK if i % 2 == 0 else _PAPER, _INK, 0.8)
    unit, factor = ("km", 1000.0) if whole >= 1000 else ("m", 1.0)
    for share, words in ((0.0, "0"), (0.5, f"{whole / 2 / factor:g}"), (1.0, f"{whole / factor:g} {unit}")):
        pen.text(left + share * long, y - 6, words, 9, at="top", to="left" if share == 0 else "center")


def _draw_north(pen: _Pen, x: float, y: float, frame: np.ndarray) -> None:
    """An arrow to the north; `frame` is metres [east, north] a pixel of the sheet [to the right, downwards]."""
    right, down = np.linalg.solve(frame, np.array([0.0, 1.0]))
    along = np.array([right, -down]) / math.hypot(right, down)
    across = np.array([along[1], -along[0]])

    def place(forward: float, aside: float) -> tuple[float, float]:
        at = np.array([x, y]) + forward * along + aside * across
        return float(at[0]), float(at[1])

    tip, foot = place(30, 0), place(-10, 0)
    pen.shape([tip, place(-18, -13), foot], _INK, _INK, 0.8)
    pen.shape([tip, place(-18, 13), foot], _PAPER, _INK, 0.8)
    pen.text(*place(43, 0), "N", 12, weight="bold", to="center")


def _proportioned(picture: np.ndarray, grid: Grid, frame: np.ndarray | None) -> np.ndarray:
    """The picture with pixels as square as the ground they show, and not too small to look at."""
    height, width = float(picture.shape[0]), float(picture.shape[1])
    if frame is not None:
        aspect = math.hypot(*frame[:, 1]) * grid.height / (math.hypot(*frame[:, 0]) * grid.width)
        if not 0.95 < aspect * width / height < 1.05:
            height, width = (width * aspect, width) if aspect > height / width else (height, height / aspect)
    longest = max(height, width)
    factor = MOST / longest if longest > MOST else max(1, math.ceil(LEAST / longest))
    shape = max(1, round(width * factor)), max(1, round(height * factor))
    return picture if shape == (picture.shape[1], picture.shape[0]) else cv2.resize(picture, shape, interpolation=cv2.INTER_NEAREST)


def _described(grid: Grid) -> str:
    name = "no coordinate reference system" if grid.crs is None else grid.crs.to_string()
    name = name if len(name) < 40 else (getattr(grid.crs, "linear_units", "") and "its own projection") or "its own CRS"
    return f"{grid.width:,} × {grid.height:,} pixels  ·  {name}"


def _short(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"


def _percent(share: float) -> str:
    return "–" if share == 0 else "< 0.1 %" if share < 0.001 else f"{share:.1%}".replace("%", " %")


def _round_length(most: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is at most `most`."""
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9))


@cache
def _families() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager

    known = {font.name for font in fontManager.ttflist}
    return tuple(name for name in _FONTS if name in known)


@cache
def _fonts() -> tuple[Any, ...]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return tuple(get_font(findfont(FontProperties(family=name))) for name in _families())


def _legible(item: LandClass) -> str:
    """A class's name without the characters that no font here has."""
    kept = "".join(letter for letter in item.name if any(font.get_char_index(ord(letter)) for font in _fonts()))
    return " ".join(kept.split()) or f"class {item.id}"
