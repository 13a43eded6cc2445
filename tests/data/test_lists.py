"""PaddleX and PaddleSeg lists, in and out. Their readers, as they are written, are the reference for what is written here."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core.errors import LandsegError
from landseg.data.lists import FileLists, find_lists, write_lists


def touch(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return [root / name for name in names]


def pair(root: Path, stem: str) -> str:
    touch(root, f"JPEGImages/{stem}.jpg", f"Annotations/{stem}.png")
    return f"JPEGImages/{stem}.jpg Annotations/{stem}.png"


def write(path: Path, *lines: str, encoding: str = "utf-8", end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(end.join([*lines, ""]).encode(encoding))


def find(root: Path) -> FileLists:
    found = find_lists(root)
    assert found is not None
    return found


def test_lists_as_paddlex_has_them(tmp_path: Path) -> None:
    root = tmp_path / "MyDataset"
    write(root / "train_list.txt", pair(root, "1"), pair(root, "2"))
    write(root / "val_list.txt", pair(root, "3"))
    touch(root, "JPEGImages/4.jpg")
    write(root / "test_list.txt", "JPEGImages/4.jpg")
    write(root / "labels.txt", "background", " building 建筑 ", "")
    found = find(tmp_path)
    assert found.parts == {"1": "train", "2": "train", "3": "val", "4": "test"}
    assert found.images == {name: root / "JPEGImages" / f"{name}.jpg" for name in "1234"}
    assert found.labels == {name: root / "Annotations" / f"{name}.png" for name in "123"}
    assert found.class_names == ("background", "building 建筑") and found.left_out == ()


@pytest.mark.parametrize("name", ["train.txt", "Train_List.TXT", "train-list.txt", "trainlist.txt"])
@pytest.mark.parametrize("separator", [" ", "\t", ",", ", ", " , ", ";", "|", "   "])
def test_separators_and_names(tmp_path: Path, name: str, separator: str) -> None:
    write(tmp_path / name, pair(tmp_path, "a").replace(" ", separator))
    found = find(tmp_path)
    assert found.parts == {"a": "train"} and set(found.labels) == {"a"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_texts_as_windows_writes_them(tmp_path: Path, encoding: str, end: str) -> None:
    touch(tmp_path, "图像/北 京,1.jpg", "标注/北 京,1.png")
    write(tmp_path / "eval.txt", "图像\\北 京,1.jpg 标注\\北 京,1.png", encoding=encoding, end=end)
    write(tmp_path / "labels.txt", "耕地", "林地", encoding=encoding, end=end)
    found = find(tmp_path)
    assert found.parts == {"北 京,1": "val"} and found.class_names == ("耕地", "林地")
    assert found.labels["北 京,1"] == tmp_path / "标注" / "北 京,1.png"


def test_paths_that_begin_elsewhere(tmp_path: Path) -> None:
    """Lists in a folder below the data set's, and lists that were written on another machine."""
    line = pair(tmp_path, "a")
    write(tmp_path / "splits" / "one" / "train.txt", line)
    assert find(tmp_path).images == {"a": tmp_path / "JPEGImages" / "a.jpg"}
    write(tmp_path / "splits" / "one" / "train.txt", "D:\\data\\MySet\\JPEGImages\\a.jpg /mnt/x/Annotations/a.png")
    assert find(tmp_path).labels == {"a": tmp_path / "Annotations" / "a.png"}
    write(tmp_path / "splits" / "one" / "train.txt", f"{tmp_path / 'JPEGImages' / 'a.jpg'} ../../Annotations/a.png")
    assert find(tmp_path).labels == {"a": tmp_path / "Annotations" / "a.png"}


def test_what_is_missing_is_named_and_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "JPEGImages/no label.jpg")
    write(
        tmp_path / "train.txt",
        pair(tmp_path, "a"),
        "JPEGImages/gone.jpg Annotations/gone.png",
        "JPEGImages/no label.jpg Annotations/no label.png",
        "",
        "JPEGImages/a.jpg Annotations/a.txt",
        "x" * 5000,
    )
    found = find(tmp_path)
    assert set(found.images) == {"a"}
    (said,) = found.left_out
    assert "train.txt: line 2: JPEGImages/gone.jpg is not there; line 3: " in said
    assert "line 4: a line that is empty" in said and said.endswith("and 2 more")


def test_a_tile_of_two_lists_stays_where_it_is_scored(tmp_path: Path) -> None:
    lines = [pair(tmp_path, name) for name in "abcd"]
    write(tmp_path / "train.txt", *lines)
    write(tmp_path / "val.txt", *lines[1:3])
    write(tmp_path / "test.txt", *lines[2:])
    found = find(tmp_path)
    assert found.parts == {"a": "train", "b": "val", "c": "val", "d": "test"}
    assert len(found.left_out) == 3
    assert any("2 tiles are listed in val and in train: they stay in val alone" in line and "b.jpg" in line for line in found.left_out)
    assert any("1 tiles are listed in val and in test" in line for line in found.left_out)


def test_images_with_one_name_but_for_the_ending(tmp_path: Path) -> None:
    touch(tmp_path, "i/a.jpg", "i/a.png", "l/a.png", "l/b.png")
    write(tmp_path / "train.txt", "i/a.jpg l/a.png", "i/a.png l/b.png")
    found = find(tmp_path)
    assert found.images == {"a": tmp_path / "i" / "a.jpg"} and "a.png has the name of a.jpg" in found.left_out[0]


def test_other_texts_are_no_lists(tmp_path: Path) -> None:
    touch(tmp_path, "JPEGImages/a.jpg")
    write(tmp_path / "notes.txt", "JPEGImages/a.jpg")
    write(tmp_path / "train.txt", "2007_000032", "a")  # names without endings, as PASCAL VOC lists them
    (tmp_path / "val.txt").write_bytes(b"\x89PNG\0\0\xff\xff")
    (tmp_path / "test.txt").mkdir()
    assert find_lists(tmp_path) is None


def test_of_lists_in_several_folders_those_that_name_most(tmp_path: Path) -> None:
    for folder, count in (("one", 2), ("two", 3)):
        write(tmp_path / folder / "train.txt", *(pair(tmp_path / folder, str(i)) for i in range(count)))
    found = find(tmp_path)
    assert len(found.images) == 3 and found.left_out == ("file lists in other folders, which name 2 images",)
    assert find_lists(tmp_path, leave=tmp_path / "two") is not None
    assert len(find_lists(tmp_path, leave=tmp_path / "two").images) == 2  # type: ignore[union-attr]


def test_what_is_written_is_what_paddle_reads(tmp_path: Path) -> None:
    root, folder = tmp_path / "data", tmp_path / "data" / "splits" / "scene"
    for name in "abc":
        pair(root, name)
    couples = {name: (root / f"JPEGImages/{name}.jpg", root / f"Annotations/{name}.png") for name in "abc"}
    touch(folder, "test_list.txt")
    written = write_lists(folder, {"train": [couples["a"], couples["b"]], "val": [couples["c"]], "test": []}, ["耕地", "a b"])
    assert [path.name for path in written] == ["train_list.txt", "val_list.txt", "labels.txt"]
    assert not (folder / "test_list.txt").exists(), "a list that was there would still be read"
    assert (folder / "labels.txt").read_text(encoding="utf-8") == "耕地\na b\n"
    # PaddleX 3 splits at one blank and wants two items, 1.3 at any; both join them to the folder.
    for line in (folder / "train_list.txt").read_text(encoding="utf-8").splitlines():
        items = line.strip().split(" ")
        assert items == line.split() and len(items) == 2
        assert all((folder / item).is_file() for item in items)
    assert "\\" not in (folder / "train_list.txt").read_text()


STEM = st.text(st.sampled_from("ab1-_.()图é,;&#"), min_size=1, max_size=6).filter(lambda text: text.strip(".") == text)


@given(st.dictionaries(STEM, st.sampled_from(["train", "val", "test"]), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, parts: dict[str, str]) -> None:
    root = tmp_path_factory.mktemp("x")
    listed: dict[str, list[tuple[Path, Path | None]]] = {"train": [], "val": [], "test": []}
    for stem, part in parts.items():
        image, label = touch(root, f"images/{stem}.jpg", f"labels/{stem}.png")
        listed[part].append((image, None if part == "test" else label))
    write_lists(root / "lists", listed, ["x", "y"])
    found = find(root)
    assert found.parts == parts and found.class_names == ("x", "y") and found.left_out == ()
    assert found.images == {stem: root / "images" / f"{stem}.jpg" for stem in parts}
    assert found.labels == {stem: root / "labels" / f"{stem}.png" for stem, part in parts.items() if part != "test"}


@pytest.mark.parametrize("name", ["a b.jpg", "a\u3000b.jpg", "folder x/a.jpg"])
def test_a_blank_in_a_path_is_refused(tmp_path: Path, name: str) -> None:
    image, label = touch(tmp_path, name, "a.png")
    with pytest.raises(LandsegError, match="a blank in"):
        write_lists(tmp_path / "out", {"val": [(image, label)]}, ["x"])
    assert not (tmp_path / "out").exists(), "nothing is half written"


def test_a_tile_that_trains_needs_a_label(tmp_path: Path) -> None:
    (image,) = touch(tmp_path, "a.jpg")
    with pytest.raises(LandsegError, match="no label, and it lies in train"):
        write_lists(tmp_path, {"train": [(image, None)]}, ["x"])


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_no_bytes_of_a_list_do_harm(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    root = tmp_path_factory.mktemp("x")
    line = pair(root, "a").encode()
    for text in (data, line + b"\n" + data, data + b" " + line, line.replace(b"/", data[:3])):
        (root / "train.txt").write_bytes(text)
        (root / "labels.txt").write_bytes(b"x")
        find_lists(root)


def test_a_line_of_many_blanks_is_no_hang(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    write(tmp_path / "train.txt", pair(tmp_path, "a"), *["b.jpg a.png " * 300] * 20)
    assert set(find(tmp_path).images) == {"a"}
