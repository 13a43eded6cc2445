"""What stays of a run on the disk while it trains, its last states and its best model; where the disk refuses, training goes on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from landseg.core.errors import LandsegError
from landseg.core.files import write_bytes
from landseg.core.runs import Run
from landseg.network.card import ModelCard, has_model, load_card
from landseg.network.checkpoint import save_model, settle_model
from landseg.training.state import save_state

log = logging.getLogger("landseg")


class Keeper:
    """Saves states and the best model of a run, whose lock is held.

    A disk that is full, or away for a while, ends no run: what was there before stays whole, it is said once, and each later save tries
    again. The best model waits in memory until then.

    Args:
        run: The open run.
        resume: Whether it goes on: else a model in its folder is another run's.

    Attributes:
        miou: Of the model on the disk; -1.0 without one, or where it has none.
        epoch: Of that model, from 0; -1 without one.

    Raises:
        LandsegError: The folder cannot be written, or the model in it not be read.
    """

    def __init__(self, run: Run, *, resume: bool) -> None:
        self._states, self._model = run.folder / "state", run.folder / "model"
        for folder in (run.folder, self._states):
            if folder.exists():
                _require_writable(folder)
        settle_model(self._model)
        self.miou, self.epoch = -1.0, -1
        if resume and has_model(self._model):
            self.miou, self.epoch = _score(load_card(self._model))
        self._waiting: tuple[dict[str, Tensor], ModelCard] | None = None
        self._refused: dict[str, LandsegError] = {}
        self._saved = "none"

    @property
    def best(self) -> float:
        """mIoU of the best model that there is, on the disk or waiting for room."""
        return self.miou if self._waiting is None else _score(self._waiting[1])[0]

    def keep_model(self, weights: dict[str, Tensor], card: ModelCard) -> None:
        """Keep a model that has just been validated, if it is better than the best there is, or the first.

        Args:
            weights: Its state; copied where it has to wait.
            card: With its score on the val part.
        """
        if (self.epoch >= 0 or self._waiting is not None) and _score(card)[0] <= self.best:
            return
        self._waiting = weights, card
        self._write_model()
        if self._waiting is not None:
            self._waiting = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}, card

    def save_state(self, state: dict[str, Any]) -> bool:
        """Save a state, and before it a model that waits; whether the state is on the disk.

        While a better model waits, the states before its epoch are kept: from them a run that is killed finds it again.
        """
        if self._waiting is not None:
            self._write_model()
        if self._waiting is not None:
            return False
        try:
            save_state(self._states, state)
        except LandsegError as error:
            self._tell("state", error, f"the last one on the disk is {self._saved}")
            return False
        self._saved = f"of step {state['step']}"
        self._told("state")
        return True

    def resumed(self, step: int) -> None:
        """Take note of the state that the run goes on from."""
        self._saved = f"of step {step}"

    def end(self) -> None:
        """See to it, at the end of the run, that its best model is there.

        Raises:
            LandsegError: It is not.
        """
        if self._waiting is not None:
            self._write_model()
        if self._waiting is not None:
            raise LandsegError(
                self._model,
                f"the best model (mIoU {self.best:.4f}) could not be kept ({self._refused['model'].found})",
                "room for it",
                "free some space; --resume goes on from the last state, and keeps it then",
            )
        if self.epoch < 0:
            raise LandsegError(
                self._model, "the best model of this finished run has gone", "the folder that training wrote",
                "put it back, or train anew with --overwrite in place of --resume",
            )  # fmt: skip

    def _write_model(self) -> None:
        """Write the model that waits; it waits on where the disk refuses."""
        if self._waiting is None:
            return
        weights, card = self._waiting
        try:
            save_model(self._model, weights, card)
        except LandsegError as error:
            there = f"the one before stays, mIoU {self.miou:.4f}" if self.epoch >= 0 else "there is none yet"
            self._tell("model", error, f"it waits in memory; {there}")
            return
        self.miou, self.epoch = _score(card)
        self._waiting = None
        self._told("model")

    def _tell(self, what: str, error: LandsegError, left: str) -> None:
        if what not in self._refused:
            log.warning("%s: %s, so the %s is not saved: %s; training goes on and tries again", error.what, error.found, what, left)
        self._refused[what] = error

    def _told(self, what: str) -> None:
        if self._refused.pop(what, None) is not None:
            log.info("the %s is saved again", what)


class Bystander:
    """What the other processes of a run have for a keeper: the first one keeps for them."""

    miou, epoch, best = -1.0, -1, -1.0

    def keep_model(self, weights: dict[str, Tensor], card: ModelCard) -> None:
        """Nothing."""

    def save_state(self, state: dict[str, Any]) -> bool:
        """Nothing is saved here."""
        return False

    def resumed(self, step: int) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


def _score(card: ModelCard) -> tuple[float, int]:
    """mIoU on the val part, -1.0 where it has none, and the epoch from 0."""
    score = card.scores["val"]
    return -1.0 if score["miou"] is None else float(score["miou"]), int(score["epoch"]) - 1


def _require_writable(folder: Path) -> None:
    """Refuse a folder in which no file can be made, before hours are spent on what could not be saved.

    Raises:
        LandsegError: It cannot be written.
    """
    probe = folder / ".probe.partial"
    write_bytes(probe, b"")
    probe.unlink(missing_ok=True)
