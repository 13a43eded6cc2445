"""Ids, names, colours, and the table from a file's codes to ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from landseg.core.classes import IGNORE_INDEX, LandClass, lookup_table, make_classes, paint, palette, parse_classes, read_classes
from landseg.core.errors import LandsegError


def test_ids_follow_the_names_and_colours_are_those_expected() -> None:
    classes = parse_classes("building, land ,road,vegetation,water")
    assert [item.id for item in classes] == [0, 1, 2, 3, 4]
    assert [item.name for item in classes] == ["building", "land", "road", "vegetation", "water"]
    assert classes[4].rgb == (0x3D, 0x7E, 0xA6)


def test_the_competitions_classes_are_known_by_name() -> None:
    assert [item.name for item in parse_classes("parcels4")] == ["building 建筑", "farmland 耕地", "forest 林地", "other 其他"]


def test_a_chinese_comma_separates_names_too() -> None:
    assert [item.name for item in parse_classes("建筑，耕地,林地")] == ["建筑", "耕地", "林地"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("abc建水road 12", min_size=1).filter(str.strip), min_size=1, max_size=255, unique_by=str.strip))
def test_colours_are_distinct_for_any_names(names: list[str]) -> None:
    colours = [item.colour for item in make_classes(names)]
    assert len(set(colours)) == len(names)


def test_255_classes_get_255_colours() -> None:
    assert len({item.colour for item in make_classes([f"class {i}" for i in range(255)])}) == 255


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a", " a "], ["a", ""], [f"c{i}" for i in range(256)]])
def test_names_that_cannot_be_told_apart_are_refused(names: list[str]) -> None:
    with pytest.raises(LandsegError, match="--classes"):
        make_classes(names)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("c.txt", "building\n\n 耕地 \n", [("building", None), ("耕地", None)]),
        ("c.txt", "\ufeffbuilding\nroad\n", [("building", None), ("road", None)]),
        ("c.yaml", "[building, road]", [("building", None), ("road", None)]),
        ("c.yaml", "- {name: a, colour: '#112233'}\n- b", [("a", "#112233"), ("b", None)]),
        ("c.yml", "classes:\n  - {name: a, colour: '#AABBCC'}", [("a", "#aabbcc")]),
    ],
)
def test_files_of_classes(tmp_path: Path, name: str, content: str, expected: list[tuple[str, str | None]]) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    classes = parse_classes(str(path))
    assert [item.name for item in classes] == [wanted for wanted, _ in expected]
    assert all(colour is None or item.colour == colour for item, (_, colour) in zip(classes, expected, strict=True))


@pytest.mark.parametrize(
    "content",
    [
        "{a: 1}",
        "5",
        "building, road",
        "[[",
        "- {colour: '#112233'}",
        "- {name: a, colour: reddish}",
        "- {name: a, colour: 7}",
        "",
        "{classes: 3}",
    ],
)
def test_a_yaml_file_that_holds_no_classes_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(LandsegError):
        parse_classes(str(path))


def test_a_file_that_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("建筑\n耕地\n".encode("gbk"))
    with pytest.raises(LandsegError, match=r"labels\.txt.*UTF-8"):
        parse_classes(str(path))


def test_a_colour_is_six_hex_digits() -> None:
    for colour in ("red", "#12345", "#1234567", "112233", "#gg0000"):
        with pytest.raises(ValidationError):
            LandClass(id=0, name="a", colour=colour)


def test_painting_uses_the_colours_and_white_for_the_ignore_index() -> None:
    classes = make_classes(["a", "b"], ["#010203", "#a0b0c0"])
    picture = paint(np.array([[0, 1, 255, 9]], np.uint8), classes)
    assert picture.tolist() == [[[1, 2, 3], [160, 176, 192], [255, 255, 255], [255, 255, 255]]]
    assert len(palette(classes)) == 768


def test_codes_without_a_remap_are_ids() -> None:
    table = lookup_table(3, 255, {})
    assert table[[0, 1, 2, 255]].tolist() == [0, 1, 2, IGNORE_INDEX]
    assert set(np.delete(table, [0, 1, 2, 255])) == {-1}


def test_a_remap_names_every_legal_code() -> None:
    table = lookup_table(2, 0, {1: 0, 2: 1, 900: 0, 7: 255})
    assert table[[0, 1, 2, 900, 7]].tolist() == [IGNORE_INDEX, 0, 1, 0, IGNORE_INDEX]
    assert table[3] == table[255] == table[65535] == -1


def test_a_remap_of_the_ignore_index_holds() -> None:
    assert lookup_table(2, 255, {0: 0, 255: 1})[[0, 255]].tolist() == [0, 1]


def test_a_code_that_is_also_the_ignore_index_is_refused_only_where_both_are_stated(tmp_path: Path) -> None:
    path = tmp_path / "mask.yaml"
    path.write_text("classes: [{name: a, code: 0}, {name: b, code: 255}]\n", encoding="utf-8")
    assert read_classes(str(path)).remap == {0: 0, 255: 1}
    path.write_text("ignore_index: 255\nclasses: [{name: a, code: 0}, {name: b, code: 255}]\n", encoding="utf-8")
    with pytest.raises(LandsegError, match="code 255 is the ignore_index and b"):
        read_classes(str(path))


@pytest.mark.parametrize("name", ["classes.yaml", "a/b.CSV", "labels.txt", "x.json"])
def test_a_file_of_classes_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(LandsegError, match="not there"):
        read_classes(str(tmp_path / name))
    assert [item.name for item in read_classes("road v1.0,b").classes] == ["road v1.0", "b"]


def test_another_ignore_index_becomes_ours() -> None:
    table = lookup_table(3, 2, {})
    assert table[[0, 1, 2, 3]].tolist() == [0, 1, IGNORE_INDEX, -1]


@pytest.mark.parametrize(
    ("ignore", "remap"), [(255, {1: 7}), (255, {1: -1}), (255, {-40000: 0}), (255, {70000: 0}), (-40000, {}), (65536, {})]
)
def test_a_remap_to_no_class_or_from_no_code_is_refused(ignore: int, remap: dict[int, int]) -> None:
    with pytest.raises(LandsegError, match=r"dataset\.yaml"):
        lookup_table(5, ignore, remap)
