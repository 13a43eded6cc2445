"""Vector layers → class ids on the grid of a scene. It pairs nothing: every feature that lies in the scene is drawn.

A pixel has the class of the feature that covers its centre. Features are drawn in the order of the files and in them, later ones over
earlier ones; or the largest first, so that a pond in a field stays a pond.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyogrio
import pyproj
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FieldError
from pyogrio.raw import read as read_raw
from rasterio.crs import CRS
from rasterio.errors import CRSError

from landseg.core.classes import IGNORE_INDEX, LandClass
from landseg.core.earth import pixel_frame_m
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid, Window
from landseg.data.ground import Ground, move, same_crs

_ERRORS = (DataSourceError, DataLayerError, FieldError, ValueError, UnicodeDecodeError)
_NAMED = 5

Order = Literal["file", "area"]


@dataclass(frozen=True)
class Layer:
    """One layer of a vector file, not read yet.

    Args:
        path: As OGR takes it.
        name: Of the layer in the file.
        crs: None where the file states none.
        fields: Names of its columns.
        features: How many.
        ground: The bounds of all of them.
        is_thin: Whether they are points or lines, whose bounds may have no area.
    """

    path: str
    name: str
    crs: CRS | None
    fields: tuple[str, ...]
    features: int
    ground: Ground
    is_thin: bool = False


def open_layers(path: str) -> list[Layer]:
    """The layers of a vector file that have geometry and features, in the order of the file.

    Raises:
        LandsegError: It cannot be read, or no layer has a feature.
    """
    try:
        names = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
        found = [(name, pyogrio.read_info(path, layer=name, force_total_bounds=True, force_feature_count=True)) for name in names]
    except _ERRORS as error:
        reason = str(error).splitlines()[0][:120]
        raise LandsegError(path, f"it cannot be read ({reason})", "a vector layer that OGR opens", "check the path") from error
    layers = []
    for name, info in found:
        if info["features"] and info["total_bounds"] is not None and np.isfinite(info["total_bounds"]).all():
            ground = Ground(path, shapely.box(*info["total_bounds"]), _crs_of(path, info["crs"]))
            is_thin = any(kind in str(info["geometry_type"]) for kind in ("Point", "LineString"))
            layers.append(Layer(path, name, ground.crs, tuple(map(str, info["fields"])), int(info["features"]), ground, is_thin))
    if not layers:
        raise LandsegError(path, "it holds no feature with a geometry", "a layer with at least one polygon", "check what was exported")
    return layers


def class_values(layers: Sequence[Layer], column: str) -> list[str]:
    """The distinct values of the class column over all layers, numbers first and in their order.

    Raises:
        LandsegError: A layer has no such column.
    """
    found: set[str] = set()
    for layer in layers:
        if column not in layer.fields:
            raise LandsegError(
                layer.path, f"no column {column}" + (f" in layer {layer.name}" if len(layers) > 1 else ""),
                f"one of {', '.join(layer.fields) or '(it has none)'}", "name it with --class-column",
            )  # fmt: skip
        values = read_raw(layer.path, layer=layer.name, columns=[column], read_geometry=False)[3][0]
        found |= {text for text in map(_text, values) if text}
    return sorted(found, key=lambda text: (not _is_number(text), float(text) if _is_number(text) else 0.0, text))


def class_codes(values: Sequence[str], classes: Sequence[LandClass], remap: Mapping[int, int], where: str) -> dict[str, int]:
    """Value of the class column → class id (or the ignore index), by name, else by number.

    Raises:
        LandsegError: A value is no class.
    """
    by_name = {item.name.casefold(): item.id for item in classes}
    numbers = remap or {item.id: item.id for item in classes} | {IGNORE_INDEX: IGNORE_INDEX}
    codes: dict[str, int] = {}
    unknown = []
    for value in values:
        number = float(value) if _is_number(value) else None
        if value.casefold() in by_name:
            codes[value] = by_name[value.casefold()]
        elif number is not None and number.is_integer() and int(number) in numbers:
            codes[value] = numbers[int(number)]
        else:
            unknown.append(value)
    if unknown:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        known = ", ".join(item.name for item in classes)
        raise LandsegError(
            where, f"the class column holds {', '.join(map(repr, unknown[:_NAMED]))}{more}", f"names or ids of the classes ({known})",
            "name these too in --classes, or give a class file with their codes",
        )  # fmt: skip
    return codes


class Burner:
    """The features of some layers that lie in one scene, ready to be drawn window by window.

    `shapes` are the features in the order of drawing, as areas in pixels of the scene (x = columns, y = rows); `ids` their classes,
    `is_thin` those that were lines or points. Features of the margin are among them.

    Args:
        layers: In the order of drawing.
        grid: The scene's, or that of its tiles.
        column: The class column; None where every feature is of class `only`.
        codes: Value of the column → class id.
        only: The class of all features where there is no column.
        background: What lies outside of all features.
        buffer_m: Lines and points become areas of this half width in metres on the ground; None refuses them.
        order: ``file`` or ``area``.
        margin: Pixels beyond the scene within which features are read too.

    Raises:
        LandsegError: Lines or points without a buffer, or no way between two CRS.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        grid: Grid,
        *,
        column: str | None,
        codes: Mapping[str, int],
        only: int = 0,
        background: int = IGNORE_INDEX,
        buffer_m: float | None = None,
        order: Order = "file",
        margin: float = 0.0,
    ) -> None:
        self._background = background
        self.grid = grid
        shapes: list[np.ndarray] = []
        ids: list[np.ndarray] = []
        thin: list[np.ndarray] = []
        self.unnamed = 0
        for layer in layers:
            found, values = _read(layer, grid, column, margin)
            named = np.array([codes.get(_text(value), -1) for value in values] if column else np.full(len(found), only), np.int64)
            self.unnamed += int((named < 0).sum())
            areas, is_thin = _in_pixels(found[named >= 0], layer, grid, buffer_m)
            shapes.append(areas)
            ids.append(named[named >= 0])
            thin.append(is_thin)
        self.shapes, self.ids, self.is_thin = np.concatenate(shapes), np.concatenate(ids), np.concatenate(thin)
        self._keep(shapely.intersects(self.shapes, shapely.box(-margin, -margin, grid.width + margin, grid.height + margin)))
        if order == "area":
            self._keep(np.argsort(-shapely.area(self.shapes), kind="stable"))
        self._tree = shapely.STRtree(self.shapes)

    def _keep(self, places: np.ndarray) -> None:
        self.shapes, self.ids, self.is_thin = self.shapes[places], self.ids[places], self.is_thin[places]

    @property
    def features(self) -> int:
        """How many features lie in the scene."""
        return len(self.within(Window(0, 0, *self.grid.shape)))

    @property
    def background(self) -> int:
        """The class id outside of all features."""
        return self._background

    def within(self, window: Window, margin: float = 0.0) -> np.ndarray:
        """Places in `shapes` of the features that come within `margin` pixels of a window, in the order of drawing."""
        left, top = window.col - margin, window.row - margin
        area = shapely.box(left, top, left + window.width + 2 * margin, top + window.height + 2 * margin)
        return np.sort(self._tree.query(area, "intersects"))

    def read(self, window: Window) -> np.ndarray:
        """Class ids (H, W) uint8 of a window of the scene."""
        label = np.full((window.height, window.width), self._background, np.uint8)
        chosen = self.within(window)
        draw(self.shapes[chosen], self.ids[chosen], window, label)
        return label


def draw(shapes: np.ndarray, values: np.ndarray, window: Window, canvas: np.ndarray) -> None:
    """Fill shapes, later ones over earlier ones: the pixels whose centres they cover.

    Args:
        shapes: (N,) polygons and multipolygons in pixels of the scene.
        values: (N,) what each is filled with.
        window: The part of the scene that `canvas` shows.
        canvas: (H, W) uint8 or int32, changed in place.
    """
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.features import rasterize

    if len(shapes):
        # rasterio opens its canvas inside `catch_warnings`, which swaps the filters of all threads.
        if not any(entry[2] is NotGeoreferencedWarning for entry in warnings.filters):
            warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
        local = shapely.transform(shapes, lambda points: points - (window.col, window.row))
        rasterize(zip(local, values.tolist(), strict=True), out=canvas)


def _read(layer: Layer, grid: Grid, column: str | None, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Geometries in the layer's CRS near the scene, and the values of their class column."""
    bounds = _bounds_in(layer, grid, margin)
    try:
        _, numbers, wkb, fields = read_raw(
            layer.path, layer=layer.name, columns=[column] if column else [], bbox=bounds, force_2d=True, return_fids=True
        )
    except _ERRORS as error:
        raise LandsegError(layer.path, f"it cannot be read ({str(error)[:120]})", "a whole vector layer", "export it again") from error
    geometries: np.ndarray = shapely.from_wkb(wkb, on_invalid="ignore")
    order = np.argsort(numbers, kind="stable")  # a spatial index gives them in an order of its own
    order = order[~(shapely.is_missing(geometries) | shapely.is_empty(geometries))[order]]
    return geometries[order], fields[0][order] if column else np.zeros(len(order), object)


def _bounds_in(layer: Layer, grid: Grid, margin: float) -> tuple[float, float, float, float] | None:
    """Bounds of the scene and its margin in the layer's CRS, a little wider; None where they cannot be told, as across ±180°."""
    right, below = grid.width + margin, grid.height + margin
    corners = [grid.transform @ corner for corner in ((-margin, -margin), (right, -margin), (right, below), (-margin, below))]
    outline = Ground("", shapely.Polygon(corners), grid.crs).within(layer.crs)
    if outline.is_empty:
        return None
    left, bottom, right, top = outline.bounds
    if layer.crs is not None and layer.crs.is_geographic and (right - left > 180 or left < -180 or right > 180):
        return None
    wider = 0.05 * max(right - left, top - bottom)
    return left - wider, bottom - wider, right + wider, top + wider


def _in_pixels(geometries: np.ndarray, layer: Layer, grid: Grid, buffer_m: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Geometries as areas in pixels of the scene (x = columns, y = rows); and which of them were lines or points."""
    moved: np.ndarray = geometries
    if layer.crs is not None and grid.crs is not None and not same_crs(layer.crs, grid.crs):
        moved = np.asarray(move(geometries, layer.crs, grid.crs))
    inverse = ~grid.transform
    a, b, c, d, e, f, *_ = inverse
    moved = np.asarray(
        shapely.transform(
            moved, lambda points: np.stack([a * points[:, 0] + b * points[:, 1] + c, d * points[:, 0] + e * points[:, 1] + f], 1)
        )
    )
    moved = np.where(np.isfinite(shapely.bounds(moved)).all(1), moved, shapely.Polygon())  # no place in the scene's CRS: not in the scene
    thin = (shapely.get_dimensions(moved) < 2) & ~shapely.is_empty(moved)
    if not thin.any():
        return moved, thin
    if buffer_m is None:
        kind = "points" if (shapely.get_dimensions(moved[thin]) == 0).all() else "lines"
        raise LandsegError(
            layer.path, f"{int(thin.sum()):,} {kind} in it, which have no area", "polygons, or a width", "give one: --set cut.buffer_m=2.5"
        )
    frame = pixel_frame_m(grid)  # a circle on the ground is none in pixels that are not square there
    on_ground = shapely.transform(moved[thin], lambda points: points @ frame.T)
    moved[thin] = shapely.transform(shapely.buffer(on_ground, buffer_m), lambda points: points @ np.linalg.inv(frame).T)
    return moved, thin


def _crs_of(path: str, text: Any) -> CRS | None:
    if not text:
        return None
    try:
        return CRS.from_user_input(text)
    except CRSError:
        return CRS.from_wkt(pyproj.CRS.from_user_input(text).to_wkt())


def _text(value: Any) -> str:
    """A column's value as a word: ``3.0`` is ``3``; nothing for a missing one."""
    if value is None or (isinstance(value, float | np.floating) and not np.isfinite(value)):
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


SUFFIXES = frozenset(
    {
        ".shp",
        ".gpkg",
        ".geojson",
        ".json",
        ".geojsonl",
        ".fgb",
        ".kml",
        ".gml",
        ".gdb",
        ".parquet",
        ".dxf",
        ".mif",
        ".tab",
        ".sqlite",
        ".zip",
    }
)
"""Endings of files in a folder that are taken for layers; a file that is named may have any."""


def is_vector(path: str, rasters: frozenset[str]) -> bool:
    """Whether a path is a vector file's, a zip of one included: by its ending; by its content where that is none of `rasters` either."""
    suffix = Path(path.split("?", maxsplit=1)[0]).suffix.lower()
    if suffix in SUFFIXES or suffix in rasters:
        return suffix in SUFFIXES
    try:
        return len(pyogrio.list_layers(path)) > 0
    except _ERRORS:
        return False
