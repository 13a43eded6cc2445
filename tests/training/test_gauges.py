"""What the system does not tell is left out; the GPU that is read is the one that computes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from landseg.core import machine
from landseg.core.machine import Gpu, Room
from landseg.training.gauges import Machine

CPU = torch.device("cpu")


def gpu(index: int, use: float | None = 0.5, used: int | None = 31_200_000_000) -> Gpu:
    return Gpu(index, "card", f"GPU-{index:04d}", used, 80_000_000_000, use, 60)


def test_this_machine_tells_what_it_can(tmp_path: Path) -> None:
    found = Machine(CPU, tmp_path / "not yet there").metrics()
    assert found["disk/free_gb"] > 0 and "gpu/use" not in found
    if Path("/proc/self/statm").is_file():
        assert 10 < found["memory/process_mb"] < 1e6 and found["memory/free_mb"] > 0


def test_what_is_not_told_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("resident_bytes", "memory", "disk", "cpu_times"):
        monkeypatch.setattr(machine, name, lambda *_: None)
    silent = Machine(CPU, tmp_path)
    assert silent.metrics() == {} and silent.gauges() == []


def test_the_words_say_what_the_numbers_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([(100.0, 1000.0), (135.0, 1100.0)])
    monkeypatch.setattr(machine, "cpu_times", lambda: next(ticks))
    monkeypatch.setattr(machine, "resident_bytes", lambda: 2_100_000_000)
    monkeypatch.setattr(machine, "memory", lambda: Room(128_000_000_000, 96_000_000_000))
    monkeypatch.setattr(machine, "disk", lambda _: Room(0, 211_000_000_000))
    monkeypatch.setattr(machine, "cores", lambda: 16)
    watched = Machine(CPU, tmp_path)
    assert watched.metrics() == {"memory/process_mb": 2100, "memory/free_mb": 96_000, "disk/free_gb": 211, "cpu/use": 0.35}
    assert watched.gauges() == [("CPU", "35 % of 16 cores"), ("RAM", "2.1 GB, 96.0 GB free"), ("disk", "211.0 GB free")]
    # The second question came within a second of the first: the clock of the processor would have had no third answer.


@pytest.mark.parametrize(
    ("uuid", "index", "found", "expected"),
    [
        ("0001", 0, [gpu(0, 0.1), gpu(1, 0.9)], 0.9),  # CUDA's first card is the driver's second
        ("", 1, [gpu(0, 0.1), gpu(1, 0.9)], 0.9),  # a PyTorch that does not tell the card's identity
        ("", 3, [gpu(0, 0.1)], None),
        ("0000", 0, [gpu(0, None)], None),
        ("0000", 0, [], None),
    ],
)
def test_the_card_that_computes_is_the_one_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uuid: str, index: int, found: list[Gpu], expected: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid=uuid))
    monkeypatch.setattr(machine, "gpus", lambda: tuple(found))
    watched = Machine(torch.device("cuda", index), tmp_path)
    assert watched.metrics().get("gpu/use") == expected
    words = dict(watched.gauges()).get("GPU")
    if expected is not None:
        assert words == "90 %, 31.2 GB of 80.0 GB"
    elif len(found) == 1 and uuid:
        assert words == "31.2 GB of 80.0 GB"
