"""What test-time augmentation and ensembles gain on a part of a data set, and what they cost.

    python bench/tta.py runs/first data                      plain, d4 and scales of one model
    python bench/tta.py runs/a runs/b data --part test       each model, the ensemble, and the ensemble with d4 and scales

Gain is mIoU above the best single model, with its 95 % interval over the same resampled groups. Cost is seconds against those of the first
model alone, in turns on one batch of tiles, so that a machine that drifts does so for all; the median of the rounds. Peak memory is of the
process on a CPU, where it can only grow, and of the device's tensors on a GPU.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from landseg.data.dataset import open_dataset
from landseg.data.pack import TileStore, open_tiles
from landseg.inference.pieces import piece_edge
from landseg.inference.tta import augmented
from landseg.network.card import find_model
from landseg.network.engine import Engine, Ensemble, load_engine
from landseg.network.torch_engine import choose_device
from landseg.scoring.evaluate import grouped, tile_matrices
from landseg.scoring.gains import Pass, compare
from landseg.splitting.assignment import read_split, tile_numbers

TTA = ("d4", "scales")


def ways(models: list[Path], device: str) -> list[tuple[str, Engine, bool]]:
    """Name, engine and whether it is one plain model; the plain ones first."""
    engine = load_engine([find_model(path) for path in models], device)
    if isinstance(engine, Ensemble):
        plain = [(str(path), one, True) for path, one in zip(models, engine.engines, strict=True)]
        return [*plain, ("ensemble", engine, False), *((f"ensemble, {tta}", augmented(engine, tta), False) for tta in TTA)]
    return [("plain", engine, True), *((tta, augmented(engine, tta), False) for tta in TTA)]


def costs(engines: list[Engine], images: np.ndarray, rounds: int) -> list[float]:
    """Seconds of each on the same batch, as a multiple of the first's: the median of rounds in which they take turns."""
    seconds: list[list[float]] = [[] for _ in engines]
    for at in range(rounds + 1):
        for found, engine in zip(seconds, engines, strict=True):
            started = time.perf_counter()
            engine.preds(images)
            if at:  # the first round is for warming up
                found.append(time.perf_counter() - started)
    return [statistics.median(a / b for a, b in zip(one, seconds[0], strict=True)) for one in seconds]


def peak_mb(device: str) -> float:
    """The most memory so far; on a GPU since the last call."""
    if choose_device(device, "--device").type == "cuda":
        most = torch.cuda.max_memory_allocated() / 1e6
        torch.cuda.reset_peak_memory_stats()
        return most
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def first_batch(store: TileStore, indices: list[int], batch: int) -> np.ndarray:
    """The first tiles of one shape."""
    first = store.entries[indices[0]]
    alike = [i for i in indices if (store.entries[i].height, store.entries[i].width) == (first.height, first.width)]
    return np.stack([store.image(i) for i in alike[:batch]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("data", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--part", default="val")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    dataset = open_dataset(given.data)
    store, split = open_tiles(dataset), read_split(dataset, given.split)
    indices = tile_numbers(store, split, given.part)
    group_of = {tile.tile: tile.group for tile in split.tiles}
    groups = [group_of[store.entries[i].name] for i in indices]
    passes, peaks = [], []
    every = ways(given.models, given.device)
    for name, engine, is_plain in every:
        started = time.perf_counter()
        edge = piece_edge(engine.card.tile_size, engine.card.factor)
        found = tile_matrices(engine.preds, store, indices, len(dataset.class_names), given.batch, name, edge)
        passes.append(Pass(name, grouped(found, groups), time.perf_counter() - started, is_plain))
        peaks.append(peak_mb(given.device))
    factors = costs([engine for _, engine, _ in every], first_batch(store, indices, given.batch), given.rounds)
    print(f"{given.part} of {dataset.info.name}: {len(indices):,} tiles in {len(passes[0].matrices):,} groups; batch {given.batch}")
    print("\n| way | mIoU | gain | 95 % interval | seconds | cost | peak MB |\n|---|---:|---:|---|---:|---:|---:|")
    for item, factor, peak in zip(compare(passes, dataset.class_names), factors, peaks, strict=True):
        span = "–" if item.gain_interval is None else f"{item.gain_interval[0]:+.4f} – {item.gain_interval[1]:+.4f}"
        miou, gain = item.miou or 0.0, item.gain or 0.0
        print(f"| {item.name} | {miou:.4f} | {gain:+.4f} | {span} | {item.seconds:.1f} | {factor:.2f} × | {peak:,.0f} |")


if __name__ == "__main__":
    main()
