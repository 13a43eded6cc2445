"""Imports what takes long of all that commands of `landseg` need, and forks a process for each line of its input; see `commands.py`.

A line is a JSON document: the command's words, the folder that it runs in, the files that its stdout and stderr go to, and the seconds
after which it is killed. The answer is its exit code, or minus the signal that ended it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from landseg.__main__ import run

TAKES_LONG = "landseg.training.loop", "landseg.network.checkpoint", "torch.onnx", "matplotlib.figure"
"""What takes seconds to import and begins no thread, as pyarrow and ONNX Runtime do: they are left to the children."""


def become(request: dict[str, Any]) -> None:
    """Let this process be the command's."""
    os.chdir(request["cwd"])
    for number, path in enumerate((os.devnull, request["out"], request["err"])):
        handle = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(handle, number)
        os.close(handle)
    sys.argv = ["landseg", *request["words"]]
    signal.alarm(request["timeout_s"])


def main() -> None:
    """See the room's docstring. A child leaves as an interpreter does, so that what is to be done at its exit is done."""
    for name in TAKES_LONG:
        importlib.import_module(name)
    tasks = Path("/proc/self/task")
    assert not tasks.is_dir() or len(list(tasks.iterdir())) == 1, "a thread that an import has begun would be missing in the children"
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            become(json.loads(line))
            run()
            return
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
