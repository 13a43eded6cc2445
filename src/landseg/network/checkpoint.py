"""One folder that is a model: `model.safetensors` and `model.json`. It resumes no training; `training.state` does."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from landseg import __version__
from landseg.core.classes import IGNORE_INDEX, LandClass
from landseg.core.errors import LandsegError
from landseg.core.files import sync_folder, unwritable, write_bytes
from landseg.network.build import Network, Normalisation, build

WEIGHTS, CARD = "model.safetensors", "model.json"

_LATER = ("scaling", "decoder_channels")
"""Keys that cards of earlier versions lack: they count for the checksum only where they say something."""


class ModelCard(BaseModel):
    """Everything that predicting needs besides the weights, readable by a person."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    landseg_version: str
    network: str
    encoder: str
    decoder_channels: tuple[int, ...] | None = None
    bands: tuple[str, ...]
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scaling: tuple[tuple[float, float], ...] | None = None
    classes: tuple[LandClass, ...]
    ignore_index: int = IGNORE_INDEX
    resolution_m: float | None = None
    tile_size: tuple[int, int]
    size: int | None = None
    calibration_temperature: float = 1.0
    scores: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    data_fingerprint: str = ""
    weights_sha256: str = ""
    card_sha256: str = ""

    def digest(self) -> str:
        """SHA-256 of everything the card says, its own checksum apart."""
        document = self.model_dump(mode="json", exclude={"card_sha256", *(key for key in _LATER if getattr(self, key) is None)})
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    @property
    def factor(self) -> float:
        """By which images are made larger or smaller for the network: `size` to the longer edge of a training tile."""
        return 1.0 if self.size is None else self.size / max(self.tile_size)

    @property
    def normalisation(self) -> Normalisation:
        """The network's first layer."""
        return Normalisation(self.mean, self.std, self.scaling)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of their ids."""
        return tuple(item.name for item in self.classes)


def save_model(folder: Path, state: dict[str, Tensor], card: ModelCard) -> None:
    """Write a model folder, replacing the one before as a whole.

    The new folder is complete on the disk before the old one leaves its place; killed between the two renames, the old one lies
    at ``.NAME.old``, where `load_card` finds it.

    Args:
        folder: The model folder.
        state: `Network.state_dict()`.
        card: What the model is; its checksum is filled in here.

    Raises:
        LandsegError: The folder cannot be written.
    """
    new, old = _beside(folder, "new"), _beside(folder, "old")
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})
    complete = card.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})
    complete = complete.model_copy(update={"card_sha256": complete.digest()})
    try:
        settle_model(folder)
        write_bytes(new / WEIGHTS, weights, sync=True)
        card_text = json.dumps(complete.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        write_bytes(new / CARD, card_text.encode(), sync=True)
        while new.exists():
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)  # a kill during the removal below left it
                os.rename(folder, old)
            try:
                os.rename(new, folder)
            except OSError:
                if not folder.exists():
                    raise
                # A reader took us for killed and put the old folder back: once more.
        sync_folder(folder.resolve().parent)  # a power cut may not find the old one gone and the new one nameless
        shutil.rmtree(old, ignore_errors=True)
    except LandsegError:
        settle_model(folder)  # half a model takes the room that the disk has not got
        raise
    except OSError as error:
        settle_model(folder)
        raise unwritable(folder, error) from error


def find_model(path: Path) -> Path:
    """The model folder that a run folder or a model folder stands for.

    Raises:
        LandsegError: There is none.
    """
    for folder in (path / "model", path):
        _heal(folder)
        if (folder / CARD).is_file():
            return folder
    found = "no such folder" if not path.exists() else f"no {CARD} in it"
    raise LandsegError(path, found, "a run folder or a model folder", "train one with `landseg train DATA --out RUN`")


def has_model(folder: Path) -> bool:
    """True when `folder` is a model folder, or was one until a kill between two renames."""
    _heal(folder)
    return (folder / CARD).is_file()


def settle_model(folder: Path) -> None:
    """Put right what a kill left of `save_model`: the old folder goes back where there is none, and what was not finished goes.

    Only for who holds the run's lock, or writes the folder: another one's unfinished model would go, too.
    """
    _heal(folder)
    shutil.rmtree(_beside(folder, "new"), ignore_errors=True)
    if folder.exists():  # else the old one, which could not be put back, is all there is
        shutil.rmtree(_beside(folder, "old"), ignore_errors=True)


def load_card(folder: Path) -> ModelCard:
    """Read `model.json`.

    Raises:
        LandsegError: It cannot be read, or says something else than what was saved.
    """
    path = folder / CARD
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        card = ModelCard.model_validate_json(text)
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        reason = f"{error.errors()[0]['msg']}" if isinstance(error, ValidationError) else str(error)
        raise LandsegError(path, f"it cannot be read ({reason[:120]})", "the model.json that training wrote", _advice(text)) from error
    if card.digest() != card.card_sha256:
        raise LandsegError(
            path, "its checksum differs: it was changed or damaged", "the model.json that training wrote", "copy the model folder again"
        )
    return card


def load_model(path: Path) -> tuple[Network, ModelCard]:
    """Load a model for prediction.

    Args:
        path: Run folder or model folder.

    Returns:
        The network in evaluation mode on the CPU, and its card.

    Raises:
        LandsegError: No model there, or its weights are not those that were saved.
    """
    folder = find_model(path)
    card, data = _read(folder)
    network = build(card.network, card.encoder, len(card.bands), len(card.classes), card.normalisation, card.decoder_channels)
    try:
        network.load_state_dict(load(data))
    except (RuntimeError, SafetensorError) as error:
        raise LandsegError(
            folder,
            f"{CARD} and {WEIGHTS} do not belong together ({' '.join(str(error).split())[:120]})",
            "the two files as training wrote them",
            "copy the model folder again",
        ) from error
    return network.eval(), card


def _read(folder: Path) -> tuple[ModelCard, bytes]:
    """Card and weights of one model: training may put a better one in its place between the reading of the two files."""
    card = load_card(folder)
    while True:
        try:
            data = (folder / WEIGHTS).read_bytes()
        except OSError as error:
            raise LandsegError(
                folder / WEIGHTS, error.strerror or str(error), "the model's weights", "copy the model folder again"
            ) from error
        digest = hashlib.sha256(data).hexdigest()
        if digest == card.weights_sha256:
            return card, data
        before, card = card, load_card(folder)
        if card == before:
            raise LandsegError(
                folder / WEIGHTS,
                f"checksum {digest[:12]}",
                f"{card.weights_sha256[:12]} as {CARD} says: the file is damaged or not the one that was saved",
                "copy the model folder again, or train anew",
            )


def _advice(text: str) -> str:
    """What to do about a card that is not understood: another version may have written it."""
    version = re.search(r'"landseg_version": ?"([^"]{1,20})"', text)
    if version is None or version[1] == __version__:
        return "copy the model folder again"
    return f"it is of landseg {version[1]}, this is {__version__}: use that one, or copy the model folder again"


def _beside(folder: Path, word: str) -> Path:
    place = folder.resolve()  # "." has no name to put a word beside
    return place.with_name(f".{place.name}.{word}")


def _heal(folder: Path) -> None:
    """Put the old folder back where a kill between two renames left none."""
    old = _beside(folder, "old")
    if not folder.exists() and (old / CARD).is_file():
        with suppress(OSError):  # a training that is alive was quicker
            os.rename(old, folder)
