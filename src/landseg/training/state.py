"""What resumes a run: everything the loop needs to go on as if it had never stopped. It trains nothing."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from landseg.core.errors import LandsegError
from landseg.core.files import write_bytes, write_json

log = logging.getLogger("landseg")

VERSION = 1
"""Of the state's content; a newer one cannot be resumed by this landseg."""

KEPT = 2
"""States that stay on the disk: the last, and the one before it should the last be damaged."""


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write a state and remove all but the last two.

    Args:
        folder: ``RUN/state``.
        state: Tensors, numbers, words and containers of them; `state["step"]` orders the states.

    Raises:
        LandsegError: The folder cannot be written; the states before stay as they are.
    """
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **state}, buffer)
    data = buffer.getvalue()
    path = folder / f"step-{state['step']:09d}.pt"
    write_bytes(path, data, sync=True)
    # The checksum comes last: a state without one was never finished.
    write_json(path.with_suffix(".json"), {"step": state["step"], "sha256": hashlib.sha256(data).hexdigest()})
    # A state beyond this step, or without its checksum, is of a run that was given up: it may not push out a good one.
    good = [old for old in sorted(folder.glob("step-*.pt")) if old.name <= path.name and old.with_suffix(".json").is_file()][-KEPT:]
    with suppress(OSError):
        for old in {*folder.glob("step-*.*")} - {*good} - {item.with_suffix(".json") for item in good}:
            old.unlink()


def has_state(folder: Path) -> bool:
    """True when there is something to resume."""
    return any(folder.glob("step-*.json"))


def load_state(folder: Path) -> dict[str, Any]:
    """The newest undamaged state; a damaged one is passed over with a warning.

    Raises:
        LandsegError: There is none, or it is of a newer version.
    """
    for path in sorted(folder.glob("step-*.json"), reverse=True):
        try:
            data = path.with_suffix(".pt").read_bytes()
            if hashlib.sha256(data).hexdigest() != json.loads(path.read_text(encoding="utf-8"))["sha256"]:
                raise ValueError("its checksum differs")
            state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
            log.warning("%s: damaged (%s), so the state before it is taken", path.with_suffix(".pt"), error)
            continue
        if state["version"] > VERSION:
            raise LandsegError(
                path, f"state version {state['version']}", f"at most {VERSION}", "resume with the landseg that wrote it, or a newer one"
            )
        return state
    raise LandsegError(
        folder, "no state that can be read", "a run that was interrupted", "start anew with --overwrite in place of --resume"
    )
