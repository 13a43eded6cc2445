"""Scenes and their labels → tiles on a regular grid, in constant memory. It finds and pairs nothing: `pairing` does.

Tiles lie in step from the scene's upper left corner and neither overlap nor leave gaps; where a tile reaches beyond the scene it is filled
up with missing pixels. A tile is dropped where too little of it shows ground or is labelled.

Vocabulary: the *factor* is how many pixels of the scene a tile's pixel is high and wide; (1, 1) where nothing is resampled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from affine import Affine

from landseg.core.classes import IGNORE_INDEX, LandClass, palette
from landseg.core.earth import pixel_size_m
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid, Window
from landseg.core.progress import parallel_map, progress
from landseg.core.settings import CutConfig
from landseg.data.bands import chosen_bands
from landseg.data.raster import Scene, encode
from landseg.data.sink import Sink

NO_IMAGE, NO_LABEL = "too little of the image", "too little that is labelled"
"""Why a tile is dropped."""

_PIECE = 2048
"""Pixels of the scene an edge that are resampled at a time."""

KEY = "cut.bands"
"""The setting that chooses bands."""

OWN = 0.01
"""A resolution that differs from the scene's own by less than this share is taken as its own. The metres of UTM differ from those on the
ground by up to 0.1 % on purpose, and to resample by so little would only blur."""

FINEST = 16
"""Pixels of a tile an edge that one pixel of the scene may become; more is a slip, and would fill the disk with copies."""

Factor = tuple[float, float]

_SAME: Factor = (1.0, 1.0)


class Labels(Protocol):
    """Labels of a scene, whatever they were made of."""

    @property
    def grid(self) -> Grid:
        """The grid of the windows: the scene's, or already the one that the scene is cut on."""

    def read(self, window: Window) -> np.ndarray:
        """Class ids (H, W) uint8 of a window of that grid."""


@dataclass(frozen=True)
class CutTile:
    """One tile: its place in the scene, its pixels and its labels (None in a set without)."""

    row: int
    col: int
    grid: Grid
    image: np.ndarray
    label: np.ndarray | None


@dataclass
class Counts:
    """What became of the tiles of one scene."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(IGNORE_INDEX + 1, np.int64))
    """Labelled pixels of the kept tiles by class id."""
    images: dict[str, Path] = field(default_factory=dict)
    """Tile name → image file."""


def factor_of(scene: Scene, resolution_m: float | None) -> Factor:
    """Pixels of the scene that a tile's pixel is high and wide; they differ where the scene's are not square on the ground, as in degrees.

    Raises:
        LandsegError: Metres are asked of a scene without a place on earth, or far finer ones than its own.
    """
    if resolution_m is None:
        return _SAME
    size_m = pixel_size_m(scene.grid)
    if size_m is None:
        raise LandsegError(
            scene.path, "it has no place on earth, so its metres are unknown", "a CRS and a transform",
            "assign them, or cut it without --resolution",
        )  # fmt: skip
    high, wide = size_m
    factor = resolution_m / high, resolution_m / wide
    if min(factor) < 1 / FINEST:
        raise LandsegError(
            scene.path, f"{min(high, wide):.3g} m a pixel", f"at least {max(high, wide) / FINEST:.3g} m for its tiles",
            "choose a coarser --resolution: a finer one shows nothing more",
        )  # fmt: skip
    return _SAME if max(abs(value - 1) for value in factor) < OWN else factor


def tiles_of(scene: Scene, labels: Labels | None, size: int, factor: Factor, config: CutConfig, counts: Counts) -> Iterator[CutTile]:
    """Cut a scene, row by row; `counts` says why tiles are missing.

    Args:
        scene: Read window by window.
        labels: On its grid, or on `cut_grid`.
        size: Edge length of the tiles in pixels.
        factor: From `factor_of`; where it is not (1, 1), an image pixel is the mean of the valid ground below it (missing where less than
            half of that is valid), a label pixel the class that most of it has, unlabelled counted as one; a tie goes to the lower id.
            Labels on `cut_grid` are taken as they are.
        config: Bands, and which tiles are dropped.
        counts: Is added to.
    """
    bands = chosen_bands(scene, config.bands, KEY)
    grid = cut_grid(scene.grid, factor)
    for row in range(0, grid.height, size):
        for col in range(0, grid.width, size):
            window = Window(row, col, size, size)
            image, valid = _filled(scene, grid, window, factor, bands)
            if valid.mean() < config.min_valid or not valid.any():
                counts.dropped[NO_IMAGE] += 1
                continue
            label = None
            if labels is not None:
                label = np.where(valid, _labelled(labels, grid, window, factor), np.uint8(IGNORE_INDEX))
                share = np.count_nonzero(label != IGNORE_INDEX) / label.size
                if share == 0 or share < config.min_labelled:
                    counts.dropped[NO_LABEL] += 1
                    continue
                counts.pixels += np.bincount(label.ravel(), minlength=IGNORE_INDEX + 1)
            counts.kept += 1
            yield CutTile(row // size, col // size, grid.crop(window), image, label)


def write_tiles(
    scene: Scene, labels: Labels | None, name: str, sink: Sink, *,
    size: int, factor: Factor, config: CutConfig, classes: Sequence[LandClass],
) -> Counts:  # fmt: skip
    """Cut a scene into ``images/NAME/ROW_COL.tif`` and ``labels/NAME/ROW_COL.tif``, GeoTIFFs with their place, CRS and scene name.

    Args:
        scene: Read window by window.
        labels: On its grid, or on `cut_grid`; None for tiles without.
        name: Of the scene.
        sink: Where `images` and `labels` go.
        size: Edge length of the tiles in pixels.
        factor: From `factor_of`.
        config: Bands, and which tiles are dropped.
        classes: For the labels' palette and names.
    """
    counts = Counts()
    colours, names = palette(classes), [item.name for item in classes]

    def make(tile: CutTile) -> tuple[str, dict[str, bytes]]:
        """A tile's place, and the bytes of its files that are still to be written."""
        place, tags = f"{name}/{tile.row:04d}_{tile.col:04d}", {"scene": name}
        path = Path(f"{place}.tif")
        files = {"images": encode(path, tile.image, tile.grid, tags=tags)}
        if tile.label is not None:
            files["labels"] = encode(path, tile.label, tile.grid, nodata=IGNORE_INDEX, palette=colours, names=names, tags=tags)
        if not sink.is_packed:  # here, on many threads: a disk far away takes its time for each file
            save(place, files)
            return place, {}
        return place, files

    def save(place: str, files: dict[str, bytes]) -> None:
        for role, data in files.items():
            sink.put(role, f"{place}.tif", data)

    tiles = tiles_of(scene, labels, size, factor, config, counts)
    high, wide = (-(-length // size) for length in cut_grid(scene.grid, factor).shape)
    for place, files in progress(parallel_map(make, tiles, ahead=2), f"cutting {name}", high * wide):
        save(place, files)
        counts.images[place] = sink.place("images") / f"{place}.tif"
    return counts


def cut_grid(grid: Grid, factor: Factor) -> Grid:
    """The grid that a scene is cut on: its own corner and direction, pixels `factor` times as high and wide."""
    if factor == _SAME:
        return grid
    height, width = (max(1, round(length / step)) for length, step in zip(grid.shape, factor, strict=True))
    down, across = factor
    return Grid(height, width, grid.transform @ Affine.scale(across, down), grid.crs)


def _filled(scene: Scene, grid: Grid, window: Window, factor: Factor, bands: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """A tile's image (H, W, C) and valid (H, W), with missing pixels beyond the scene."""
    image = np.zeros((window.height, window.width, len(bands)), scene.dtype)
    valid = np.zeros((window.height, window.width), bool)
    for piece in _pieces(grid, window, factor):
        inside = Window(piece.row - window.row, piece.col - window.col, piece.height, piece.width).slices
        source = _below(scene.grid, piece, factor)
        pixels, is_valid = scene.read(source, bands)
        if factor == _SAME:
            image[inside], valid[inside] = pixels, is_valid
        else:
            image[inside], valid[inside] = _mean(pixels, is_valid, *_weights(piece, source, factor), factor[0] * factor[1])
    return image, valid


def _labelled(labels: Labels, cut: Grid, window: Window, factor: Factor) -> np.ndarray:
    """A tile's label (H, W), unlabelled beyond the scene."""
    label = np.full((window.height, window.width), IGNORE_INDEX, np.uint8)
    factor = _SAME if labels.grid == cut else factor
    for piece in _pieces(cut, window, factor):
        inside = Window(piece.row - window.row, piece.col - window.col, piece.height, piece.width).slices
        source = _below(labels.grid, piece, factor)
        ids = labels.read(source)
        label[inside] = ids if factor == _SAME else _majority(ids, *_weights(piece, source, factor))
    return label


def _pieces(grid: Grid, window: Window, factor: Factor) -> Iterator[Window]:
    """Parts of a tile that lie in the scene and are small enough to be resampled at once."""
    bottom, right = min(window.row + window.height, grid.height), min(window.col + window.width, grid.width)
    high, wide = (max(1, int(_PIECE / max(step, 1.0))) for step in factor)
    for row in range(window.row, bottom, high):
        for col in range(window.col, right, wide):
            yield Window(row, col, min(high, bottom - row), min(wide, right - col))


def _below(grid: Grid, piece: Window, factor: Factor) -> Window:
    """The window of the scene that a piece is made of."""
    if factor == _SAME:
        return piece
    starts, ends = (piece.row, piece.col), (piece.row + piece.height, piece.col + piece.width)
    top, left = (min(int(start * step), length - 1) for start, step, length in zip(starts, factor, grid.shape, strict=True))
    bottom, right = (min(int(np.ceil(end * step - 1e-6)), length) for end, step, length in zip(ends, factor, grid.shape, strict=True))
    return Window(top, left, max(1, bottom - top), max(1, right - left))


def _weights(piece: Window, source: Window, factor: Factor) -> tuple[np.ndarray, np.ndarray]:
    """For rows and columns: (pixels, pixels of the scene) float64, how long each lies in each, in pixels of the scene."""
    axes = ((piece.row, piece.height, source.row, source.height), (piece.col, piece.width, source.col, source.width))
    result = []
    for (start, count, first, length), step in zip(axes, factor, strict=True):
        edges = (start + np.arange(count + 1)) * step
        cells = first + np.arange(length + 1)
        low, high = np.maximum(edges[:-1, None], cells[None, :-1]), np.minimum(edges[1:, None], cells[None, 1:])
        result.append(np.maximum(high - low, 0.0))
    return result[0], result[1]


def _mean(
    pixels: np.ndarray, valid: np.ndarray, rows: np.ndarray, cols: np.ndarray, whole: float
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Area means of the valid pixels, in the image's own type; missing pixels are 0 there already; `whole` is the area below a pixel."""
    area = rows @ valid.astype(np.float64) @ cols.T
    is_valid = area >= whole / 2 - 1e-9
    sums = np.stack([rows @ pixels[:, :, band].astype(np.float64) @ cols.T for band in range(pixels.shape[2])], 2)
    means = sums / np.maximum(area, 1e-12)[:, :, None]
    means[~is_valid] = 0
    return (np.floor(means + 0.5) if pixels.dtype.kind in "iu" else means).astype(pixels.dtype), is_valid


def _majority(ids: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """The class that most of the ground below each pixel has; the lower id of equal ones."""
    best = np.full((len(rows), len(cols)), -1.0)
    label = np.full(best.shape, IGNORE_INDEX, np.uint8)
    for value in np.unique(ids).tolist():
        area = rows @ (ids == value).astype(np.float64) @ cols.T
        is_more = area > best + 1e-9
        best[is_more], label[is_more] = area[is_more], value
    return label
