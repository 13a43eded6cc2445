"""Parcels: landseg's coverage beside the obvious way, with the gaps, overlaps, processor time and memory of each.

    python bench/parcels.py [--size 2000] [--detail 6.2] [--tolerance 3] [--rounds 1] [--no-count]

The obvious way is `rasterio.features.shapes`, one shapely polygon each, `simplify` of each polygon by itself, and geopandas to a
GeoPackage. Both read the same invented class raster (five classes, 2 m pixels, a part without data; `--detail 6.2` gives about 3,250
parcels a million pixels) and write all their parcels. Each runs in a process of its own, in turn, so that its peak memory is its own. Gaps
are valid ground that no parcel covers, overlaps ground that several cover, both counted in the plane of the CRS with shapely; an exact
coverage has none.

    python bench/parcels.py --instances [--size 4000]

What `landseg parcels --instances` holds while it floods, before any polygon: of invented fields with outlines, of noise and of flat ground,
each with probabilities beside it and without, by pixel of a strip as it is counted before. One row a process of its own; Linux alone tells.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import cv2
import geopandas
import numpy as np
import rasterio
import rasterio.features
import shapely
from affine import Affine
from rasterio.crs import CRS

from landseg.core.grid import Grid
from landseg.data.raster import write
from landseg.product import instances
from landseg.product.classmap import open_classes
from landseg.verbs.parcels import parcels

PIXEL = 2.0
NODATA = 255


def invent(path: Path, size: int, detail: float) -> int:
    """Write a class raster of blobs with ragged borders; the number of its valid pixels."""
    generator = np.random.default_rng(5)
    best = np.full((size, size), -np.inf, np.float32)
    values = np.zeros((size, size), np.uint8)
    for k in range(5):
        field = cv2.GaussianBlur(generator.standard_normal((size, size), np.float32), (0, 0), detail)
        is_more = field > best
        best[is_more], values[is_more] = field[is_more], k
    values[: size // 8, : size // 6] = NODATA
    write(path, values, Grid(size, size, Affine(PIXEL, 0, 5e5, 0, -PIXEL, 4e6), CRS.from_epsg(32650)), nodata=NODATA)
    return int((values != NODATA).sum())


def ours(source: Path, out: Path, tolerance: float) -> None:
    """`landseg parcels`."""
    parcels(source, out, tolerance_m=tolerance)


def obvious(source: Path, out: Path, tolerance: float) -> None:
    """Shapes, simplified one by one."""
    with rasterio.open(source) as dataset:
        values = dataset.read(1)
        found = rasterio.features.shapes(values, mask=values != NODATA, transform=dataset.transform)
        shapes, ids = zip(*((shapely.geometry.shape(shape), int(value)) for shape, value in found), strict=True)
        frame = geopandas.GeoDataFrame({"class_id": ids}, geometry=list(shapes), crs=dataset.crs)
    if tolerance:
        frame["geometry"] = frame.geometry.simplify(tolerance)
    frame["area_m2"] = frame.area
    frame.to_file(out)


WAYS = {"ours": ours, "obvious": obvious}


def run(way: str, source: Path, out: Path, tolerance: float, answer: Path) -> None:
    """One way in this process; its costs go to `answer`."""
    logging.disable(logging.CRITICAL)
    start, clock = time.process_time(), time.perf_counter()
    WAYS[way](source, out, tolerance)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    cost = {"processor_s": time.process_time() - start, "clock_s": time.perf_counter() - clock, "peak_gb": peak}
    answer.write_text(json.dumps(cost), encoding="utf-8")


def count(out: Path, valid: float) -> dict[str, float | bool]:
    """What is wrong with a layer: ground in m² that none or several parcels cover, polygons that are not valid."""
    polygons = np.asarray(geopandas.read_file(out).geometry.values)
    is_bad = ~shapely.is_valid(polygons)
    mended = np.where(is_bad, shapely.make_valid(polygons), polygons)
    covered = shapely.union_all(mended).area
    return {
        "overlap_m2": float(shapely.area(mended).sum() - covered),
        "gap_m2": float(valid - covered),
        "invalid": int(is_bad.sum()),
        "is_coverage": bool(shapely.coverage_is_valid(polygons)),
    }


def invent_ground(folder: Path, size: int, kind: str, has_probabilities: bool) -> Path:
    """Write a class raster of ``fields`` apart by their outlines, of ``noise``, or ``flat``, and the outlines' probabilities."""
    generator = np.random.default_rng(5)
    likely = generator.integers(0, 201 if kind == "noise" else 8, (size, size), np.uint8)
    if kind == "fields":  # of 60 pixels across
        seats = np.ones((size, size), np.uint8)
        seats[tuple(generator.integers(0, size, (2, size * size // 3600)))] = 0
        _, owner = cv2.distanceTransformWithLabels(seats, cv2.DIST_L2, cv2.DIST_MASK_5)
        outline = cv2.morphologyEx(owner.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        values = np.where(outline, 2, owner % 5 > 0).astype(np.uint8)
        likely += cv2.GaussianBlur(outline.astype(np.uint8) * 190, (0, 0), 1)
    else:
        values = generator.integers(0, 3, (size, size), np.uint8) if kind == "noise" else np.ones((size, size), np.uint8)
    grid = Grid(size, size, Affine(PIXEL, 0, 5e5, 0, -PIXEL, 4e6), CRS.from_epsg(32650))
    if has_probabilities:
        write(folder / "scene_probabilities.tif", np.stack([np.zeros_like(likely), np.zeros_like(likely), likely], 2), grid, nodata=NODATA)
    return write(folder / "scene_classes.tif", values, grid, nodata=NODATA, names=["other", "field", "boundary"])


def held(which: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at most. Not `resource`'s, which begin with those of the process that began it."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(lines[which].split()[0]) * 1024


def flooded(kind: str, has_probabilities: bool, size: int) -> None:
    """Print what the flood of one raster holds in this process."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        made = multiprocessing.get_context("spawn").Process(target=invent_ground, args=(Path(folder), size, kind, has_probabilities))
        made.start()  # its memory is not the flood's
        made.join()
        asked, before = list[int](), held("VmRSS")
        with open_classes(Path(folder) / "scene_classes.tif") as source:
            runs, kinds, *_ = instances.divide(source, "boundary", None, lambda _, need: asked.append(need))
        peak = held("VmHWM") - before
    facts = {"ground": kind, "probabilities": has_probabilities, "size": size, "strips": len(asked), "areas": len(kinds)}
    bytes_a_pixel = peak / (max(asked) / instances._PIXEL_BYTES)
    print(json.dumps({**facts, "runs": len(runs.start), "peak_gb": peak / 1e9, "bytes_a_pixel": round(bytes_a_pixel, 1)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2000, help="edge length of the raster in pixels")
    parser.add_argument("--detail", type=float, default=6.2, help="blur of the noise in pixels: smaller makes more parcels")
    parser.add_argument("--tolerance", type=float, default=3.0, help="metres")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--no-count", action="store_true", help="gaps and overlaps take minutes above 4000 pixels")
    parser.add_argument("--instances", action="store_true", help="the memory of keeping parcels apart instead")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    for kind, has_probabilities in itertools.product(("fields", "noise", "flat") * options.instances, (True, False)):
        process = spawn.Process(target=flooded, args=(kind, has_probabilities, options.size))
        process.start()
        process.join()
    if options.instances:
        return
    with tempfile.TemporaryDirectory() as folder:
        source, answer = Path(folder) / "scene_classes.tif", Path(folder) / "cost.json"
        valid = invent(source, options.size, options.detail) * PIXEL**2
        for number in range(options.rounds):
            for way in options.ways:
                out = Path(folder) / f"{way}-{number}.gpkg"
                process = spawn.Process(target=run, args=(way, source, out, options.tolerance, answer))
                process.start()
                process.join()
                if process.exitcode:
                    raise SystemExit(f"{way} ended with {process.exitcode}")
                cost = json.loads(answer.read_text(encoding="utf-8"))
                faults = {} if options.no_count else count(out, valid)
                total = len(geopandas.read_file(out, read_geometry=False))
                print(json.dumps({"way": way, "size": options.size, "parcels": total, **cost, **faults}), flush=True)


if __name__ == "__main__":
    main()
