"""Who resumes what cannot be resumed is told in one line; a disk that fills up and a scheduler that knocks stop no run."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from landseg.core.errors import LandsegError
from landseg.core.runs import read_metrics
from landseg.training import state as room
from landseg.training import step
from landseg.training.state import has_state, load_state, save_state
from landseg.verbs.train import train
from shared.runs import divided

SETTINGS = ("train.epochs=2", "train.batch=4", "train.device=cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return divided(tmp_path_factory.mktemp("data"), 8, val=2)


@pytest.fixture(scope="module")
def begun(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    train(data, run, recipe="tiny", settings=SETTINGS)
    return run


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "run"))


def refused(data: Path, run: Path) -> str:
    with pytest.raises(LandsegError) as caught:
        train(data, run, resume=True)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


def test_states_of_another_network_are_one_line(data: Path, run: Path) -> None:
    state = load_state(run / "state")
    network = dict(list(state.pop("network").items())[5:])
    save_state(run / "state", {**state, "network": network})
    before = {path: path.read_bytes() for kind in ("state/*", "model/*", "*.yaml", "metrics.jsonl") for path in run.glob(kind)}
    said = refused(data, run)
    assert f"{run / 'state'}: its states are of another network" in said and "--overwrite" in said
    assert len(before) == 6 and {path: path.read_bytes() for path in before} == before, "nothing was changed"


def test_states_of_a_newer_version_are_one_line(data: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = load_state(run / "state")
    save_state(run / "state", {**state, "version": room.VERSION + 1})
    assert f"state version {room.VERSION + 1}" in refused(data, run)


@pytest.mark.parametrize("where", ["", "state"])
def test_a_folder_that_cannot_be_written_is_one_line(data: Path, run: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Its files are whole and may be read; the user who runs the tests may be one whom no permissions hold back."""
    real = Path.open

    def read_only(self: Path, mode: str = "r", *arguments: object, **options: object) -> object:
        if self.is_relative_to(run / where) and set(mode) & set("wax+"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(self, mode, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", read_only)
    said = refused(data, run)
    assert "it cannot be written (Read-only file system)" in said and str(run / where) in said


def test_a_run_that_could_need_more_than_its_budget_is_refused_before_a_former_one_is_touched(data: Path, run: Path) -> None:
    with pytest.raises(LandsegError, match=r"train\.disk_gb: 0\.02, which is 20\.0 MB, up to .*3 states of") as caught:
        train(data, run, recipe="tiny", settings=[*SETTINGS, "train.disk_gb=0.02"], overwrite=True)
    assert has_state(run / "state")
    enough = float(str(caught.value).rpartition("train.disk_gb=")[2].split()[0])
    train(data, run, recipe="tiny", settings=[*SETTINGS, f"train.disk_gb={enough}"], overwrite=True)
    assert sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) < 1e9 * enough


def test_a_model_that_has_gone_is_made_again_of_the_last_state(data: Path, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(run / "model")
    done = train(data, run, resume=True)
    assert "has gone; the next one that is validated is kept" in caplog.text
    assert done.epochs == 2 and (run / "model" / "model.safetensors").is_file()


FILLING = """
import sys
from landseg.__main__ import run
from landseg.training import keeping

keep = keeping.save_state

def fill(folder, state):
    keep(folder, state)
    path = folder.parents[1] / "fill"
    if state["step"] and not path.exists():
        try:
            with path.open("wb", buffering=0) as handle:
                while True:
                    handle.write(bytes(1_000_000))
        except OSError:
            pass

keeping.save_state = fill
run()
"""
"""`landseg`, but that after the state of its first step another program takes all of the room that is left on the disk."""


def test_on_a_small_disk_that_fills_up_training_goes_on_and_what_was_saved_stays_whole(data: Path, begun: Path, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    probe = [str(unshare), "-m", "mount", "-t", "tmpfs", "none", str(tmp_path)]
    if unshare is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("a small disk is mounted as root in a mount namespace, which this machine does not allow")
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    settings = [word for setting in (*SETTINGS, "train.save_minutes=1e-9") for word in ("--set", setting)]
    words = [sys.executable, "-c", FILLING, "train", str(data), "--out", str(disk / "run"), "-c", "tiny", *settings]
    script = f"mount -t tmpfs -o size=100m none {disk} && {shlex.join(words)}; code=$?; rm {disk}/fill; cp -r {disk}/run {kept}; exit $code"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([unshare, "-m", "sh", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr and "No space left on device" in done.stderr, done.stderr
    assert done.stderr.count("so the state is not saved") == 1 and "training goes on" in done.stderr
    assert done.returncode == 2 and "could not be kept" in done.stderr, "there was no room for a model to the end"
    assert load_state(kept / "state")["step"] == 1
    assert train(data, kept, resume=True).epochs == 2
    lines = [[(line["step"], line.get("train/loss"), line.get("val/miou")) for line in read_metrics(folder)] for folder in (begun, kept)]
    assert lines[0] == lines[1]
    assert (begun / "model" / "model.safetensors").read_bytes() == (kept / "model" / "model.safetensors").read_bytes()
    whole, resumed = (load_state(folder / "state")["network"] for folder in (begun, kept))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="a signal that Windows has not")
def test_sigusr1_saves_within_a_validation_and_the_run_goes_on_as_if_it_had_not(
    data: Path, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, before = step.full_size_logits, signal.getsignal(signal.SIGUSR1)

    def knocking(*arguments: object, **options: object) -> object:
        if "as a signal asked" not in caplog.text:
            os.kill(os.getpid(), signal.SIGUSR1)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(step, "full_size_logits", knocking)
    with caplog.at_level(logging.INFO, "landseg"):
        train(data, tmp_path / "run", recipe="tiny", settings=SETTINGS)
    assert caplog.text.count("saved, as a signal asked") == 1
    assert signal.getsignal(signal.SIGUSR1) == before
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == (begun / "model" / "model.safetensors").read_bytes()
