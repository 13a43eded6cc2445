"""`landseg train` again, as the several processes that `train.devices` asks for. It trains nothing; torchrun starts them and ends them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from landseg.core import machine, processes
from landseg.core.config import load_recipe
from landseg.core.errors import LandsegError


def launch(out: str | Path, recipe: str | None, settings: Sequence[str], *, resume: bool) -> None:
    """Put torchrun in the place of this process where `train.devices` asks for several; return where it does not, or where they run.

    Fabric would start the others itself, from within one of them; torchrun stands beside them, ends all when one ends, and is the same
    on several machines.

    Args:
        out: The run folder; a run that goes on has its recipe there.
        recipe: As the command was given it.
        settings: Likewise.
        resume: Likewise.

    Raises:
        LandsegError: A setting is wrong, or torch on this system has no torchrun.
    """
    if processes.are_launched():
        return
    began = Path(out) / "recipe.yaml"
    train = load_recipe(recipe or (began if resume and began.is_file() else None), settings).train
    count = train.devices if isinstance(train.devices, int) else _gpus(train.device)
    if count == 1:
        return
    command = torchrun(sys.argv[1:], count)
    # A process on a CPU computes on its share of the cores; torchrun would give it one of them, with a warning.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, machine.cores() // count)))
    sys.stdout.flush()
    os.execv(command[0], command)


def torchrun(words: Sequence[str], count: int) -> list[str]:
    """The command that starts ``landseg`` with these words `count` times on this machine, on a free port.

    Raises:
        LandsegError: torch was built without what several processes need.
    """
    from torch import distributed

    if not distributed.is_available():
        raise LandsegError(
            "train.devices", f"{count}, but torch here knows no other process", "a torch with torch.distributed", "leave it 1"
        )
    return [sys.executable, "-m", "torch.distributed.run", *processes.torchrun_options(count), "-m", "landseg", *words]


def _gpus(device: str) -> int:
    """Processes that ``auto`` means on this machine: one for each GPU, else one."""
    from torch import cuda

    return max(1, cuda.device_count()) if device in ("auto", "cuda") else 1
