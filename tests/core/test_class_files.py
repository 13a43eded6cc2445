"""Files of classes: every form that people and other tools write gives the same classes, and nonsense one error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core.class_files import LARGEST, parse_colour, read_class_file
from landseg.core.classes import IGNORE_INDEX, ClassList, read_classes
from landseg.core.errors import LandsegError

CVAT = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,0,0::\nwater:0,0,128:boat,fish:swim\n"
CVAT_JSON = [
    {"name": "background", "id": 31, "color": "#000000", "type": "any", "attributes": []},
    {"name": "road", "id": 77, "color": "#800000", "type": "any", "attributes": []},
    {"name": "water", "id": 12, "color": "#000080", "type": "any", "attributes": []},
]
STUDIO = """<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">
<Label value="background" background="black"/><Label value="road" background="#800000"/><Label value="water" background="rgba(0,0,128,1)"/>
</BrushLabels></View>"""
COLOURED = {
    "cvat.txt": CVAT,
    "cvat.json": json.dumps(CVAT_JSON),
    "studio.xml": STUDIO,
    "plain.csv": "background,0,0,0\nroad,128,0,0\nwater,0,0,128\n",
    "head.csv": "name,r,g,b\nbackground,0,0,0\nroad,128,0,0\nwater,0,0,128\n",
    "hex.csv": "\ufeffName;Colour\nbackground;#000000\nroad;800000\nwater;#000080\n",
    "camvid.txt": "0 0 0\tbackground\n128 0 0\troad\n0 0 128\twater\n",
    "ids.csv": "id,name,colour\n2,water,#000080\n0,background,#000000\n1,road,#800000\n",
    "bare ids.csv": '1,road,"(128, 0, 0)"\n0,background,"(0, 0, 0)"\n2,water,"(0, 0, 128)"\n',
    "list.yaml": "- {name: background, colour: '#000000'}\n- {name: road, color: [128, 0, 0]}\n- {name: water, colour: navy}\n",
    "map.yaml": "background: [0, 0, 0]\nroad: '#800000'\nwater: '0,0,128'\n",
    "coco.json": json.dumps({"categories": [{"id": i, "name": item["name"], "color": item["color"]} for i, item in enumerate(CVAT_JSON)]}),
}


def read(tmp_path: Path, name: str, content: str) -> ClassList:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return read_classes(str(path))


@pytest.mark.parametrize("name", COLOURED)
def test_names_and_colours_of_every_form(tmp_path: Path, name: str) -> None:
    found = read(tmp_path, name, COLOURED[name])
    assert [(item.name, item.colour) for item in found.classes] == [("background", "#000000"), ("road", "#800000"), ("water", "#000080")]
    assert found.has_colours and not found.remap and found.ignore_index is None and not found.ignore_colours


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.txt", "背景\nroad, paved\n水体\n"),
        ("names.yaml", "names:\n  0: 背景\n  1: road, paved\n  2: 水体\n"),
        ("model.json", '{"id2label": {"1": "road, paved", "0": "背景", "2": "水体"}}'),
        ("names.csv", 'name\n背景\n"road, paved"\n水体\n'),
    ],
)
def test_names_alone(tmp_path: Path, name: str, content: str) -> None:
    found = read(tmp_path, name, content)
    assert [item.name for item in found.classes] == ["背景", "road, paved", "水体"]
    assert not found.has_colours and not found.remap


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("codes.csv", "name,code\nroad,7\nwater,40\n"),
        ("roboflow.csv", "Pixel Value, Class\n7, road\n40, water\n"),
        ("bare.csv", "7,road\n40,water\n"),
        ("codes.yaml", "- {name: road, code: 7}\n- {name: water, value: 40}\n"),
        ("coco.json", '{"categories": [{"id": 7, "name": "road"}, {"id": 40, "name": "water"}]}'),
    ],
)
def test_codes_are_a_remap(tmp_path: Path, name: str, content: str) -> None:
    found = read(tmp_path, name, content)
    assert [item.name for item in found.classes] == ["road", "water"] and found.remap == {7: 0, 40: 1}


def test_codes_keep_the_order_of_the_file_and_several_make_one_class(tmp_path: Path) -> None:
    found = read(tmp_path, "c.yaml", "ignore_index: 0\nclasses:\n- {name: water, code: [9, 4]}\n- {name: road, code: 1}\n")
    assert [item.name for item in found.classes] == ["water", "road"] and found.remap == {9: 0, 4: 0, 1: 1} and found.ignore_index == 0


def test_keys_beside_the_classes(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "c.yaml",
        "label_encoding: palette\nignore_index: -1\nignore_colours: ['#FFFFFF', white, [1, 2, 3]]\nclasses: [{name: a, colour: red}]\n",
    )
    assert (found.label_encoding, found.ignore_index, found.ignore_colours) == ("palette", -1, ("#ffffff", "#010203")) and found.has_colours


def test_a_dataset_yaml_is_a_file_of_classes(tmp_path: Path) -> None:
    listed = "- {id: 0, name: a, colour: '#010203'}\n- {id: 1, name: b, colour: '#040506'}\n"
    content = f"name: x\nlabel_encoding: rgb\nremap: {{1: 0, 5: 1}}\nclasses:\n{listed}"
    found = read(tmp_path, "dataset.yaml", content)
    assert found.label_encoding == "rgb" and found.remap == {1: 0, 5: 1} and found.classes[1].colour == "#040506"


def test_an_entry_called_unlabelled_is_no_class_where_it_has_a_code_or_colour(tmp_path: Path) -> None:
    found = read(tmp_path, "dubai.csv", "name,colour\nUnlabeled,#9b9b9b\nwater,#e2a929\nland,#8429f6\n")
    assert [item.name for item in found.classes] == ["water", "land"] and found.ignore_colours == ("#9b9b9b",)
    found = read(tmp_path, "ids.csv", "0,unlabelled\n1,water\n2,land\n")
    assert [item.name for item in found.classes] == ["water", "land"] and found.remap == {0: IGNORE_INDEX, 1: 0, 2: 1}
    assert len(read(tmp_path, "names.txt", "unlabelled\nwater\n").classes) == 2, "a name alone is its place"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.yaml", "- {name: a, code: 1}\n- {name: b}\n", ("no code for b",)),
        ("a.yaml", "- {name: a, code: 1}\n- {name: b, code: 1}\n", ("code 1", "b")),
        ("a.yaml", "- {name: a, code: one}\n", ("'one'",)),
        ("a.yaml", "label_encoding: colour\nclasses: [a]\n", ("label_encoding",)),
        ("a.yaml", "classes: [[a]]\n", ("no name",)),
        ("a.csv", "name,r,g,b\na,1,2,300\n", ("300",)),
        ("a.csv", "name,r,g,b\n,1,2,3\n", ("without a name",)),
        ("a.csv", "1,2,3\n", ("1,2,3",)),
        ("a.csv", "", ("empty",)),
        ("a.json", "{", ("not a list of classes",)),
        ("a.json", '{"a": 1}', ("no classes",)),
        ("a.xml", "<View/>", ("no <Label",)),
        ("a.xml", "<View>", ("not a list of classes",)),
        ("a.csv", "a,#112233\na,#112244\n", ("twice",)),
    ],
)
def test_what_is_no_list_of_classes_is_refused_by_name(tmp_path: Path, name: str, content: str, words: tuple[str, ...]) -> None:
    with pytest.raises(LandsegError) as caught:
        read(tmp_path, name, content)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_entities_that_grow_and_files_that_are_large_are_refused(tmp_path: Path) -> None:
    lines = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(9))
    bomb = f'<?xml version="1.0"?><!DOCTYPE v [<!ENTITY e0 "haha">{lines}]><v><Label value="&e9;"/></v>'
    with pytest.raises(LandsegError):
        read(tmp_path, "bomb.xml", bomb)
    anchors = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(12))
    for use in ("classes: [*a12]", "classes: [{name: *a12}]", "classes: [{name: x, colour: *a12}]", "classes: [{name: x, code: *a12}]"):
        with pytest.raises(LandsegError):
            read(tmp_path, "bomb.yaml", anchors + use)
    with pytest.raises(LandsegError, match="bytes"):
        read(tmp_path, "large.txt", "a" * (LARGEST + 1))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([".txt", ".csv", ".yaml", ".json", ".xml"]), st.sampled_from([*COLOURED.values(), ""]), st.data())
def test_no_text_brings_another_exception(tmp_path_factory: pytest.TempPathFactory, suffix: str, text: str, data: st.DataObject) -> None:
    changed = list(text)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(changed)))
        changed[at : at + data.draw(st.integers(0, 9))] = data.draw(st.text("abc019,;:#-[]{}<>&!*|\"'\n\t \\é", max_size=6))
    path = tmp_path_factory.mktemp("c") / f"c{suffix}"
    path.write_text("".join(changed), encoding="utf-8")
    try:
        found = read_classes(str(path))
    except LandsegError as error:
        assert "\n" not in str(error)
    else:
        assert found.classes and len({item.name for item in found.classes}) == len(found.classes)


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_a_colour_in_every_spelling(colour: tuple[int, int, int]) -> None:
    red, green, blue = colour
    wanted = f"#{red:02x}{green:02x}{blue:02x}"
    for text in (
        wanted,
        wanted.upper(),
        wanted[1:],
        f"0x{wanted[1:]}",
        f"{red},{green},{blue}",
        f"({red}, {green}, {blue})",
        f"rgb({red} {green} {blue})",
        f"{wanted}ff",
    ):
        assert parse_colour(text) == wanted
    assert parse_colour(list(colour)) == wanted


@pytest.mark.parametrize("colour", ["reddish", "#12345", "256,0,0", "1,2", 7, None, True, [1, 2], ["a", 1, 2], {}])
def test_what_is_no_colour(colour: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        parse_colour(colour)


def test_entries_say_what_stands_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(CVAT, encoding="utf-8")
    assert [entry.name for entry in read_class_file(tmp_path / "a.txt").entries] == ["background", "road", "water"]
