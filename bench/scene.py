"""What predicting a scene costs beside its network: memory whatever the scene's size, and speed against the network alone.

    python bench/scene.py memory                         peak memory at 2,048² and at 60,000² with a stand-in network
    python bench/scene.py memory --sides 60000 --rows 4000     the same of a band of it, over the full width
    python bench/scene.py speed                          a scene with the default network, against the network on the same windows
    python bench/scene.py speed runs/first               the same with a model of yours

Memory is the most that a process of its own ever held (resident), reading, blending, writing and the finished COG included; scenes are
sparse GeoTIFFs, which hold no bytes on the disk and zeros when read. Speed is megapixels of windows a second, the scene's and the bare
network's in turns, on as many cores; the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import rasterio
from affine import Affine

from landseg.core.allocation import keep_memory
from landseg.core.classes import make_classes, palette
from landseg.core.grid import Grid, Window
from landseg.data import raster, world
from landseg.data.cog import Strips
from landseg.data.raster import open_scene
from landseg.inference.blend import windows
from landseg.inference.plan import Choices, Plan, plan_scene
from landseg.inference.scene import predict_scene
from landseg.inference.scenes import predict_scenes

PLACE = Affine(0.5, 0, 400_000, 0, -0.5, 5_500_000)


class StandIn:
    """A network that says what it reads: the first band modulo the number of classes."""

    runtime = "stand-in"
    lanes = 1

    def __init__(self, classes: int) -> None:
        names = [f"class {i}" for i in range(classes)]
        self.card = SimpleNamespace(
            classes=make_classes(names), class_names=tuple(names), bands=("red", "green", "blue"), dtype="uint8", tile_size=(256, 256),
            factor=1.0, resolution_m=None, scaling=None,
        )  # fmt: skip

    def logits(self, images: np.ndarray, scale: float = 1.0) -> np.ndarray:
        truth = images[..., 0] % len(self.card.classes)
        return np.stack([(truth == k).astype(np.float32) for k in range(len(self.card.classes))], 1)


def peak_mb() -> float:
    """The most that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one_scene(side: int, rows: int | None, classes: int, folder: Path) -> dict[str, float]:
    """Predict a sparse scene of `side` × `side`, or its first rows; what it took, and the most memory."""
    path = folder / "scene.tif"
    profile = {"driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8", "tiled": True, "sparse_ok": True}
    with rasterio.open(path, "w", **profile, bigtiff="if_safer", crs="EPSG:32633", transform=PLACE):
        pass
    bounds = None if rows is None else (PLACE.c, PLACE.f - rows * 0.5, PLACE.c + side * 0.5, PLACE.f)
    keep_memory()  # as the command line does
    before, started = peak_mb(), time.perf_counter()
    done = predict_scenes(StandIn(classes), [str(path)], folder / "maps", Choices(bounds=bounds, confidence=True))[0]  # type: ignore[arg-type]
    seconds = time.perf_counter() - started
    return {"megapixels": done.pixels / 1e6, "seconds": seconds, "peak_mb": peak_mb(), "before_mb": before}


def memory(sides: list[int], rows: int | None, classes: int) -> None:
    """One process a size, so that none remembers another."""
    print("| scene | predicted Mpx | Mpx/s | peak MB | of which imports |\n|---|---:|---:|---:|---:|")
    for side in sides:
        command = [sys.executable, __file__, "one", "--side", str(side), "--classes", str(classes)]
        command += [] if rows is None or rows > side else ["--rows", str(rows)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        speed = found["megapixels"] / found["seconds"]
        print(f"| {side:,}² | {found['megapixels']:,.0f} | {speed:.1f} | {found['peak_mb']:,.0f} | {found['before_mb']:,.0f} |")


def speed(model: Path | None, side: int, rounds: int, workers: int | None) -> None:
    """The scene's megapixels of windows a second as a share of the network's."""
    from landseg.core.progress import parallel_map
    from landseg.inference.scene import _single_cores
    from landseg.network.card import find_model
    from landseg.network.engine import load_engine
    from predict import untrained

    shares = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = load_engine([find_model(model) if model else untrained(folder / "model")], "cpu")
        card = engine.card
        print(f"{card.network} with {card.encoder}, {len(card.classes)} classes")
        image = world.make_scene(1, side, side).image
        raster.write(folder / "scene.tif", image, Grid(side, side, PLACE, rasterio.crs.CRS.from_epsg(32633)))
        with open_scene(folder / "scene.tif") as scene:
            plan = plan_scene(scene, engine.card, Choices())
            count = len(list(windows(plan.rows, plan.cols, plan.part)))
            megapixels = count * plan.rows.size * plan.cols.size / 1e6
            print(f"{count} windows of {plan.rows.size} pixels, {megapixels:.1f} Mpx for {side * side / 1e6:.1f} Mpx of scene")

            def bare() -> Iterator[Window]:
                for row, col in windows(plan.rows, plan.cols, plan.part):
                    yield Window(plan.rows.starts[row], plan.cols.starts[col], plan.rows.size, plan.cols.size)

            for at in range(rounds + 1):
                started = time.perf_counter()
                with _single_cores(workers) as cores:
                    for _ in parallel_map(lambda window: engine.logits(image[window.slices][None]), bare(), workers=cores, ahead=1):
                        pass
                network = time.perf_counter() - started
                started = time.perf_counter()
                _predict(engine, scene, plan, folder / f"round-{at}", workers)
                whole = time.perf_counter() - started
                if at:  # the first round is for warming up
                    shares.append(network / whole)
                    rates = f"network {megapixels / network:.2f}, scene {megapixels / whole:.2f} Mpx/s"
                    print(f"round {at}: {rates}, ratio {shares[-1]:.3f}")
    print(f"scene speed is {statistics.median(shares):.3f} of the network's own; peak {peak_mb():,.0f} MB")


def _predict(engine: object, scene: raster.Scene, plan: Plan, folder: Path, workers: int | None) -> None:
    grid = scene.grid.crop(plan.part)
    layers = {name: Strips(folder, name, grid, plan.strips) for name in ("confidence", "classes")}
    with closing(predict_scene(engine, scene, plan, layers, folder, workers=workers)) as done:  # type: ignore[arg-type]
        for _ in done:
            pass
    with ThreadPoolExecutor(len(layers)) as pool:
        for finishing in [
            pool.submit(layer.finish, folder.parent / f"{name}.tif", palette=palette(engine.card.classes) if name == "classes" else None)
            for name, layer in layers.items()
        ]:
            finishing.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    many = commands.add_parser("memory")
    many.add_argument("--sides", type=int, nargs="+", default=[2048, 60_000])
    one = commands.add_parser("one")
    one.add_argument("--side", type=int, required=True)
    for command in (many, one):
        command.add_argument("--rows", type=int)
        command.add_argument("--classes", type=int, default=5)
    against = commands.add_parser("speed")
    against.add_argument("model", type=Path, nargs="?", help="run folder or model folder; the default network, untrained, without")
    against.add_argument("--side", type=int, default=2048)
    against.add_argument("--rounds", type=int, default=3)
    against.add_argument("--workers", type=int)
    given = parser.parse_args()
    if given.what == "memory":
        memory(given.sides, given.rows, given.classes)
    elif given.what == "one":
        with tempfile.TemporaryDirectory() as name:
            print(json.dumps(one_scene(given.side, given.rows, given.classes, Path(name))))
    else:
        speed(given.model, given.side, given.rounds, given.workers)


if __name__ == "__main__":
    main()
