"""Many small jobs on threads, results in order, and a bar that shows how far they are. It decides nothing about the jobs."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from landseg.core.machine import cores
from landseg.core.processes import is_first

log = logging.getLogger("landseg")

QUIET_S = 2.0
"""Work shorter than this shows no bar."""

LOG_EVERY_S = 15.0
"""Between two lines where stderr is no terminal (a notebook, a log file)."""

T = TypeVar("T")
R = TypeVar("R")

Display = Callable[[str, int, int | None], None]
"""Shows how far some work is: its words, how much is done, and of how much."""

_display: Display | None = None


@contextmanager
def shown_by(display: Display) -> Iterator[None]:
    """Within, `display` shows all progress in place of bars, which would write over whatever else holds the terminal."""
    global _display
    before, _display = _display, display
    try:
        yield
    finally:
        _display = before


def progress(items: Iterable[T], what: str, total: int | None = None, unit: str = "tiles") -> Iterator[T]:
    """Pass `items` on, showing count, rate and time left: a bar on a terminal, a log line now and then elsewhere."""
    display = _display
    if display is not None:
        for done, item in enumerate(items):
            display(what, done, total)
            yield item
        return
    if not is_first():  # of several processes that do the same, one speaks
        yield from items
        return
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, unit=f" {unit}", delay=QUIET_S, leave=False, dynamic_ncols=True)
        return
    start = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= LOG_EVERY_S:
            said, rate = now, done / (now - start)
            left = f", {clock((total - done) / rate)} left" if total else ""
            log.info("%s: %s of %s %s, %.0f/s%s", what, f"{done:,}", f"{total:,}" if total else "?", unit, rate, left)


def parallel_map(job: Callable[[T], R], items: Iterable[T], *, workers: int | None = None, ahead: int = 64) -> Iterator[R]:
    """Run `job` over `items` on threads and yield the results in the order of the items.

    Threads, because decoding, compressing, hashing and file access all release Python's lock.

    Args:
        job: Called once an item; an exception of it comes out where its result would have.
        items: Drawn lazily; memory holds `workers` + `ahead` results at most.
        workers: Threads; the number of cores we may use when None.
        ahead: Results that may wait to be taken.
    """
    count = workers or cores()
    with ThreadPoolExecutor(count) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(job, item))
                if len(waiting) >= count + ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def one_core_a_thread() -> Iterator[None]:
    """Within, matrix products and OpenCV start no threads of their own: for numeric work that `parallel_map` spreads already.

    It holds for the whole process, so it belongs round the work of a verb, not beside other work.
    """
    import cv2  # imported here: who only shows progress need not wait for it

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        cv2.setNumThreads(before)


def clock(seconds: float) -> str:
    """``3725`` → ``1:02:05``; ``65`` → ``1:05``."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
