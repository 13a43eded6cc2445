"""The ground beneath a map: a scene as a picture that lies as the map does. It knows no classes.

The scene may have any grid and any CRS, and reach beyond the map or not as far. It is read part by part, reduced at once, and then warped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import pyproj
import rasterio.warp
from affine import Affine
from pyproj.exceptions import ProjError
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from landseg.core.earth import has_ground
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid, Window
from landseg.core.progress import progress
from landseg.data.overlay import rgb_picture
from landseg.data.raster import Scene, open_scene
from landseg.product.map_frame import MapFrame

_READ_SIDE = 4096
"""Pixels of the scene's side that one part of the picture takes to read at most, about: bounds memory."""

_EDGE_POINTS = 9
"""Points an edge of a part by which the scene's window is found: in another CRS the edge is bent."""


@dataclass(frozen=True)
class Backdrop:
    """The ground in a frame.

    Args:
        picture: (H, W, 3) uint8, red, green and blue.
        shows: (H, W) bool: where the scene has ground.
    """

    picture: np.ndarray
    shows: np.ndarray


def read_backdrop(path: str, frame: MapFrame) -> Backdrop:
    """A scene in a map's frame: each pixel the mean of what it covers.

    Args:
        path: The scene, as GDAL takes it. Red, green and blue are found by name, else its first three bands are shown, else the first.
        frame: The picture.

    Raises:
        LandsegError: The scene is no raster, is damaged, has no place on the globe or lies elsewhere.
    """
    with open_scene(path) as scene:
        if not has_ground(scene.grid):
            raise LandsegError(
                path, "it has no CRS, or no place on the globe", "a scene that lies beneath the map", "give it its CRS first"
            )
        bands, names = _shown(scene)
        values = np.full((len(bands), *frame.shape), np.nan, np.float32)
        try:
            reach = _Reach(scene.grid, frame)
            parts = list(Grid(*frame.shape).windows(int(np.clip(_READ_SIDE / reach.factor, 16, 512))))
            for part in progress(parts, "reading the scene", len(parts), "parts"):
                window = reach.window(part)
                if window is not None:
                    values[:, *part.slices] = _warped(scene, window, bands, frame, part, reach.factor)
        except (ProjError, RasterioError, CPLE_BaseError) as error:
            raise LandsegError(
                path, f"it cannot be brought onto the map ({str(error).splitlines()[0][:120]})", "a scene in a CRS that leads to the map's",
                "warp it first: gdalwarp -t_srs EPSG:… IN.tif OUT.tif",
            ) from error  # fmt: skip
        is_whole = scene.dtype == "uint8"
    shows = np.asarray(np.isfinite(values).all(0))
    if not shows.any():
        raise LandsegError(path, "it has no ground where the map lies", "the scene that the map was made of", "name that one")
    image = np.moveaxis(values, 0, 2)
    if is_whole and (len(bands) == 1 or {"red", "green", "blue"} <= {name.lower() for name in names}):
        image = np.rint(np.nan_to_num(image)).astype(np.uint8)  # shown as it is; anything else is stretched
    return Backdrop(rgb_picture(image, names), shows)


def _shown(scene: Scene) -> tuple[list[int], list[str]]:
    """Numbers and names of the bands that a picture is made of."""
    named = [(name or f"band {i}").lower() for i, name in enumerate(scene.names, 1)]
    if {"red", "green", "blue"} <= set(named):
        return [named.index(name) + 1 for name in ("red", "green", "blue")], ["red", "green", "blue"]
    count = 3 if len(named) >= 3 else 1
    return list(range(1, count + 1)), named[:count]


class _Reach:
    """Which pixels of a scene lie beneath a part of the picture.

    Attributes:
        factor: Pixels of the scene along one of the picture, in its middle; at least 1.
    """

    def __init__(self, scene: Grid, frame: MapFrame) -> None:
        self._scene, self._frame = scene, frame
        own, other = frame.grid.crs, scene.crs
        self._way = None
        if own is not None and other is not None and own != other:
            self._way = pyproj.Transformer.from_crs(own.to_wkt(), other.to_wkt(), always_xy=True)
        middle = self._places(np.array([0.0, 1.0, 0.0]) + frame.width / 2, np.array([0.0, 0.0, 1.0]) + frame.height / 2)
        across, down = (middle[:, i] - middle[:, 0] for i in (1, 2))
        area = abs(across[0] * down[1] - across[1] * down[0])
        self.factor = max(1.0, math.sqrt(area)) if np.isfinite(area) else 1.0

    def window(self, part: Window) -> Window | None:
        """The scene's window beneath a part of the picture, with what its edges need; None where there is none."""
        cols, rows = np.meshgrid(
            np.linspace(part.col, part.col + part.width, _EDGE_POINTS), np.linspace(part.row, part.row + part.height, _EDGE_POINTS)
        )
        x, y = self._places(cols.ravel(), rows.ravel())
        if not np.isfinite(x).any():
            return None
        edge = 2 * self.factor + 2
        left, right = max(0, math.floor(np.nanmin(x) - edge)), min(self._scene.width, math.ceil(np.nanmax(x) + edge))
        top, bottom = max(0, math.floor(np.nanmin(y) - edge)), min(self._scene.height, math.ceil(np.nanmax(y) + edge))
        return Window(top, left, bottom - top, right - left) if left < right and top < bottom else None

    def _places(self, cols: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(2, N) columns and rows of the scene of places in the picture; NaN where none is."""
        x, y = _mapped(self._frame.transform, cols, rows)
        if self._way is not None:
            x, y = self._way.transform(x, y)
        places = np.stack(_mapped(~self._scene.transform, np.asarray(x), np.asarray(y)))
        return np.where(np.isfinite(places).all(0), places, np.nan)


def _mapped(transform: Affine, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b, c, d, e, f, *_ = transform
    return a * x + b * y + c, d * x + e * y + f


def _warped(scene: Scene, window: Window, bands: list[int], frame: MapFrame, part: Window, factor: float) -> np.ndarray:
    """(C, H, W) float32 of a part of the picture; NaN where the scene has nothing."""
    image, valid = scene.read(window, bands)
    step = math.floor(factor)
    size = max(1, round(window.width / step)), max(1, round(window.height / step))
    reduced = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.float32).reshape(size[1], size[0], len(bands))
    if not valid.all():
        share = cv2.resize(valid.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        reduced /= np.where(share < 0.5, np.float32(np.nan), share)[:, :, None]  # what is not valid was read as 0
    source = scene.grid.crop(window).transform @ Affine.scale(window.width / size[0], window.height / size[1])
    drawn = np.full((len(bands), part.height, part.width), np.nan, np.float32)
    rasterio.warp.reproject(
        np.ascontiguousarray(np.moveaxis(reduced, 2, 0)), drawn, src_transform=source, src_crs=scene.grid.crs, src_nodata=np.nan,
        dst_transform=frame.transform @ Affine.translation(part.col, part.row), dst_crs=frame.grid.crs, dst_nodata=np.nan,
        resampling=Resampling.bilinear, num_threads=1,
    )  # fmt: skip
    return drawn
