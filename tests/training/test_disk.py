"""A run says before it begins what it will take of the disk, and takes no more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from landseg.core.errors import LandsegError
from landseg.core.settings import TrainConfig
from landseg.network.auxiliary import Supervised
from landseg.network.build import Normalisation, build
from landseg.network.checkpoint import ModelCard, save_model
from landseg.training import disk
from landseg.training.averages import make_average
from landseg.training.disk import Need, need, require_disk
from landseg.training.optimiser import make_optimiser
from landseg.training.state import save_state

NORMALISATION = Normalisation((1.0,), (1.0,))


@pytest.mark.parametrize(("optimiser", "ema", "head"), [("sgd", None, False), ("adamw", 0.9, True)])
def test_what_is_counted_before_the_first_step_is_what_is_written_after_it(
    tmp_path: Path, optimiser: str, ema: float | None, head: bool
) -> None:
    torch.manual_seed(0)
    network = build("unet", "mobilenetv3_small_050", 1, 2, NORMALISATION)
    settings = TrainConfig(optimiser=optimiser, ema=ema)  # type: ignore[arg-type]
    average = make_average(network, settings)
    model = Supervised(network, 2) if head else network
    steps = make_optimiser(model, settings)

    def state() -> dict[str, object]:
        more = {} if average is None else {"average": average.state_dict()}
        if isinstance(model, Supervised):
            more["second_head"] = model.head.state_dict()
        return {"step": 1, "network": network.state_dict(), "optimiser": steps.state_dict(), **more}

    counted = need(state(), network.state_dict(), steps)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    steps.step()
    assert need(state(), network.state_dict(), steps).state == pytest.approx(counted.state, rel=0.1), "counted alike when it is resumed"
    save_state(tmp_path / "state", state())
    (written,) = (path.stat().st_size for path in (tmp_path / "state").iterdir())
    assert written <= counted.state <= 1.25 * written
    card = ModelCard(
        landseg_version="test", network="unet", encoder="mobilenetv3_small_050", bands=("grey",), dtype="uint8", mean=(1.0,), std=(1.0,),
        classes=(), tile_size=(32, 32),
    )  # fmt: skip
    save_model(tmp_path / "model", network.state_dict(), card)
    written = sum(path.stat().st_size for path in (tmp_path / "model").iterdir())
    assert written <= counted.model <= 1.25 * written


def test_a_budget_that_cannot_hold_the_run_is_refused_with_numbers(tmp_path: Path) -> None:
    needed = Need(100_000_000, 30_000_000)
    require_disk(tmp_path, needed, TrainConfig(disk_gb=0.37))
    with pytest.raises(LandsegError) as caught:
        require_disk(tmp_path, needed, TrainConfig(disk_gb=0.3))
    said = str(caught.value)
    assert said.startswith("train.disk_gb: 0.3, which is 300.0 MB, up to 370.0 MB (3 states of 100.0 MB and 2 models of 30.0 MB")
    advised = float(said.rpartition("train.disk_gb=")[2].split()[0])
    require_disk(tmp_path, needed, TrainConfig(disk_gb=advised))


def test_a_disk_that_cannot_hold_the_run_is_refused_what_the_run_holds_already_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 11_000_000)
    needed = Need(400, 400)
    require_disk(tmp_path / "not yet there", needed, TrainConfig())
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 9_999_000)
    with pytest.raises(LandsegError, match=r"10\.0 MB free, up to 10\.0 MB"):
        require_disk(tmp_path, needed, TrainConfig())
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "step-000000001.state").write_bytes(b"x" * 5000)
    require_disk(tmp_path, needed, TrainConfig())
