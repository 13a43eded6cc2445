"""A folder that is an exported model: written as a whole, and refused when a file of it is missing or changed. It runs no network.

An exported folder holds the network (``model.onnx``, or ``model.xml`` with ``model.bin``), the card with the checksums of these,
``item.json`` (STAC) and ``README.md``. Of images of 8 bits, ``qgis.onnx`` lies beside an ONNX network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from landseg.core.errors import LandsegError
from landseg.core.files import sync_folder, unwritable
from landseg.network.card import CARD, Export, ModelCard, beside

ONNX, XML, BIN, QGIS, ITEM, PAGE = "model.onnx", "model.xml", "model.bin", "qgis.onnx", "item.json", "README.md"

Runtime = Literal["onnx", "openvino"]
Precision = Literal["float32", "int8"]

NETWORK_FILES: Mapping[Runtime, tuple[str, ...]] = {"onnx": (ONNX,), "openvino": (XML, BIN)}
"""What a runtime needs to run the network; the first is the one that it opens."""

FILES = (ONNX, XML, BIN, QGIS, CARD, PAGE, ITEM)
"""Every name that an exported folder may hold."""


def network_file(folder: Path, card: ModelCard) -> Path:
    """The file that the exported model's runtime opens, after a look at the checksum of every file that it needs.

    Args:
        folder: The exported folder.
        card: Its card.

    Raises:
        LandsegError: The card is not an exported model's; or a file is missing, cannot be read, or is not the one that was exported.
    """
    if card.exported is None:
        raise LandsegError(folder, "no exported model", "a folder that `landseg export` wrote", "export one")
    for name, expected in card.exported.files.items():
        path = folder / name
        try:
            found = file_sha256(path)
        except OSError as error:
            reason = "it is missing" if isinstance(error, FileNotFoundError) else f"it cannot be read ({error.strerror or error})"
            raise LandsegError(path, reason, "every file that `landseg export` wrote", "copy the folder again, or export anew") from error
        if found != expected:
            raise LandsegError(
                path,
                f"checksum {found[:12]}",
                f"{expected[:12]} as {CARD} says: the file is damaged or not the one that was exported",
                "copy the folder again, or export anew",
            )
    return folder / NETWORK_FILES[card.exported.runtime][0]


def export_card(card: ModelCard, folder: Path, runtime: Runtime, precision: Precision) -> ModelCard:
    """The card of an exported model, whose `weights_sha256` is that of the network's files: int8 is another model than float32.

    Args:
        card: Card of the model that is exported.
        folder: Where the network's files lie.
        runtime: What opens them.
        precision: In what the network computes.
    """
    files = {name: file_sha256(folder / name) for name in NETWORK_FILES[runtime]}
    whole = hashlib.sha256("".join(files.values()).encode()).hexdigest()
    facts = Export(runtime=runtime, precision=precision, files=files, source_sha256=card.weights_sha256)
    made = card.model_copy(update={"exported": facts, "weights_sha256": whole})
    return made.model_copy(update={"card_sha256": made.digest()})


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its place when the block ends well; a folder that is there goes only then.

    Killed between the two renames, the old one lies at ``.NAME.old``, where a model is found all the same; killed before, the new one
    lies at ``.NAME.new``, and the next call removes it.

    Raises:
        LandsegError: The folder cannot be written. What was there is untouched.
    """
    place, new, old = folder.resolve(), beside(folder, "new"), beside(folder, "old")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        yield new
        _sync(new)
        if place.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.rename(place, old)
        os.rename(new, place)
        sync_folder(place.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if not place.exists() and old.exists():
            with suppress(OSError):
                os.rename(old, place)
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Flush the files of a folder to the disk, so that a power cut after the rename finds them whole."""
    for path in folder.iterdir():
        with path.open("rb+") as handle:
            os.fsync(handle.fileno())
    sync_folder(folder)
