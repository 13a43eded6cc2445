"""Files are written whole or not at all, and refusals say what to do."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from landseg.core import files
from landseg.core.errors import LandsegError
from landseg.core.files import free_bytes, human_bytes, refuse_existing, replacing, require_room, write_bytes, write_json, write_text


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_takes_its_place_with_its_folders(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "a" / "b" / "c.bin"
    write_bytes(path, b"one", sync=sync)
    write_bytes(path, b"two", sync=sync)
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interruption_leaves_the_old_file_and_no_litter(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(error), replacing(path) as partial:
        partial.write_text("half", encoding="utf-8")
        raise error
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_error_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as handle:
            handle.write(data[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(LandsegError, match="No space left on device") as caught:
        write_text(path, "new")
    assert caught.value.what == str(path)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_where_a_folder_is_needed_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(LandsegError, match="cannot be written"):
        write_text(tmp_path / "file" / "below", "y")


def test_a_folder_where_the_file_should_be_is_one_error_without_litter(tmp_path: Path) -> None:
    (tmp_path / "taken" / "x").mkdir(parents=True)
    with pytest.raises(LandsegError, match="cannot be written"):
        write_text(tmp_path / "taken", "y")
    assert [item.name for item in tmp_path.iterdir()] == ["taken"]


def test_json_is_for_people(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"名": [1, None]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "名" in text and text.endswith("}\n") and json.loads(text) == {"名": [1, None]}


def test_an_existing_output_is_refused_unless_told(tmp_path: Path) -> None:
    empty, full, file = tmp_path / "empty", tmp_path / "full", tmp_path / "file"
    empty.mkdir()
    full.mkdir()
    write_text(full / "x", "y")
    write_text(file, "")
    refuse_existing(tmp_path / "none", overwrite=False)
    refuse_existing(empty, overwrite=False)
    for path in (full, file):
        with pytest.raises(LandsegError, match="--overwrite"):
            refuse_existing(path, overwrite=False)
        refuse_existing(path, overwrite=True)


def test_room_is_asked_of_the_disk_that_will_hold_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "not" / "there" / "yet"
    assert free_bytes(deep) > 0
    require_room(deep, 1, "a byte")
    monkeypatch.setattr(files, "free_bytes", lambda folder: 2_000_000)
    with pytest.raises(LandsegError, match=r"2\.0 MB free, the pack takes 3\.5 GB"):
        require_room(deep, 3_500_000_000, "the pack")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1536, "1.5 kB"), (2.5e6, "2.5 MB"), (1e9, "1.0 GB"), (5.25e15, "5250.0 TB")]
)
def test_sizes_for_people(count: float, text: str) -> None:
    assert human_bytes(count) == text
