"""Training speed: landseg's loop beside the ordinary script's and beside the bare network, alternating in one run on the same tiles.

    python bench/train.py data --peer train_smp.py --folder unpacked [--rounds 6] [--steps 6]

`data` is a dataset folder with a split; `train_smp.py` is an ordinary segmentation_models_pytorch script with the classes `Tiles` and an
SGD loop (its data loader and its step are used as they are). Both train the same network at the same batch on the same tiles; landseg's
step includes augmentation, moving average and its own optimiser; it is compiled where `--set train.compile=true` says so, which pays on a
GPU. The bare network's step has nothing of all that: forward pass, loss,
backward pass and SGD on one batch that lies on the device, channels-last, as it is and compiled. Prints images/s of all, the ratio to the
script, and the ratio to the faster of the two bare steps, whose bar is 0.95.

The script runs in a process of its own. landseg's loop tells glibc to keep freed memory (`landseg.core.allocation`), for all of its
process; setting the two numbers back would not undo it, because the heap that has grown meanwhile stays, and the script would run on it.
The bare steps share landseg's process: they are what the loop is held to, under its own conditions.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import logging
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from multiprocessing.connection import Connection
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
from landseg.network.card import ModelCard
from landseg.network.torch_engine import has_bf16_units
from landseg.splitting.assignment import read_split, tile_numbers
from landseg.training.loop import Loop, Task
from landseg.training.transfer import Batch

ENCODER = "tf_mobilenetv3_large_minimal_100"

BAR = 0.95
"""Of the images/s of the best bare step, which landseg's loop is held to."""

SETTLE_S = 2.0
"""After the script's turn: its workers, which read ahead, have their batches by then and take nothing from the next side."""

Steps = Callable[[int], int]
"""Does some steps and returns the images that it saw; all of them are done when it returns."""


def wait(device: torch.device) -> None:
    """Until what was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peer_steps(script: Path, folder: Path, batch: int, classes: int, workers: int, device: str, encoder: str = ENCODER) -> Steps:
    """The ordinary script's loop."""
    spec = importlib.util.spec_from_file_location("peer", script)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{script}: not a Python file")
    peer: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    stems = sorted(path.stem for path in (folder / "img_train").glob("*.jpg"))
    model = smp.DeepLabV3Plus(f"tu-{encoder}", encoder_weights=None, classes=classes).to(device).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=4e-5)

    def endless() -> Iterator[Any]:
        while True:
            # This process was spawned, and so would its workers be, which cannot import the script.
            start = "fork" if workers else None
            tiles = peer.Tiles(folder, stems, True)
            yield from DataLoader(tiles, batch, shuffle=True, drop_last=True, num_workers=workers, multiprocessing_context=start)

    batches = endless()

    def run(steps: int) -> int:
        seen = 0
        for image, label in itertools.islice(batches, steps):
            loss = F.cross_entropy(model(image.to(device)), label.to(device), ignore_index=255)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            seen += len(image)
        wait(torch.device(device))
        return seen

    return run


class Apart:
    """Steps of the ordinary script in a process of its own, which does nothing between two calls."""

    def __init__(self, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would have this process's memory, and its GPU
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, arguments))
        self._process.start()
        theirs.close()

    def __call__(self, steps: int) -> int:
        """Do some steps; the images that were seen.

        Raises:
            ChildProcessError: The script has failed.
        """
        try:
            self._pipe.send(steps)
            return int(self._pipe.recv())
        except (EOFError, ConnectionError):
            raise ChildProcessError("the script's process has ended; what it said stands above") from None

    def end(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, arguments: Sequence[Any]) -> None:
    run = peer_steps(*arguments)
    while True:
        try:
            steps = pipe.recv()
        except EOFError:
            return
        pipe.send(run(steps))


def bare_steps(batch: int, edge: int, classes: int, device: torch.device, backend: str | None, encoder: str = ENCODER) -> Steps:
    """The network of the default recipe, forward and backward, and SGD, on one batch: nothing to read, nothing to augment.

    Args:
        batch: Images at once.
        edge: Of the images, in pixels.
        classes: Of the labels.
        device: Where; on a GPU in bf16, as training does by itself.
        backend: Of `torch.compile`; None runs the network as it is.
        encoder: By timm's name.
    """
    network: Any = build("deeplabv3plus", encoder, 3, classes, encoder_normalisation(encoder))
    network = network.to(device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=4e-5, fused=device.type == "cuda" or None)
    called = network if backend is None else torch.compile(network, backend=backend)
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, edge, edge, 3), generator=random, dtype=torch.uint8).to(device).permute(0, 3, 1, 2)
    labels = torch.randint(0, classes, (batch, edge, edge), generator=random).to(device)
    is_half = has_bf16_units(device)

    def run(steps: int) -> int:
        for _ in range(steps):
            with torch.autocast("cuda", torch.bfloat16) if is_half else nullcontext():
                loss = F.cross_entropy(called(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        wait(device)
        return steps * batch

    return run


def loop_steps(loop: Loop) -> Steps:
    """landseg's loop, epoch after epoch."""

    def endless() -> Iterator[Batch]:
        for epoch in itertools.count():
            yield from loop.batches.epoch(epoch)

    batches = endless()

    def run(steps: int) -> int:
        seen = 0
        for item in itertools.islice(batches, steps):
            loop.step(item)
            seen += len(item.keys)
        wait(loop.device)
        return seen

    return run


def our_loop(data: Path, batch: int, settings: list[str]) -> Loop:
    """landseg's loop on a data set, with the default recipe."""
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
    return Loop(network, Task(store, tile_numbers(store, split, "train"), tile_numbers(store, split, "val"), card, recipe))


def alternate(sides: dict[str, Steps], rounds: int, steps: int) -> dict[str, list[float]]:
    """Images/s of each side and round, one side after the other, another first in each; two steps of each before that are not counted."""
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for name, run in sides.items():
        start = time.perf_counter()
        run(2)
        print(f"{name}: first two steps {time.perf_counter() - start:.1f} s", flush=True)
    for number in range(rounds):
        first = number % len(sides)  # a side that always followed the same one would pay for what that leaves behind
        for name, run in [*sides.items()][first:] + [*sides.items()][:first]:
            start = time.perf_counter()
            seen = run(steps)
            speeds[name].append(seen / (time.perf_counter() - start))
            if isinstance(run, Apart):
                time.sleep(SETTLE_S)
        print("   ".join(f"{name} {values[-1]:6.2f} images/s" for name, values in speeds.items()), flush=True)
    return speeds


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and most of the ratios of two sides, round by round."""
    found = [a / b for a, b in zip(ours, theirs, strict=True)]
    return statistics.median(found), min(found), max(found)


def best_bare(speeds: dict[str, list[float]]) -> str:
    """The name of the faster bare step, by the median."""
    return max((name for name in speeds if name.startswith("bare")), key=lambda name: statistics.median(speeds[name]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="dataset folder with a split")
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="folder with img_train/ and lab_train/, as the script reads them")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2, help="of the script's data loader")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=6, help="a round and side")
    parser.add_argument("--eager", action="store_true", help="do not compile the bare network, where there is no compiler")
    parser.add_argument("--set", action="append", default=[], help="landseg settings")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    loop = our_loop(options.data, options.batch, options.set)
    script = Apart(options.peer, options.folder, options.batch, 5, options.workers, str(loop.device))
    height, _ = loop.batches.shape
    bare = (options.batch, height, len(loop.task.card.classes), loop.device)
    compiled: dict[str, Steps] = {} if options.eager else {"bare compiled": bare_steps(*bare, "inductor")}
    sides: dict[str, Steps] = {"script": script, "landseg": loop_steps(loop), "bare": bare_steps(*bare, None), **compiled}
    try:
        speeds = alternate(sides, options.rounds, options.steps)
    except ChildProcessError as error:
        raise SystemExit(str(error)) from None
    finally:
        script.end()
    middle, least, most = ratio(speeds["landseg"], speeds["script"])
    print(f"landseg / script: median ratio {middle:.2f} ({least:.2f}–{most:.2f})")
    best = best_bare(speeds)
    middle, least, most = ratio(speeds["landseg"], speeds[best])
    print(f"landseg / {best}: median ratio {middle:.3f} ({least:.3f}–{most:.3f}), bar {BAR}: {'met' if middle >= BAR else 'missed'}")


if __name__ == "__main__":
    main()
