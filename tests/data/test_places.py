"""Tiles in a zip are read where they lie: the same files as in a folder, whoever reads them, and a damaged zip is named."""

from __future__ import annotations

import os
import shutil
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from landseg.core.errors import LandsegError
from landseg.core.grid import Grid
from landseg.data import archive, places, raster
from landseg.data.archive import DamagedEntry
from landseg.data.dataset import list_files, walk
from landseg.data.tiles import UnreadableTile, read_bytes

PART = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0:", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)
NAME = st.lists(PART.filter(lambda part: part not in (".", "..")), min_size=1, max_size=3).map(lambda parts: "/".join(parts) + ".png")


def zip_of(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as target:
        for name, data in entries.items():
            target.writestr(name, data)
    return path


def folder_of(root: Path, entries: dict[str, bytes]) -> Path:
    for name, data in entries.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@given(st.dictionaries(NAME, st.binary(min_size=1, max_size=300), min_size=1, max_size=6), st.sampled_from([0, 8]))
def test_a_zip_is_as_the_folder_that_it_unpacks_to(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[str, bytes], method: int
) -> None:
    if any(name != other and f"{other}/" in f"{name}/" for name in entries for other in entries):
        return  # a file that is also a folder: no disk holds both
    root = tmp_path_factory.mktemp("places")
    folder, packed = folder_of(root / "folder", entries), zip_of(root / "tiles.zip", entries, method)
    expected = [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in walk(folder)]
    assert [(path.relative_to(packed).as_posix(), read_bytes(path)) for path in walk(packed)] == expected
    shutil.rmtree(root)


def test_a_folder_in_a_zip_is_a_place_too(tmp_path: Path) -> None:
    entries = {"set/img/b/2.png": b"2", "set/img/1.png": b"1", "set/img/.hidden.png": b"x", "__MACOSX/1.png": b"x", "set/lab/1.png": b"l"}
    zip_of(tmp_path / "a.zip", entries)
    place = tmp_path / "a.zip" / "set" / "img"
    assert list(list_files(place).items()) == [("1", place / "1.png"), ("b/2", place / "b" / "2.png")]
    assert places.is_there(place) and places.is_there(tmp_path / "a.zip") and places.is_zipped(place / "1.png")
    assert not places.is_there(tmp_path / "a.zip" / "set" / "im") and not places.is_there(tmp_path / "b.zip")
    assert not list(walk(tmp_path / "a.zip" / "other")) and not places.is_zipped(tmp_path / "a")


def test_a_folder_that_is_called_a_zip_is_a_folder(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images.zip", {"1.png": b"one"})
    assert list(walk(folder)) == [folder / "1.png"] and read_bytes(folder / "1.png") == b"one"
    assert not places.is_zipped(folder / "1.png") and places.gdal_name(folder / "1.png") == str(folder / "1.png")
    with pytest.raises(UnreadableTile, match="No such file"):
        read_bytes(folder / "2.png")


def test_the_directory_is_read_once_for_all_threads_and_anew_for_another_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def counted(path: Path) -> dict[str, archive.Member]:
        opened.append(path)
        return archive.list_members(path)

    monkeypatch.setattr(places, "list_members", counted)
    entries = {f"{i}.png": bytes([i]) * (i + 1) for i in range(200)}
    path = zip_of(tmp_path / "a.zip", entries)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: read_bytes(path / f"{i}.png"), range(200)))
    assert found == list(entries.values()) and opened == [path]
    zip_of(tmp_path / "b.zip", {"0.png": b"new"})
    os.replace(tmp_path / "b.zip", path)
    assert read_bytes(path / "0.png") == b"new" and len(opened) == 2
    with pytest.raises(UnreadableTile, match="No such file"):
        read_bytes(path / "1.png")


def test_no_more_zips_stay_open_than_are_used(tmp_path: Path) -> None:
    for i in range(3 * places._KEPT):
        zip_of(tmp_path / f"{i}.zip", {"1.png": bytes([65 + i])})
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else None
    assert [read_bytes(tmp_path / f"{i}.zip" / "1.png")[0] - 65 for i in range(3 * places._KEPT)] == list(range(3 * places._KEPT))
    assert len(places._archives) == places._KEPT
    if before is not None:
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + places._KEPT


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_reads_too_whatever_its_parent_was_at(tmp_path: Path) -> None:
    entries = {f"{i}.png": os.urandom(5000) for i in range(50)}
    path = zip_of(tmp_path / "a.zip", entries)
    read_bytes(path / "0.png")
    with places._lock:  # as another thread of the parent may hold it
        child = os.fork()
        if child == 0:  # pragma: no cover
            other = zip_of(tmp_path / "b.zip", entries)
            is_right = all(read_bytes(place / name) == data for place in (path, other) for name, data in entries.items())
            os._exit(0 if is_right else 1)
    assert all(read_bytes(path / name) == data for name, data in entries.items())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_file_is_named_and_the_others_are_read(tmp_path: Path, method: int) -> None:
    path = zip_of(tmp_path / "a.zip", {f"{i}.png": bytes(range(256)) * 4 for i in range(3)}, method)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as opened:
        data[opened.getinfo("1.png").header_offset + 60] ^= 0xFF
        data[opened.getinfo("2.png").header_offset] ^= 0xFF
    path.write_bytes(data)
    assert read_bytes(path / "0.png") == bytes(range(256)) * 4
    for name in ("1.png", "2.png"):
        with pytest.raises(UnreadableTile, match="damaged in the zip"):
            read_bytes(path / name)


def test_a_file_that_holds_more_than_it_says_is_damaged(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"1.png": b"a" * 100_000}, zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", 100_000), struct.pack("<I", 1000)))
    with pytest.raises(DamagedEntry, match="1001 bytes of 1000"):
        places.read(path / "1.png")


@pytest.mark.parametrize("keep", [0, 30, -10])
def test_a_zip_that_is_cut_is_one_line(tmp_path: Path, keep: int) -> None:
    path = zip_of(tmp_path / "a.zip", {"1.png": b"one" * 100})
    path.write_bytes(path.read_bytes()[:keep])
    for use in (lambda: read_bytes(path / "1.png"), lambda: list(walk(path)), lambda: places.version(path / "1.png")):
        with pytest.raises(LandsegError, match=r"a\.zip: not a readable zip"):
            use()


@pytest.mark.parametrize(("names", "found"), [(["../1.png"], "leads out"), (["/1.png"], "absolute"), (["1.png", "./1.png"], "twice")])
def test_hostile_names_and_duplicates_are_refused(tmp_path: Path, names: list[str], found: str) -> None:
    path = zip_of(tmp_path / "a.zip", dict.fromkeys(names, b"x"))
    with pytest.raises(LandsegError, match=found):
        list(walk(path))


def test_names_that_differ_by_case_alone_are_two_files(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"a.png": b"small", "A.png": b"large"})
    assert {name: read_bytes(file) for name, file in list_files(path).items()} == {"a": b"small", "A": b"large"}


def test_beyond_four_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with path.open("wb") as handle:
        handle.seek(5 << 30)  # sparse: the bytes before are a hole
        with zipfile.ZipFile(handle, "w") as target:
            target.writestr("1.png", b"far out")
    assert read_bytes(path / "1.png") == b"far out"
    assert places.gdal_name(path / "1.png") == f"/vsisubfile/{(5 << 30) + 35}_7,{path}"


def test_a_version_is_of_the_content_and_outlives_a_copy(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"1.png": b"one", "2.png": b"two"})
    first = [places.version(path / name) for name in ("1.png", "2.png")]
    os.utime(path, (1, 1))
    assert [places.version(path / name) for name in ("1.png", "2.png")] == first
    zip_of(path, {"1.png": b"eno", "2.png": b"two"})
    assert [places.version(path / name) == old for name, old in zip(("1.png", "2.png"), first, strict=True)] == [False, True]
    with pytest.raises(FileNotFoundError):
        places.version(path / "3.png")
    with pytest.raises(FileNotFoundError):
        places.version(tmp_path / "1.png")


def test_the_size_of_a_file_is_that_of_its_content(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"1.png": b"a" * 9000}, zipfile.ZIP_DEFLATED)
    folder_of(tmp_path, {"1.png": b"four"})
    assert (places.size(path / "1.png"), places.size(tmp_path / "1.png")) == (9000, 4)
    for place in (path, tmp_path):
        with pytest.raises(FileNotFoundError):
            places.size(place / "2.png")


def test_zips_below_a_folder_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one/a.zip", "one/two/b.zip", "once/c.zip"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        zip_of(tmp_path / name, {"1.png": b"x"})
        read_bytes(tmp_path / name / "1.png")
    monkeypatch.chdir(tmp_path)
    read_bytes(Path("one/a.zip/1.png"))
    places.forget(Path("one"))
    assert [key for key in places._archives if Path(key).absolute().is_relative_to(tmp_path)] == [str(tmp_path / "once" / "c.zip")]
    assert read_bytes(tmp_path / "one" / "a.zip" / "1.png") == b"x"


def test_gdal_finds_a_stored_tile_by_its_place_alone(tmp_path: Path) -> None:
    grid = Grid(16, 16, Affine(2, 0, 500_000, 0, -2, 4_000_000), CRS.from_epsg(32650))
    tiles = {f"图, {{{i}}}/{i}.tif": raster.encode(Path("t.tif"), np.full((16, 16), i, np.uint8), grid) for i in range(3)}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = zip_of(tmp_path / f"图, {method}.zip", tiles, method)
        for i, name in enumerate(tiles):
            called = places.gdal_name(path / name)
            if method == zipfile.ZIP_DEFLATED:
                assert called is None
                continue
            assert called is not None
            with rasterio.open(called) as source:
                assert source.transform == grid.transform and source.crs == grid.crs and (source.read(1) == i).all()
