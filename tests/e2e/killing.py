"""Kills a tiny run at its n-th change of files, or fills its disk there, resumes it, and compares the end with a run that was left alone.

    python tests/e2e/killing.py FOLDER --every 10

A process of its own: it imports torch once, and forks a child for each run, so that a run costs a fraction of a second. The last line that
it prints is a JSON document: how many changes a run makes, what was tried, and what was found wrong.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from faults import Faults

from landseg.core.config import load_recipe
from landseg.core.errors import LandsegError
from landseg.core.runs import Run, read_metrics, refuse_existing_run
from landseg.core.settings import Recipe
from landseg.data import world
from landseg.data.dataset import Dataset, DatasetInfo
from landseg.data.pack import TileStore, open_tiles
from landseg.network.build import Network, Normalisation
from landseg.network.card import ModelCard, has_model, load_card
from landseg.training import loop, monitor
from landseg.training.state import has_state, load_state

SETTINGS = (
    "train.epochs=6", "train.batch=4", "train.device=cpu", "train.ema=0.8", "train.lr=0.03", "train.warmup=0", "train.seed=0",
    "train.patience=1",
)  # fmt: skip
"""The first epochs are each better than the one before, and then comes one that is not, and ends the run."""

NORMALISATION = Normalisation((110.0, 110.0, 100.0), (45.0, 45.0, 45.0))
TIMED = ("position", "elapsed_s"), ("position", "validation_s")
"""Of a state, what is a time or follows from one."""

TIMELESS = "step", "epoch", "train/", "val/"
"""Of a line of the metrics, what is no time and does not follow from one."""

DONE, REFUSED, CRASHED = 0, 2, 1


class Tiny(torch.nn.Module):
    """Two layers and their statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
        self.decoder = torch.nn.Conv2d(4, len(world.CLASSES), 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(images))  # type: ignore[no-any-return]


class Tries:
    """Runs in children, and their judgement.

    Args:
        folder: Where the runs lie; a new one.
        is_seldom: Save a state after the first epoch and at the end alone, so that better models come between; else after every step.
    """

    def __init__(self, folder: Path, *, is_seldom: bool) -> None:
        self.folder = folder
        loop.SAVE_SHARE = 0.0 if is_seldom else float("inf")
        tiles = world.write_tiles(folder / "tiles", 1, 10, tile=32)
        self.store: TileStore = open_tiles(Dataset(tiles, DatasetInfo(name="w", classes=world.CLASSES)))
        self.recipe: Recipe = load_recipe("tiny", [*SETTINGS, f"train.save_minutes={1e9 if is_seldom else 1e-9}"])
        self.whole = folder / "whole"
        if self._child(self.whole, None, note=folder / "changes.json") != DONE:
            raise SystemExit("the run that is left alone does not come to its end")
        self.changes = [tuple(change) for change in json.loads((folder / "changes.json").read_text(encoding="utf-8"))]
        self.end = end_of(self.whole)
        self.models = sum(change == ("rename", ".model.new") for change in self.changes)

    def points(self, every: int, first: int) -> list[tuple[int, str]]:
        """Where to kill: before each `every`-th change from the `first` on, and in the middle of it where it is a write."""
        found = [(n, "kill") for n in range(len(self.changes))]
        found += [(n, "half") for n, (kind, _) in enumerate(self.changes) if kind == "write"]
        return sorted(found)[first % every :: every]

    def killed(self, *faults: tuple[int, str]) -> list[str]:
        """What is wrong after kills at these changes, each of the process that resumed after the one before, and a last one left alone."""
        run = self._fresh()
        wrong: list[str] = []
        for fault in faults:
            code = self._child(run, Faults(run, *fault))
            if code == DONE:
                break  # it had fewer changes left
            if code != -signal.SIGKILL:
                return [f"ended with {code}, not killed: {self._said()}"]
            wrong += judge_killed(run)
        return wrong + self._judge_end(run)

    def full(self, at: int, span: int) -> list[str]:
        """What is wrong after the disk was full for some changes."""
        run = self._fresh()
        code = self._child(run, Faults(run, at, "full", span))
        if code not in (DONE, REFUSED):
            return [f"ended with {code}: {self._said()}"]
        told = Counter(line.split("landseg: ")[-1].split(",")[0] for line in self._said().splitlines() if "training goes on" in line)
        wrong = [f"told {count} times: {line}" for line, count in told.items() if count > 1]
        if code == REFUSED and at > self.begun and "the best model (mIoU" not in self._said():
            wrong.append(f"refused after it had begun: {self._said()}")
        return wrong + judge_killed(run, is_full=True) + self._judge_end(run)

    @property
    def begun(self) -> int:
        """Changes before the first that training makes: a disk that is full by then may be refused."""
        return next(n for n, (kind, name) in enumerate(self.changes) if kind == "write" and name == "metrics.jsonl")

    def _judge_end(self, run: Path) -> list[str]:
        code = self._child(run, None)
        return judge_end(run, self.end) if code == DONE else [f"not resumed: {self._said()}"]

    def _fresh(self) -> Path:
        run = self.folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        return run

    def _said(self) -> str:
        return (self.folder / "said").read_text(encoding="utf-8")

    def _child(self, run: Path, faults: Faults | None, note: Path | None = None) -> int:
        """Train in a child, as `landseg train` does, with --resume where there is a state: its exit code, or minus its signal."""
        is_resumed = has_state(run / "state")

        def work() -> None:
            watch = (faults or Faults(run)).install()
            if not is_resumed:
                refuse_existing_run(run, overwrite=(run / "model").exists())
            opened = Run(run, is_new=not is_resumed)
            try:
                loop.train(*self._task(), opened, resume=is_resumed)
            finally:
                opened.close()
            if note is not None:
                note.write_text(json.dumps(watch.seen), encoding="utf-8")

        return _forked(work, self.folder / "said")

    def _task(self) -> tuple[Network, loop.Task]:
        torch.manual_seed(0)
        network = Network(Tiny(), NORMALISATION)
        card = ModelCard(
            landseg_version="test", network="tiny", encoder="tiny", bands=("red", "green", "blue"), dtype="uint8",
            mean=NORMALISATION.mean, std=NORMALISATION.std, classes=world.CLASSES, tile_size=(32, 32),
        )  # fmt: skip
        return network, loop.Task(self.store, range(7), range(7, 10), card, self.recipe)


def _forked(work: Callable[[], None], said: Path) -> int:
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with said.open("w", encoding="utf-8", buffering=1) as stream:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logging.getLogger("landseg").addHandler(handler)
        code = CRASHED
        try:
            work()
            code = DONE
        except LandsegError as error:
            stream.write(f"{error}\n")
            code = REFUSED
        except BaseException:  # noqa: BLE001 - a child ends here, whatever it met, and says so
            traceback.print_exc(file=stream)
    os._exit(code)


def judge_killed(run: Path, *, is_full: bool = False) -> list[str]:
    """What is wrong with a run folder after a kill, or after a run whose disk was full (and whose best model was lost with its memory).

    There has to be a state that can be read and a model no worse than it says, or a folder that the same command takes anew.
    """
    if not has_state(run / "state"):
        try:
            refuse_existing_run(run, overwrite=(run / "model").exists())
        except LandsegError as error:
            return [f"neither a state nor a clear way on: {error}"]
        return []
    at = load_state(run / "state")["position"]
    if is_full:
        return []
    kept = load_card(run / "model").scores["val"]["miou"] if has_model(run / "model") else -1.0
    return [f"the model has mIoU {kept}, the state says {at['best_miou']}"] if kept < at["best_miou"] else []


def end_of(run: Path) -> dict[str, Any]:
    """What has to be equal at the end of a run, times apart."""
    state = load_state(run / "state")
    for part, key in TIMED:
        del state[part][key]
    for group in state["optimiser"]["param_groups"]:
        del group["lr"]  # each step sets its own
    lines = [{key: value for key, value in line.items() if key.startswith(TIMELESS)} for line in read_metrics(run)]
    return {
        "state": state,
        "model": {path.name: path.read_bytes() for path in sorted((run / "model").iterdir())},
        "metrics": lines,
        "whole lines": (run / "metrics.jsonl").read_bytes().count(b"\n"),
        "files": sorted({_known(path, run) for path in run.rglob("*")}),
    }


def _known(path: Path, run: Path) -> str:
    """A file's name without what differs from run to run, as which state is the last but one does."""
    name = str(path.relative_to(run)).partition(".tfevents")[0]
    return "a state" if path.match("state/step-*.state") else name


def judge_end(run: Path, wanted: dict[str, Any]) -> list[str]:
    """In what the end of a run differs from the one that was left alone."""
    return _differences("", end_of(run), wanted)


def _differences(where: str, one: Any, other: Any) -> list[str]:
    """The places where two documents of numbers, words, bytes and tensors differ, and how."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [line for key in one for line in _differences(f"{where}/{key}", one[key], other[key])]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [line for i, pair in enumerate(zip(one, other, strict=True)) for line in _differences(f"{where}/{i}", *pair)]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [f"{where}: other numbers"]
    return [] if one == other else [f"{where}: {str(one)[:200]}, not {str(other)[:200]}"]


def main() -> None:
    """See the room's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1, help="of the instants, which ones")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--twice", type=int, default=0, help="further tries with two kills, the second one in the resumed run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    monitor.LOG_EVERY_S = float("inf")  # time decides nothing
    told = {}
    for is_seldom in (False, True):
        name = "seldom" if is_seldom else "often"
        (options.folder / name).mkdir(parents=True)
        told[name] = _try(Tries(options.folder / name, is_seldom=is_seldom), options.every, options.first, options.twice)
    sys.stdout.write(f"{json.dumps(told)}\n")


def _try(tries: Tries, every: int, first: int, twice: int) -> dict[str, Any]:
    points = tries.points(every, first)
    wrong = {f"{how} at {n}, {tries.changes[n]}": tries.killed((n, how)) for n, how in points}
    for pair in [(points[i * 7 % len(points)], points[i * 11 % len(points)]) for i in range(twice)]:
        wrong[f"twice, {pair}"] = tries.killed(*pair)
    # Full for one change, or so long that several states, models and lines find no room.
    disks = [(at, (1, 40)[i % 2]) for i, at in enumerate(range(first % (2 * every), len(tries.changes), 2 * every))]
    for at, span in disks:
        wrong[f"full at {at} for {span}, {tries.changes[at]}"] = tries.full(at, span)
    return {
        "changes": len(tries.changes), "models": tries.models, "killed": len(points), "twice": twice, "full": len(disks),
        "kinds": Counter(kind for kind, _ in tries.changes), "wrong": {name: found for name, found in wrong.items() if found},
    }  # fmt: skip


if __name__ == "__main__":
    main()
