"""Seconds and counts by what they went into, from any thread. It draws no conclusions, and waits for no device.

Vocabulary: a *kind* is what time goes into, one word; a *window* is the time since the last `take`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

Clock = Callable[[], float]
"""Seconds from any moment on; never falling."""


@dataclass(frozen=True)
class Spent:
    """What a window took: its length, the seconds of each kind, and what was counted in it."""

    total_s: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Spent) -> Spent:
        seconds = {kind: self.of(kind) + other.of(kind) for kind in {**self.seconds, **other.seconds}}
        counts = {what: self.count(what) + other.count(what) for what in {**self.counts, **other.counts}}
        return Spent(self.total_s + other.total_s, seconds, counts)

    def of(self, *kinds: str) -> float:
        """Seconds that went into some kinds together."""
        return sum(self.seconds.get(kind, 0.0) for kind in kinds)

    def share(self, *kinds: str) -> float:
        """The same as a share of the window, 0 to 1; of kinds that threads did side by side, it may be more."""
        return self.of(*kinds) / self.total_s if self.total_s > 0 else 0.0

    def count(self, what: str) -> int:
        """How often `what` was counted."""
        return self.counts.get(what, 0)


class Stopwatch:
    """Counts seconds by kind. A kind within another takes its seconds from it, so that none counts twice.

    Args:
        now: The clock.
    """

    def __init__(self, now: Clock = time.perf_counter) -> None:
        self._now, self._lock, self._threads = now, threading.Lock(), threading.local()
        self._seconds: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._since = now()

    def of(self, kind: str, *, is_whole: bool = False) -> AbstractContextManager[None]:
        """The time within goes into `kind`; with `is_whole`, that of kinds within it too."""
        return _Timing(self, kind, is_whole)

    def each(self, kind: str, items: Iterable[T]) -> Iterator[T]:
        """Pass `items` on; the time in which each is waited for goes into `kind`."""
        iterator = iter(items)
        while True:
            with self.of(kind):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def count(self, what: str, number: int = 1) -> None:
        """Count `number` more of `what`."""
        with self._lock:
            self._counts[what] = self._counts.get(what, 0) + number

    def now(self) -> float:
        """What the clock shows."""
        return self._now()

    def window_s(self) -> float:
        """How long the window is by now."""
        return self._now() - self._since

    def so_far(self) -> Spent:
        """The window up to now, which goes on."""
        with self._lock:
            return Spent(self._now() - self._since, dict(self._seconds), dict(self._counts))

    def take(self) -> Spent:
        """End the window and begin the next. A stretch that another thread is in goes, as a whole, into the window in which it ends."""
        with self._lock:
            now = self._now()
            spent = Spent(now - self._since, self._seconds, self._counts)
            self._since, self._seconds, self._counts = now, {}, {}
        return spent

    def _begin(self, timing: _Timing) -> None:
        stack: list[_Timing] = self._threads.__dict__.setdefault("stack", [])
        timing.is_silent = bool(stack) and (stack[-1].is_whole or stack[-1].is_silent)
        stack.append(timing)
        timing.began = self._now()

    def _end(self, timing: _Timing) -> None:
        taken = self._now() - timing.began
        stack: list[_Timing] = self._threads.stack
        stack.pop()
        if timing.is_silent:
            return
        if stack:
            stack[-1].inner += taken
        with self._lock:
            self._seconds[timing.kind] = self._seconds.get(timing.kind, 0.0) + taken - timing.inner


class _Timing:
    """One stretch of time of one thread. A class, because entering a generator costs more, and tiles are many."""

    __slots__ = ("_watch", "began", "inner", "is_silent", "is_whole", "kind")

    def __init__(self, watch: Stopwatch, kind: str, is_whole: bool) -> None:
        self._watch, self.kind, self.is_whole = watch, kind, is_whole
        self.began, self.inner, self.is_silent = 0.0, 0.0, False

    def __enter__(self) -> None:
        self._watch._begin(self)

    def __exit__(self, *_: object) -> None:
        self._watch._end(self)
