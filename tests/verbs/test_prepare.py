"""Prepare: every kind of source becomes a dataset folder, and every kind of bad input one line that says what to do, with nothing lost."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from landseg.core.errors import LandsegError
from landseg.data import checking, staging
from landseg.data.archive import write_zip
from landseg.data.dataset import open_dataset
from landseg.data.staging import STAGING
from landseg.data.tiles import decode_codes, encode_label
from landseg.verbs.prepare import prepare

RNG = np.random.default_rng(5)
CLASSES = "building,land,road,vegetation,water"


def image_bytes(size: tuple[int, int] = (16, 20), ending: str = ".jpg", bands: int = 3, dtype: type = np.uint8) -> bytes:
    image: np.ndarray = RNG.integers(0, 256, (*size, bands), np.uint8).astype(dtype)
    return bytes(cv2.imencode(ending, image)[1])


def label_bytes(ids: np.ndarray | None = None) -> bytes:
    return encode_label(RNG.integers(0, 5, (16, 20), np.uint8) if ids is None else ids)


def pairs(count: int = 4) -> dict[str, bytes]:
    entries = {}
    for i in range(1, count + 1):
        entries[f"img_train/T{i}.jpg"] = image_bytes()
        entries[f"lab_train/T{i}.png"] = label_bytes()
    return entries


def folder_of(root: Path, entries: dict[str, bytes]) -> Path:
    for name, content in entries.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def zip_of(path: Path, entries: dict[str, bytes]) -> Path:
    write_zip(path, entries.items())
    return path


def state(root: Path) -> dict[str, bytes | None]:
    """Every file and folder below `root` with its content: what "nothing lost, nothing written" is held against."""
    return {path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def refused(*words: str, sources: list[Path], out: Path, **options: object) -> LandsegError:
    """Prepare, expecting one line with these words and no change on the disk."""
    before = state(out.parent)
    with pytest.raises(LandsegError) as caught:
        prepare(sources, out, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and all((caught.value.what, caught.value.found, caught.value.needed, caught.value.do))
    assert STAGING not in message
    assert state(out.parent) == before
    return caught.value


def test_the_competitions_zip(tmp_path: Path) -> None:
    entries = pairs()
    source = zip_of(tmp_path / "train.zip", entries | {"__MACOSX/img_train/._T1.jpg": b"mac", "img_train/.DS_Store": b"mac"})
    result = prepare([source], tmp_path / "data", classes=CLASSES)
    assert (result.pairs, result.images, result.orphans, result.unreadable, result.left_out) == (4, 4, (), (), ())
    assert result.classes == tuple(CLASSES.split(","))
    codes = np.concatenate([decode_codes(content).ravel() for name, content in entries.items() if name.endswith(".png")])
    assert list(result.class_pixels.values()) == [int((codes == i).sum()) for i in range(5)]
    dataset = open_dataset(tmp_path / "data")
    assert [tile.name for tile in dataset.tiles] == ["T1", "T2", "T3", "T4"]
    assert dataset.info.source == "train.zip" and dataset.info.images == "images" and dataset.info.labels == "labels"
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["dataset.yaml", "images", "labels"]
    assert (tmp_path / "data/images/T3.jpg").read_bytes() == entries["img_train/T3.jpg"]


def test_one_source_needs_no_list(tmp_path: Path) -> None:
    source = zip_of(tmp_path / "train.zip", pairs())
    assert prepare(str(source), tmp_path / "data", classes=CLASSES).pairs == 4
    with pytest.raises(LandsegError, match=r"no\.tif"):
        prepare(str(tmp_path / "no.tif"), tmp_path / "cut", tile=64)


def test_an_image_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = zip_of(tmp_path / "img_test.zip", {f"img_test/{i}.jpg": image_bytes() for i in range(3)})
    result = prepare([source], tmp_path / "test")
    assert (result.pairs, result.images, result.classes, result.class_pixels) == (0, 3, (), {})
    dataset = open_dataset(tmp_path / "test")
    assert dataset.info.labels is None and [tile.name for tile in dataset.tiles] == ["0", "1", "2"] and not caplog.records
    result = prepare([source], tmp_path / "again", classes="a,b")
    assert "--classes is not used" in caplog.text and open_dataset(tmp_path / "again").info.classes == () and not result.classes


def test_a_grey_image_set_and_its_bands(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "x", {f"{i}.png": image_bytes(ending=".png", bands=1) for i in range(3)})
    assert prepare([source], tmp_path / "data").bands == ("grey",)
    for bands, names in ((4, ("red", "green", "blue", "nir")), (2, ("band_1", "band_2"))):
        np.save(source / "0.npy", RNG.normal(size=(8, 9, bands)))
        for path in source.glob("*.png"):
            path.unlink()
        assert prepare([source], tmp_path / str(bands)).bands == names


def test_plain_folders_are_referred_to(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "mine", pairs())
    before = state(source)
    prepare([str(source)], tmp_path / "work" / "data", classes=CLASSES)
    dataset = open_dataset(tmp_path / "work" / "data")
    assert dataset.info.images == "../../mine/img_train" and dataset.info.labels == "../../mine/lab_train"
    assert len(dataset.tiles) == 4 and state(source) == before
    assert [path.name for path in dataset.folder.iterdir()] == ["dataset.yaml"]


def test_a_folder_on_another_tree_is_referred_to_by_its_whole_path() -> None:
    root = Path(Path.cwd().anchor)
    assert staging._reference(root / "srv" / "tiles", root / "home" / "me" / "data") == str(root / "srv" / "tiles")
    assert staging._reference(root / "home" / "me" / "tiles", root / "home" / "me" / "data") == "../tiles"


def test_images_and_labels_in_one_folder_are_linked_apart(tmp_path: Path) -> None:
    entries = {name.partition("/")[2]: content for name, content in pairs().items()}
    source = folder_of(tmp_path / "mine", entries | {"T9.jpg": image_bytes()})
    before = state(source)
    result = prepare([source], tmp_path / "data", classes=CLASSES)
    dataset = open_dataset(tmp_path / "data")
    assert len(dataset.tiles) == 4 == result.pairs and result.orphans == (("T9", "label"),)
    assert dataset.tiles[0].image.read_bytes() == entries["T1.jpg"] and not dataset.tiles[0].image.is_symlink()
    shutil.rmtree(tmp_path / "data")
    assert state(source) == before


def test_where_the_disk_cannot_link_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of(tmp_path / "mine", {name.partition("/")[2]: content for name, content in pairs().items()})

    def no_link(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.link", no_link)
    prepare([source], tmp_path / "data", classes=CLASSES)
    dataset = open_dataset(tmp_path / "data")
    assert len(dataset.tiles) == 4 and dataset.tiles[0].image.stat().st_nlink == 1


def test_several_zips_are_one_set(tmp_path: Path) -> None:
    one, two = zip_of(tmp_path / "a.zip", pairs(2)), zip_of(tmp_path / "b.zip", pairs(3))
    result = prepare([one, two], tmp_path / "data", classes=CLASSES)
    assert result.pairs == 5 and len(open_dataset(tmp_path / "data").tiles) == 5
    images = zip_of(tmp_path / "i.zip", {"1.jpg": image_bytes()})
    labels = zip_of(tmp_path / "l.zip", {"1.png": label_bytes()})
    assert prepare([images], tmp_path / "by hand", classes=CLASSES, labels=labels).pairs == 1
    assert open_dataset(tmp_path / "by hand").info.source == "i.zip, l.zip"


def test_names_with_spaces_and_chinese_in_a_gbk_zip(tmp_path: Path) -> None:
    names = {"训练/图 1.jpg": image_bytes(), "标签/图 1.png": label_bytes()}
    plain = {f"{i:0{len(name.encode('gbk'))}d}": name for i, name in enumerate(names)}
    source = zip_of(tmp_path / "训练 集.zip", {number: names[name] for number, name in plain.items()})
    data = source.read_bytes()
    for number, name in plain.items():
        data = data.replace(number.encode(), name.encode("gbk"))
    source.write_bytes(data)
    prepare([source], tmp_path / "数据 集", classes="建筑,耕地,林地,道路,其他")
    dataset = open_dataset(tmp_path / "数据 集")
    assert [tile.name for tile in dataset.tiles] == ["图 1"] and dataset.class_names[0] == "建筑"
    assert "建筑" in (tmp_path / "数据 集" / "dataset.yaml").read_text(encoding="utf-8")


def test_a_test_folder_in_the_zip_is_left_out_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = zip_of(tmp_path / "a.zip", pairs() | {"img_test/7.jpg": image_bytes(), "more.zip": b"PK", "readme.txt": b"hello"})
    result = prepare([source], tmp_path / "data", classes=CLASSES)
    text = "\n".join(result.left_out)
    assert result.pairs == 4 and all(part in text for part in ("a.zip/img_test (1 files)", "a.zip/more.zip", "a.zip/readme.txt"))
    assert "a.zip/img_test" in caplog.text and "img_test" in result.as_text()


def test_the_result_says_itself_in_json_and_in_words(tmp_path: Path) -> None:
    entries = pairs() | {
        "img_train/T8.jpg": image_bytes(),
        "lab_train/T9.png": label_bytes(),
        "img_train/T4.jpg": b"",
        "lab_train/T3.png": b"text",
    }
    entries["lab_train/T1.png"] = label_bytes(np.full((16, 20), 255, np.uint8))
    result = prepare([zip_of(tmp_path / "a.zip", entries)], tmp_path / "data", classes=CLASSES)
    document = result.as_json()
    assert document["orphans"] == [{"tile": "T8", "missing": "label"}, {"tile": "T9", "missing": "image"}]
    assert [item["tile"] for item in document["unreadable"]] == ["T3", "T4"]
    assert [item["file"] for item in document["unreadable"]] == ["a.zip/lab_train/T3.png", "a.zip/img_train/T4.jpg"]
    assert "label" in document["unreadable"][0]["reason"] and "empty" in document["unreadable"][1]["reason"]
    assert (document["pairs"], document["images"], document["unlabelled_tiles"]) == (4, 5, 1)
    assert document["dataset"] == str(tmp_path / "data") and sum(document["class_pixels"].values()) == 16 * 20
    lines = result.as_text().splitlines()
    assert str(tmp_path / "data") in lines[0] and len(lines) < 12 and "2 unreadable" in result.as_text()


def test_unreadable_files_are_named_aloud_and_not_fatal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entries = pairs(12)
    entries |= {"img_train/T1.jpg": b"", "img_train/T2.jpg": entries["img_train/T2.jpg"][:200], "img_train/T3.jpg": b"<html>404</html>"}
    entries |= {"lab_train/T4.png": entries["lab_train/T4.png"][:60], "img_train/T5.jpg": image_bytes(ending=".png", bands=1)}
    entries |= {"img_train/T6.jpg": image_bytes(ending=".png", dtype=np.uint16)}
    source = folder_of(tmp_path / "mine", entries)
    before = state(source)
    result = prepare([source], tmp_path / "data", classes=CLASSES)
    assert [item.tile for item in result.unreadable] == [f"T{i}" for i in range(1, 7)]
    assert [Path(item.file).name for item in result.unreadable] == ["T1.jpg", "T2.jpg", "T3.jpg", "T4.png", "T5.jpg", "T6.jpg"]
    reasons = {item.tile: item.reason for item in result.unreadable}
    assert "most tiles have 3 bands uint8" in reasons["T5"] and "uint16" in reasons["T6"]
    assert sum(result.class_pixels.values()) == 6 * 16 * 20
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "T1.jpg" in record.getMessage() and "and 1 more" in record.getMessage()
    assert state(source) == before and result.pairs == 12


def test_a_damaged_entry_of_a_zip_is_named(tmp_path: Path) -> None:
    source = tmp_path / "a.zip"
    entries = pairs()
    write_zip(source, entries.items())
    content = entries["img_train/T2.jpg"]
    source.write_bytes(source.read_bytes().replace(content, bytes(len(content))))
    result = prepare([source], tmp_path / "data", classes=CLASSES)
    assert result.pairs == 3 and [item.file for item in result.unreadable] == ["a.zip/img_train/T2.jpg"]
    assert result.orphans == (("T2", "image"),)


def test_nothing_readable(tmp_path: Path) -> None:
    refused(
        "img/1.jpg", "all 2 tiles", sources=[folder_of(tmp_path / "m", {"img/1.jpg": b"", "img/2.jpg": b"text"})], out=tmp_path / "data"
    )


def test_a_value_that_no_class_has(tmp_path: Path) -> None:
    entries = pairs()
    bad = np.zeros((16, 20), np.uint8)
    bad[0, :3] = 7
    entries["lab_train/T2.png"] = entries["lab_train/T3.png"] = label_bytes(bad)
    source = zip_of(tmp_path / "a.zip", entries)
    refused(
        "a.zip/lab_train/T2.png",
        "value 7 in 3 pixels",
        "1 more file",
        "5 classes",
        sources=[source],
        out=tmp_path / "data",
        classes=CLASSES,
    )


def test_ids_that_count_from_one_are_told(tmp_path: Path) -> None:
    entries = pairs()
    for name in [name for name in entries if name.endswith(".png")]:
        entries[name] = label_bytes(RNG.integers(0, 6, (16, 20), np.uint8))
    source = folder_of(tmp_path / "m", entries)
    refused("label value 5", "0, 1, 2, 3, 4, 5", "count from 1", "255", sources=[source], out=tmp_path / "data", classes=CLASSES)


def test_labels_without_classes(tmp_path: Path) -> None:
    source = zip_of(tmp_path / "a.zip", pairs())
    refused("--classes", "0, 1, 2, 3, 4", '"name0,name1,name2,name3,name4"', sources=[source], out=tmp_path / "data")


def test_a_label_of_another_size(tmp_path: Path) -> None:
    entries = pairs() | {
        "lab_train/T2.png": label_bytes(np.zeros((16, 21), np.uint8)),
        "lab_train/T4.png": label_bytes(np.zeros((8, 10), np.uint8)),
    }
    source = zip_of(tmp_path / "a.zip", entries)
    refused("a.zip/lab_train/T2.png", "16 × 21", "16 × 20", "1 more file", sources=[source], out=tmp_path / "data", classes=CLASSES)


def test_all_unlabelled(tmp_path: Path) -> None:
    entries = {
        name: label_bytes(np.full((16, 20), 255, np.uint8)) if name.endswith(".png") else content for name, content in pairs().items()
    }
    refused("unlabelled", "all 4 labels", sources=[zip_of(tmp_path / "a.zip", entries)], out=tmp_path / "data", classes=CLASSES)


def test_classes_that_no_label_has_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepare([zip_of(tmp_path / "a.zip", pairs())], tmp_path / "data", classes=CLASSES + ",snow")
    assert "no label has a pixel of snow" in caplog.text


@pytest.mark.parametrize("entry", ["../x.jpg", "/x.jpg", "a\\..\\x.jpg", "link", "bomb"])
def test_a_hostile_zip_leaves_nothing_behind(tmp_path: Path, entry: str) -> None:
    source = tmp_path / "a.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in pairs().items():
            target.writestr(name, content)
        info = zipfile.ZipInfo("img_train/x.jpg" if entry in ("link", "bomb") else entry)
        info.compress_type = zipfile.ZIP_DEFLATED
        if entry == "link":
            info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        target.writestr(info, bytes(20_000_000) if entry == "bomb" else b"/etc/passwd")
    refused("a.zip", sources=[source], out=tmp_path / "data", classes=CLASSES)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = zip_of(tmp_path / "a.zip", pairs())
    real, calls = os.replace, iter(range(1000))

    def full(*paths: Path) -> None:
        if next(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*paths)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        refused("No space left on device", "free some space", sources=[source], out=tmp_path / "data", classes=CLASSES)
    monkeypatch.setattr("landseg.core.files.free_bytes", lambda folder: 1000)
    refused("1.0 kB free", "unpacking a.zip takes", sources=[source], out=tmp_path / "data", classes=CLASSES)


def test_no_place_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of(tmp_path / "mine", pairs())
    (tmp_path / "file").write_text("mine")
    refused("a file", sources=[source], out=tmp_path / "file", classes=CLASSES, overwrite=True)
    refused("cannot be written", sources=[source], out=tmp_path / "file" / "data", classes=CLASSES)
    real = Path.mkdir

    def denied(self: Path, *options: object, **named: object) -> None:
        if self.name == STAGING:
            raise PermissionError(errno.EACCES, "Permission denied")
        real(self, *options, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", denied)
    refused("Permission denied", "permissions", sources=[source], out=tmp_path / "data", classes=CLASSES)


@pytest.mark.parametrize(
    ("name", "word"), [("absent.zip", "not there"), ("a.txt", "neither a folder nor a zip"), ("text.zip", "not a readable zip")]
)
def test_sources_that_are_none(tmp_path: Path, name: str, word: str) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "text.zip").write_text("text")
    refused(name, word, sources=[tmp_path / name], out=tmp_path / "data")
    refused("SOURCE", sources=[], out=tmp_path / "data")


def test_an_existing_result_is_refused_or_replaced(tmp_path: Path) -> None:
    source, other = zip_of(tmp_path / "a.zip", pairs()), zip_of(tmp_path / "b.zip", pairs(2))
    out = tmp_path / "data"
    prepare([source], out, classes=CLASSES)
    folder_of(out, {"splits/random.csv": b"old", "pack/index": b"old", "audit/audit.json": b"old", "notes.txt": b"mine"})
    refused("it exists", "--overwrite", sources=[other], out=out, classes=CLASSES)
    # What is wrong with the new set is found before the old one goes.
    refused("label value", "2 classes", sources=[other], out=out, classes="a,b", overwrite=True)
    assert prepare([other], out, classes=CLASSES, overwrite=True).pairs == 2
    assert sorted(path.name for path in out.iterdir()) == ["dataset.yaml", "images", "labels", "notes.txt"]
    assert len(open_dataset(out).tiles) == 2 and (out / "notes.txt").read_bytes() == b"mine"


def test_a_strangers_folder_is_never_replaced(tmp_path: Path) -> None:
    source = zip_of(tmp_path / "a.zip", pairs())
    out = folder_of(tmp_path / "photos", {"images/holiday.jpg": b"mine"})
    for overwrite in (False, True):
        refused("photos", sources=[source], out=out, classes=CLASSES, overwrite=overwrite)


def test_a_link_in_the_result_is_cut_not_followed(tmp_path: Path) -> None:
    mine = folder_of(tmp_path / "mine", pairs())
    out = tmp_path / "data"
    prepare([mine], out, classes=CLASSES)
    (out / "images").symlink_to(mine / "img_train", target_is_directory=True)
    prepare([zip_of(tmp_path / "a.zip", pairs(2))], out, classes=CLASSES, overwrite=True)
    assert len(list((mine / "img_train").iterdir())) == 4 and len(open_dataset(out).tiles) == 2


def test_sources_inside_the_result_are_never_deleted(tmp_path: Path) -> None:
    out = tmp_path / "data"
    prepare([zip_of(tmp_path / "a.zip", pairs())], out, classes=CLASSES)
    for sources, labels in (([out / "images"], out / "labels"), ([out], None)):
        refused("part of", sources=sources, out=out, classes=CLASSES, labels=labels, overwrite=True)


def test_the_result_may_lie_beside_the_sources_but_not_in_them(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "project", pairs())
    refused("lies in", "--out", sources=[root], out=root / "img_train" / "data", classes=CLASSES)
    for _ in range(2):
        assert prepare([root], root / "data", classes=CLASSES, overwrite=True).pairs == 4
    assert open_dataset(root / "data").info.images == "../img_train"


@pytest.mark.parametrize("where", ["unpack", "_check_tile", "write_info", "commit"])
def test_an_interrupted_prepare_is_done_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    source, out = zip_of(tmp_path / "a.zip", pairs()), tmp_path / "data"

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "commit":
            # Between the renames of images and labels.
            real = Path.rename
            patch.setattr(Path, "rename", lambda self, goal: interrupt() if goal == out / "labels" else real(self, goal))
        else:
            patch.setattr(checking if where == "_check_tile" else staging, where, interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare([source], out, classes=CLASSES)
    assert not (out / "dataset.yaml").exists() and (out / STAGING).is_dir()
    assert prepare([source], out, classes=CLASSES).pairs == 4
    assert len(open_dataset(out).tiles) == 4 and not (out / STAGING).exists()


def test_an_interrupted_replacement_keeps_the_old_set_until_the_new_one_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = zip_of(tmp_path / "a.zip", pairs()), tmp_path / "data"
    prepare([source], out, classes=CLASSES)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checking, "_check_tile", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare([zip_of(tmp_path / "b.zip", pairs(2))], out, classes=CLASSES, overwrite=True)
    assert len(open_dataset(out).tiles) == 4
    assert prepare([tmp_path / "b.zip"], out, classes=CLASSES, overwrite=True).pairs == 2
