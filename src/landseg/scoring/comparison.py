"""What differs between runs: settings, surroundings and scores, and whether their scores may be compared. It draws nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any, Literal

import numpy as np

from landseg.core.ledger import RunFolder, number

MISSING = "–"
"""Stands for a setting that a run does not have, because it is of another version."""

HEADLINES = {"miou": "mIoU", "overall_accuracy": "overall accuracy", "kappa": "kappa"}
"""Scores over all classes: key of the scores → name."""

Row = tuple[str, tuple[Any, ...]]
"""A name and its value in each run; None where a run has none."""


@dataclass(frozen=True)
class Comparison:
    """Runs side by side, in the order they were named.

    Args:
        runs: At least two.
    """

    runs: tuple[RunFolder, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What the runs are called: the last parts of their paths, as many as tell them apart."""
        paths = [PurePath(run.path.resolve()).parts for run in self.runs]
        for depth in range(1, max(map(len, paths)) + 1):
            names = ["/".join(path[-depth:]) for path in paths]
            if len(set(names)) == len(names):
                break
        return tuple(names)

    @cached_property
    def settings(self) -> list[Row]:
        """Settings that are not the same in all runs, in the order of the recipe; a run without one is of another version."""
        return _differing([run.settings for run in self.runs])

    @property
    def same_settings(self) -> int:
        """How many settings are the same in all."""
        return len(set().union(*(run.settings for run in self.runs))) - len(self.settings)

    @cached_property
    def surroundings(self) -> list[Row]:
        """Versions, machine and device where they are not the same."""
        found = []
        for run in self.runs:
            versions = run.surroundings.get("versions")
            kept = {key: run.surroundings.get(key) for key in ("python", "platform", "cores", "git_commit", "device")}
            found.append({**(versions if isinstance(versions, dict) else {}), **kept} if run.surroundings else {})
        return _differing(found)

    @cached_property
    def headlines(self) -> list[Row]:
        """Scores over all classes, those that any run has; the mIoU of a run without a model is the best of its metrics."""
        rows = [(name, tuple(number(run.scores, key) for run in self.runs)) for key, name in HEADLINES.items()]
        rows[0] = (rows[0][0], tuple(run.best.miou if run.best else None for run in self.runs))
        return [row for row in rows if any(value is not None for value in row[1])]

    @cached_property
    def classes(self) -> list[Row]:
        """IoU of each class that any run has scored; of a run without a model, of the best line of its metrics."""
        scored = [_class_scores(run) for run in self.runs]
        names = dict.fromkeys(name for found in scored for name in found)
        return [(name, tuple(number(found, name) for found in scored)) for name in names]

    @cached_property
    def colours(self) -> dict[str, str]:
        """Colour of each class, as the first run that has it paints it."""
        found: dict[str, str] = {}
        for run in self.runs:
            for item in _classes_of(run):
                found.setdefault(str(item.get("name")), str(item.get("colour") or "#888888"))
        return found

    @cached_property
    def leader(self) -> int | None:
        """The run with the highest mIoU; None where there are no two whose scores could be of the same ground."""
        if self.ground == "other" or self._class_warnings():
            return None
        scored = [(run.best.miou, -i) for i, run in enumerate(self.runs) if run.best]
        return -max(scored)[1] if len(scored) > 1 else None

    @cached_property
    def ground(self) -> Literal["same", "alike", "other", "unknown"]:
        """Whether the scores are of the same ground: tiles, labels and parts are the same · the labels that were scored hold the same
        pixels of each class · neither · a run does not tell."""
        fingerprints = {run.fingerprint for run in self.runs}
        if "" in fingerprints:
            return "unknown"
        if len(fingerprints) == 1:
            return "same"
        matrices = [_confusion(run) for run in self.runs]
        return "alike" if all(matrices) and len({tuple(sum(row) for row in matrix or ()) for matrix in matrices}) == 1 else "other"

    @cached_property
    def warnings(self) -> list[str]:
        """What the reader must not miss before comparing scores."""
        found = [*self._data_warnings(), *self._class_warnings()]
        for name, run in zip(self.names, self.runs, strict=True):
            if run.standing == "running":
                found.append(f"{name} is being trained at this moment: what is shown of it is its score so far.")
            elif run.standing != "finished":
                found.append(f"{name} did not come to its end ({run.standing} in epoch {run.epoch} of {run.planned or 'unknown length'}).")
            if run.best is None:
                found.append(f"{name} has no score yet.")
            found += [f"{name}: {fault}." for fault in run.faults]
        return found

    @property
    def advice(self) -> str:
        """What single runs cannot tell; empty where seeds differ."""
        if any(name == "train.seed" for name, _ in self.settings):
            return ""
        return "One run each does not tell how much of a difference is chance: repeat each with other seeds (--set train.seed=1)."

    def images_per_s(self) -> list[float | None]:
        """The median pace of each run."""
        return [_median(number(line, "speed/images_per_s") for line in run.lines) for run in self.runs]

    def as_json(self) -> dict[str, Any]:
        """The comparison as a document."""
        speeds = self.images_per_s()
        return {
            "runs": [
                {
                    "name": name,
                    "path": str(run.path),
                    "state": run.standing,
                    "miou": run.best.miou if run.best else None,
                    "best_epoch": run.best.epoch if run.best else None,
                    "epoch": run.epoch,
                    "minutes": round(run.minutes, 2),
                    "images_per_s": speed,
                    "data_fingerprint": run.fingerprint or None,
                }
                for name, run, speed in zip(self.names, self.runs, speeds, strict=True)
            ],
            "ground": self.ground,
            "warnings": self.warnings,
            "settings": self._by_run(self.settings),
            "surroundings": self._by_run(self.surroundings),
            "scores": self._by_run(self.headlines),
            "iou": self._by_run(self.classes),
        }

    def _by_run(self, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
        """Name of the row → name of the run → value; a setting that a run does not have is left out."""
        return {name: {run: value for run, value in zip(self.names, values, strict=True) if value != MISSING} for name, values in rows}

    def _data_warnings(self) -> list[str]:
        unknown = [name for name, run in zip(self.names, self.runs, strict=True) if not run.fingerprint]
        words = {
            "same": "",
            "unknown": f"What {' and '.join(unknown)} was trained on is not known: the scores may be of other tiles and tell nothing.",
            "alike": "The runs were trained on other tiles, labels or parts (their data fingerprints differ), but the part they were "
            "scored on holds the same labelled pixels of each class: the scores are likely to be of the same ground.",
            "other": "The runs were trained or scored on other tiles, labels or parts (their data fingerprints differ): their scores are "
            "not comparable.",
        }
        return [words[self.ground]] if words[self.ground] else []

    def _class_warnings(self) -> list[str]:
        lists = [tuple(item.get("name") for item in _classes_of(run)) for run in self.runs]
        known = {names for names in lists if names}
        return ["The runs have other classes: a mean over other classes is another score."] if len(known) > 1 else []


def _differing(documents: Sequence[dict[str, Any]]) -> list[Row]:
    """Keys whose values are not equal in all documents; a document that is empty, because it is not known, tells nothing."""
    known = [document for document in documents if document]
    keys = dict.fromkeys(key for document in documents for key in document)
    return [
        (key, tuple(document.get(key, MISSING) for document in documents))
        for key in keys
        if any(document.get(key, MISSING) != known[0].get(key, MISSING) for document in known)
    ]


def _class_scores(run: RunFolder) -> dict[str, Any]:
    found = run.scores.get("iou")
    if isinstance(found, dict):
        return found
    scored = [line for line in run.lines if number(line, "val/miou") is not None]
    best = max(scored, key=lambda line: number(line, "val/miou") or 0.0, default={})
    return {key.removeprefix("val/iou/"): value for key, value in best.items() if key.startswith("val/iou/")}


def _classes_of(run: RunFolder) -> list[dict[str, Any]]:
    found = run.card.get("classes")
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _confusion(run: RunFolder) -> list[list[int]] | None:
    found = run.scores.get("confusion")
    is_one = isinstance(found, list) and all(isinstance(row, list) and all(isinstance(count, int) for count in row) for row in found)
    return found if is_one else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None
