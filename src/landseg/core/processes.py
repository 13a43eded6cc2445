"""Which of several processes that share a run this is, as their launcher, torchrun, tells each by its environment. It starts none.

Vocabulary: the *first* process writes and speaks; torch calls it rank 0.
"""

from __future__ import annotations

import os


def are_launched() -> bool:
    """Whether torchrun started this process, though it be the only one."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def count() -> int:
    """Processes of the run, on all machines; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1")) if are_launched() else 1


def here() -> int:
    """Those of them on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if count() > 1 else 1


def number() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def is_first() -> bool:
    """Whether this is the one that writes and speaks, as the only one is."""
    return number() == 0


def torchrun_options(here: int, machines: int = 1) -> list[str]:
    """The options by which torchrun starts so many processes on this machine, and with it on others.

    Args:
        here: Processes on each machine.
        machines: Of several, each is given the same options; the first one's address is then the one that torchrun told this process.
    """
    if machines == 1:
        # By the loopback's name: else they look each other up by the machine's own, which not every machine can, and wait for minutes.
        return ["--standalone", "--local-addr", "localhost", "--nproc-per-node", str(here)]
    first = f"{os.environ.get('MASTER_ADDR', 'HOST')}:29500"
    return ["--nnodes", str(machines), "--nproc-per-node", str(here), "--rdzv-backend", "c10d", "--rdzv-endpoint", first]
