"""Tiles are written to folders or to zips: the same files, and nothing where it does not end well."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from landseg.core.errors import LandsegError
from landseg.data.dataset import walk
from landseg.data.sink import Sink
from landseg.data.tiles import read_bytes

FILES = {"images": {"b/2.tif": b"II*\0" * 90, "1.png": b"\x89PNG"}, "labels": {"1.png": b"label" * 50}}


def write(folder: Path, *, is_packed: bool) -> dict[str, bytes]:
    with Sink(folder, is_packed=is_packed) as sink:
        put = [sink.put(role, name, data) for role, files in FILES.items() for name, data in files.items()]
    assert sorted(put) == sorted(path for role in FILES for path in walk(sink.place(role)))
    return {path.relative_to(sink.place(role)).as_posix(): read_bytes(path) for role in FILES for path in walk(sink.place(role))}


def test_folders_and_zips_hold_the_same(tmp_path: Path) -> None:
    assert write(tmp_path / "a", is_packed=False) == write(tmp_path / "b", is_packed=True)
    assert sorted(path.name for path in (tmp_path / "a").rglob("*.*")) == ["1.png", "1.png", "2.tif"]
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["images.zip", "labels.zip"]


def test_zips_are_stored_in_the_order_of_the_calls_and_their_bytes_tell_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a", is_packed=True)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1900000000")
    write(tmp_path / "b", is_packed=True)
    assert (tmp_path / "a" / "images.zip").read_bytes() == (tmp_path / "b" / "images.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a" / "images.zip") as opened:
        infos = opened.infolist()
    assert [(info.filename, info.compress_type, info.date_time[0]) for info in infos] == [("b/2.tif", 0, 1980), ("1.png", 0, 1980)]


def test_what_does_not_end_well_leaves_no_zip(tmp_path: Path) -> None:
    sink = Sink(tmp_path, is_packed=True)
    with pytest.raises(KeyboardInterrupt), sink:
        sink.put("images", "1.png", b"x")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_name_stands_in_a_zip_once(tmp_path: Path) -> None:
    with pytest.raises(LandsegError, match=r"images\.zip: 1\.png twice"), Sink(tmp_path, is_packed=True) as sink:
        sink.put("images", "1.png", b"x")
        sink.put("images", "1.png", b"y")
    assert not list(tmp_path.iterdir())


def test_more_files_than_a_zip_once_could_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 10)  # in truth 65,535; beyond it, the directory's end has a longer form
    files = {f"{i:02d}.png": bytes([i + 1]) for i in range(20)}
    with Sink(tmp_path, is_packed=True) as sink:
        for name, data in files.items():
            sink.put("images", name, data)
    assert b"PK\x06\x06" in (tmp_path / "images.zip").read_bytes()[-200:]
    assert {path.name: read_bytes(path) for path in walk(tmp_path / "images.zip")} == files


@pytest.mark.parametrize("name", ["north\\1/0000.tif", "1:5000/0000.tif", "/0000.tif", "../0000.tif", "\udcb2\udce2/0000.tif"])
def test_a_name_that_would_refuse_the_zip_is_refused_when_it_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(LandsegError, match=r"images\.zip: .* rename the file") as caught, Sink(tmp_path, is_packed=True) as sink:
        sink.put("images", name, b"x")
    str(caught.value).encode()  # it can be printed
    assert not list(tmp_path.iterdir())
