"""Columns stand under one another whatever is written in them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from landseg.core.columns import columns, shortened, width

LETTERS = st.text(alphabet="ab 建筑é\u0301\n\t", max_size=12)


def test_left_and_right_and_wide_letters() -> None:
    assert columns([("class", "IoU"), ("建筑", "0.5"), ("e\u0301tang", "10.25")], "lr") == [
        "class    IoU",
        "建筑     0.5",
        "e\u0301tang  10.25",
    ]


def test_a_long_cell_is_cut_and_says_so() -> None:
    assert columns([("abcdef", "x")], "ll", longest=4, before="> ") == ["> abc…  x"]
    assert shortened("建筑物", 4) == "建…" and shortened("abcd", 4) == "abcd"


@given(st.lists(st.tuples(LETTERS, LETTERS, LETTERS), min_size=1, max_size=5))
def test_every_line_takes_the_same_places_up_to_its_last_cell(rows: list[tuple[str, str, str]]) -> None:
    lines = columns([(*row, "|") for row in rows], "lrll", longest=6)
    assert len({width(line) for line in lines}) == 1 and all(line.endswith("|") for line in lines)
    assert all(width(line) <= 3 * 6 + 3 * 2 + 1 and "\n" not in line for line in lines)
