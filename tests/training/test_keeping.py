"""A disk that refuses ends no run, harms nothing that lay there, and gets what it refused when it has room."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.core.runs import Run
from landseg.network.checkpoint import ModelCard, load_card
from landseg.training import keeping
from landseg.training.keeping import Keeper
from landseg.training.state import load_state


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    opened = Run(tmp_path / "run")
    yield opened
    opened.close()


def card(miou: float | None, epoch: int) -> ModelCard:
    return ModelCard(
        landseg_version="test", network="unet", encoder="none", bands=("grey",), dtype="uint8", mean=(0.0,), std=(1.0,),
        classes=make_classes(("road", "field")), tile_size=(32, 32), scores={"val": {"miou": miou, "epoch": epoch}},
    )  # fmt: skip


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((100,), value)}


def kept(run: Run) -> tuple[object, object]:
    score = load_card(run.folder / "model").scores["val"]
    return score["miou"], score["epoch"]


@contextmanager
def full(takes: int = 10) -> Iterator[None]:
    """A disk with room for a few bytes more."""
    write, room = os.write, takes

    def some(handle: int, data: memoryview) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = write(handle, data[:room])
        room -= taken
        return taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", some)
        yield


def test_only_a_better_model_takes_the_place(run: Run) -> None:
    keeper = Keeper(run, resume=False)
    assert (keeper.miou, keeper.epoch) == (-1.0, -1)
    for miou, epoch, wanted in [(None, 1, (None, 1)), (0.3, 2, (0.3, 2)), (0.2, 3, (0.3, 2)), (0.3, 4, (0.3, 2)), (0.31, 5, (0.31, 5))]:
        keeper.keep_model(weights(epoch), card(miou, epoch))
        assert kept(run) == wanted
    assert (keeper.miou, keeper.epoch, keeper.best) == (0.31, 4, 0.31)
    keeper.end()


def test_a_resumed_run_gives_up_no_model_for_a_lesser_one_and_a_new_run_takes_its_own(run: Run) -> None:
    Keeper(run, resume=False).keep_model(weights(1), card(0.6, 9))
    again = Keeper(run, resume=True)
    assert (again.miou, again.epoch) == (0.6, 8)
    again.keep_model(weights(2), card(0.5, 3))
    assert kept(run) == (0.6, 9)
    Keeper(run, resume=False).keep_model(weights(2), card(0.5, 3))
    assert kept(run) == (0.5, 3)


def test_a_model_without_room_waits_whatever_the_network_learns_meanwhile(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    keeper, network = Keeper(run, resume=False), weights(1)
    keeper.keep_model(network, card(0.1, 1))
    with caplog.at_level(logging.INFO, "landseg"):
        with full():
            for miou, epoch in ((0.2, 2), (0.4, 3), (0.3, 4)):
                network["w"].fill_(epoch)
                keeper.keep_model(network, card(miou, epoch))
                assert kept(run) == (0.1, 1) and keeper.best == max(0.2, miou, keeper.best)
            with pytest.raises(LandsegError, match=r"mIoU 0\.4000\) could not be kept .*No space left"):
                keeper.end()
        network["w"].fill_(9)
        assert sorted(path.name for path in run.folder.iterdir() if "model" in path.name) == ["model"], "no litter on a full disk"
        assert keeper.save_state({"step": 8})
    assert kept(run) == (0.4, 3) and keeper.miou == 0.4
    from safetensors.torch import load_file

    assert torch.equal(load_file(run.folder / "model" / "model.safetensors")["w"], torch.full((100,), 3.0))
    assert caplog.text.count("training goes on") == 1 and caplog.text.count("saved again") == 1
    keeper.end()


def test_a_state_without_room_is_told_once_and_saved_later(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    keeper = Keeper(run, resume=False)
    assert keeper.save_state({"step": 1, "w": torch.zeros(99)})
    with caplog.at_level(logging.INFO, "landseg"):
        for step in (2, 3):
            with full(700):
                assert not keeper.save_state({"step": step, "w": torch.zeros(99)})
            assert load_state(run.folder / "state")["step"] == 1
            assert len(list((run.folder / "state").iterdir())) == 1
        assert keeper.save_state({"step": 4})
        with full():
            keeper.save_state({"step": 5})
    assert caplog.text.count("training goes on") == 2, "once for each time that it was full"
    assert "the last one on the disk is of step 1" in caplog.text and "the last one on the disk is of step 4" in caplog.text


def test_no_state_is_saved_from_which_a_model_that_waits_could_not_be_found_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper(run, resume=False)
    keeper.keep_model(weights(1), card(0.1, 1))
    assert keeper.save_state({"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(keeping, "save_model", refusing)
        keeper.keep_model(weights(2), card(0.2, 2))
        assert not keeper.save_state({"step": 2})
    assert load_state(run.folder / "state")["step"] == 1 and kept(run) == (0.1, 1)
    assert keeper.save_state({"step": 3}) and kept(run) == (0.2, 2)


def refusing(*_: object) -> None:
    raise LandsegError("model", "it cannot be written", "room", "free some")


@pytest.mark.parametrize("folder", ["", "state"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_learnt(
    run: Run, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (run.folder / "state").mkdir()
    real = Path.open

    def read_only(self: Path, mode: str = "r", *arguments: object, **options: object) -> object:
        if self.parent == run.folder / folder and "w" in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(self, mode, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", read_only)
    with pytest.raises(LandsegError, match="Read-only file system"):
        Keeper(run, resume=True)


def test_what_a_kill_left_of_a_model_is_put_right_at_once(run: Run) -> None:
    Keeper(run, resume=False).keep_model(weights(1), card(0.6, 9))
    os.rename(run.folder / "model", run.folder / ".model.old")
    (run.folder / ".model.new").mkdir()
    keeper = Keeper(run, resume=True)
    assert keeper.miou == 0.6 and kept(run) == (0.6, 9)
    assert not list(run.folder.glob(".model.*"))


def test_a_finished_run_whose_model_has_gone_is_told_of(run: Run) -> None:
    with pytest.raises(LandsegError, match="the best model of this finished run has gone"):
        Keeper(run, resume=True).end()
