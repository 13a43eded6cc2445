"""Converted networks, kept beside their models: found again by what they were made of, made where they are not there. It runs nothing.

A file's name holds the *key* (a hash of the weights, of the card and of the versions of what converts and runs) and the hash of its own
content: one that is damaged is made again, and one of another model or version is not even looked at. No torch is loaded to find one.

    MODEL/.engine/onnx-<key>-<content>.onnx       or ….txt: why this network cannot be converted

Those of other versions stay, so that environments that share a model do not take each other's away; a file's time is when it was used last,
and of too many the ones that were used longest ago go.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from landseg.core.errors import LandsegError
from landseg.network.card import ModelCard, load_card

if TYPE_CHECKING:
    from landseg.network.lanes import Run

log = logging.getLogger("landseg")

PLACE = ".engine"
"""The folder within a model folder. A model that takes another's place comes without it, so nothing in it outlives the weights."""

_FORMAT = 1
"""Of the conversion: raised when it changes, so that what an earlier landseg kept is not used."""

_MAKERS = ("torch", "timm", "segmentation-models-pytorch")

_NO_MEMORY = ("allocate memory", "not enough memory", "bad_alloc", "bad allocation")
"""What torch and the runtimes say when they are given none. Source: c10/core/impl/alloc_cpu.cpp of PyTorch; core/framework/bfc_arena.cc of
ONNX Runtime; C++'s own exception, whose words are the compiler's."""

_ABANDONED_S = 3600.0
"""A file that was begun so long ago is no longer being written: it takes a second."""


FEW = 4
"""Conversions that are kept beside a model: of two environments and two runtimes, for each is about as large as the weights."""

MANY, MOST_BYTES = 64, 4_000_000_000
"""Conversions, and bytes of them, that are kept in the user's cache. Chosen: 64 of the default network take one gigabyte."""

_IN_USE_S = 3600.0
"""What was used so lately stays, though it be one too many: of more models than are kept, used together, each would else be converted at
every call."""

_OWN = re.compile(r"[a-z]+-[0-9a-f]{20}-[0-9a-f]{20}\.(onnx|txt)")
"""Names of what is kept here; nothing else is ever removed."""


def converted(folder: Path, card: ModelCard, weights: bytes, runtime: str, opened: Callable[[bytes], Run]) -> bytes:
    """The network of a model in ONNX, for images as they are decoded: the kept one, or a new one, which is kept.

    Args:
        folder: The model folder.
        card: Its card.
        weights: Its weights' bytes.
        runtime: Name and version of what will run it.
        opened: That runtime: a network's bytes → the network as a function. A new conversion is proved with it.

    Raises:
        LandsegError: The network cannot be converted, or gives something else than it did; that is kept, too, and said at once next time.
            Memory that ran out is no such reason.
    """
    stem = f"{runtime.partition(' ')[0].lower()}-{_key(card, runtime)}"
    found = _kept(folder, stem)
    if found is not None:
        return found
    # Imported here: torch takes seconds to load, and a network that is there needs none of it.
    from landseg.network.checkpoint import restored
    from landseg.network.convert import convert

    log.info("%s: converting it for %s: seconds, or a minute for a large network", folder, runtime)
    network = restored(folder, card, weights)
    started = time.monotonic()
    try:
        data = convert(network, card, is_decoded=True, opened=opened)
    except LandsegError as error:
        if not _lacked_memory(error):
            _keep(folder, card, stem, ".txt", json.dumps([error.what, error.found, error.needed, error.do], ensure_ascii=False).encode())
        raise
    seconds = time.monotonic() - started
    place = _keep(folder, card, stem, ".onnx", data)
    where = "nowhere may it be kept, so the next call converts again" if place is None else f"kept in {place}"
    log.info("%s: converted for %s in %.0f s; %s", folder, runtime, seconds, where)
    return data


def _lacked_memory(error: BaseException | None) -> bool:
    """Whether memory that ran out began it; messages are cut short on their way up, so what raised them is asked."""
    while error is not None:
        if any(words in str(error) for words in _NO_MEMORY):
            return True
        error = error.__cause__
    return False


def _key(card: ModelCard, runtime: str) -> str:
    facts = card.model_dump(mode="json", include={"network", "encoder", "decoder_channels", "bands", "dtype", "mean", "std", "scaling"})
    made_by = {name: _version(name) for name in _MAKERS}
    document = {**facts, "weights": card.weights_sha256, "classes": len(card.classes), "by": made_by, "for": runtime, "format": _FORMAT}
    return _short(json.dumps(document, sort_keys=True).encode())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a copy of its source on the path
        return "?"


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:20]


def _places(folder: Path) -> list[Path]:
    """Where a conversion may be kept: beside the model, or with the user. Source: XDG base directory specification 0.8."""
    places = [folder / PLACE]
    with suppress(RuntimeError):  # a user without a home, as containers have
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        places.append(cache / "landseg" / "engines")
    return places


def _kept(folder: Path, stem: str) -> bytes | None:
    """What is kept, None where nothing is that can be used.

    Raises:
        LandsegError: What is kept is why there is nothing.
    """
    for place in _places(folder):
        try:
            # A network before the reason why there is none, should two processes have come to different ends.
            paths = sorted(
                (path for path in place.iterdir() if path.name.startswith(f"{stem}-")), key=lambda path: (path.suffix, path.name)
            )
        except OSError:
            continue
        for path in paths:
            try:
                data = path.read_bytes()
                with suppress(OSError):  # a place that takes no file
                    os.utime(path)
            except FileNotFoundError:  # another process has just removed it
                continue
            except OSError as error:
                log.warning("%s: it cannot be read (%s), the model is converted again", path, error.strerror)
                continue
            if path.stem != f"{stem}-{_short(data)}":
                log.warning("%s: it is damaged, the model is converted again", path)
                with suppress(OSError):
                    path.unlink()
            elif path.suffix == ".txt":
                raise LandsegError(*json.loads(data))
            elif path.suffix == ".onnx":
                return data
    return None


def _keep(folder: Path, card: ModelCard, stem: str, suffix: str, data: bytes) -> Path | None:
    """Write what is to be kept, and remove what was used longest ago where that is one too many; where, None where nobody lets us."""
    name = f"{stem}-{_short(data)}{suffix}"
    for place in _places(folder):
        try:
            if place.parent == folder:
                # A training may have put a better model in the folder's place: what belongs to the one before is not kept in it.
                if load_card(folder).weights_sha256 != card.weights_sha256:
                    continue
                # Never its parents: a folder made anew where a training has just taken the old one away would be in its way.
                with suppress(FileExistsError):
                    place.mkdir()
                _write(place, name, data)
                _prune(place, name, FEW)
            else:
                place.mkdir(parents=True, exist_ok=True)
                _write(place, name, data)
                _prune(place, name, MANY, MOST_BYTES)
        except (OSError, LandsegError):
            continue
        return place
    return None


def _write(place: Path, name: str, data: bytes) -> None:
    for path in place.glob(".*.partial"):  # of a process that was killed while it wrote
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()
    partial = place / f".{name}.{os.getpid()}.{threading.get_ident()}.partial"
    try:
        partial.write_bytes(data)
        os.replace(partial, place / name)
    finally:
        with suppress(OSError):
            partial.unlink()


def _prune(place: Path, name: str, most: int, most_bytes: float = math.inf) -> None:
    """Remove what was used longest ago, down to so many files of so many bytes, but neither `name` nor what is in use.

    Whoever runs a conversion holds it in memory, and one that is gone is made again: processes need not wait for each other here, and one
    that is killed leaves some for the next.
    """
    try:
        paths = list(place.iterdir())
    except OSError:  # what was written there is kept all the same
        return
    found = []
    for path in paths:
        if _OWN.fullmatch(path.name):
            with suppress(OSError):  # another process has just removed it
                facts = path.stat()
                found.append((path.name == name, facts.st_mtime, facts.st_size, path))
    total = 0
    for count, (is_new, used, size, path) in enumerate(sorted(found, reverse=True), 1):
        total += size
        if not is_new and (count > most or total > most_bytes) and time.time() - used > _IN_USE_S:
            with suppress(OSError):
                path.unlink()
