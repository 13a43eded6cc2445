"""A short run of `bench/fuzz.py`; the long one is in bench/records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[2] / "bench" / "fuzz.py"


def test_damaged_files_are_read_or_refused() -> None:
    done = subprocess.run([sys.executable, str(FUZZ), "--count", "160"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "160 cases" in done.stdout and "0 failures" in done.stdout
