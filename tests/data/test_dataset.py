"""Dataset folders: `dataset.yaml` comes back as it was written, and tiles are the images that have a label."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from landseg.core.classes import LandClass, make_classes
from landseg.core.errors import LandsegError
from landseg.data.dataset import DatasetInfo, list_files, open_dataset, walk, write_info
from landseg.data.labels import Mend

# No line separators and control characters: PyYAML folds some of them (U+0085), and no file or class is called so.
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=120)
CLASSES = make_classes(["building 建筑", "no", "1e-3", "a: b, {c}"])


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


@given(
    names=st.lists(TEXT.filter(str.strip), min_size=1, max_size=4),
    remap=st.dictionaries(st.integers(0, 300), st.integers(0, 255), max_size=4),
    resolution=st.none() | st.floats(1e-6, 1e6),
    text=TEXT,
    labels=st.none() | st.just("../labels"),
)
def test_info_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
    remap: dict[int, int],
    resolution: float | None,
    text: str,
    labels: str | None,
) -> None:
    folder = tmp_path_factory.mktemp("data")
    distinct = list(dict.fromkeys(name.strip() for name in names if name.strip())) or ["a"]
    info = DatasetInfo(
        name=text, labels=labels, classes=make_classes(distinct), remap=remap, resolution_m=resolution, bands=tuple(distinct), source=text
    )
    write_info(folder, info)
    touch(folder, "images/1.jpg")
    (folder.parent / "labels").mkdir(exist_ok=True)
    touch(folder.parent, "labels/1.png")
    assert open_dataset(folder).info == info


def test_the_file_is_for_people(tmp_path: Path) -> None:
    write_info(tmp_path, DatasetInfo(name="dubai", classes=CLASSES, remap={1: 0}))
    lines = (tmp_path / "dataset.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["name: dubai", "images: images", "labels: labels"]
    assert (
        lines[4].startswith("  - {id: 0, name: building 建筑, colour: ")
        and "remap: {1: 0}" in lines
        and "bands: [red, green, blue]" in lines
    )
    assert [item["name"] for item in yaml.safe_load("\n".join(lines))["classes"]] == [item.name for item in CLASSES]


def test_tiles_are_the_images_with_a_label(tmp_path: Path) -> None:
    touch(tmp_path, "images/2.jpg", "images/b/1.JPG", "images/3.tif", "images/.DS_Store", "images/__MACOSX/1.jpg", "images/note.txt")
    touch(tmp_path, "labels/2.png", "labels/b/1.png", "labels/4.png")
    write_info(tmp_path, DatasetInfo(name="a", classes=CLASSES))
    dataset = open_dataset(tmp_path)
    assert [tile.name for tile in dataset.tiles] == ["2", "b/1"]
    assert dataset.tiles[1].label == tmp_path / "labels/b/1.png"
    assert dataset.class_names == tuple(item.name for item in CLASSES) and dataset.table[3] == 3 and dataset.table[4] == -1
    dataset.require_labels("training")


def test_a_test_set_has_all_images_and_no_labels(tmp_path: Path) -> None:
    touch(tmp_path, "images/2.jpg", "images/10.jpg")
    write_info(tmp_path, DatasetInfo(name="a", labels=None))
    dataset = open_dataset(tmp_path)
    assert [(tile.name, tile.label) for tile in dataset.tiles] == [("10", None), ("2", None)]
    with pytest.raises(LandsegError, match="training needs labelled tiles"):
        dataset.require_labels("training")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "no dataset.yaml"),
        ("name: [", "not YAML"),
        ("- a", "the file"),
        ("name: a\nimagse: x", "imagse"),
        ("name: a\nclasses: [{id: 0, name: a, colour: red}]", "classes.0.colour"),
        ("name: a\nimages: gone", "gone is not there"),
        ("name: a\nlabels: null", "no tiles"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str | None, found: str) -> None:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    if text is not None:
        (tmp_path / "dataset.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(LandsegError) as caught:
        open_dataset(tmp_path)
    assert found in caught.value.found and "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_bytes(b"\xff\xfe\0\1")
    with pytest.raises(LandsegError, match="not YAML"):
        open_dataset(tmp_path)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "1.png")
    with pytest.raises(LandsegError, match=r"1\.jpg has the same name"):
        list_files(tmp_path)


def test_walk_is_sorted_and_passes_litter_over(tmp_path: Path) -> None:
    touch(tmp_path, "b/1", "a", ".git/x", "b/.x", "__MACOSX/y", "Thumbs.db")
    assert [path.relative_to(tmp_path).as_posix() for path in walk(tmp_path)] == ["a", "b/1"]


@pytest.mark.parametrize(
    ("classes", "found"),
    [
        ([(1, "a"), (0, "b")], "they run 0, 1, 2"),
        ([(0, "a"), (0, "b")], "they run 0, 1, 2"),
        ([(0, "a"), (300, "b")], "they run 0, 1, 2"),
        ([(0, "a"), (1, "a")], "the same name"),
    ],
)
def test_ids_that_are_not_the_places_of_the_names_are_refused(classes: list[tuple[int, str]], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        DatasetInfo(name="x", classes=tuple(LandClass(id=i, name=name, colour="#112233") for i, name in classes))


def test_how_labels_are_read_comes_back_as_it_was_written(tmp_path: Path) -> None:
    touch(tmp_path, "images/1.jpg", "images/2.jpg", "images/3.jpg", "labels/1.png", "labels/2.png", "labels/3.png")
    info = DatasetInfo(
        name="a",
        classes=CLASSES,
        ignore_index=-1,
        ignore_colours=("#FFFFFF",),
        label_encoding="palette",
        remap={-2: 0, 7: 1},
        mend=Mend(colours_within=8, resize_within=1),
        mended={"resize_within": 3},
        left_out={"2": "a label of 3 × 3 pixels for an image of 9 × 9"},
        scaling=((0.0, 3000.5), (-10.0, 1.0)),
    )
    write_info(tmp_path, info)
    dataset = open_dataset(tmp_path)
    assert dataset.info == info and dataset.info.ignore_colours == ("#ffffff",)
    assert [tile.name for tile in dataset.tiles] == ["1", "3"]
    rules = dataset.label_rules
    assert (rules.encoding, rules.ignore_index, rules.mend) == ("palette", -1, info.mend)
    assert rules.table[-2] == 0 and rules.table[7] == 1 and rules.table[-1] == 255 and rules.ignore_colours is not None
    assert rules.ignore_colours.tolist() == [[255, 255, 255]] and rules.colours.tolist() == [list(item.rgb) for item in CLASSES]
    lines = (tmp_path / "dataset.yaml").read_text(encoding="utf-8").splitlines()
    assert "mend: {colours_within: 8, resize_within: 1}" in lines and "- [0.0, 3000.5]" in lines


def test_what_is_rarely_set_stands_there_only_when_it_is(tmp_path: Path) -> None:
    write_info(tmp_path, DatasetInfo(name="a", classes=CLASSES))
    text = (tmp_path / "dataset.yaml").read_text(encoding="utf-8")
    assert not any(key in text for key in ("mend", "left_out", "ignore_colours", "scaling"))


@pytest.mark.parametrize(
    "keys",
    [
        {"mend": {"treshold": 3}},
        {"mend": {"threshold": 0}},
        {"mend": {"illegal": "drop"}},
        {"ignore_colours": ["white"]},
        {"scaling": [[3, 1]]},
        {"scaling": [[0, float("nan")]]},
        {"label_encoding": "colour"},
    ],
)
def test_rules_that_are_none_are_refused(keys: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        DatasetInfo.model_validate({"name": "x", **keys})
