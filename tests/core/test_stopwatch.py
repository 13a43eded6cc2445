"""Seconds are counted once, by the innermost kind, whatever thread they pass in."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landseg.core.stopwatch import Spent, Stopwatch


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at

    def move(self, seconds: float) -> None:
        self.at += seconds


Tree = list[tuple[str, int, "Tree"]]
trees: st.SearchStrategy[Tree] = st.recursive(
    st.just([]), lambda inner: st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), inner), max_size=3), max_leaves=12
)


@given(trees, st.integers(0, 5))
def test_nested_kinds_share_the_time_out_and_lose_none(tree: Tree, idle: int) -> None:
    clock = Clock()
    watch, expected = Stopwatch(clock), dict.fromkeys("abc", 0.0)

    def walk(level: Tree) -> None:
        for kind, seconds, inner in level:
            with watch.of(kind):
                clock.move(seconds)
                expected[kind] += seconds
                walk(inner)

    walk(tree)
    clock.move(idle)
    spent = watch.take()
    assert {kind: spent.of(kind) for kind in "abc"} == expected
    assert spent.total_s == sum(expected.values()) + idle
    assert watch.take() == Spent(), "the next window begins with nothing"


def test_what_lies_within_a_whole_kind_counts_to_it() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    with watch.of("validation", is_whole=True):
        clock.move(1)
        with watch.of("reading"):
            clock.move(2)
            with watch.of("decoding"):
                clock.move(4)
    with watch.of("reading"):
        clock.move(8)
    assert dict(watch.take().seconds) == {"validation": 7, "reading": 8}


def test_waiting_for_items_is_counted_and_using_them_is_not() -> None:
    clock = Clock()
    watch = Stopwatch(clock)

    def items() -> Iterator[int]:
        for item in range(3):
            clock.move(10)
            yield item
        clock.move(5)  # finding out that there are no more is waiting too

    taken = []
    for item in watch.each("waiting", items()):
        clock.move(1)
        taken.append(item)
    spent = watch.take()
    assert taken == [0, 1, 2] and spent.of("waiting") == 35 and spent.total_s == 38


def test_an_error_ends_the_stretch_that_it_leaves() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    with pytest.raises(ZeroDivisionError), watch.of("outer"), watch.of("inner"):
        clock.move(3)
        _ = 1 // 0
    with watch.of("outer"):
        clock.move(1)
    assert dict(watch.take().seconds) == {"inner": 3, "outer": 1}


def test_threads_count_side_by_side_and_know_nothing_of_each_other() -> None:
    watch = Stopwatch(clock := Clock())
    ready = threading.Barrier(5)

    def work() -> None:
        for _ in range(200):
            watch.count("tiles", 2)
        with watch.of("decoding"):
            ready.wait(10)  # all have begun
            ready.wait(10)  # the clock has moved

    with watch.of("waiting"):
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        ready.wait(10)
        clock.move(3)
        ready.wait(10)
        for thread in threads:
            thread.join()
    spent = watch.take()
    assert (spent.of("decoding"), spent.of("waiting"), spent.count("tiles"), spent.share("decoding")) == (12, 3, 1600, 4)


def test_windows_add_up() -> None:
    sides = st.dictionaries(st.sampled_from("abc"), st.integers(0, 9))
    spent = st.builds(Spent, st.integers(0, 99), sides, sides)

    @given(spent, spent)
    def check(first: Spent, second: Spent) -> None:
        both = first + second
        for name in "abc":
            assert both.of(name) == first.of(name) + second.of(name)
            assert both.count(name) == first.count(name) + second.count(name)
        assert both.total_s == first.total_s + second.total_s

    check()
    assert Spent().share("a") == 0


def test_looking_at_a_window_does_not_end_it() -> None:
    watch = Stopwatch(clock := Clock())
    with watch.of("a"):
        clock.move(2)
    seen = watch.so_far()
    with watch.of("a"):
        clock.move(3)
    assert seen == Spent(2, {"a": 2}, {}) and watch.window_s() == 5 and watch.take() == Spent(5, {"a": 5}, {})
