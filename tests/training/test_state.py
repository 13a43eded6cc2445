"""What resumes a run: two generations, checksummed, read without running code."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path

import pytest
import torch

from landseg.core.errors import LandsegError
from landseg.training import state as room
from landseg.training.state import VERSION, has_state, load_state, save_state


def content(step: int) -> dict[str, object]:
    return {"step": step, "network": {"w": torch.full((3,), float(step))}, "position": {"epoch": 1, "best": 0.5}, "lines": [1, None, "x"]}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save_state(tmp_path / "state", content(7))
    found = load_state(tmp_path / "state")
    assert found["version"] == VERSION and found["position"] == {"epoch": 1, "best": 0.5} and found["lines"] == [1, None, "x"]
    assert torch.equal(found["network"]["w"], torch.full((3,), 7.0))
    assert names(tmp_path / "state") == ["step-000000007.state"]


def test_two_generations_are_kept(tmp_path: Path) -> None:
    for step in (5, 90, 1000, 123_456_789):
        save_state(tmp_path, content(step))
    assert names(tmp_path) == ["step-000001000.state", "step-123456789.state"]
    assert load_state(tmp_path)["step"] == 123_456_789


def test_a_step_that_is_saved_twice_is_one_generation(tmp_path: Path) -> None:
    for step in (5, 6, 6):
        save_state(tmp_path, content(step))
    assert len(names(tmp_path)) == 2 and load_state(tmp_path)["step"] == 6


@pytest.mark.parametrize("harm", ["byte", "cut", "empty", "digest", "no digest"])
def test_a_damaged_newest_is_passed_over_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str) -> None:
    for step in (5, 6):
        save_state(tmp_path, content(step))
    newest = tmp_path / "step-000000006.state"
    data = bytearray(newest.read_bytes())
    if harm == "byte":
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
    elif harm in ("cut", "empty"):
        newest.write_bytes(data[:-5] if harm == "cut" else b"")
    elif harm == "digest":
        newest.write_bytes(b"0" * 64 + data[64:])
    else:
        newest.write_bytes(data[65:])
    with caplog.at_level(logging.WARNING, "landseg"):
        assert load_state(tmp_path)["step"] == 5
    assert "step-000000006.state: damaged" in caplog.text


def test_killed_while_the_same_step_is_saved_again_leaves_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during a validation saves a step that the end of the epoch saves again; there is no instant between the two."""
    save_state(tmp_path, content(6))

    def killed(*_: object) -> None:
        raise SystemExit

    for call in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, killed)
            with pytest.raises(SystemExit):
                save_state(tmp_path, content(6))
        assert load_state(tmp_path)["step"] == 6


def test_a_state_of_a_future_that_was_given_up_pushes_out_no_good_one(tmp_path: Path) -> None:
    for step in (100, 200):
        save_state(tmp_path, content(step))
    (tmp_path / "step-000000200.state").write_bytes(b"damaged")
    assert load_state(tmp_path)["step"] == 100
    save_state(tmp_path, content(150))
    assert names(tmp_path) == ["step-000000100.state", "step-000000150.state"]
    (tmp_path / "step-000000150.state").write_bytes(b"damaged too")
    assert load_state(tmp_path)["step"] == 100


@pytest.mark.parametrize(("other", "advice"), [(1, "or a newer one"), (-1, "--overwrite")])
def test_another_version_is_refused_and_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: int, advice: str) -> None:
    save_state(tmp_path, content(5))
    with monkeypatch.context() as patch:
        patch.setattr(room, "VERSION", VERSION + other)
        save_state(tmp_path, content(6))
    with pytest.raises(LandsegError, match=f"state version {VERSION + other}, version {VERSION}; .*{advice}"):
        load_state(tmp_path)


def test_no_state_says_what_to_do(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        assert not has_state(folder)
        with pytest.raises(LandsegError, match=r"no state that can be read.*--overwrite"):
            load_state(folder)
    save_state(tmp_path, content(5))
    assert has_state(tmp_path)
    (tmp_path / "step-000000005.state").write_bytes(b"")
    with pytest.raises(LandsegError, match="no state that can be read"):
        load_state(tmp_path)


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch, of the file that is refused
@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_state_that_would_run_code_is_not_loaded(tmp_path: Path, form: str) -> None:
    trace, folder = tmp_path / "was here", tmp_path / "state"
    save_state(folder, content(5))
    save_state(folder, {**content(6), "attack": Attack(trace)})
    if form == "pickle":
        data = pickle.dumps(Attack(trace))
        (folder / "step-000000006.state").write_bytes(room.hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
    assert load_state(folder)["step"] == 5
    assert not trace.exists()


def test_a_disk_that_is_full_leaves_the_states_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (5, 6):
        save_state(tmp_path, content(step))
    real, taken = os.write, 0

    def full(handle: int, data: memoryview) -> int:
        nonlocal taken
        if taken:
            raise OSError(28, os.strerror(28))
        taken = real(handle, data[: len(data) // 2])
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(LandsegError, match="No space left"):
            save_state(tmp_path, content(7))
    assert load_state(tmp_path)["step"] == 6
    assert not [name for name in names(tmp_path) if "partial" in name]
    save_state(tmp_path, content(8))
    assert names(tmp_path) == ["step-000000006.state", "step-000000008.state"]
