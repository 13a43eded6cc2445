"""Commands of `landseg` as processes: their exit code, stdout and stderr are those that a user has.

Most of what a command takes in a test is the import of torch. `landseg` does that once: its processes are forked from one that has imported
it. `landseg_afresh` starts an interpreter, as a user does.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

FORKING = Path(__file__).with_name("forking.py")
TIMEOUT_S = 240
WARNINGS = ("-W", "error::UserWarning:landseg")
"""A warning that a room of ours gives a user is a fault."""


def landseg(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, without waiting for its imports where the system can fork."""
    if not hasattr(os, "fork"):
        return landseg_afresh(*words, cwd=cwd)
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = _forking()
        assert process.stdin is not None and process.stdout is not None
        request = {"words": [str(word) for word in words], "cwd": str(cwd), "out": str(out), "err": str(err), "timeout_s": TIMEOUT_S}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, "the process that commands are forked from has ended"
        return subprocess.CompletedProcess(request["words"], int(answer), out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))


def landseg_afresh(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command in an interpreter of its own."""
    command = [sys.executable, *WARNINGS, "-m", "landseg", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=_surroundings(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def _surroundings() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@cache
def _forking() -> subprocess.Popen[str]:
    """The process that the others are forked from; it ends with this one."""
    command = [sys.executable, *WARNINGS, str(FORKING)]
    process = subprocess.Popen(command, env=_surroundings(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.communicate)  # it ends where its input does
    return process
