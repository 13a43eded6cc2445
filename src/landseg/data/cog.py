"""Write a raster of any size strip by strip, ending in a cloud-optimised GeoTIFF with overviews. It knows no network and chooses no values.

A strip is a file of its own until all are there: what a killed process had finished stays, and each is whole or not there. The same
values give the same bytes, however they were cut into strips.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from landseg.core.errors import LandsegError
from landseg.core.files import replacing, unwritable
from landseg.core.grid import Grid

NODATA = 255
"""In class maps (the ignore index), in confidences and in probabilities."""

BLOCK = 512
"""Edge length in pixels of the tiles inside. Source: the COG driver's default."""

CLASS_LEVEL, SHARE_LEVEL = 5, 1
"""Of deflate, of classes and of confidences and probabilities. GDAL's own 6 makes them 9 % and 3 % smaller and takes half as long again
and twice as long, when the network has ended and nothing else is to do."""

_ERRORS = (RasterioError, CPLE_BaseError)


class Strips:
    """A raster of uint8 on its way: strips in a folder, and at the end one file.

    Args:
        folder: Where the strips wait; nobody else's.
        name: Of the strips' files: ``classes`` gives ``classes-00000.tif``.
        grid: Of the whole raster.
        rows: (first, last + 1) of each strip, from top to bottom without a gap.
        bands: Names of its bands.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        grid: Grid,
        rows: Sequence[tuple[int, int]],
        bands: Sequence[str] = ("",),
    ) -> None:
        self._folder, self._name, self._grid = folder, name, grid
        self._rows, self._bands = list(rows), list(bands)

    def __len__(self) -> int:
        return len(self._rows)

    def has(self, i: int) -> bool:
        """Whether strip `i` is finished."""
        return self._path(i).is_file()

    def write(self, i: int, values: np.ndarray) -> None:
        """Write strip `i`, whole or not at all.

        Args:
            i: From 0.
            values: (bands, rows, width) uint8.

        Raises:
            LandsegError: The file cannot be written.
        """
        profile = {
            "driver": "GTiff", "height": values.shape[1], "width": values.shape[2], "count": values.shape[0], "dtype": "uint8",
            "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "zlevel": 1, "interleave": "band",
            "photometric": "minisblack", "alpha": "no",
        }  # fmt: skip
        try:
            with replacing(self._path(i)) as partial, open_raster(partial, "w", **profile) as dataset:
                dataset.write(values)
        except _ERRORS as error:
            raise unwritable(self._path(i), OSError(0, _reason(error))) from error

    def read(self, i: int) -> np.ndarray:
        """Strip `i`: (bands, rows, width) uint8.

        Raises:
            LandsegError: It is damaged.
        """
        try:
            with open_raster(self._path(i)) as dataset:
                values: np.ndarray = dataset.read()
        except _ERRORS as error:
            raise LandsegError(
                self._path(i), f"it cannot be read ({_reason(error)})", "a strip as it was written", "begin anew with --overwrite"
            ) from error
        return values

    def finish(
        self,
        path: Path,
        *,
        tags: Mapping[str, str] | None = None,
        names: Sequence[str] = (),
        palette: Sequence[int] | None = None,
    ) -> None:
        """Put the strips together into a COG with overviews; `path` is replaced as a whole.

        Args:
            path: The file.
            tags: Of the whole file.
            names: Of the classes in the order of their ids, kept in the first band's tags as ``class_0``, ``class_1`` … and, as GDAL's
                category names, in ``<path>.aux.xml``.
            palette: 256 × 3 numbers for a single band; overviews then take the most frequent value, otherwise the mean.

        Raises:
            LandsegError: A strip is missing or damaged, or the file cannot be written.
        """
        missing = [i for i in range(len(self)) if not self.has(i)]
        if missing:
            raise LandsegError(self._path(missing[0]), "it is missing", "every strip", "begin anew with --overwrite")
        source, made = self._folder / f"{self._name}.vrt", self._folder / f"{self._name}.cog.tif"
        options = {
            "compress": "deflate", "level": SHARE_LEVEL if palette is None else CLASS_LEVEL, "predictor": "no", "blocksize": BLOCK,
            "bigtiff": "if_safer", "overviews": "ignore_existing",
            "overview_resampling": "average" if palette is None else "mode", "overview_compress": "deflate", "num_threads": 1,
        }  # fmt: skip
        try:
            source.write_text(self._vrt(tags or {}, names, palette), encoding="utf-8")
            rasterio.shutil.copy(source, made, driver="COG", **options)
            path.parent.mkdir(parents=True, exist_ok=True)
            side, made_side = path.with_name(f"{path.name}.aux.xml"), made.with_name(f"{made.name}.aux.xml")
            if made_side.exists():
                os.replace(made_side, side)
            else:
                side.unlink(missing_ok=True)  # of the file that is replaced
            os.replace(made, path)
        except OSError as error:
            raise unwritable(path, error) from error
        except _ERRORS as error:
            raise unwritable(path, OSError(0, _reason(error))) from error

    def _path(self, i: int) -> Path:
        return self._folder / f"{self._name}-{i:05d}.tif"

    def _vrt(self, tags: Mapping[str, str], names: Sequence[str], palette: Sequence[int] | None) -> str:
        """The strips as one raster, in GDAL's format of virtual rasters.

        Source: GDAL's documentation of the VRT driver.
        """
        grid = self._grid
        lines = [f'<VRTDataset rasterXSize="{grid.width}" rasterYSize="{grid.height}">']
        if grid.crs is not None:
            lines.append(f"<SRS>{escape(grid.crs.to_wkt())}</SRS>")
        if grid.transform != Affine.identity():
            lines.append(f"<GeoTransform>{', '.join(repr(float(value)) for value in grid.transform.to_gdal())}</GeoTransform>")
        lines += _metadata(tags)
        for band, name in enumerate(self._bands, 1):
            lines.append(f'<VRTRasterBand dataType="Byte" band="{band}">')
            lines.append(f"<Description>{escape(name)}</Description>" * bool(name))
            lines += _metadata({f"class_{i}": text for i, text in enumerate(names)} if band == 1 else {})
            lines.append(f"<NoDataValue>{NODATA}</NoDataValue>")
            lines.append(f"<ColorInterp>{'Gray' if palette is None else 'Palette'}</ColorInterp>" * (band == 1))
            if names and band == 1:
                lines.append(f"<CategoryNames>{''.join(f'<Category>{escape(text)}</Category>' for text in names)}</CategoryNames>")
            if palette is not None:
                triples = np.asarray(palette, int).reshape(256, 3)
                lines += ["<ColorTable>", *(f'<Entry c1="{r}" c2="{g}" c3="{b}" c4="255"/>' for r, g, b in triples), "</ColorTable>"]
            for i, (begin, end) in enumerate(self._rows):
                size = f'xSize="{grid.width}" ySize="{end - begin}"'
                lines.append(
                    f'<SimpleSource><SourceFilename relativeToVRT="1">{self._path(i).name}</SourceFilename><SourceBand>{band}</SourceBand>'
                    f'<SrcRect xOff="0" yOff="0" {size}/><DstRect xOff="0" yOff="{begin}" {size}/></SimpleSource>'
                )
            lines.append("</VRTRasterBand>")
        return "\n".join([*lines, "</VRTDataset>", ""])


def read_reduced(path: Path, most: int) -> tuple[np.ndarray, Affine]:
    """The first band of a raster, reduced to at most `most` pixels a side by its overviews, and the transform of that.

    Raises:
        LandsegError: It cannot be read.
    """
    try:
        with open_raster(path) as dataset:
            factor = max(1.0, dataset.height / most, dataset.width / most)
            shape = max(1, round(dataset.height / factor)), max(1, round(dataset.width / factor))
            values: np.ndarray = dataset.read(1, out_shape=shape)
            scale = Affine.scale(dataset.width / shape[1], dataset.height / shape[0])
            return values, dataset.transform @ scale
    except _ERRORS as error:
        raise LandsegError(path, f"it cannot be read ({_reason(error)})", "a whole raster", "make it again with --overwrite") from error


def read_strips(path: Path, height: int) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, values (rows, width)) of the first band, `height` rows at a time from top to bottom."""
    with open_raster(path) as dataset:
        for row in range(0, dataset.height, height):
            rows = min(height, dataset.height - row)
            yield row, dataset.read(1, window=RasterWindow(0, row, dataset.width, rows))


def open_raster(path: Path | str, mode: str = "r", **profile: Any) -> Any:
    """`rasterio.open` without a warning of rasters that have no place on earth: their grid says so.

    Not `catch_warnings`, which swaps the filters of all threads.
    """
    if not any(entry[0] == "ignore" and entry[2] is NotGeoreferencedWarning for entry in warnings.filters):
        warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    return rasterio.open(path, mode, **profile)


def _metadata(tags: Mapping[str, str]) -> list[str]:
    if not tags:
        return []
    return ["<Metadata>", *(f"<MDI key={quoteattr(key)}>{escape(text)}</MDI>" for key, text in sorted(tags.items())), "</Metadata>"]


def _reason(error: Exception) -> str:
    text = str(error.__cause__ or error)
    return text.splitlines()[0][:160] if text else type(error).__name__
