"""How well scenes are recovered from anonymous tiles: worlds with planted truth, their growth to 66,652 tiles, and real tiles.

    python bench/recovery.py planted                              quality × noise × brightness × gap × tile size
    python bench/recovery.py weights                              fits the weights of the evidence anew
    python bench/recovery.py write WORLD --tiles 66652            a large world of JPEG tiles: WORLD.bin, WORLD.npy
    python bench/recovery.py sizes WORLD 1000 4000 16000 66652    seconds, memory, recall and precision at each size, a process each
    python bench/recovery.py real train_and_label.zip

A tile's neighbours are those that its scene has; a true edge between two tiles of one colour (nodata) cannot be seen and is counted apart.
Seconds of the machine's clock depend on its other work, seconds of the processor much less.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import scipy.optimize

from landseg.data.tiles import decode_image
from landseg.data.world import make_scene
from landseg.splitting.neighbours import Edge, candidates, evidence, find_neighbours
from landseg.splitting.scenes import Scenes, assemble

RELIABILITY = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.999, 1.01)
PLANTED = {
    "256 JPEG 90": {},
    "256 JPEG 75": {"quality": 75},
    "256 PNG": {"quality": 0},
    "256 JPEG 75, noise 10": {"quality": 75, "noise": 10},
    "256 JPEG 60, noise 25": {"quality": 60, "noise": 25},
    "256 JPEG 90, brightness 5 %": {"jitter": 0.05},
    "256 JPEG 75, brightness 10 %, noise 5": {"quality": 75, "jitter": 0.1, "noise": 5},
    "256 JPEG 90, gap 2": {"gap": 2},
    "256 JPEG 75, gap 4, noise 5": {"quality": 75, "gap": 4, "noise": 5},
    "256 JPEG 90, gap 8": {"gap": 8},
    "128 JPEG 90": {"tile": 128},
    "128 JPEG 75, noise 10, brightness 5 %": {"tile": 128, "quality": 75, "noise": 10, "jitter": 0.05},
    "128 JPEG 90, gap 3": {"tile": 128, "gap": 3},
    "64 PNG, noise 3": {"tile": 64, "quality": 0, "noise": 3},
    "512 JPEG 75, noise 10": {"tile": 512, "quality": 75, "noise": 10},
    "512 JPEG 90, brightness 10 %": {"tile": 512, "jitter": 0.1},
}


def planted(
    seed: int, *, scenes: int = 24, tile: int = 256, quality: int = 90, noise: float = 0, jitter: float = 0, gap: int = 0
) -> tuple[list[np.ndarray], np.ndarray]:
    """Shuffled tiles, and (n, 3) scene, row, column of each; `quality` 0 is PNG, `jitter` the spread of gains (of offsets: × 100)."""
    rng = np.random.default_rng(seed)
    tiles, truth = [], []
    for number in range(scenes):
        height, width = (int(edge) for edge in rng.integers(2.2 * tile, min(9 * tile, 2800), 2))
        image = make_scene(seed * 100 + number, height, width).image.astype(np.float32)
        image += rng.normal(0, noise, image.shape) if noise else 0
        for row in range((height + gap) // (tile + gap)):
            for col in range((width + gap) // (tile + gap)):
                y, x = row * (tile + gap), col * (tile + gap)
                pixels = image[y : y + tile, x : x + tile] * rng.normal(1, jitter) + rng.normal(0, 100 * jitter)
                pixels = np.clip(pixels, 0, 255).round().astype(np.uint8)
                if quality:
                    pixels = cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
                tiles.append(pixels)
                truth.append((number, row, col))
    order = rng.permutation(len(tiles))
    return [tiles[i] for i in order], np.array(truth)[order]


def adjacent(truth: np.ndarray) -> set[tuple[int, int, str]]:
    """All true edges."""
    at = {tuple(place): i for i, place in enumerate(truth.tolist())}
    found = set()
    for (scene, row, col), i in at.items():
        for place, side in (((scene, row, col + 1), "right"), ((scene, row + 1, col), "below")):
            if place in at:
                found.add((i, at[place], side))
    return found


def report(truth: np.ndarray, is_flat: np.ndarray, edges: Sequence[Edge], scenes: Scenes) -> str:
    """One line: what of the truth was found, what was found that is not true, and how many scenes came out whole."""
    true = adjacent(truth)
    seen = {edge for edge in true if not (is_flat[edge[0]] or is_flat[edge[1]])}
    likely = {(e.a, e.b, e.side) for e in edges if e.probability >= 0.5 and e.side != "same"}
    kept = {(e.a, e.b, e.side) for e in scenes.edges if e.side != "same"}
    placed = adjacent(np.column_stack([scenes.scene, scenes.row, scenes.col])[:, :3]) if len(truth) else set()
    placed = {edge for edge in placed if scenes.row[edge[0]] >= 0 and scenes.row[edge[1]] >= 0}
    strangers = sum(truth[a, 0] != truth[b, 0] for a, b, _ in placed)
    where = [np.unique(scenes.scene[(truth[:, 0] == s) & ~is_flat]) for s in np.unique(truth[:, 0])]
    whole = sum(len(found) <= 1 for found in where)
    return (
        f"{len(truth):7,} tiles {len(true):8,} true ({len(seen):,} seen)  likely: recall {len(likely & true) / len(true):.4f} "
        f"({len(likely & seen) / max(len(seen), 1):.4f} of seen) precision {len(likely & true) / max(len(likely), 1):.5f}  "
        f"kept: {len(kept & seen) / max(len(seen), 1):.4f} / {len(kept & true) / max(len(kept), 1):.5f}  "
        f"placed: {len(placed & seen) / max(len(seen), 1):.4f} / {len(placed & true) / max(len(placed), 1):.5f}, "
        f"strangers joined {strangers} of {len(placed):,}  scenes whole {whole} of {len(where)}"
    )


def reliability(true: set[tuple[int, int, str]], edges: Sequence[Edge]) -> dict[tuple[float, float], tuple[int, float, int]]:
    """For each class of probability: edges, their summed probability, and how many are true."""
    table = {}
    for low, high in itertools.pairwise(RELIABILITY):
        those = [e for e in edges if low <= e.probability < high and e.side != "same"]
        table[low, high] = len(those), sum(e.probability for e in those), sum((e.a, e.b, e.side) in true for e in those)
    return table


def flat(read: Callable[[int], np.ndarray], count: int) -> np.ndarray:
    """Tiles that show nothing along at least one side."""
    found = np.zeros(count, bool)
    for i in range(count):
        image = read(i)
        found[i] = any(
            side.reshape(-1, image.shape[2]).std(axis=0).max() < 1.5 for side in (image[0], image[-1], image[:, 0], image[:, -1])
        )
    return found


def run_planted(options: argparse.Namespace) -> None:
    total: dict[tuple[float, float], list[float]] = {}
    for number, (name, changes) in enumerate(PLANTED.items()):
        tiles, truth = planted(options.seed + number, **changes)  # type: ignore[arg-type]
        start = time.process_time()
        edges = find_neighbours(tiles.__getitem__, [tile.shape[:2] for tile in tiles])
        scenes = assemble(len(tiles), edges)
        spent = time.process_time() - start
        print(f"{name:40} {report(truth, flat(tiles.__getitem__, len(tiles)), edges, scenes)}  {spent:.0f} s of processor", flush=True)
        for key, values in reliability(adjacent(truth), edges).items():
            total[key] = [a + b for a, b in zip(total.get(key, [0, 0, 0]), values, strict=True)]
    print_reliability(total)


def print_reliability(total: dict[tuple[float, float], list[float]]) -> None:
    print("\nprobability     edges   expected true   true")
    for (low, high), (count, expected, true) in total.items():
        print(f"{low:5.3f}–{min(high, 1):5.3f} {int(count):8,} {expected / max(count, 1):14.4f} {true / max(count, 1):8.4f}")


def run_weights(options: argparse.Namespace) -> None:
    """Fit the weights of the evidence to planted worlds of one seed; signs are bound: more evidence is never held against an edge."""
    evidences, truths = [], []
    for number, changes in enumerate(PLANTED.values()):
        tiles, truth = planted(options.seed + number, **changes)  # type: ignore[arg-type]
        true = adjacent(truth)
        matches, _ = candidates(tiles.__getitem__, [tile.shape[:2] for tile in tiles])
        for found, seen in zip(matches, evidence(matches, len(tiles)), strict=True):
            evidences.append(seen)
            truths.append(np.array([(int(a), int(b), found.side) in true for a, b in found.pairs], bool))
    x, y = np.concatenate(evidences), np.concatenate(truths)
    scale = np.array([1, 30, 30, 0.1, 1, 1, 1])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        odds = x / scale @ weights
        gradient = (x / scale).T @ (1 / (1 + np.exp(-odds)) - y)
        return np.logaddexp(0, np.where(y, -odds, odds)).sum() + 0.02 * (weights[1:] ** 2).sum(), gradient + 0.04 * np.r_[0, weights[1:]]

    bounds = [(None, None), *[(0, None)] * 5, (None, 0)]
    weights = scipy.optimize.minimize(loss, np.zeros(7), jac=True, method="L-BFGS-B", bounds=bounds).x / scale
    print(f"{len(y):,} candidates, {int(y.sum()):,} true: WEIGHTS = ({', '.join(f'{weight:.3f}' for weight in weights)})")


def run_write(options: argparse.Namespace) -> None:
    rng = np.random.default_rng(77)
    index: list[tuple[int, int, int, int, int]] = []
    scene = at = 0
    with options.world.with_suffix(".bin").open("wb") as stream:
        while len(index) < options.tiles:
            height, width = (int(edge) for edge in rng.integers(600, 2200, 2))
            if scene == 40:
                height = width = 5200  # one large scene
            image = make_scene(scene, height, width).image[:, :, ::-1]
            for row in range(height // 256):
                for col in range(width // 256):
                    if len(index) < options.tiles:
                        pixels = image[row * 256 : row * 256 + 256, col * 256 : col * 256 + 256]
                        data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
                        index.append((scene, row, col, at, len(data)))
                        at += stream.write(data)
            scene += 1
    np.save(options.world.with_suffix(".npy"), np.array(index))


def run_sizes(options: argparse.Namespace) -> None:
    if len(options.tiles) > 1:
        for count in options.tiles:
            command = [sys.executable, __file__, "sizes", str(options.world), str(count)]
            subprocess.run(command, check=True)
        return
    index = np.load(options.world.with_suffix(".npy"))[: options.tiles[0]]
    index = index[np.random.default_rng(0).permutation(len(index))]
    stored = np.memmap(options.world.with_suffix(".bin"), np.uint8, "r")

    def read(i: int) -> np.ndarray:
        return decode_image(stored[index[i, 3] : index[i, 3] + index[i, 4]].tobytes())

    wall, start = time.perf_counter(), time.process_time()
    edges = find_neighbours(read, [(256, 256)] * len(index))
    found = time.perf_counter(), time.process_time()
    scenes = assemble(len(index), edges)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{len(index):,} tiles: {time.perf_counter() - wall:.0f} s on the clock, {time.process_time() - start:.0f} s of processor "
        f"(of which scenes {time.process_time() - found[1]:.1f}), {memory:.2f} GB at most"
    )
    print(report(index[:, :3], flat(read, len(index)), edges, scenes))
    print_reliability({key: list(values) for key, values in reliability(adjacent(index[:, :3]), edges).items()})
    sys.stdout.flush()


def run_real(options: argparse.Namespace) -> None:
    with zipfile.ZipFile(options.zip) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("img_train/") and not name.endswith("/"))
        tiles = [decode_image(archive.read(name)) for name in names]
    wall, start = time.perf_counter(), time.process_time()
    edges = find_neighbours(tiles.__getitem__, [tile.shape[:2] for tile in tiles])
    scenes = assemble(len(tiles), edges)
    print(f"{len(tiles):,} tiles, {time.perf_counter() - wall:.1f} s on the clock, {time.process_time() - start:.1f} s of processor")
    print(f"{len(scenes.edges):,} edges kept, {len(scenes.cut)} cut, {int((scenes.row < 0).sum())} tiles alone")
    for number, size in enumerate(scenes.sizes.tolist()):
        if size > 1:
            own = (scenes.scene == number) & (scenes.row >= 0)
            height, width = int(scenes.row[own].max()) + 1, int(scenes.col[own].max()) + 1
            print(f"  scene {number}: {size} tiles, {height} × {width}{'' if size == height * width else ', not a full rectangle'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    kind = kinds.add_parser("planted")
    kind.add_argument("--seed", type=int, default=300)
    kind.set_defaults(run=run_planted)
    kind = kinds.add_parser("weights")
    kind.add_argument("--seed", type=int, default=700)
    kind.set_defaults(run=run_weights)
    kind = kinds.add_parser("write")
    kind.add_argument("world", type=Path)
    kind.add_argument("--tiles", type=int, default=66_652)
    kind.set_defaults(run=run_write)
    kind = kinds.add_parser("sizes")
    kind.add_argument("world", type=Path)
    kind.add_argument("tiles", type=int, nargs="+")
    kind.set_defaults(run=run_sizes)
    kind = kinds.add_parser("real")
    kind.add_argument("zip", type=Path)
    kind.set_defaults(run=run_real)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
