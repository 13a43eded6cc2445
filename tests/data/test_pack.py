"""The store gives back what the files hold, and notices every way in which it could not."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core.errors import LandsegError
from landseg.data import pack, packing
from landseg.data.dataset import Dataset, DatasetInfo, open_dataset, write_info
from landseg.data.labels import Mend
from landseg.data.pack import Files, Pack, TileStore, content_fingerprint, open_tiles
from landseg.data.statistics import band_statistics
from landseg.data.tiles import decode_codes, decode_image, read_bytes
from landseg.data.world import CLASSES, write_tiles


def make(folder: Path, count: int = 6, tile: int = 24, bands: int = 3, dtype: str = "uint8", **info: object) -> Dataset:
    write_tiles(folder, 3, count, tile, bands, dtype)
    write_info(folder, DatasetInfo(name="test", classes=CLASSES, bands=tuple(f"b{i}" for i in range(bands)), **info))  # type: ignore[arg-type]
    return open_dataset(folder)


def reopened(dataset: Dataset) -> Dataset:
    return open_dataset(dataset.folder)


def assert_equal_to_files(store: TileStore, dataset: Dataset) -> None:
    tiles = {tile.name: tile for tile in dataset.tiles}
    for i, entry in enumerate(store.entries):
        image = decode_image(read_bytes(tiles[entry.name].image))
        assert store.image(i).dtype == image.dtype
        assert np.array_equal(store.image(i), image)
        label = tiles[entry.name].label
        if label is not None:
            codes = decode_codes(read_bytes(label))
            assert np.array_equal(store.label(i), codes)
            assert entry.class_pixels == tuple(int((codes == k).sum()) for k in range(len(dataset.info.classes)))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the tiles that were decoded for the store."""
    numbers: list[int] = []
    real = packing._write_tile

    def counted(dataset: Dataset, layout: packing.Layout, i: int, *maps: np.ndarray | None) -> object:
        numbers.append(i)
        return real(dataset, layout, i, *maps)

    monkeypatch.setattr(packing, "_write_tile", counted)
    return numbers


@pytest.mark.parametrize("bands", [1, 3, 4, 8])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_what_was_packed_is_what_the_files_hold(tmp_path: Path, bands: int, dtype: str) -> None:
    dataset = make(tmp_path, 5, 17, bands, dtype)
    store = open_tiles(dataset)
    assert isinstance(store, Pack) and (store.bands, store.dtype) == (bands, dtype)
    assert [entry.name for entry in store.entries] == [tile.name for tile in dataset.tiles]
    assert_equal_to_files(store, dataset)


def test_tiles_of_mixed_sizes_and_folders_and_names(tmp_path: Path) -> None:
    dataset = make(tmp_path, 3)
    rng = np.random.default_rng(0)
    for name, shape in {'b/quoted "one", two': (5, 31), "b/耕地": (40, 7), "line\u2028break": (1, 1)}.items():
        for place, array in (("images", rng.integers(0, 255, (*shape, 3), np.uint8)), ("labels", rng.integers(0, 4, shape, np.uint8))):
            path = tmp_path / place / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(cv2.imencode(".png", array)[1].tobytes())
    dataset = reopened(dataset)
    for store in (open_tiles(dataset), open_tiles(dataset)):
        assert len(store.entries) == 6
        assert_equal_to_files(store, dataset)


def test_reading_copies_nothing_and_cannot_be_written_to(tmp_path: Path) -> None:
    store = open_tiles(make(tmp_path, bands=4, dtype="float32"))
    assert isinstance(store, Pack) and store._labels is not None
    for i in range(len(store.entries)):
        assert np.shares_memory(store.image(i), store._images._bytes)
        assert np.shares_memory(store.label(i), store._labels._bytes)
        with pytest.raises(ValueError, match="read-only"):
            store.image(i)[0, 0, 0] = 1
        with pytest.raises(ValueError, match="read-only"):
            store.label(i)[0, 0] = 1


def test_files_and_pack_are_the_same_tiles(tmp_path: Path) -> None:
    dataset = make(tmp_path)
    files = open_tiles(dataset, use_pack=False)
    assert isinstance(files, Files) and not list((tmp_path / "pack").glob("*.bin"))
    assert_equal_to_files(files, dataset)
    packed = open_tiles(dataset)
    assert isinstance(packed, Pack)
    assert packed.entries == files.entries
    assert content_fingerprint(packed) == content_fingerprint(files)
    assert isinstance(open_tiles(dataset, use_pack=False), Files)
    assert isinstance(open_tiles(dataset), Pack)


def test_the_store_is_made_once(tmp_path: Path, decoded: list[int]) -> None:
    dataset = make(tmp_path)
    open_tiles(dataset)
    assert sorted(decoded) == list(range(6))
    open_tiles(reopened(dataset))
    open_tiles(reopened(dataset), use_pack=False)
    assert len(decoded) == 6


def _touch(folder: Path) -> None:
    path = next(folder.glob("images/*"))
    image = cv2.imread(str(path))
    path.write_bytes(cv2.imencode(".png", 255 - image)[1].tobytes())
    os.utime(path, ns=(1, 1))


def _relabel(folder: Path) -> None:
    path = next(folder.glob("labels/*"))
    path.write_bytes(cv2.imencode(".png", np.zeros((24, 24), np.uint8))[1].tobytes())
    os.utime(path, ns=(1, 1))


def _remove(folder: Path) -> None:
    next(folder.glob("images/*")).unlink()


def _swap_classes(folder: Path) -> None:
    info = open_dataset(folder).info
    write_info(folder, info.model_copy(update={"remap": {0: 1, 1: 0, **{k: k for k in range(2, len(info.classes))}}}))


@pytest.mark.parametrize("change", [_touch, _relabel, _remove, _swap_classes])
def test_the_store_is_made_anew_when_a_source_changed(tmp_path: Path, decoded: list[int], change: Callable[[Path], None]) -> None:
    dataset = make(tmp_path)
    before = content_fingerprint(open_tiles(dataset))
    change(tmp_path)
    dataset = reopened(dataset)
    store = open_tiles(dataset)
    assert len(decoded) == 6 + len(dataset.tiles)
    assert content_fingerprint(store) != before
    for i, entry in enumerate(store.entries):
        codes = dataset.table[decode_codes(read_bytes(dataset.tiles[i].label))]  # type: ignore[arg-type]
        assert entry.name == dataset.tiles[i].name and np.array_equal(store.label(i), codes)


def test_what_does_not_change_pixels_does_not_make_it_anew(tmp_path: Path, decoded: list[int]) -> None:
    dataset = make(tmp_path)
    open_tiles(dataset)
    write_info(tmp_path, dataset.info.model_copy(update={"name": "another", "source": "here", "resolution_m": 2.0}))
    open_tiles(reopened(dataset))
    assert len(decoded) == 6


def test_the_content_fingerprint_is_of_pixels_and_not_of_files(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a"), make(tmp_path / "b")
    for path in second.image_folder.iterdir():
        os.utime(path, ns=(5, 5))
    assert pack.sources_fingerprint(first) != pack.sources_fingerprint(second)
    assert content_fingerprint(open_tiles(first)) == content_fingerprint(open_tiles(second))


def interrupt_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    real, done = packing.parallel_map, []

    def interrupted(job: Callable[[int], object], items: object, **options: object) -> object:
        for result in real(job, items, **options):  # type: ignore[arg-type]
            if isinstance(result, list) and isinstance(result[0], packing.Entry):
                done.append(result)
                if len(done) > count:
                    raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(packing, "parallel_map", interrupted)
    monkeypatch.setattr(packing, "_CHUNK", 1)


@pytest.mark.parametrize("sync_every", [2, 2000])
def test_packing_goes_on_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int], sync_every: int
) -> None:
    dataset = make(tmp_path, 12)
    monkeypatch.setattr(packing, "_NOTE_EVERY", sync_every)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            open_tiles(dataset, workers=1)
    assert not (tmp_path / "pack" / "pack.json").exists()
    decoded.clear()
    store = open_tiles(reopened(dataset), workers=1)
    assert sorted(decoded) == [7, 8, 9, 10, 11]
    assert isinstance(store, Pack)
    assert_equal_to_files(store, dataset)
    assert sorted(path.name for path in (tmp_path / "pack").iterdir()) == [".lock", "images.bin", "index.csv", "labels.bin", "pack.json"]


def test_two_kills_that_cut_a_line_each_lose_no_more_than_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]) -> None:
    dataset = make(tmp_path, 12)
    for count in (3, 6):
        with monkeypatch.context() as patch:
            interrupt_after(patch, count)
            with pytest.raises(KeyboardInterrupt):
                open_tiles(dataset, workers=1)
        partial = tmp_path / "pack" / "index.partial"
        partial.write_bytes(partial.read_bytes()[:-9])
    decoded.clear()
    store = open_tiles(dataset, workers=1)
    assert sorted(decoded) == [5, 6, 7, 8, 9, 10, 11]
    assert_equal_to_files(store, dataset)


@pytest.mark.parametrize("harm", ["remove", "cut", "change"])
def test_an_interrupted_store_that_was_harmed_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    dataset = make(tmp_path, 8)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            open_tiles(dataset, workers=1)
    images = tmp_path / "pack" / "images.bin"
    if harm == "remove":
        images.unlink()
    elif harm == "cut":
        os.truncate(images, 100)
    else:
        _touch(tmp_path)
    dataset = reopened(dataset)
    assert_equal_to_files(open_tiles(dataset), dataset)


@pytest.mark.parametrize("name", ["images.bin", "labels.bin"])
def test_a_damaged_byte_is_detected_when_it_is_read(tmp_path: Path, name: str) -> None:
    dataset = make(tmp_path)
    open_tiles(dataset)
    path = tmp_path / "pack" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    store = open_tiles(dataset)
    read = store.image if name == "images.bin" else store.label
    failures = []
    for i, entry in enumerate(store.entries):
        try:
            read(i)
        except LandsegError as error:
            failures.append((entry.name, str(error)))
    ((tile, message),) = failures
    assert tile == store.entries[3].name and tile in message and "checksum" in message and "delete that folder" in message


@pytest.mark.parametrize("name", ["images.bin", "labels.bin", "index.csv", "pack.json"])
@pytest.mark.parametrize("harm", ["truncate", "remove", "empty"])
def test_a_harmed_store_is_made_anew(tmp_path: Path, name: str, harm: str) -> None:
    dataset = make(tmp_path)
    open_tiles(dataset)
    path = tmp_path / "pack" / name
    if harm == "remove":
        path.unlink()
    else:
        os.truncate(path, 0 if harm == "empty" else path.stat().st_size - 1)
    store = open_tiles(dataset)
    assert isinstance(store, Pack)
    assert_equal_to_files(store, dataset)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_changed_byte_of_the_index_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "index-bytes"
    dataset = make(folder) if not folder.exists() else open_dataset(folder)
    expected = list(open_tiles(dataset).entries)
    path = folder / "pack" / "index.csv"
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    assert list(open_tiles(dataset).entries) == expected


def test_unreadable_tiles_are_left_out_by_name_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = make(tmp_path, 9)
    names = [tile.name for tile in dataset.tiles]
    images = [tile.image for tile in dataset.tiles]
    images[0].write_bytes(b"")
    images[1].write_text("no picture", encoding="utf-8")
    images[2].write_bytes(images[2].read_bytes()[:-20])
    images[3].write_bytes(images[3].read_bytes()[:100] + bytes(50) + images[3].read_bytes()[150:])
    images[4].unlink()
    images[4].symlink_to(tmp_path / "nowhere.png")
    images[5].write_bytes(cv2.imencode(".png", np.zeros((24, 24), np.uint8))[1].tobytes())
    dataset.tiles[6].label.write_bytes(b"")  # type: ignore[union-attr]
    dataset = reopened(dataset)
    with caplog.at_level(logging.WARNING, "landseg"):
        store = open_tiles(dataset)
    assert [entry.name for entry in store.entries] == names[7:]
    said = "\n".join(caplog.messages)
    assert all(f"{name}: left out, " in said for name in names[:4]) and names[6] in said
    assert "the file is empty" in said and "no picture is in it" in said and "1 bands of uint8, the data set has 3" in said
    assert_equal_to_files(store, dataset)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "landseg"):
        open_tiles(dataset)
    assert len(caplog.messages) == 1 and "7 of 9 tiles" in caplog.text and names[0] in caplog.text


def test_no_readable_tile_is_one_error(tmp_path: Path) -> None:
    dataset = make(tmp_path, 3)
    for tile in dataset.tiles:
        tile.image.write_bytes(b"")
    with pytest.raises(LandsegError, match="none of its 3 tiles can be read"):
        open_tiles(dataset)


def test_an_illegal_label_value_names_file_value_and_count(tmp_path: Path) -> None:
    dataset = make(tmp_path, 4)
    for place, pixels in ((1, 13), (2, 1)):
        path = dataset.tiles[place].label
        assert path is not None
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        label.flat[:pixels] = 77
        path.write_bytes(cv2.imencode(".png", label)[1].tobytes())
    for use_pack in (True, False):
        with pytest.raises(LandsegError) as caught:
            open_tiles(reopened(dataset), use_pack=use_pack)
        message = str(caught.value)
        assert str(dataset.tiles[1].label) in message and "label value 77 in 13 pixels (and 1 more files)" in message
        assert f"{len(CLASSES)} classes" in message
    assert not (tmp_path / "pack" / "pack.json").exists()


def test_the_store_is_right_once_an_illegal_label_is_mended(tmp_path: Path) -> None:
    dataset = make(tmp_path, 4)
    path = dataset.tiles[1].label
    assert path is not None
    good = path.read_bytes()
    path.write_bytes(cv2.imencode(".png", np.full((24, 24), 99, np.uint8))[1].tobytes())
    with pytest.raises(LandsegError):
        open_tiles(reopened(dataset))
    path.write_bytes(good)
    dataset = reopened(dataset)
    assert_equal_to_files(open_tiles(dataset), dataset)


def test_a_label_of_another_size_names_both(tmp_path: Path) -> None:
    dataset = make(tmp_path, 3)
    path = dataset.tiles[2].label
    assert path is not None
    path.write_bytes(cv2.imencode(".png", np.zeros((24, 23), np.uint8))[1].tobytes())
    with pytest.raises(LandsegError, match=r"24 × 23 pixels, the size of its image, 24 × 24"):
        open_tiles(reopened(dataset))


def test_without_room_tiles_are_decoded_from_their_files_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make(tmp_path)
    monkeypatch.setattr(pack, "free_bytes", lambda folder: pack.SPARE_BYTES + 10)
    for _ in range(2):
        with caplog.at_level(logging.WARNING, "landseg"):
            store = open_tiles(dataset)
        assert isinstance(store, Files)
        assert "13.8 kB needed" in caplog.text and "decodes the tiles anew" in caplog.text
        caplog.clear()
    assert_equal_to_files(store, dataset)
    assert not list((tmp_path / "pack").glob("*.bin"))


def test_the_size_is_said_before_packing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "landseg"):
        open_tiles(make(tmp_path))
    assert "pack: 6 tiles, 13.8 kB in" in caplog.text


def test_a_store_that_was_out_of_date_gives_its_room_back_when_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make(tmp_path)
    open_tiles(dataset)
    _touch(tmp_path)
    monkeypatch.setattr(pack, "free_bytes", lambda folder: 10)
    dataset = reopened(dataset)
    store = open_tiles(dataset)
    assert isinstance(store, Files) and not list((tmp_path / "pack").glob("*.bin"))
    assert_equal_to_files(store, dataset)


@pytest.mark.parametrize("which", ["images.bin", "labels.bin"])
def test_a_disk_that_fills_while_packing_is_one_error_and_leaves_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    dataset = make(tmp_path)
    real = os.posix_fallocate

    def full(handle: int, offset: int, size: int) -> None:
        if Path(f"/proc/self/fd/{handle}").readlink().name == which:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle, offset, size)

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(LandsegError, match="No space left on device"):
            open_tiles(dataset)
    assert not (tmp_path / "pack" / "pack.json").exists() and not (tmp_path / "pack" / which).exists()
    assert_equal_to_files(open_tiles(dataset), dataset)


def test_a_disk_that_refuses_the_index_is_one_error_and_leaves_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make(tmp_path)

    def full(folder: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(packing, "_note", full)
        with pytest.raises(LandsegError, match="No space left on device"):
            open_tiles(dataset)
    assert not (tmp_path / "pack" / "pack.json").exists()
    assert_equal_to_files(open_tiles(dataset), dataset)


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make(tmp_path)
    (tmp_path / "pack").write_text("in the way", encoding="utf-8")
    with pytest.raises(LandsegError, match="cannot be written"):
        open_tiles(dataset)
    (tmp_path / "pack").unlink()

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(LandsegError, match="Permission denied"):
        open_tiles(dataset)


def test_a_store_that_is_up_to_date_needs_no_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make(tmp_path)
    open_tiles(dataset)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    for name in ("mkdir", "unlink", "write_bytes", "write_text"):
        monkeypatch.setattr(Path, name, refuse)
    assert_equal_to_files(open_tiles(dataset), dataset)


def test_a_test_set_has_images_and_says_that_it_has_no_labels(tmp_path: Path) -> None:
    write_tiles(tmp_path, 3, 4, 24)
    write_info(tmp_path, DatasetInfo(name="test", labels=None, classes=CLASSES))
    dataset = open_dataset(tmp_path)
    for use_pack in (True, False):
        store = open_tiles(dataset, use_pack=use_pack)
        assert_equal_to_files(store, dataset)
        with pytest.raises(LandsegError, match="without labels"):
            store.label(0)


def test_labels_pass_through_the_remap(tmp_path: Path) -> None:
    dataset = make(tmp_path)
    plain = [open_tiles(dataset).label(i).copy() for i in range(6)]
    count = len(CLASSES)
    for tile in dataset.tiles:
        label = cv2.imread(str(tile.label), cv2.IMREAD_UNCHANGED)
        label = np.where(label == 255, 0, label + 1).astype(np.uint8)
        tile.label.write_bytes(cv2.imencode(".png", label)[1].tobytes())  # type: ignore[union-attr]
    write_info(tmp_path, dataset.info.model_copy(update={"ignore_index": 0, "remap": {k + 1: k for k in range(count)}}))
    dataset = reopened(dataset)
    for store in (open_tiles(dataset), open_tiles(dataset, use_pack=False)):
        for i in range(6):
            assert np.array_equal(store.label(i), plain[i])


def test_a_file_that_goes_bad_while_training_reads_files_is_one_error(tmp_path: Path) -> None:
    dataset = make(tmp_path)
    store = open_tiles(dataset, use_pack=False)
    dataset.tiles[2].image.write_bytes(b"")
    with pytest.raises(LandsegError, match="--resume"):
        store.image(2)


def test_the_index_is_a_table_that_a_person_can_open(tmp_path: Path) -> None:
    open_tiles(make(tmp_path))
    lines = (tmp_path / "pack" / "index.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == packing.HEADER and lines[1].startswith("tile_0000,0,0,24,24,")
    facts = json.loads((tmp_path / "pack" / "pack.json").read_text(encoding="utf-8"))
    assert facts["tiles"] == 6 and facts["image_bytes"] == 6 * 24 * 24 * 3


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_statistics_are_those_of_the_chosen_tiles(tmp_path: Path, dtype: str) -> None:
    store = open_tiles(make(tmp_path, 6, 24, 4, dtype))
    chosen = [0, 2, 5]
    pixels = np.concatenate([store.image(i).reshape(-1, 4) for i in chosen]).astype(np.float64)
    mean, std = band_statistics(store, chosen)
    assert np.allclose(mean, pixels.mean(0)) and np.allclose(std, pixels.std(0))


def test_statistics_leave_out_what_is_no_number_and_never_divide_by_zero(tmp_path: Path) -> None:
    dataset = make(tmp_path, 3, 24, 4, "float32")
    for tile in dataset.tiles:
        image = np.full((24, 24, 4), 7.0, np.float32)
        image[0, :, 1], image[:12, :, 2], image[:, :, 3] = np.nan, 1.0, np.inf
        np.save(tile.image, image)
    mean, std = band_statistics(open_tiles(reopened(dataset)), [0, 1, 2])
    assert np.allclose(mean, (7, 7, 4, 0)) and np.allclose(std, (1, 1, 3, 1))


def test_a_store_that_is_open_goes_on_when_the_files_change_and_it_is_written_anew(tmp_path: Path) -> None:
    """A run in motion holds the store; another verb on mended tiles must not change the pixels under it."""
    dataset = make(tmp_path)
    running = open_tiles(dataset)
    before = [np.array(running.image(i)) for i in range(3)]
    path = next(tile.image for tile in dataset.tiles if tile.name == running.entries[0].name)
    cv2.imwrite(str(path), np.zeros((24, 24, 3), np.uint8))
    mended = open_tiles(reopened(dataset))
    assert not mended.image(0).any()
    assert all(np.array_equal(running.image(i), before[i]) for i in range(3))
    assert running.image(5).any(), "a tile that was not read before is still what it was when the store was opened"


def read_only(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int = errno.EROFS) -> None:
    """Let the system refuse to make anything below `folder`."""
    real = Path.mkdir

    def refuse(self: Path, *options: object, **named: object) -> None:
        if self.is_relative_to(folder):
            raise OSError(number, os.strerror(number))
        real(self, *options, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", refuse)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_is_read_only_has_its_store_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, decoded: list[int], number: int
) -> None:
    dataset = make(tmp_path / "data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read_only(monkeypatch, tmp_path / "data", number)
    with caplog.at_level(logging.INFO, "landseg"):
        store = open_tiles(dataset)
    assert isinstance(store, Pack) and str(tmp_path / "cache") in caplog.text and "cannot be written" in caplog.text
    assert_equal_to_files(store, dataset)
    assert_equal_to_files(open_tiles(reopened(dataset)), dataset)
    assert len(decoded) == 6, "it is made once"
    other = make(tmp_path / "other")
    read_only(monkeypatch, tmp_path / "other", number)
    open_tiles(other)
    assert len(list((tmp_path / "cache" / "landseg").iterdir())) == 2
    assert not (tmp_path / "data" / "pack").exists()


def test_a_full_disk_does_not_send_the_store_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make(tmp_path / "data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read_only(monkeypatch, tmp_path / "data", errno.ENOSPC)
    with pytest.raises(LandsegError, match="No space left"):
        open_tiles(dataset)
    assert not (tmp_path / "cache").exists()


def test_labels_pass_through_the_rules_that_mend(tmp_path: Path) -> None:
    dataset = make(tmp_path)
    plain = [open_tiles(dataset).label(i).copy() for i in range(6)]
    first, second = (dataset.tiles[i].label for i in (0, 1))
    assert first is not None and second is not None
    grown = np.pad(plain[0], ((0, 1), (0, 0)), mode="edge")
    first.write_bytes(cv2.imencode(".png", grown)[1].tobytes())
    second.write_bytes(cv2.imencode(".png", np.full((24, 24), 77, np.uint8))[1].tobytes())
    write_info(tmp_path, dataset.info.model_copy(update={"mend": Mend(resize_within=1, illegal="ignore")}))
    dataset = reopened(dataset)
    for store in (open_tiles(dataset), open_tiles(dataset, use_pack=False)):
        assert store.label(0).shape == (24, 24) and (store.label(0) == plain[0]).mean() > 0.8
        assert (store.label(1) == 255).all() and sum(store.entries[1].class_pixels) == 0
        assert all(np.array_equal(store.label(i), plain[i]) for i in range(2, 6))


def test_unknown_colours_are_unlabelled_and_no_error(tmp_path: Path) -> None:
    dataset = make(tmp_path)
    plain = [open_tiles(dataset).label(i).copy() for i in range(6)]
    colours = np.array([item.rgb for item in CLASSES] + [(1, 2, 3)] * (256 - len(CLASSES)), np.uint8)
    for tile, ids in zip(dataset.tiles, plain, strict=True):
        tile.label.write_bytes(cv2.imencode(".png", colours[ids][:, :, ::-1])[1].tobytes())  # type: ignore[union-attr]
    write_info(tmp_path, dataset.info.model_copy(update={"label_encoding": "rgb"}))
    dataset = reopened(dataset)
    for store in (open_tiles(dataset), open_tiles(dataset, use_pack=False)):
        assert all(np.array_equal(store.label(i), plain[i]) for i in range(6))


def test_tiles_left_out_by_name_are_not_there(tmp_path: Path) -> None:
    dataset = make(tmp_path)
    write_info(tmp_path, dataset.info.model_copy(update={"left_out": {"tile_0002": "why"}}))
    assert [entry.name for entry in open_tiles(reopened(dataset)).entries] == [f"tile_000{i}" for i in (0, 1, 3, 4, 5)]


def test_the_type_that_most_tiles_of_the_stated_bands_have_is_kept(tmp_path: Path) -> None:
    dataset = make(tmp_path, 9)
    images = sorted((tmp_path / "images").iterdir())
    for i, path in enumerate(images[:6]):
        path.unlink()
        np.save(path.with_suffix(".npy"), np.zeros((24, 24, 1) if i < 4 else (24, 24, 3), np.uint16))
    store = open_tiles(reopened(dataset))
    assert len(store.entries) == 3 and store.image(0).dtype == np.uint8


def test_views_stay_valid_when_the_pages_of_the_map_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "_RELEASE_BYTES", 1)
    dataset = make(tmp_path)
    store = open_tiles(dataset)
    views = [(store.image(i), store.label(i)) for i in range(len(store.entries))]
    files = open_tiles(dataset, use_pack=False)
    for i, (image, label) in enumerate(views):
        assert np.array_equal(image, files.image(i)) and np.array_equal(label, files.label(i))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not tell what a map holds in memory")
def test_a_map_holds_little_of_its_file_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 1 << 20
    monkeypatch.setattr(pack, "_RELEASE_BYTES", 2 * size)
    path = tmp_path / "images.bin"
    path.write_bytes(bytes(16 * size))
    held, stored = [], pack._Map(path)
    for at in range(0, 16 * size, size):
        stored.read(at, size).sum()
        held.append(_resident_kb(path))
    assert max(held) * 1024 >= size, "the test sees the map's pages"
    assert max(held) * 1024 <= 4 * size


def _resident_kb(path: Path) -> int:
    lines = Path("/proc/self/smaps").read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith(str(path)))
    return int(next(line for line in lines[at:] if line.startswith("Rss:")).split()[1])
