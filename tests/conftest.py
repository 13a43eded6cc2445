"""What holds for the whole suite: one thread a process, a log that no test before has touched, and the files that take longest first."""

from __future__ import annotations

import logging
import os

import pytest

# Before torch, OpenCV and the processes that tests start: on two cores, two processes of one thread each are faster than two of two, and
# the bits of a sum are the same whoever runs the tests.
os.environ["OMP_NUM_THREADS"] = "1"

LONGEST = (
    "tests/training/test_loop.py", "tests/repo/test_docs.py", "tests/test_cli.py", "tests/repo/test_house.py", "tests/verbs/test_export.py",
    "tests/training/test_ranks.py", "tests/e2e/test_refused.py", "tests/verbs/test_bands_and_sizes.py",
    "tests/verbs/test_predict_scenes.py", "tests/verbs/test_evaluate.py", "tests/network/test_convert.py",
    "tests/network/test_engine.py", "tests/e2e/test_killed.py",
    "tests/network/test_finetune.py", "tests/training/test_soundness.py", "tests/training/test_residency.py",
    "tests/splitting/test_recovery.py", "tests/splitting/test_groups.py",
)  # fmt: skip
"""Files of more than ten seconds. With ``--dist loadfile --no-loadscope-reorder`` a process takes the next file when it has done one, so
that nobody waits at the end for a long one that came last, and what a module's fixtures make is made once."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


@pytest.fixture(autouse=True)
def _log_as_python_has_it() -> None:
    """Commands and runs choose what is logged, and where, for the rest of their process."""
    log = logging.getLogger("landseg")
    log.handlers.clear()
    log.setLevel(logging.NOTSET)
    log.propagate = True
