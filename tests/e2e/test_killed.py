"""A run that is killed at any change of its files, or finds the disk full there, ends as if nothing had been. `killing.py` does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

KILLING = Path(__file__).with_name("killing.py")
EVERY = 61

pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or not Path("/proc/self/fd").is_dir(), reason="needs fork and /proc, as Linux has")


def tried(folder: Path, every: int, twice: int) -> dict[str, Any]:
    command = [sys.executable, str(KILLING), str(folder / "runs"), "--every", str(every), "--first", "5", "--twice", str(twice)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def judge(found: dict[str, Any], every: int) -> None:
    for told in found.values():
        assert not told["wrong"], "\n".join(f"{instant}: {'; '.join(wrong)}" for instant, wrong in told["wrong"].items())
        assert {"open", "write", "flush", "rename", "remove", "mkdir"} <= told["kinds"].keys(), "the layer sees what it is to break"
        assert told["models"] >= 3, "a better model has to come, and come again"
        assert told["killed"] >= told["changes"] // every
    assert found["often"]["changes"] > 150 > found["seldom"]["changes"]


def test_a_run_killed_or_without_room_at_some_changes_of_its_files_ends_alike(tmp_path: Path) -> None:
    judge(tried(tmp_path, EVERY, 1), EVERY)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_or_without_room_at_any_change_of_its_files_ends_alike(tmp_path: Path) -> None:
    judge(tried(tmp_path, 1, 100), 1)
