"""Run folders as somebody else finds them: what was trained, with what, how well, and in which state. It changes nothing.

Everything is read that is there, and nothing is believed: a run may be of another landseg, damaged, or being written at this moment.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from landseg.core.errors import LandsegError
from landseg.core.files import unwritable

try:
    import fcntl
except ImportError:  # Windows has no flock; a run that is being written is then not known as one
    fcntl = None  # type: ignore[assignment]

DEEPEST = 6
"""Folders below the one that is searched: an ablation's runs lie two deep, and a home folder is not walked for hours."""

CARD, DATASET = "model.json", "dataset.yaml"

_DATA_FOLDERS = {"images", "labels", "pack", "splits", "audit"}

Standing = Literal["running", "finished", "interrupted", "given up"]
"""A process writes it · it came to its end · its state can be resumed · neither."""


@dataclass(frozen=True)
class Best:
    """The best mIoU of a run: 0..1, the epoch from 1, and the part that was scored."""

    miou: float
    epoch: int
    part: str


@dataclass(frozen=True)
class RunFolder:
    """One run folder.

    Args:
        path: The folder, as it was named.
        settings: Dotted key → value of `recipe.yaml`, keys of another version as they stand; empty where it cannot be read.
        surroundings: `environment.json`; empty where it cannot be read.
        lines: The lines of `metrics.jsonl` that can be read.
        card: `model.json` of the best model; empty where there is none.
        faults: What could not be read, in words.
    """

    path: Path
    settings: dict[str, Any]
    surroundings: dict[str, Any]
    lines: list[dict[str, Any]]
    card: dict[str, Any]
    faults: tuple[str, ...]

    @cached_property
    def standing(self) -> Standing:
        """Which state the run is in; only what certainly came to its end is finished."""
        if is_locked(self.path / ".lock"):
            return "running"
        if self.has_ended:
            return "finished"
        return "interrupted" if self.states else "given up"

    @cached_property
    def has_ended(self) -> bool:
        """Whether it came to its end, whoever writes it now."""
        if isinstance(self.surroundings.get("ended"), dict):
            return True
        if "data" in self.surroundings:
            return False  # it would have noted its end, were it there
        # A run of a landseg that noted no ends. Of one by the clock nobody can tell from its metrics whether it was at its end.
        epochs, patience = number(self.settings, "train.epochs"), number(self.settings, "train.patience")
        scored = [(number(line, "val/miou"), number(line, "epoch")) for line in self.lines if "val/miou" in line]
        if not scored or number(self.settings, "train.minutes") is not None or "train.epochs" not in self.settings:
            return False
        if epochs is not None and (scored[-1][1] or 0) >= epochs:
            return True
        values = [-1.0 if miou is None else miou for miou, _ in scored]
        return patience is not None and len(values) - 1 - values.index(max(values)) >= patience

    @cached_property
    def states(self) -> list[Path]:
        """The files that would resume it."""
        try:
            return sorted((self.path / "state").glob("step-*"))
        except OSError:
            return []

    @cached_property
    def best(self) -> Best | None:
        """The score of the model that is kept; without a model, the best of the metrics."""
        scores = self.card.get("scores")
        for part, found in (scores if isinstance(scores, dict) else {}).items():
            miou = number(found, "miou")
            if miou is not None:
                return Best(miou, int(number(found, "epoch") or 0), part)
        scored = [(miou, line) for line in self.lines if (miou := number(line, "val/miou")) is not None]
        if not scored:
            return None
        miou, line = max(scored, key=lambda pair: pair[0])
        return Best(miou, int(number(line, "epoch") or 0), "val")

    @property
    def scores(self) -> dict[str, Any]:
        """All scores of the model that is kept, as its card has them; empty without."""
        scores = self.card.get("scores")
        found = scores.get(self.best.part) if isinstance(scores, dict) and self.best else None
        return found if isinstance(found, dict) else {}

    @property
    def network(self) -> str:
        """Such as ``unet resnet50``."""
        words = (self.settings.get(f"model.{key}") or self.card.get(key) or "?" for key in ("network", "encoder"))
        return " ".join(map(str, words))

    @property
    def fingerprint(self) -> str:
        """Of the tiles, labels and parts that it was trained on; empty where unknown."""
        found = self.surroundings.get("data_fingerprint") or self.card.get("data_fingerprint")
        return found if isinstance(found, str) else ""

    @property
    def data(self) -> str:
        """The data set's name, where the run tells."""
        found = self.surroundings.get("data")
        return found if isinstance(found, str) else ""

    @property
    def epoch(self) -> int:
        """The epoch that it has reached, from 1; 0 before the first line."""
        return max((int(number(line, "epoch") or 0) for line in self.lines), default=0)

    @property
    def planned(self) -> str:
        """How long it was to be, in words: ``24 epochs`` or ``30 minutes``."""
        minutes, epochs = number(self.settings, "train.minutes"), number(self.settings, "train.epochs")
        return f"{minutes:g} minutes" if minutes is not None else f"{epochs:g} epochs" if epochs is not None else ""

    @property
    def minutes(self) -> float:
        """Minutes of training so far, over all its resumptions."""
        return max((number(line, "time_s") or 0.0 for line in self.lines), default=0.0) / 60

    @cached_property
    def modified(self) -> float:
        """When its metrics were written last, seconds since 1970; 0 where unknown."""
        times = (_modified(self.path / name) for name in ("metrics.jsonl", "recipe.yaml"))
        return next((found for found in times if found), 0.0)

    @cached_property
    def size(self) -> int:
        """Bytes of everything in it."""
        return sum(file_bytes(path) for path in _files(self.path))

    @property
    def has_model(self) -> bool:
        """Whether a model lies in it, weights and all."""
        return bool(self.card) and any((folder / "model.safetensors").is_file() for folder in _model_folders(self.path))


def open_run(folder: Path) -> RunFolder:
    """Read a run folder.

    Raises:
        LandsegError: It is none: not there, a model folder, a data set, something else.
    """
    if is_run(folder):
        return _read(folder)
    found, do = "no run in it", "name a folder that `landseg train` wrote; `landseg runs` lists them"
    if not folder.exists():
        found = "no such folder"
    elif not folder.is_dir():
        found = "a file"
    elif (folder / CARD).is_file():
        found = "a model folder, which has no history"
        if is_run(folder.absolute().parent):
            do = f"name the run that it belongs to, {folder.absolute().parent}"
    elif (folder / DATASET).is_file():
        found = "a data set"
    elif below := list(_found(folder)):
        found, do = f"no run in it, but {len(below)} below it", f"name one of them, such as {below[0]}"
    raise LandsegError(folder, found, "a run folder", do)


def find_runs(folder: Path) -> list[RunFolder]:
    """The run folders in `folder` and below it, by path; hidden folders, links and the insides of data sets are not searched.

    Raises:
        LandsegError: There is none.
    """
    if not folder.is_dir() or any((folder / name).is_file() for name in (CARD, DATASET)) or is_run(folder):
        return [open_run(folder)]
    found = [_read(path) for path in _found(folder)]
    if not found:
        raise LandsegError(
            folder, "no run in it or below it", "a folder of runs", "name the one they lie in, or train: landseg train DATA --out RUN"
        )
    return found


def is_run(folder: Path) -> bool:
    """Whether a run was begun in `folder`."""
    return (folder / "metrics.jsonl").is_file() or all((folder / name).is_file() for name in ("recipe.yaml", "environment.json"))


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file, which may be read-only; a lock that is asked for in this instant sees us as a holder."""
    if fcntl is None:
        return False
    try:
        with path.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock file, or a disk without locks
        return False
    return False


def number(values: Any, key: str) -> float | None:
    """A finite number of a document; None for anything else."""
    found = values.get(key) if isinstance(values, dict) else None
    is_number = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
    return float(found) if is_number else None  # type: ignore[arg-type]


def file_bytes(path: Path) -> int:
    """Bytes of a file; 0 where it has gone."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _found(folder: Path) -> Iterator[Path]:
    """Run folders below `folder`, by path."""
    try:
        inside = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise unwritable(folder, error) from error
    waiting = [(Path(entry.path), 1) for entry in reversed(inside) if _is_searched(entry)]
    while waiting:
        place, depth = waiting.pop()
        if is_run(place):
            yield place
            continue
        try:
            inside = sorted(os.scandir(place), key=lambda entry: entry.name) if depth < DEEPEST else []
        except OSError:
            continue  # not ours to read
        is_data = any(entry.name == DATASET for entry in inside)
        waiting += [
            (Path(entry.path), depth + 1)
            for entry in reversed(inside)
            if _is_searched(entry) and not (is_data and entry.name in _DATA_FOLDERS)
        ]


def _is_searched(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)


def _read(folder: Path) -> RunFolder:
    faults: list[str] = []
    recipe = _document(folder / "recipe.yaml", faults)
    surroundings = _document(folder / "environment.json", faults)
    cards = [place / CARD for place in _model_folders(folder) if (place / CARD).is_file()]
    card = _document(cards[0], faults) if cards else {}
    return RunFolder(folder, dict(_flat(recipe)), surroundings, _lines(folder / "metrics.jsonl", faults), card, tuple(faults))


def _model_folders(folder: Path) -> tuple[Path, Path]:
    """Where the model may lie: in the second one after a kill between two renames."""
    return folder / "model", folder / ".model.old"


def _document(path: Path, faults: list[str]) -> dict[str, Any]:
    """A YAML or JSON file that holds a mapping; what is wrong with it goes to `faults`."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        faults.append(f"{path.name} cannot be read ({error.strerror or error})")
        return {}
    except (ValueError, yaml.YAMLError, RecursionError):
        faults.append(f"{path.name} is damaged")
        return {}
    if not isinstance(content, dict):
        faults.append(f"{path.name} is damaged")
        return {}
    return content


def _lines(path: Path, faults: list[str]) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; one that a kill cut off, or that is being written, is the last one and no fault."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        faults.append(f"{path.name} cannot be read ({error.strerror or error})")
        return []
    lines, damaged = [], 0
    for line in text.splitlines(keepends=True):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            damaged += line.endswith("\n")
            continue
        if number(found, "step") is None:
            damaged += 1
            continue
        lines.append(found)
    if damaged:
        faults.append(f"{path.name}: {damaged} damaged {'line is' if damaged == 1 else 'lines are'} left out")
    return lines


def _flat(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place) / name for name in names)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
