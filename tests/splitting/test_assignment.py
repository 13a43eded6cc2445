"""A split on disk is read back as it was written, and one that does not belong to the data is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from landseg.core.errors import LandsegError
from landseg.data.dataset import Dataset, DatasetInfo, open_dataset, write_info
from landseg.data.world import CLASSES, write_tiles
from landseg.splitting.assignment import Placed, Split, read_split, split_names, split_path, write_edges, write_split


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    write_tiles(tmp_path, 0, 4, 16)
    write_info(tmp_path, DatasetInfo(name="test", classes=CLASSES))
    return open_dataset(tmp_path)


def make(dataset: Dataset, name: str = "random", parts: tuple[str, ...] = ("train", "train", "val", "test")) -> Split:
    return Split(name, tuple(Placed(tile.name, part, tile.name) for tile, part in zip(dataset.tiles, parts, strict=True)))


def put(dataset: Dataset, text: str, name: str = "mine") -> Path:
    path = split_path(dataset, name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_written_is_read_back(dataset: Dataset) -> None:
    split = make(dataset)
    path = write_split(dataset, split)
    assert path == dataset.folder / "splits" / "random.csv"
    assert path.read_text(encoding="utf-8").splitlines()[:2] == ["tile,part,group,scene,row,col", "tile_0000,train,tile_0000,,,"]
    assert read_split(dataset) == read_split(dataset, "random") == split
    assert split.parts() == ["train", "val", "test"]
    assert [tile.tile for tile in split.part("val")] == ["tile_0002"]


def test_names_with_commas_and_quotes_and_chinese(tmp_path: Path) -> None:
    write_tiles(tmp_path, 0, 2, 16)
    for place in ("images", "labels"):
        (tmp_path / place / "tile_0000.png").rename(tmp_path / place / '耕地, "north".png')
    write_info(tmp_path, DatasetInfo(name="test", classes=CLASSES))
    dataset = open_dataset(tmp_path)
    split = make(dataset, parts=("train", "val"))
    write_split(dataset, split)
    assert read_split(dataset) == split


def test_a_part_without_tiles_says_which_there_are(dataset: Dataset) -> None:
    split = make(dataset, parts=("train", "train", "train", "val"))
    with pytest.raises(LandsegError, match=r"no tiles in part 'test', one of train, val"):
        split.part("test")


def test_without_a_name_there_must_be_one_split(dataset: Dataset) -> None:
    with pytest.raises(LandsegError, match=r"no split.*landseg split"):
        read_split(dataset)
    write_split(dataset, make(dataset, "a"))
    put(dataset, "a,b,side,probability\n", "neighbours-of-a").rename(dataset.folder / "splits" / "a.edges.csv")
    assert split_names(dataset) == ["a"] and read_split(dataset).name == "a"
    write_split(dataset, make(dataset, "b"))
    with pytest.raises(LandsegError, match=r"2 splits \(a, b\).*--split a"):
        read_split(dataset)
    assert read_split(dataset, "b").name == "b"
    with pytest.raises(LandsegError, match=r"no split 'c', one of its splits \(a, b\)"):
        read_split(dataset, "c")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "first line is missing"),
        ("tile;part;group\n", "first line is tile;part;group"),
        ("tile,part\ntile_0000,train\n", "first line is tile,part"),
        ("tile,part,group\ntile_0000,train\n", "less than three columns"),
        ("tile,part,group\ntile_0000,trian,a\n", "tile tile_0000 is in part 'trian'"),
        ("tile,part,group\nT9,train,a\ntile_0001,val,b\n", r"1 of its tiles are not in the data set \(T9\)"),
        ("tile,part,group\n" + "".join(f"T{i},train,a\n" for i in range(5)), r"5 of its tiles are not in the data set \(T0, T1, T2, …\)"),
        ("tile,part,group\ntile_0000,train,a\ntile_0000,val,a\n", "stands there twice"),
    ],
)
def test_a_split_that_does_not_fit_is_refused_by_its_path(dataset: Dataset, text: str, found: str) -> None:
    path = put(dataset, text)
    with pytest.raises(LandsegError, match=found) as caught:
        read_split(dataset)
    assert caught.value.what == str(path)


def test_a_split_that_is_no_text_is_refused(dataset: Dataset) -> None:
    put(dataset, "").write_bytes(b"\xff\xfe\x00t")
    with pytest.raises(LandsegError, match=r"mine\.csv"):
        read_split(dataset)


def test_a_split_from_a_table_program_is_read(dataset: Dataset) -> None:
    put(dataset, "\ufefftile,part,group,scene,row,col,remark\r\ntile_0000,train,a,s,0,16,good\r\ntile_0001,val,b\r\n\r\n")
    found = read_split(dataset)
    assert found.tiles == (Placed("tile_0000", "train", "a", "s", "0", "16"), Placed("tile_0001", "val", "b"))


def test_tiles_in_no_part_are_said(dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    put(dataset, "tile,part,group\ntile_0000,train,a\ntile_0001,val,b\n")
    with caplog.at_level(logging.INFO, "landseg"):
        read_split(dataset)
    assert "2 tiles of the data set are in no part" in caplog.text and "tile_0002" in caplog.text


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "x.edges", ".."])
def test_a_name_that_is_no_files_name_is_refused(dataset: Dataset, name: str) -> None:
    with pytest.raises(LandsegError, match="--name"):
        write_split(dataset, make(dataset, name))


def test_an_unplaced_tile_is_a_group_of_its_own(dataset: Dataset) -> None:
    rows = "".join(f"{tile.name},train,,,,\n" for tile in dataset.tiles)
    split_path(dataset, "mine").parent.mkdir(exist_ok=True)
    split_path(dataset, "mine").write_text("tile,part,group,scene,row,col\n" + rows, encoding="utf-8")
    assert [tile.group for tile in read_split(dataset, "mine").tiles] == [tile.name for tile in dataset.tiles]


def test_joins_stand_beside_the_split_by_the_names_of_their_tiles(dataset: Dataset) -> None:
    write_split(dataset, make(dataset, "scene"))
    names = [tile.name for tile in dataset.tiles]
    path = write_edges(dataset, "scene", names, [(0, 1, "right", 0.98765432), (3, 2, "same", 1.0)])
    assert path == dataset.folder / "splits" / "scene.edges.csv"
    assert path.read_text(encoding="utf-8") == (
        "a,b,side,probability\ntile_0000,tile_0001,right,0.987654\ntile_0003,tile_0002,same,1.000000\n"
    )
    assert split_names(dataset) == ["scene"]
