"""One folder that is a model: `model.safetensors` and `model.json`. It resumes no training; `training.state` does.

Writing it, and loading it into a network of torch; what it says of itself is `network.card`'s.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from landseg.core.errors import LandsegError
from landseg.core.files import sync_folder, unwritable, write_bytes
from landseg.network.build import Network, build
from landseg.network.card import CARD, WEIGHTS, ModelCard, beside, find_model, heal, load_card, read_model


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
    new, old = beside(folder, "new"), beside(folder, "old")
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


def settle_model(folder: Path) -> None:
    """Put right what a kill left of `save_model`: the old folder goes back where there is none, and what was not finished goes.

    Only for who holds the run's lock, or writes the folder: another one's unfinished model would go, too.
    """
    heal(folder)
    shutil.rmtree(beside(folder, "new"), ignore_errors=True)
    if folder.exists():  # else the old one, which could not be put back, is all there is
        shutil.rmtree(beside(folder, "old"), ignore_errors=True)


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
    card = load_card(folder)
    if card.exported is not None:
        raise LandsegError(
            folder, "an exported model: it has no weights that could be trained", "a run folder or a model folder as training wrote it",
            "name the model that it was exported from",
        )  # fmt: skip
    card, data = read_model(folder)
    return restored(folder, card, data), card


def restored(folder: Path, card: ModelCard, data: bytes) -> Network:
    """The network of a card with its weights, as `read_model` gives both: in evaluation mode on the CPU.

    Raises:
        LandsegError: They do not belong together.
    """
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
    return network.eval()
