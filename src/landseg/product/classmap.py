"""A class raster as parcels are made of it: its values strip by strip, what each is called, and how likely it is. It writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.errors import RasterioError

from landseg.core.classes import LandClass, make_classes
from landseg.core.earth import has_ground
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid, Window
from landseg.core.progress import progress
from landseg.data.raster import Scene, open_scene
from landseg.product.components import NOTHING

STRIP_PIXELS = 1 << 24
"""Pixels read at a time; bounds memory, changes no result."""

CONFIDENCE_STEPS = 200
"""What a raster of confidences or probabilities of uint8 counts as certain. Source: the contract, 0–200 = 0–100 %."""

FRACTIONS = 1_000_000
"""Fractions of float rasters are rounded to millionths, so that their sums are exact in any order; so far may they lie beyond 0 and 1, as
a softmax in float32 does, and count as these."""


class ClassMap:
    """An open class raster; made by `open_classes`.

    Attributes:
        path: As it was given.
        grid: Its place on earth.
        crs: Of that.
    """

    def __init__(self, path: str, scene: Scene, crs: CRS, colours: dict[int, str]) -> None:
        self.path, self.grid, self.crs, self._scene, self._colours = path, scene.grid, crs, scene, colours

    def strips(self, rows: int | None = None) -> Iterator[np.ndarray]:
        """(rows, width) uint8 class ids from top to bottom, `NOTHING` where there is no class.

        Args:
            rows: Of a strip; as many as make `STRIP_PIXELS` when None.

        Raises:
            LandsegError: The raster is damaged, or a value is no class id.
        """
        for window in windows(self.grid, rows, Path(self.path).name):
            yield self.read(window)

    def read(self, window: Window) -> np.ndarray:
        """(height, width) uint8 class ids of a window, `NOTHING` where there is no class.

        Raises:
            LandsegError: The raster is damaged, or a value is no class id.
        """
        image, valid = self._scene.read(window, [1])
        values = image[:, :, 0]
        strange = valid & ((values < 0) | (values > NOTHING))
        if strange.any():
            found = f"the value {values[strange][0]}"
            raise LandsegError(self.path, found, f"class ids 0 to {NOTHING - 1}", "give the classes such ids, or state its nodata value")
        return np.where(valid, values, NOTHING).astype(np.uint8)

    def classes(self, values: np.ndarray) -> dict[int, LandClass]:
        """Class id → its name and colour, for the ids among `values` ((N,) uint8) and those that the raster names.

        Names are the raster's own, or ``class 3``, told apart by their ids where two are alike; colours are those of its palette, or what
        a map reader expects of the name.
        """
        named = {i: name for i, name in self._scene.labels.items() if i < NOTHING}
        ids = sorted({*named, *(int(value) for value in np.unique(values) if value != NOTHING)})
        names = _distinct({i: named.get(i, "").strip() or f"class {i}" for i in ids})
        made = make_classes(list(names.values()), [self._colours.get(i) for i in ids]) if ids else ()
        return {i: LandClass(id=i, name=item.name, colour=item.colour) for i, item in zip(ids, made, strict=True)}


@contextmanager
def open_classes(path: str | Path) -> Iterator[ClassMap]:
    """Open a class raster: one band of class ids, on the ground.

    Raises:
        LandsegError: It is no raster, or no class raster, or has no place on the globe.
    """
    name = str(path)
    with open_scene(name, is_stored=True) as scene:
        if scene.bands != 1:
            raise LandsegError(name, f"{scene.bands} bands", "one band of class ids", "name a class raster, such as predict makes")
        if np.dtype(scene.dtype).kind == "f":
            found = f"values of type {scene.dtype}"
            raise LandsegError(name, found, "class ids, whole numbers", "convert it: gdal_translate -ot Byte -a_nodata 255 IN.tif OUT.tif")
        crs = scene.grid.crs
        if crs is None or not has_ground(scene.grid):
            found = "it has no CRS" if crs is None else "it has no place on the globe"
            raise LandsegError(
                name,
                found,
                "a CRS and a transform, because areas are measured on the ground",
                "assign it: gdal_edit.py -a_srs EPSG:… -a_ullr …",
            )
        yield ClassMap(name, scene, crs, _palette(name))


def confidence_beside(path: str | Path) -> Path | None:
    """``<stem>_confidence.tif`` that lies beside ``<stem>_classes.tif``; None where there is none."""
    return _beside(path, "confidence")


def probabilities_beside(path: str | Path) -> Path | None:
    """``<stem>_probabilities.tif`` that lies beside ``<stem>_classes.tif``; None where there is none."""
    return _beside(path, "probabilities")


def _beside(path: str | Path, what: str) -> Path | None:
    place = Path(path)
    beside = place.with_name(f"{place.stem.removesuffix('_classes')}_{what}.tif")
    return beside if beside != place and beside.is_file() else None


class Fractions:
    """An open raster of fractions on the grid of a class raster; made by `open_fractions`.

    Attributes:
        path: Of the file.
        names: What it calls its bands; None where it does not.
    """

    def __init__(self, path: Path, scene: Scene, what: str) -> None:
        self.path, self.names, self._scene, self._what = path, tuple(band.name for band in scene.about), scene, what
        self._is_float = np.dtype(scene.dtype).kind == "f"

    def read(self, window: Window, band: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """A window of a band, counted from 1.

        Returns:
            (height, width) int64 in millionths, 0 where unknown; (height, width) bool, where it is known.

        Raises:
            LandsegError: The file is damaged, or has other values.
        """
        image, valid = self._scene.read(window, [band])
        values = image[:, :, 0]
        if not self._is_float:
            valid &= values != NOTHING
        top, slack = (1, 1 / FRACTIONS) if self._is_float else (CONFIDENCE_STEPS, 0)
        if (valid & ((values < -slack) | (values > top + slack))).any():
            found = f"values beyond {top}"
            raise LandsegError(self.path, found, f"0 to {top}", f"make it again with predict --{self._what}, or move it away")
        return np.rint(np.where(valid, values, 0).clip(0, top).astype(np.float64) * (FRACTIONS / top)).astype(np.int64), valid


@contextmanager
def open_fractions(path: Path, grid: Grid, what: str) -> Iterator[Fractions]:
    """Open a raster that lies beside a class raster.

    Args:
        path: uint8 in half per cent, or fractions 0..1 as float.
        grid: Of the class raster, which must be its own too.
        what: The option of `predict` that makes it: ``confidence`` or ``probabilities``.

    Raises:
        LandsegError: It is damaged, lies elsewhere, or is of another type.
    """
    with open_scene(path, is_stored=True) as scene:
        if scene.grid.shape != grid.shape or not scene.grid.transform.almost_equals(grid.transform, abs(grid.transform.a) * 1e-6 + 1e-12):
            found = f"{scene.grid.height} × {scene.grid.width} pixels, or another place than the class raster's"
            raise LandsegError(path, found, f"its grid, {grid.height} × {grid.width} pixels", "make both together, or move it away")
        if scene.grid.crs != grid.crs:
            found = "no CRS" if scene.grid.crs is None else scene.grid.crs.to_string()[:60]
            raise LandsegError(path, found, "the CRS of the class raster", "make both together, or move it away")
        is_fit = np.dtype(scene.dtype).kind == "f" or scene.dtype == "uint8"
        if not is_fit or (what == "confidence" and scene.bands != 1):
            needed = f"{'one' if what == 'confidence' else 'one a class'} of uint8, 0–{CONFIDENCE_STEPS}, or of fractions"
            raise LandsegError(path, f"{scene.bands} bands of {scene.dtype}", needed, "move it away")
        yield Fractions(path, scene, what)


def read_confidence(path: Path, grid: Grid) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """A confidence raster strip by strip.

    Args:
        path: As `open_fractions` takes it.
        grid: Of the class raster.

    Yields:
        The first row; (rows, width) int64 confidence in millionths, 0 where unknown; (rows, width) bool, where it is known.

    Raises:
        LandsegError: It is damaged, lies elsewhere, or has other values.
    """
    with open_fractions(path, grid, "confidence") as confidence:
        for window in windows(grid, None, path.name):
            yield window.row, *confidence.read(window)


def fraction(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Mean confidence 0..1 from sums in millionths and counts; NaN where nothing was counted."""
    return np.where(count > 0, total / np.maximum(count, 1) / FRACTIONS, np.nan)


def windows(grid: Grid, rows: int | None, name: str) -> Iterator[Window]:
    """Strips of the grid from top to bottom, with a bar."""
    step = rows or max(1, STRIP_PIXELS // grid.width)
    windows = [Window(row, 0, min(step, grid.height - row), grid.width) for row in range(0, grid.height, step)]
    return progress(windows, f"reading {name}", len(windows), "strips")


def _palette(path: str) -> dict[int, str]:
    """Class id → ``#rrggbb`` of a raster's palette; empty where it has none."""
    try:
        with rasterio.open(path) as dataset:
            table = dataset.colormap(1)
    except (RasterioError, ValueError):  # "NULL color table": it has none
        return {}
    return {i: f"#{red:02x}{green:02x}{blue:02x}" for i, (red, green, blue, _) in table.items()}


def _distinct(names: dict[int, str]) -> dict[int, str]:
    """The names, with their ids where another class has the same."""
    told: dict[int, str] = {}
    for i, name in names.items():
        while name in told.values():
            name = f"{name} {i}"
        told[i] = name
    return told
