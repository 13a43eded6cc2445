"""Jobs on threads keep their order, their errors and a bounded memory; progress is said where nobody sees a bar."""

from __future__ import annotations

import io
import logging
import sys
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from landseg.core import progress as room
from landseg.core.progress import clock, cores, one_core_a_thread, parallel_map, progress


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(), max_size=60), st.integers(1, 6), st.integers(0, 9))
def test_results_come_in_the_order_of_the_items(items: list[int], workers: int, ahead: int) -> None:
    def job(item: int) -> int:
        time.sleep(item % 3 / 5000)
        return item * 2

    assert list(parallel_map(job, items, workers=workers, ahead=ahead)) == [item * 2 for item in items]


def test_an_error_comes_out_where_its_result_would_have() -> None:
    seen = []
    with pytest.raises(ZeroDivisionError):
        for value in parallel_map(lambda x: 1 // (x - 3), range(100), workers=2):
            seen.append(value)
    assert seen == [1 // (x - 3) for x in range(3)]


def test_items_are_drawn_only_a_little_ahead_of_their_use() -> None:
    drawn = []

    def items() -> Iterator[int]:
        for i in range(1000):
            drawn.append(i)
            yield i

    results = parallel_map(lambda x: x, items(), workers=2, ahead=3)
    next(results)
    assert len(drawn) <= 6
    results.close()  # type: ignore[attr-defined]
    assert len(drawn) <= 6


def test_leaving_early_ends_the_threads() -> None:
    before = threading.active_count()
    results = parallel_map(lambda x: time.sleep(0.001), range(10_000), workers=3)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_without_a_terminal_lines_are_logged_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(room, "LOG_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO, "landseg"):
        assert list(progress(range(1500), "packing tiles", 1500)) == list(range(1500))
    assert caplog.messages[-1].startswith("packing tiles: 1,500 of 1,500 tiles, ")
    assert "0:00 left" in caplog.messages[-1]


def test_a_terminal_gets_a_bar_only_for_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    quick, slow = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stderr", quick)
    assert list(progress(range(5), "short", 5)) == list(range(5))
    assert quick.getvalue().strip() == ""
    monkeypatch.setattr(sys, "stderr", slow)
    monkeypatch.setattr(room, "QUIET_S", 0.0)
    for _ in progress(range(5), "long", 5):
        time.sleep(0.06)
    assert "long" in slow.getvalue() and "tiles/s" in slow.getvalue()


def test_numbers_for_people() -> None:
    assert (clock(65), clock(3725), clock(0), clock(-3), clock(59.7)) == ("1:05", "1:02:05", "0:00", "0:00", "1:00")
    assert cores() >= 1


def test_within_one_core_a_thread_nothing_starts_threads_of_its_own() -> None:
    def threads() -> tuple[int, int]:
        return cv2.getNumThreads(), max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)

    np.ones((2, 2)) @ np.ones((2, 2))  # its library is loaded
    former = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        before = threads()
        with one_core_a_thread():
            assert threads() == (1, 1)
        assert threads() == before == (3, before[1])
    finally:
        cv2.setNumThreads(former)
