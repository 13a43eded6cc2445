"""What a model folder says of itself: its card, and the bytes of its weights. It builds no network, writes nothing and knows no torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from landseg import __version__
from landseg.core.classes import IGNORE_INDEX, LandClass
from landseg.core.errors import LandsegError

WEIGHTS, CARD = "model.safetensors", "model.json"

_LATER = ("scaling", "decoder_channels", "exported")
"""Keys that cards of earlier versions lack: they count for the checksum only where they say something."""


@dataclass(frozen=True)
class Normalisation:
    """What is done to each band before the network sees it: (x - mean) / std.

    With `scaling`, a (low, high) a band, values are first clipped to low..high and mapped to 0..1; `mean` and `std` are then of the result.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scaling: tuple[tuple[float, float], ...] | None = None


class Export(BaseModel):
    """What an exported model's card says besides.

    Args:
        runtime: What its files are for.
        precision: Of its weights.
        files: SHA-256 of each file of the network, by name.
        source_sha256: `weights_sha256` of the model that was exported.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    runtime: Literal["onnx", "openvino"]
    precision: Literal["float32", "int8"] = "float32"
    files: dict[str, str]
    source_sha256: str


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
    exported: Export | None = None

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


def find_model(path: Path) -> Path:
    """The model folder that a run folder or a model folder stands for.

    Raises:
        LandsegError: There is none.
    """
    for folder in (path / "model", path):
        heal(folder)
        if (folder / CARD).is_file():
            return folder
    found = "no such folder" if not path.exists() else f"no {CARD} in it"
    raise LandsegError(path, found, "a run folder or a model folder", "train one with `landseg train DATA --out RUN`")


def has_model(folder: Path) -> bool:
    """True when `folder` is a model folder, or was one until a kill between two renames."""
    heal(folder)
    return (folder / CARD).is_file()


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


def read_model(folder: Path) -> tuple[ModelCard, bytes]:
    """Card and weights of one model, the bytes of `model.safetensors`.

    Training may put a better one in its place between the reading of the two files; both are then read again.

    Raises:
        LandsegError: A file cannot be read, or the weights are not those that were saved.
    """
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


def beside(folder: Path, word: str) -> Path:
    """Where a model folder lies that is not finished (``new``), or no longer used (``old``)."""
    place = folder.resolve()  # "." has no name to put a word beside
    return place.with_name(f".{place.name}.{word}")


def heal(folder: Path) -> None:
    """Put the old folder back where a kill between two renames left none."""
    old = beside(folder, "old")
    if not folder.exists() and (old / CARD).is_file():
        with suppress(OSError):  # a training that is alive was quicker
            os.rename(old, folder)


def _advice(text: str) -> str:
    """What to do about a card that is not understood: another version may have written it."""
    version = re.search(r'"landseg_version": ?"([^"]{1,20})"', text)
    if version is None or version[1] == __version__:
        return "copy the model folder again"
    return f"it is of landseg {version[1]}, this is {__version__}: use that one, or copy the model folder again"
