"""Trains tiny runs in each of the processes that torchrun starts, one after the other, disturbs some, and writes down how each ended.

    python -m torch.distributed.run --standalone --nproc-per-node 2 tests/training/sharing.py FOLDER
    python -m torch.distributed.run --standalone --nproc-per-node 2 tests/training/sharing.py FOLDER train DATA --out RUN ...

The first writes ``FOLDER/said-0.json`` and ``said-1.json``; `test_ranks` makes the same runs in one process, and compares. The second is
the command `landseg`, of which the second process is killed in its third step.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from landseg.core import processes
from landseg.core.classes import IGNORE_INDEX
from landseg.core.config import load_recipe
from landseg.core.runs import Onlooker, Run
from landseg.data import world
from landseg.data.dataset import Dataset, DatasetInfo
from landseg.data.pack import open_tiles
from landseg.network.build import Normalisation
from landseg.network.card import ModelCard
from landseg.training import loop, step
from landseg.training.step import Stepper

SETTINGS = (
    "train.epochs=3", "train.batch=6", "train.device=cpu", "train.ema=0.8", "train.optimiser=sgd", "train.lr=0.03", "train.seed=0",
    "train.save_minutes=1000000000", "augment.brightness=0.5", "augment.contrast=0.3", "augment.noise=0.5", "augment.cut_mix=0.5",
)  # fmt: skip
"""Steps of 5, 5 and 4 tiles an epoch, all of whose pixels are labelled: how they are cut into micro-batches changes nothing."""

IGNORING = ("augment.rotation_deg=40", "augment.cutout=0.5", "loss.lovasz=1", "train.batch=3", "train.effective_batch=6")
"""A loss that is no mean over all pixels of a step alike: two processes are one with the same micro-batches, of 3 and 2, or 2 and 2."""

TRAIN, VAL = range(14), range(14, 17)

NORMALISATION = Normalisation((110.0, 110.0, 100.0), (45.0, 45.0, 45.0))


class Tiny(torch.nn.Module):
    """Two layers, and a normalisation: of groups of channels, which knows no batch, or of batches."""

    def __init__(self, *, by_batch: bool = False) -> None:
        super().__init__()
        first = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.encoder = torch.nn.Sequential(first, torch.nn.BatchNorm2d(8) if by_batch else torch.nn.GroupNorm(2, 8), torch.nn.ReLU())
        self.decoder = torch.nn.Conv2d(8, len(world.CLASSES), 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder((images.float() - 110) / 45))  # type: ignore[no-any-return]


def write(folder: Path) -> None:
    """The tiles that all runs train on, without a pixel that has no label."""
    tiles = world.write_tiles(folder / "tiles", 1, len(TRAIN) + len(VAL), tile=32)
    for path in (tiles / "labels").iterdir():
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.where(label == IGNORE_INDEX, 0, label))


def task(folder: Path, *settings: str, by_batch: bool = False) -> tuple[Any, loop.Task]:
    """A network that begins alike in each process, and what it is trained on."""
    store = open_tiles(Dataset(folder / "tiles", DatasetInfo(name="w", classes=world.CLASSES)))
    recipe = load_recipe("tiny", [*SETTINGS, *settings])
    torch.manual_seed(0)
    card = ModelCard(
        landseg_version="test", network="unet", encoder="tiny", bands=("red", "green", "blue"), dtype="uint8", mean=NORMALISATION.mean,
        std=NORMALISATION.std, classes=world.CLASSES, tile_size=(32, 32),
    )  # fmt: skip
    return Tiny(by_batch=by_batch), loop.Task(store, TRAIN, VAL, card, recipe)


def train(folder: Path, name: str, *settings: str, resume: bool = False, by_batch: bool = False) -> dict[str, Any]:
    """One run, in this process or in its share of it: how it ended here."""
    torch.set_num_threads(1)
    session = loop.Loop(*task(folder, *settings, by_batch=by_batch))
    run = Run(folder / name) if processes.is_first() else Onlooker(folder / name)
    is_stopped = False
    try:
        session.run(run, resume=resume)
    except KeyboardInterrupt:
        is_stopped = True
    finally:
        run.close()
    stepper = session.stepper
    assert stepper.average is not None
    state = {**stepper.network.state_dict(), **stepper.average.state_dict()}
    moments = [stepper.optimiser.state[p]["momentum_buffer"] for p in stepper.network.parameters() if p in stepper.optimiser.state]
    content = b"".join(np.ascontiguousarray(tensor.numpy()).tobytes() for tensor in [*state.values(), *moments])
    return {
        "weights": hashlib.sha256(content).hexdigest(),
        "steps": session.at.step,
        "miou": session.at.best_miou,
        "micro": stepper.micro,
        "skipped": stepper.judge.skipped,
        "rollbacks": stepper.judge.rollbacks,
        "is_stopped": is_stopped,
    }


class Disturbed:
    """Within, something is done before each augmentation, which is told (epoch, number of the call from 1, keys of the tiles)."""

    def __init__(self, disturb: Callable[[int, int, np.ndarray], float]) -> None:
        self._disturb, self._plain, self._calls = disturb, step.augment, 0

    def __enter__(self) -> None:
        def augment(*arguments: Any, **options: Any) -> Any:
            self._calls += 1
            factor = self._disturb(options["epoch"], self._calls, options["keys"])
            images, labels = self._plain(*arguments, **options)
            return images * factor, labels

        step.augment = augment  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        step.augment = self._plain


def spoil(epoch: int, _call: int, keys: np.ndarray) -> float:
    """In the second epoch, a tile makes its step's loss NaN, whichever process it falls to."""
    return float("nan") if epoch == 1 and SPOILT in keys else 1.0


SPOILT = np.uint64(0)
"""The key of that tile; set before it is used."""


def spoilt_key(folder: Path) -> np.uint64:
    """A tile's key."""
    _, content = task(folder)
    return np.uint64(loop.Loop(Tiny(), content).batches._keys[5])


def second(at: int, act: Callable[[], float | None]) -> Callable[[int, int, np.ndarray], float]:
    """In the second process, do this at one call."""

    def disturb(_epoch: int, call: int, _keys: np.ndarray) -> float:
        return (act() if processes.number() == 1 and call == at else None) or 1.0

    return disturb


def short_of_memory() -> None:
    """What an allocator says."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def stop() -> None:
    """As a launcher does, twice."""
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)


def validate_under_a_signal() -> None:
    """In the second process, validation is asked to save, once."""
    plain, calls = Stepper.predict, 0

    def predict(self: Stepper, images: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if processes.number() == 1 and calls == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return plain(self, images)

    Stepper.predict = predict  # type: ignore[method-assign]


def main() -> None:
    """All runs, in the processes that share them."""
    global SPOILT
    folder, words = Path(sys.argv[1]), sys.argv[2:]
    if words:
        from landseg.__main__ import run

        sys.argv = ["landseg", *words]
        with Disturbed(second(3, lambda: os.kill(os.getpid(), signal.SIGKILL))):
            run()
        return
    SPOILT = spoilt_key(folder)
    said = {"whole": train(folder, "shared"), "ignoring": train(folder, "ignoring-shared", *IGNORING)}
    with Disturbed(second(5, short_of_memory)):
        said["short"] = train(folder, "short")
    with Disturbed(spoil):
        said["spoilt"] = train(folder, "spoilt-shared", "train.on_nan=skip")
    with Disturbed(second(5, lambda: float("nan"))):
        said["rolled"] = train(folder, "rolled", "train.on_nan=rollback")
    said["normed"] = train(folder, "normed", "train.freeze=0.4", by_batch=True)
    said["timed"] = train(folder, "timed", "train.minutes=0.02")
    with Disturbed(second(5, stop)):
        said["stopped"] = train(folder, "stopped")
    said["resumed"] = train(folder, "stopped", resume=True)
    with Disturbed(second(4, stop)):
        said["left"] = train(folder, "left")
    validate_under_a_signal()
    said["asked"] = train(folder, "asked")
    (folder / f"said-{processes.number()}.json").write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main()
