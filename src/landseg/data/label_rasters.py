"""Label rasters → class ids on the grid of a scene, the nearest label pixel for each of its pixels. It pairs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from landseg.core.classes import IGNORE_INDEX
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid, Window
from landseg.data.ground import move_points, same_crs
from landseg.data.raster import Scene, open_scene

CODES = 65536
"""Codes that a label raster may hold: 0 to 65535."""

_STRIP = 1 << 24
"""Pixels of a label raster that are looked at at a time."""

_STEP = 0.01
"""Pixels by which two grids may differ and still be one."""

_TURN = 360.0

_NODES = 33
"""Nodes an axis at which a window is taken to another CRS; between them, a window of 60 km errs by less than a metre."""


def codes_in(path: str) -> tuple[list[int], dict[int, str]]:
    """The codes of a label raster's valid pixels, and the names of its classes where it has them; read strip by strip.

    Raises:
        LandsegError: It cannot be read, has several bands, or holds other numbers than codes.
    """
    seen = np.zeros(CODES, bool)
    with open_scene(path, is_stored=True) as raster:
        require_one_band(raster)
        height = max(1, _STRIP // raster.grid.width)
        for row in range(0, raster.grid.height, height):
            window = Window(row, 0, min(height, raster.grid.height - row), raster.grid.width)
            values, valid = raster.read(window)
            seen[whole(values[:, :, 0][valid], path)] = True
        return np.flatnonzero(seen).tolist(), raster.labels


def require_one_band(raster: Scene) -> None:
    """Refuse a label raster of several bands.

    Raises:
        LandsegError: It is a picture in colours.
    """
    if raster.bands != 1:
        raise LandsegError(
            raster.path, f"{raster.bands} bands", "one band of class ids",
            "convert it (rio calc, gdal_calc.py); a picture in colours is read where images and labels are tiles",
        )  # fmt: skip


def whole(values: np.ndarray, path: str) -> np.ndarray:
    """Values as codes.

    Raises:
        LandsegError: They are fractions, negative or too large.
    """
    codes = values.astype(np.int64)
    if values.size and ((codes != values).any() or codes.min() < 0 or codes.max() >= CODES):
        wrong = values[(codes != values) | (codes < 0) | (codes >= CODES)][0]
        raise LandsegError(
            path, f"it holds {wrong:g}", f"whole numbers from 0 to {CODES - 1}", "write class ids; state other values as its nodata"
        )
    return codes


class RasterLabels:
    """One label raster on the grid of one scene.

    Args:
        raster: The label raster, opened as stored.
        grid: The scene's.
        table: (65536,) code → class id, `IGNORE_INDEX`, or -1 where no class has the code.
        background: What the raster's missing pixels are; beyond its border all is unlabelled.
    """

    def __init__(self, raster: Scene, grid: Grid, table: np.ndarray, background: int = IGNORE_INDEX) -> None:
        require_one_band(raster)
        self._raster, self._grid, self._table, self._background = raster, grid, table, background
        ours, theirs = grid.crs, raster.grid.crs
        self._is_moved = ours is not None and theirs is not None and not same_crs(ours, theirs)
        self._step = ~raster.grid.transform @ grid.transform
        shift = np.array([self._step @ corner for corner in ((0, 0), (grid.width, 0), (0, grid.height))])
        apart = shift - [(0, 0), (grid.width, 0), (0, grid.height)]
        self._is_in_step = not self._is_moved and bool(np.abs(apart - np.round(apart[0])).max() < _STEP)
        self._offset = np.round(apart[0]).astype(int).tolist()

    @property
    def grid(self) -> Grid:
        """The scene's."""
        return self._grid

    @property
    def is_resampled(self) -> bool:
        """Whether its grid is another than the scene's."""
        return not self._is_in_step

    def read(self, window: Window) -> np.ndarray:
        """Class ids (H, W) uint8 of a window of the scene.

        Raises:
            LandsegError: A code is no class's.
        """
        col, row = self._columns_and_rows(window)
        whole_grid = self._raster.grid
        inside = (col >= 0) & (col < whole_grid.width) & (row >= 0) & (row < whole_grid.height)
        label = np.full((window.height, window.width), IGNORE_INDEX, np.uint8)
        if not inside.any():
            return label
        rows, cols = (np.broadcast_to(axis, label.shape)[inside] for axis in (row, col))
        top, left = int(rows.min()), int(cols.min())
        part = Window(top, left, int(rows.max()) + 1 - top, int(cols.max()) + 1 - left)
        if part.height * part.width > 4 * _STRIP and window.height > 1:  # labels far finer than the scene
            half = window.height // 2
            parts = (Window(window.row, window.col, half, window.width),
                     Window(window.row + half, window.col, window.height - half, window.width))  # fmt: skip
            return np.concatenate([self.read(piece) for piece in parts])
        values, valid = self._raster.read(part)
        codes = np.where(valid, values[:, :, 0], 0)
        ids = self._table[whole(codes, self._raster.path)]
        if (ids[valid] < 0).any():
            code = int(codes[valid & (ids < 0)][0])
            raise LandsegError(
                self._raster.path, f"code {code}, which no class has", "a class for each code", "give a class file with codes"
            )
        ids = np.where(valid, ids, self._background).astype(np.uint8)
        label[inside] = ids[rows - top, cols - left]
        return label

    def _columns_and_rows(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Column and row of the label raster in which the centre of each pixel lies; they broadcast to (H, W)."""
        rows = np.arange(window.row, window.row + window.height)[:, None]
        cols = np.arange(window.col, window.col + window.width)[None]
        if self._is_in_step:
            return cols + self._offset[0], rows + self._offset[1]
        if not self._is_moved:
            a, b, c, d, e, f, *_ = self._step
            return _cell(a * (cols + 0.5) + b * (rows + 0.5) + c), _cell(d * (cols + 0.5) + e * (rows + 0.5) + f)
        return self._moved(window)

    def _moved(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """The same across CRS: exact at some nodes, bilinear between them."""
        down = np.linspace(0.5, max(window.height - 0.5, 1.5), _NODES)
        across = np.linspace(0.5, max(window.width - 0.5, 1.5), _NODES)
        x, y = _apply(self._grid.transform, (window.col + across)[None], (window.row + down)[:, None])
        nodes = list(move_points(x.ravel(), y.ravel(), self._grid.crs, self._raster.grid.crs))
        crs = self._raster.grid.crs
        is_round = crs is not None and crs.is_geographic
        if is_round and np.ptp(nodes[0]) > _TURN / 2:
            nodes[0] = np.where(nodes[0] < 0, nodes[0] + _TURN, nodes[0])  # the window crosses 180°
        at_row, at_col = (_between(nodes, np.arange(length) + 0.5) for nodes, length in ((down, window.height), (across, window.width)))
        spread = [at_row @ node.reshape(_NODES, _NODES) @ at_col.T for node in nodes]
        if is_round:
            west = min(self._raster.grid.transform.c, (self._raster.grid.transform @ (self._raster.grid.width, 0))[0])
            spread[0] = west + np.mod(spread[0] - west, _TURN)  # rasters count their degrees from -180 or from 0
        cols, rows = _apply(~self._raster.grid.transform, *spread)
        return _cell(cols), _cell(rows)


class SeveralLabels:
    """Several label rasters of one scene: later ones lie over earlier ones where they say something."""

    def __init__(self, labels: Sequence[RasterLabels]) -> None:
        self._labels = labels

    @property
    def grid(self) -> Grid:
        """The scene's."""
        return self._labels[0].grid

    def read(self, window: Window) -> np.ndarray:
        """Class ids (H, W) uint8 of a window of the scene."""
        label = self._labels[0].read(window)
        for other in self._labels[1:]:
            above = other.read(window)
            np.copyto(label, above, where=above != IGNORE_INDEX)
        return label


def shifted(codes: Sequence[int], count: int) -> Mapping[int, int]:
    """Code → class id for labels that count their classes from 1; empty where these do not."""
    return {i + 1: i for i in range(count)} if codes and codes[0] >= 1 and codes[-1] <= count else {}


def _apply(transform: Any, cols: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b, c, d, e, f, *_ = transform
    return a * cols + b * rows + c, d * cols + e * rows + f


def _between(nodes: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(P, N) weights that interpolate linearly between nodes."""
    place = np.clip((at - nodes[0]) / (nodes[1] - nodes[0]), 0, len(nodes) - 1)
    before = np.minimum(place.astype(int), len(nodes) - 2)
    weights = np.zeros((len(at), len(nodes)))
    each = np.arange(len(at))
    weights[each, before] = before + 1 - place
    weights[each, before + 1] = place - before
    return weights


def _cell(place: np.ndarray) -> np.ndarray:
    """The pixel that a place lies in; -1 for no place at all."""
    return np.where(np.isfinite(place), np.clip(np.floor(place), -1, 2**31), -1).astype(np.int64)
