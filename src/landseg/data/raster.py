"""Windowed georeferenced read and write of rasters. It does not resample, reproject or interpret what the values mean."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.dtypes
import rasterio.windows
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from landseg.core.errors import LandsegError
from landseg.core.files import replacing
from landseg.core.grid import Grid, Window

BLOCK = 256
"""Edge length in pixels of the tiles inside the GeoTIFFs that landseg writes: GDAL's default."""


def write(
    path: Path,
    array: np.ndarray,
    grid: Grid,
    *,
    nodata: float | None = None,
    palette: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> Path:
    """Write a GeoTIFF (tiled, deflate), whole or not at all; the same array gives the same bytes.

    Args:
        path: The file to write; its folder is created, an older file is replaced.
        array: (H, W) or (H, W, C), of a dtype that GeoTIFF knows.
        grid: Shape, transform and CRS; the shape must be the array's.
        nodata: The value that means "missing"; None when every pixel is valid.
        palette: 256 × 3 numbers (as `core.classes.palette` gives) for a single band of uint8.
        names: Names of the classes in the order of their ids, kept in the first band's tags as ``class_0``, ``class_1`` …

    Returns:
        `path`.

    Raises:
        LandsegError: Array, grid and palette do not fit together, or the file cannot be written.
    """
    bands = array[:, :, None] if array.ndim == 2 else array
    dtype = str(array.dtype)
    if bands.ndim != 3 or bands.shape[:2] != grid.shape or bands.shape[2] == 0:
        needed = f"(H, W) or (H, W, C) on a grid of {grid.shape}"
        raise LandsegError(path, f"an array of shape {array.shape}", needed, "give it its own grid")
    if dtype == "bool" or not rasterio.dtypes.check_dtype(dtype):
        raise LandsegError(path, f"values of type {dtype}", "a type that GeoTIFF stores", "convert them, e.g. to uint8 or float32")
    if palette is not None and (dtype != "uint8" or bands.shape[2] != 1 or len(palette) != 768):
        raise LandsegError(
            path, f"a palette of {len(palette)} numbers for {bands.shape[2]} bands of {dtype}", "256 × 3 numbers for one band of uint8",
            "write it without a palette",
        )  # fmt: skip
    profile: dict[str, Any] = {
        "driver": "GTiff", "height": grid.height, "width": grid.width, "count": bands.shape[2], "dtype": dtype, "nodata": nodata,
        "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate", "bigtiff": "if_safer", "interleave": "pixel",
        "predictor": 3 if bands.dtype.kind == "f" else 2 if bands.dtype.kind in "iu" else 1,
    }  # fmt: skip
    if bands.shape[2] > 1:
        # Left to itself GDAL declares the fourth of four bands to be alpha, and near infrared would be read as validity.
        profile |= {"photometric": "rgb" if bands.shape[2] in (3, 4) else "minisblack", "alpha": "no"}
    if grid.is_georeferenced:
        profile |= {"crs": grid.crs, "transform": grid.transform}
    with _quiet(), replacing(path) as partial, rasterio.open(partial, "w", **profile) as dataset:
        if palette is not None:
            triples = np.asarray(palette, np.int64).reshape(256, 3)
            dataset.write_colormap(1, {i: (int(r), int(g), int(b), 255) for i, (r, g, b) in enumerate(triples)})
        dataset.write(np.moveaxis(bands, 2, 0))
        if names is not None:
            dataset.update_tags(1, **{f"class_{i}": name for i, name in enumerate(names)})
    return path


def read(path: Path | str, window: Window | None = None) -> tuple[np.ndarray, Grid, np.ndarray]:
    """Read a raster, or a window of it, as it is stored.

    Args:
        path: A GeoTIFF, COG, VRT or whatever else GDAL opens.
        window: The part to read, inside the raster; all of it when None.

    Returns:
        The array (H, W, C) in the file's own dtype, without its alpha band if it has one; the grid of what was read; and
        valid (H, W) bool from the dataset's mask (nodata value, alpha or mask band), True where any band is usable.

    Raises:
        LandsegError: The file is missing, damaged or no raster, or the window reaches beyond it.
    """
    try:
        with _quiet(), rasterio.open(path) as dataset:
            whole = Grid(dataset.height, dataset.width, dataset.transform, dataset.crs)
            part = window or Window(0, 0, whole.height, whole.width)
            if min(part.row, part.col) < 0 or part.row + part.height > whole.height or part.col + part.width > whole.width:
                found = f"{part} asked of {whole.height} × {whole.width} pixels"
                raise LandsegError(path, found, "a window inside it", "cut windows from its grid")
            area = rasterio.windows.Window(part.col, part.row, part.width, part.height)
            bands = [i for i, meaning in zip(dataset.indexes, dataset.colorinterp, strict=True) if meaning != ColorInterp.alpha]
            array = dataset.read(bands or dataset.indexes, window=area)
            valid = dataset.dataset_mask(window=area) > 0
    except RasterioError as error:
        reason = str(error).splitlines()[0].removeprefix(f"{path}: ") if str(error) else type(error).__name__
        found = f"it cannot be read ({reason})" if Path(path).exists() else "no such file"
        needed = "a whole raster that GDAL opens (GeoTIFF, COG, VRT …)"
        raise LandsegError(path, found, needed, "check the path, or fetch the file again") from error
    return np.ascontiguousarray(np.moveaxis(array, 0, 2)), whole.crop(part), valid


@contextmanager
def _quiet() -> Iterator[None]:
    """A raster without a place on earth is no fault: its grid says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
