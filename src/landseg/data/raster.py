"""Windowed georeferenced read and write of rasters. It does not resample, reproject or interpret what the values mean."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.dtypes
import rasterio.windows
from affine import Affine
from rasterio._env import get_gdal_config, set_gdal_config
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.transform import from_gcps

from landseg.core.errors import LandsegError
from landseg.core.files import write_bytes
from landseg.core.grid import Grid, Window
from landseg.data.bands import Band, bands_of

BLOCK = 256
"""Edge length in pixels of the tiles inside the GeoTIFFs that landseg writes: GDAL's default."""

CACHE_BYTES = 256 << 20
"""What GDAL keeps of decoded blocks; its own choice is a twentieth of the machine's memory."""

GCP_ERROR = 1.0
"""Pixels by which a ground control point may lie beside the affine map through all of them."""

_DTYPES = {"uint8": "uint8", "uint16": "uint16", "int16": "int16", "float32": "float32", "int8": "int16"}
_ERRORS = (RasterioError, CPLE_BaseError, OSError, ValueError, TypeError)
"""What rasterio lets out: its own, GDAL's, and Python's on types and tags that no raster should have."""


def write(path: Path, array: np.ndarray, grid: Grid, **options: Any) -> Path:
    """Write a GeoTIFF, whole or not at all.

    Args:
        path: The file to write, which is returned; its folder is created, an older file is replaced.
        array, grid, options: As `encode` takes them.

    Raises:
        LandsegError: Array, grid and palette do not fit together, or the file cannot be written.
    """
    write_bytes(path, encode(path, array, grid, **options))
    return path


def encode(
    path: Path,
    array: np.ndarray,
    grid: Grid,
    *,
    nodata: float | None = None,
    palette: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> bytes:
    """The bytes of a GeoTIFF (tiled, deflate); the same array gives the same ones.

    Args:
        path: What it will be called, for messages.
        array: (H, W) or (H, W, C), of a dtype that GeoTIFF knows.
        grid: Shape, transform and CRS; the shape must be the array's.
        nodata: The value that means "missing"; None when every pixel is valid.
        palette: 256 × 3 numbers (as `core.classes.palette` gives) for a single band of uint8.
        names: Names of the classes in the order of their ids, kept in the first band's tags as ``class_0``, ``class_1`` …
        tags: Of the whole file, by name.

    Raises:
        LandsegError: Array, grid and palette do not fit together.
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
    _quieten()
    with MemoryFile() as memory:
        with memory.open(**profile) as dataset:
            if palette is not None:
                triples = np.asarray(palette, np.int64).reshape(256, 3)
                dataset.write_colormap(1, {i: (int(r), int(g), int(b), 255) for i, (r, g, b) in enumerate(triples)})
            dataset.write(np.moveaxis(bands, 2, 0))
            if names is not None:
                dataset.update_tags(1, **{f"class_{i}": name for i, name in enumerate(names)})
            if tags:
                dataset.update_tags(**tags)
        return bytes(memory.getbuffer())


class Scene:
    """An open raster of any size, read window by window as numbers that a network takes; made by `open_scene`.

    Attributes:
        path: As it was given.
        grid: Shape, transform (rotated and south-up ones as they are) and CRS; the affine map through the ground control points where the
            file has these alone.
        bands: How many, without alpha; a colour map counts as three.
        dtype: Of what `read` gives: uint8, uint16, int16 and float32 as stored; float32 for wider types, which may lose digits beyond
            the seventh, and where the file states scales or offsets.
        about: What the file says of each band.
    """

    def __init__(self, path: str, dataset: Any, *, is_stored: bool = False, nodata: float | None = None) -> None:
        self.path, self._dataset, self._lock, self._nodata = path, dataset, threading.Lock(), nodata
        self.grid = _grid_of(dataset, path)
        colours = dataset.colorinterp
        self._alpha = next((i for i, meaning in enumerate(colours, 1) if meaning == ColorInterp.alpha), None)
        self._numbers = [i for i in dataset.indexes if i != self._alpha] or list(dataset.indexes)
        if self._alpha is not None and self._numbers == [self._alpha]:
            self._alpha = None
        stored = [dataset.dtypes[i - 1] for i in self._numbers]
        if any(np.dtype(dtype).kind not in "uif" for dtype in stored):
            raise LandsegError(path, f"bands of {', '.join(sorted(set(stored)))}", "real numbers", "write its amplitude as float32")
        self._is_mixed = len(set(stored)) > 1
        self._table = None if is_stored else _colour_table(dataset, self._numbers)
        self._linear = None if is_stored or self._table is not None else _linear(dataset, self._numbers)
        widest = str(np.result_type(*stored))
        self._read_dtype = widest
        self.dtype = widest if is_stored else _DTYPES.get(widest, "float32")
        if self._table is not None:
            self.bands, self.dtype, self.about = 3, "uint8", tuple(Band(colour=name) for name in ("red", "green", "blue"))
        else:
            self.bands = len(self._numbers)
            self.dtype = "float32" if self._linear is not None else self.dtype
            self.about = bands_of(dataset, self._numbers)

    @property
    def names(self) -> tuple[str | None, ...]:
        """A name a band, from the file's descriptions or the meaning of its colours; None where it has none."""
        return tuple(band.name or band.colour for band in self.about)

    @cached_property
    def resolution_m(self) -> float | None:
        """Metres on the ground a pixel at the scene's middle, whatever the CRS; None without a place on earth."""
        from landseg.core.earth import resolution_m

        return resolution_m(self.grid)

    @property
    def labels(self) -> dict[int, str]:
        """Class id → name, from the first band's tags ``class_0``, ``class_1`` …; empty where the raster names no classes."""
        with self._lock:
            self._require_open()
            tags = self._dataset.tags(1)
        return {int(key[6:]): name for key, name in tags.items() if key.startswith("class_") and key[6:].isdecimal()}

    def read(self, window: Window | None = None, bands: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read a window; threads may call it at once, and take turns.

        Stated scales and offsets are applied, colour maps are expanded. A pixel is valid where alpha, internal and external masks show
        it and it has a value: it has none where a band read is not finite or holds its nodata value. A nodata value of 0 or the type's
        highest occurs as a measurement too (a black roof in one band), so it means "missing" where all bands read have it. What is not
        valid is 0.

        Args:
            window: Inside the scene; all of it when None.
            bands: Numbers from 1 in the order wanted; all when None.

        Returns:
            image (H, W, C) of `dtype`, contiguous, and valid (H, W) bool.

        Raises:
            LandsegError: The window reaches beyond the scene, there is no such band, or the file is damaged.
        """
        part = window or Window(0, 0, *self.grid.shape)
        _check_window(self.path, part, self.grid)
        chosen = list(range(1, self.bands + 1)) if bands is None else list(bands)
        if not chosen or any(not 1 <= band <= self.bands for band in chosen):
            raise LandsegError(self.path, f"bands {chosen} asked of {self.bands}", f"numbers from 1 to {self.bands}", "choose others")
        area = rasterio.windows.Window(part.col, part.row, part.width, part.height)
        numbers = self._numbers if self._table is not None else [self._numbers[band - 1] for band in chosen]
        with self._lock, _reading(self.path):
            self._require_open()
            raw = self._values(numbers, area)
            valid = self._validity(raw, numbers, area)
        if self._table is not None:
            image = self._table[np.clip(raw[0].astype(np.int64), -1, len(self._table) - 1)]
            valid &= image[:, :, 3] > 0
            image = image[:, :, [band - 1 for band in chosen]]
        else:
            image = self._measured(raw, chosen)
            if image.dtype.kind == "f":
                valid &= np.isfinite(image).all(2)  # what float64 holds, float32 may not
        image = np.ascontiguousarray(image)
        image[~valid] = 0
        return image, valid

    def close(self) -> None:
        """Close the file once nobody reads from it: GDAL ends the process where one is closed that another thread reads."""
        with self._lock:
            self._dataset.close()

    def _require_open(self) -> None:
        if self._dataset.closed:
            raise LandsegError(self.path, "it is read after it was closed", "an open scene", "read it within `with open_scene(…)`")

    def _values(self, numbers: list[int], area: Any) -> np.ndarray:
        """(C, H, W) as stored; rasterio reads bands of several types one at a time only."""
        if not self._is_mixed:
            values: np.ndarray = self._dataset.read(numbers, window=area)
            return values
        return np.stack([self._dataset.read(number, window=area) for number in numbers]).astype(self._read_dtype, copy=False)

    def _measured(self, raw: np.ndarray, chosen: list[int]) -> np.ndarray:
        image = np.moveaxis(raw, 0, 2)
        with np.errstate(over="ignore", invalid="ignore"):
            if self._linear is not None:
                scales, offsets = (np.array([pair[side] for pair in self._linear])[[band - 1 for band in chosen]] for side in (0, 1))
                image = image * scales + offsets
            return image.astype(self.dtype, copy=False)

    def _validity(self, raw: np.ndarray, numbers: list[int], area: Any) -> np.ndarray:
        """(H, W) bool, by what the file says of its bands and by `nodata`."""
        dataset, flags = self._dataset, self._dataset.mask_flag_enums
        valid = np.isfinite(raw).all(0) if raw.dtype.kind == "f" else np.ones(raw.shape[1:], bool)
        if self._alpha is not None:
            valid &= dataset.read(self._alpha, window=area) > 0
        some = np.zeros_like(valid)
        for band, number in zip(raw, numbers, strict=True):
            meaning, nodata = flags[number - 1], dataset.nodatavals[number - 1]
            if MaskFlags.per_dataset in meaning and self._alpha is None and number == numbers[0]:
                valid &= dataset.read_masks(number, window=area) > 0
            if MaskFlags.nodata in meaning or not meaning:  # without a flag: a mask of this band alone
                present = dataset.read_masks(number, window=area) > 0
            else:
                nodata = self._nodata
                present = band != nodata if nodata is not None else np.ones_like(valid)
            some |= present
            if not _is_soft(nodata, dataset.dtypes[number - 1]):
                valid &= present
        valid &= some
        return valid


@contextmanager
def open_scene(path: Path | str, *, is_stored: bool = False, nodata: float | None = None) -> Iterator[Scene]:
    """Open a raster of any size to read it by windows, in constant memory.

    Args:
        path: A file, VRT, ``/vsi…`` path or URL, as GDAL takes it.
        is_stored: Give the values as they are stored: no scale, no offset, a colour map's indices. For label rasters.
        nodata: The value that means "missing" in bands that state none themselves, in the file's own units.

    Raises:
        LandsegError: It is missing, damaged or no raster; it holds several rasters, or complex numbers; its ground control points lie on
            no affine map.
    """
    name = str(path)
    if "GDAL_CACHEMAX" not in os.environ and get_gdal_config("GDAL_CACHEMAX") > CACHE_BYTES:
        set_gdal_config("GDAL_CACHEMAX", CACHE_BYTES)  # for the process: a `rasterio.Env` belongs to a thread, scenes to several
    with _reading(name):
        dataset = _open(name)
    try:
        if dataset.count == 0:
            inside = ", ".join(dataset.subdatasets[:3])
            found = f"{len(dataset.subdatasets)} rasters in one ({inside} …)" if inside else "no bands in it"
            raise LandsegError(name, found, "one raster", "name one of them" if inside else "name another file")
        with _reading(name):
            scene = Scene(name, dataset, is_stored=is_stored, nodata=nodata)
    except BaseException:
        dataset.close()
        raise
    try:
        yield scene
    finally:
        scene.close()


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
    with _reading(str(path)), _open(path) as dataset:
        whole = Grid(dataset.height, dataset.width, dataset.transform, dataset.crs)
        part = window or Window(0, 0, whole.height, whole.width)
        _check_window(path, part, whole)
        area = rasterio.windows.Window(part.col, part.row, part.width, part.height)
        bands = [i for i, meaning in zip(dataset.indexes, dataset.colorinterp, strict=True) if meaning != ColorInterp.alpha]
        array = dataset.read(bands or dataset.indexes, window=area)
        valid = dataset.dataset_mask(window=area) > 0
    return np.ascontiguousarray(np.moveaxis(array, 0, 2)), whole.crop(part), valid


def _open(path: Path | str) -> Any:
    _quieten()
    return rasterio.open(path)


def _quieten() -> None:
    """No warning of rasters without a place on earth: that is no fault, their grid says so.

    Not `catch_warnings`: it swaps the filters of all threads, and rasters are opened on many. One filter that stays needs no turn.
    """
    if not any(entry[0] == "ignore" and entry[2] is NotGeoreferencedWarning for entry in warnings.filters):
        warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Whatever rasterio says of a file that it cannot read, in our words."""
    try:
        yield
    except _ERRORS as error:
        # rasterio's own words often are "see previous exception"; GDAL's are in the cause.
        said = str(error.__cause__ or error).strip() or type(error).__name__
        reason = said.splitlines()[0].replace(f"{path}: ", "").replace(f"'{path}' ", "")[:160]
        is_remote = path.startswith("/vsi") or "://" in path
        found = f"it cannot be read ({reason})" if is_remote or Path(path).exists() else "no such file"
        needed = "a whole raster that GDAL opens (GeoTIFF, COG, VRT …)"
        raise LandsegError(path, found, needed, "check the path, or fetch the file again") from error


def _check_window(path: Path | str, part: Window, whole: Grid) -> None:
    beyond = part.row + part.height > whole.height or part.col + part.width > whole.width
    if min(part.row, part.col) < 0 or min(part.height, part.width) < 1 or beyond:
        found = f"{part} asked of {whole.height} × {whole.width} pixels"
        raise LandsegError(path, found, "a window inside it", "cut windows from its grid")


def _grid_of(dataset: Any, path: str) -> Grid:
    points, crs = dataset.gcps
    if dataset.transform != Affine.identity() or len(points) < 3:
        return Grid(dataset.height, dataset.width, dataset.transform, dataset.crs)
    transform = from_gcps(points)
    places = [(~transform @ (point.x, point.y), (point.col, point.row)) for point in points]
    apart = [abs(at - wanted) for place in places for at, wanted in zip(*place, strict=True)]
    if max(apart) > GCP_ERROR:
        raise LandsegError(
            path, f"its place is told by {len(points)} ground control points, {max(apart):.1f} pixels off any straight grid",
            f"a transform, or points within {GCP_ERROR:g} pixel of one", "warp it first: gdalwarp -tps IN.tif OUT.tif",
        )  # fmt: skip
    return Grid(dataset.height, dataset.width, transform, crs)


def _colour_table(dataset: Any, numbers: list[int]) -> np.ndarray | None:
    """(N, 4) uint8 of the colours of a raster's numbers; None where it holds measurements."""
    if len(numbers) != 1 or dataset.colorinterp[numbers[0] - 1] != ColorInterp.palette:
        return None
    colours = dataset.colormap(numbers[0])
    table = np.zeros((max(colours) + 2, 4), np.uint8)  # the last is for numbers beyond the map: transparent
    table[list(colours)] = list(colours.values())
    return table


def _linear(dataset: Any, numbers: list[int]) -> list[tuple[float, float]] | None:
    """(scale, offset) a band; None where the file states none. A scale of 0 would make a constant of the band: it is a tag left empty."""
    pairs = [(float(dataset.scales[i - 1]), float(dataset.offsets[i - 1])) for i in numbers]
    pairs = [(scale if scale and np.isfinite(scale) else 1.0, offset if np.isfinite(offset) else 0.0) for scale, offset in pairs]
    return pairs if any(pair != (1.0, 0.0) for pair in pairs) else None


def _is_soft(nodata: float | None, dtype: str) -> bool:
    """Whether a nodata value is one that a sensor measures too: 0, or the highest of an unsigned type."""
    return nodata == 0 or (np.dtype(dtype).kind == "u" and nodata == np.iinfo(dtype).max)
