"""Groups and parts come from names and from files as people write them; what does not fit is refused by its name."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from landseg.core.errors import LandsegError
from landseg.splitting.grouping import groups_by, parts_of

NAMES = ["north_01", "north_02", "south_01", "east/3"]


def put(folder: Path, text: str, name: str = "groups.csv") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"^([a-z]+)", ["north", "north", "south", "east"]),
        (r"north|south|east", ["north", "north", "south", "east"]),
        (r"(\d+)$", ["01", "02", "01", "3"]),
    ],
)
def test_a_pattern_takes_its_first_group_or_the_whole_match(pattern: str, expected: list[str]) -> None:
    assert groups_by(NAMES, pattern) == expected


def test_a_pattern_may_be_longer_than_a_path() -> None:
    assert groups_by(NAMES, f"({'a' * 300}|north|south|east)") == ["north", "north", "south", "east"]


def test_tiles_without_a_match_are_named_and_groups_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "landseg"):
        assert groups_by(["a_1", "a_2", "b", "a"], r"^(a)_") == ["a", "a", "b", "a'"]
    assert "2 tiles have no group and are one each: b, a" in caplog.text


@pytest.mark.parametrize("text", ["tile,group\n{}", "\ufeffGroup;Tile\n{}", "tile\tx\tgroup\n{}"])
def test_a_file_in_the_forms_that_programs_write(tmp_path: Path, text: str) -> None:
    rows = {"north_01": "n", "north_02.jpg": "n", "south_01.PNG": "s", "east/3": "e"}
    if ";" in text:
        body = "".join(f"{group};{tile}\r\n" for tile, group in rows.items())
    elif "\t" in text:
        body = "".join(f"{tile}\t?\t{group}\n" for tile, group in rows.items())
    else:
        body = "".join(f"{tile},{group}\n" for tile, group in rows.items()) + "\n,\n"
    assert groups_by(NAMES, put(tmp_path, text.format(body))) == ["n", "n", "s", "e"]


def test_a_file_may_know_other_tiles_and_miss_some(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "landseg"):
        assert groups_by(NAMES[:2], put(tmp_path, "tile,group\nnorth_01,n\nT9,x\n")) == ["n", "north_02"]
    assert "1 of its tiles are not in the data set: T9" in caplog.text


@pytest.mark.parametrize(
    ("groups", "found"),
    [("(", "neither a file nor a pattern"), ("^west", "reaches none of 4 tiles"), ("gone.csv", "cannot be read")],
)
def test_what_groups_nothing_is_refused(groups: str, found: str) -> None:
    with pytest.raises(LandsegError, match=found):
        groups_by(NAMES, groups)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("tile,part\nnorth_01,train\n", "its first line is 'tile,part'"),
        ("", "its first line is ''"),
        ("tile,group\nnorth_01,a\nnorth_01,b\n", "is in 'a' and in 'b'"),
        ("tile,group\n", "reaches none"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(LandsegError, match=found):
        groups_by(NAMES, put(tmp_path, text))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_bytes(b"\xff\xfe\x00t")
    with pytest.raises(LandsegError, match="not UTF-8"):
        groups_by(NAMES, str(tmp_path / "groups.csv"))


def test_parts_in_the_words_that_others_use(tmp_path: Path) -> None:
    text = "tile,part\nsouth_01.png,Validation\nnorth_01,training\nnorth_02,test\n"
    assert parts_of(NAMES, Path(put(tmp_path, text))) == {"north_01": "train", "north_02": "test", "south_01": "val"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("tile,part\nT9,train\nnorth_01,val\n", r"1 of its tiles are not in the data set \(T9\)"),
        ("tile,part\nnorth_01,trian\n", "tile north_01 is in part 'trian'"),
        ("tile,part\n", "no line with a tile and its part"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(LandsegError, match=found):
        parts_of(NAMES, Path(put(tmp_path, text)))
