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

VERSION = 1
"""Of the state's content; a newer one cannot be resumed by this landseg."""

SUFFIX = ".state"

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
    data = buffer.getvalue()
    path = folder / f"step-{state['step']:09d}{SUFFIX}"
    write_bytes(path, f"{hashlib.sha256(data).hexdigest()}\n".encode() + data, sync=True)
    # A state beyond this step is of a run that was given up: it may not push out a good one.
    found = set(folder.glob(f"step-*{SUFFIX}"))
    kept = sorted(old for old in found if old.name <= path.name)[-KEPT:]
    with suppress(OSError):
        for old in found - set(kept):
            old.unlink()


def has_state(folder: Path) -> bool:
    """True when there is something to resume."""
    return any(folder.glob(f"step-*{SUFFIX}"))


def load_state(folder: Path) -> dict[str, Any]:
    """The newest undamaged state; a damaged one is passed over with a warning.

    Raises:
        LandsegError: There is none, or it is of a newer version.
    """
    for path in sorted(folder.glob(f"step-*{SUFFIX}"), reverse=True):
        try:
            digest, _, data = path.read_bytes().partition(b"\n")
            if hashlib.sha256(data).hexdigest().encode() != digest:
                raise ValueError("its checksum differs")
            state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            version = int(state["version"])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
            log.warning("%s: damaged (%s), so the state before it is taken", path, error)
            continue
        if version > VERSION:
            raise LandsegError(
                path, f"state version {version}", f"at most {VERSION}", "resume with the landseg that wrote it, or a newer one"
            )
        return state
    raise LandsegError(
        folder, "no state that can be read", "a run that was interrupted", "start anew with --overwrite in place of --resume"
    )
