"""Files are written whole or not at all, and refusals say what to do."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from landseg.core import files
from landseg.core.errors import LandsegError
from landseg.core.files import (
    Growing,
    free_bytes,
    human_bytes,
    refuse_existing,
    replacing,
    require_room,
    write_bytes,
    write_json,
    write_text,
)


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
    write = os.write

    def full(handle: int, data: memoryview) -> int:
        if len(data) > 1:
            return write(handle, data[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(LandsegError, match="No space left on device") as caught:
        write_text(path, "new")
    assert caught.value.what == str(path)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_system_that_takes_little_at_a_time_gets_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:3]))
    write_bytes(tmp_path / "file", b"one two", b"", memoryview(b" three"))
    assert (tmp_path / "file").read_bytes() == b"one two three"


def test_a_checkpoint_is_flushed_before_it_is_named_and_its_name_after_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so are the names of folders that were made for it."""
    done: list[tuple[str, str]] = []
    opened: dict[int, str] = {}
    open_, sync, replace = os.open, os.fsync, os.replace

    def opening(path: Path, flags: int) -> int:
        handle = open_(path, flags)
        opened[handle] = Path(path).name
        return handle

    def replacing_(source: Path, target: Path) -> None:
        done.append(("name", Path(target).name))
        replace(source, target)

    def syncing(handle: int) -> None:
        done.append(("flush", opened[handle]))
        sync(handle)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", replacing_)
    partial = f".file.{os.getpid()}.partial"
    write_bytes(tmp_path / "new" / "folder" / "file", b"x", sync=True)
    names = [("flush", partial), ("name", "file"), ("flush", "folder"), ("flush", "new"), ("flush", tmp_path.name)]
    assert done == names
    done.clear()
    write_bytes(tmp_path / "new" / "folder" / "file", b"x", sync=True)
    assert done == names[:3]


def test_a_disk_that_cannot_flush_folders_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    number = errno.EINVAL
    files.sync_folder(tmp_path)
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        files.sync_folder(tmp_path)


@pytest.mark.parametrize("takes", [0, 1, 5, 8])
def test_a_growing_file_has_whole_pieces_only_and_none_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes: int) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"before\n")
    growing = Growing(path)
    growing.add(b"one\n")
    write, room = os.write, takes

    def full(handle: int, data: memoryview) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = write(handle, data[:room])
        room -= taken
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for piece in (b"the second\n", b"third\n"):
            with pytest.raises(OSError, match="No space"):
                growing.add(piece)
            assert path.read_bytes() == b"before\none\n"
            room = takes
    growing.add(b"four\n")
    growing.sync()
    assert path.read_bytes() == b"before\none\nthe second\nthird\nfour\n" and growing.pieces == 4
    growing.close()


def test_a_half_piece_that_could_not_be_taken_back_is_before_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    growing = Growing(tmp_path / "lines")
    write = os.write

    def full(handle: int, data: memoryview) -> int:
        if len(data) > 1:
            return write(handle, data[:1])
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def away(handle: int, size: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        patch.setattr(os, "ftruncate", away)
        with pytest.raises(OSError, match="Input/output"):
            growing.add(b"one\n")
    growing.add(b"two\n")
    growing.close()
    assert (tmp_path / "lines").read_bytes() == b"one\ntwo\n"


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


@pytest.mark.parametrize("how", ["sync", "close"])
def test_a_piece_that_waits_is_written_when_the_file_is_flushed_or_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    growing = Growing(tmp_path / "lines")

    def full(handle: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            growing.add(b"one\n")
        with pytest.raises(OSError, match="No space"):
            growing.sync()
    getattr(growing, how)()
    assert (tmp_path / "lines").read_bytes() == b"one\n"
    growing.close()
