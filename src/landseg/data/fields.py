"""Invented farmland with planted objects: scenes of touching fields, and the outline of every field. What lies where is `terrain`'s.

Fields lie in strips, side by side; most differ from their neighbours in crop, tone or direction of rows, some in nothing but a thin margin.
Whatever is no field (roads, villages, woods, waters, grass) is left out. The same seed gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyogrio
import shapely

from landseg.core.files import replacing
from landseg.core.grid import Grid, Window
from landseg.data import raster
from landseg.data.plots import Use
from landseg.data.render import Look, render
from landseg.data.terrain import Terrain, lay_out
from landseg.data.world import check_drawn, generator, place_on_earth

FIELD = "field"
"""The class of all polygons."""

_MARGIN = 32
"""Pixels around a scene that are invented with it: a field goes on beyond the scene, as in a cadastre, and does not end at its edge."""

_SMALLEST = 40
"""Pixels of a field; what roads and trees leave of one in smaller pieces is none."""

_STAIRS = 1.5
"""Pixels by which outlines are simplified, all neighbours alike, so that they do not follow the pixels' stairs."""


@dataclass(frozen=True)
class FieldScene:
    """An invented scene of fields.

    `image` (H, W, 3) uint8; `polygons` (N,) the fields that come into it, in units of the CRS, which neither overlap nor end at its edge.
    """

    name: str
    image: np.ndarray
    polygons: np.ndarray
    grid: Grid


def make_fields(seed: int, height: int = 768, width: int = 768, *, number: int = 0, looks: int | None = None) -> FieldScene:
    """Invent a scene of fields at 2 m.

    Args:
        seed: Not negative.
        height: Pixels. The larger the scene, the wider its fields: 5 to 25 pixels at 384, 7 to 34 (and a few 80) from 900 on.
        width: Pixels.
        number: Which of the seed's scenes; scenes of other numbers lie elsewhere.
        looks: Seed that chooses how scenes were seen; None is `seed`. Those of one number and one such seed were taken on one day.

    Raises:
        LandsegError: `seed` or size out of range.
    """
    entropy, seen = (seed, 6, number), seed if looks is None else looks
    check_drawn(min(seed, number, seen), height, width)
    terrain = lay_out(generator((*entropy, 0)), height + 2 * _MARGIN, width + 2 * _MARGIN)
    image = render(terrain, Look.draw(generator((seen, 6, number, 1))), generator((*entropy, 2)))
    grid = place_on_earth(seed * 1000 + number, height, width)
    outlines = _outlines(terrain)
    outlines = outlines[shapely.intersects(outlines, shapely.box(_MARGIN, _MARGIN, _MARGIN + width, _MARGIN + height))]
    a, _, c, _, e, f, *_ = grid.transform
    polygons = shapely.transform(outlines, lambda points: (points - _MARGIN) * (a, e) + (c, f))
    return FieldScene(f"fields_{number:03d}", image[Window(_MARGIN, _MARGIN, height, width).slices].copy(), polygons, grid)


def write_fields(folder: Path, seed: int, count: int, height: int = 768, width: int = 768, *, looks: int | None = None) -> list[Path]:
    """Write scenes as GeoTIFFs, ``fields_000.tif`` and so on, and the fields of each beside it: ``fields_000.geojson``, in the scene's CRS.

    A field has its class in the column ``class_name``.

    Args:
        folder: Created when it is not there.
        seed: Chooses all of them.
        count: How many scenes.
        height: Pixels of each.
        width: Pixels of each.
        looks: As of `make_fields`.

    Returns:
        The image paths, in order.

    Raises:
        LandsegError: `seed` or size out of range, or the folder cannot be written.
    """
    paths = []
    for number in range(count):
        scene = make_fields(seed, height, width, number=number, looks=looks)
        paths.append(raster.write(folder / f"{scene.name}.tif", scene.image, scene.grid, nodata=0))
        names = np.full(len(scene.polygons), FIELD, object)
        with replacing(folder / f"{scene.name}.geojson") as partial:
            pyogrio.raw.write(
                partial, shapely.to_wkb(scene.polygons), [names], ["class_name"], layer=scene.name, driver="GeoJSON",
                geometry_type="Polygon", crs=scene.grid.crs.to_wkt() if scene.grid.crs else None,
            )  # fmt: skip
    return paths


def _outlines(terrain: Terrain) -> np.ndarray:
    """Fields as polygons in pixels, each connected piece one, that share their borders vertex by vertex."""
    from rasterio.features import shapes

    is_field = terrain.use[terrain.surface] == Use.FIELD
    owner = np.where(is_field, terrain.owner[terrain.surface], 0).astype(np.int32)
    found = [shapely.geometry.shape(outline) for outline, _ in shapes(owner, mask=is_field, connectivity=4)]
    pieces = shapely.segmentize(np.array(found, object), 1.0)  # vertices at all pixels' corners, or those of neighbours would not be shared
    return np.asarray(shapely.coverage_simplify(pieces[shapely.area(pieces) >= _SMALLEST], _STAIRS))
