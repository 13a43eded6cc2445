"""Training speed: landseg's loop beside the ordinary script's, alternating in one process on the same tiles.

    python bench/train.py data --peer train_smp.py [--rounds 6] [--steps 6]

`data` is a dataset folder with a split; `train_smp.py` is an ordinary segmentation_models_pytorch script with the classes `Tiles` and an
SGD loop (its data loader and its step are used as they are). Both train the same network at the same batch on the same tiles; landseg's
step includes augmentation, moving average and its own optimiser. Prints images/s of both and the ratio.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from landseg.core.config import load_recipe
from landseg.data.dataset import open_dataset
from landseg.data.pack import open_tiles
from landseg.network.build import build, encoder_normalisation
from landseg.network.checkpoint import ModelCard
from landseg.splitting.assignment import read_split, tile_numbers
from landseg.training.batches import Batch
from landseg.training.loop import Loop, Task

ENCODER = "tf_mobilenetv3_large_minimal_100"


def peer_steps(script: Path, folder: Path, batch: int, classes: int, workers: int) -> Callable[[int], int]:
    """The ordinary script's loop; a call does some steps and returns the images it saw."""
    spec = importlib.util.spec_from_file_location("peer", script)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{script}: not a Python file")
    peer: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    stems = sorted(path.stem for path in (folder / "img_train").glob("*.jpg"))
    model = smp.DeepLabV3Plus(f"tu-{ENCODER}", encoder_weights=None, classes=classes).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=4e-5)

    def endless() -> Iterator[Any]:
        while True:
            yield from DataLoader(peer.Tiles(folder, stems, True), batch, shuffle=True, drop_last=True, num_workers=workers)

    batches = endless()

    def run(steps: int) -> int:
        seen = 0
        for image, label in itertools.islice(batches, steps):
            loss = F.cross_entropy(model(image), label, ignore_index=255)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            seen += len(image)
        return seen

    return run


def our_steps(data: Path, batch: int, settings: list[str]) -> Callable[[int], int]:
    """landseg's loop; a call does some steps and returns the images it saw."""
    recipe = load_recipe("default", [f"model.encoder={ENCODER}", "model.weights=none", f"train.batch={batch}", *settings])
    dataset = open_dataset(data)
    store = open_tiles(dataset)
    split = read_split(dataset)
    normalisation = encoder_normalisation(ENCODER)
    network = build(recipe.model.network, ENCODER, store.bands, len(dataset.info.classes), normalisation)
    card = ModelCard(
        landseg_version="bench",
        network=recipe.model.network,
        encoder=ENCODER,
        bands=dataset.info.bands,
        dtype=store.dtype,
        mean=normalisation.mean,
        std=normalisation.std,
        classes=dataset.info.classes,
        tile_size=(256, 256),
    )
    task = Task(store, tile_numbers(store, split, "train"), tile_numbers(store, split, "val"), card, recipe)
    loop = Loop(network, task)

    def endless() -> Iterator[Batch]:
        for epoch in itertools.count():
            yield from loop.batches.epoch(epoch)

    batches = endless()

    def run(steps: int) -> int:
        seen = 0
        for item in itertools.islice(batches, steps):
            loop.step(item)
            seen += len(item.keys)
        return seen

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="dataset folder with a split")
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="folder with img_train/ and lab_train/, as the script reads them")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2, help="of the script's data loader")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=6, help="a round and side")
    parser.add_argument("--set", action="append", default=[], help="landseg settings")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    sides = {
        "script": peer_steps(options.peer, options.folder, options.batch, 5, options.workers),
        "landseg": our_steps(options.data, options.batch, options.set),
    }
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for name, run in sides.items():
        start = time.perf_counter()
        run(2)
        print(f"{name}: first two steps {time.perf_counter() - start:.1f} s")
    for _ in range(options.rounds):
        for name, run in sides.items():
            start = time.perf_counter()
            seen = run(options.steps)
            speeds[name].append(seen / (time.perf_counter() - start))
        print("   ".join(f"{name} {values[-1]:6.2f} images/s" for name, values in speeds.items()), flush=True)
    ratios = [ours / theirs for ours, theirs in zip(speeds["landseg"], speeds["script"], strict=True)]
    print(f"median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")


if __name__ == "__main__":
    main()
