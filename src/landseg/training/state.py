"""What resumes a run: everything the loop needs to go on as if it had never stopped. It trains nothing."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from landseg.core.errors import LandsegError
from landseg.core.files import write_bytes

log = logging.getLogger("landseg")

VERSION = 2
"""Of the state's content; one of another version cannot be resumed by this landseg."""

SUFFIX = ".state"

_DIGEST = 64
"""Letters of the checksum that a state begins with."""

KEPT = 2
"""States that stay on the disk: the last, and the one before it should the last be damaged."""


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write a state and remove all but the last two.

    A state is one file, a line with the SHA-256 of the rest and then the rest, so that there is no instant at which half of it is there.

    Args:
        folder: ``RUN/state``.
        state: Tensors, numbers, words and containers of them; `state["step"]` orders the states.

    Raises:
        LandsegError: The folder cannot be written; the states before stay as they are.
    """
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **state}, buffer)
    data = buffer.getbuffer()  # and not a copy: a state may be of gigabytes
    path = folder / _name(state["step"])
    write_bytes(path, f"{hashlib.sha256(data).hexdigest()}\n".encode(), data, sync=True)
    # A state beyond this step is of a run that was given up: it may not push out a good one.
    found = set(folder.glob(f"step-*{SUFFIX}"))
    kept = sorted(old for old in found if old.name <= path.name)[-KEPT:]
    with suppress(OSError):
        for old in found - set(kept):
            old.unlink()


def has_state(folder: Path, before: int | None = None) -> bool:
    """True when there is something to resume, of a step before `before`."""
    return bool(_states(folder, before))


def has_steps(folder: Path) -> bool:
    """True when a state is of a step that was taken. The first state, of none, would be the same if the run began anew."""
    return any(path.name > _name(0) for path in _states(folder, None))


def load_state(folder: Path, before: int | None = None) -> dict[str, Any]:
    """The newest undamaged state of a step before `before`; a damaged one is passed over with a warning.

    Raises:
        LandsegError: There is none, or it is of another version.
    """
    for path in _states(folder, before):
        try:
            state = _read(path)
            version = int(state["version"])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
            log.warning("%s: damaged (%s), so the state before it is taken", path, error)
            continue
        if version != VERSION:
            advice = "or a newer one" if version > VERSION else "or begin anew with --overwrite in place of --resume"
            raise LandsegError(path, f"state version {version}", f"version {VERSION}", f"resume with the landseg that wrote it, {advice}")
        return state
    raise LandsegError(
        folder, "no state that can be read", "a run that was interrupted", "start anew with --overwrite in place of --resume"
    )


def misfit(folder: Path, error: Exception) -> LandsegError:
    """The four-part error for a state that the network, its optimiser or the loop of this landseg does not take."""
    reason = " ".join(str(error).split())[:160]
    return LandsegError(
        folder,
        f"its states are of another network ({type(error).__name__}: {reason})",
        "states of this run, and the versions of torch, timm and segmentation_models_pytorch that environment.json names",
        "put back what belongs there, or begin anew with --overwrite in place of --resume",
    )


def _states(folder: Path, before: int | None) -> list[Path]:
    """The newest first; their names sort as their steps."""
    found = sorted(folder.glob(f"step-*{SUFFIX}"), reverse=True)
    return found if before is None else [path for path in found if path.name < _name(before)]


def _name(step: int) -> str:
    return f"step-{step:09d}{SUFFIX}"


def _read(path: Path) -> dict[str, Any]:
    """A state whose checksum is right; the file is in memory once, and goes before its tensors are used."""
    with path.open("rb") as handle:
        digest = handle.readline(_DIGEST + 1).rstrip(b"\n")
        begin = handle.tell()
        if hashlib.file_digest(handle, "sha256").hexdigest().encode() != digest:
            raise ValueError("its checksum differs")
        handle.seek(begin)
        state: dict[str, Any] = torch.load(io.BytesIO(handle.read()), map_location="cpu", weights_only=True)
    return state
