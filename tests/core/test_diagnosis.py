"""What is slow is named, and what is not is not: on machines that are only described."""

from __future__ import annotations

from dataclasses import replace

import pytest

from landseg.core.diagnosis import Facts, Finding, Speeds, Wanted, diagnose, why_no_gpu
from landseg.core.machine import Gpu, Room

H100 = Gpu(0, "NVIDIA H100", "GPU-1", 10**9, 80 * 10**9, 0.0, 30)
WORKSTATION = Facts(16, 16, 0.5, Room(128 * 10**9, 100 * 10**9), Room(10**12, 5 * 10**11), "/data", (H100,), "cuda")
QUICK = Speeds({"JPEG": 1000.0, "PNG": 800.0}, {256: 2000.0, 128: 7000.0}, 5e8, 1e9, 2e10)
LAPTOP = replace(WORKSTATION, cores=2, installed=2, gpus=(), device="cpu", no_gpu="no NVIDIA driver here")
SLOW = replace(QUICK, train={256: 10.0, 128: 35.0}, copy=None)
MINE = Wanted("village", 2000, 10**9, False)


def said(findings: list[Finding], severity: str) -> str:
    return "\n".join(text for found, text in findings if found == severity)


def test_a_good_machine_has_nothing_slow() -> None:
    found = diagnose(WORKSTATION, QUICK)
    assert {severity for severity, _ in found} == {"note"}
    assert "2,000 images/s at 256 × 256: an epoch of 1,000 tiles takes 0.5 s, 60 epochs 30 s" in said(found, "note")
    assert "decoding gives 12,800 tiles/s (PNG, 16 cores), the network takes 2,000: data will not be the bottleneck" in said(found, "note")


def test_without_a_gpu_the_time_and_the_way_to_shorten_it_are_said() -> None:
    found = diagnose(LAPTOP, SLOW, MINE)
    assert "no GPU: the network trains at 10 images/s at 256 × 256: an epoch of 2,000 tiles takes 3 minutes" in said(found, "slow")
    assert "--set train.size=128 trains 3.5 times as many tiles an hour" in said(found, "note")
    assert "which is 9.0 epochs here" in said(found, "note")
    assert "train.size" not in said(diagnose(LAPTOP, replace(SLOW, train={256: 10.0, 128: 9.0})), "note"), "only where it helps"


@pytest.mark.parametrize(
    ("rate", "severity", "words"), [(1100.0, "slow", "wait for data"), (1600.0, "note", "decoded anew"), (4100.0, "note", "will not")]
)
def test_decoding_is_held_against_the_network(rate: float, severity: str, words: str) -> None:
    speeds = replace(QUICK, decode={"JPEG": rate}, train={256: 2000.0})
    assert words in said(diagnose(replace(WORKSTATION, cores=2, installed=2), speeds), severity)


@pytest.mark.parametrize(
    ("facts", "speeds", "wanted", "severity", "words"),
    [
        ({"gpus": (H100,), "no_gpu": "a reason"}, {}, None, "trouble", "NVIDIA H100 is there, but torch does not use it: a reason"),
        ({"disk": Room(10**12, 10**9)}, {}, MINE, "slow", "the pack of village (1.0 GB) does not fit"),
        ({"disk": Room(10**12, 4 * 10**9)}, {}, None, "slow", "4.0 GB free on the disk"),
        ({"disk": Room(10**12, 10**8)}, {}, None, "trouble", "100.0 MB free on the disk: a run needs"),
        ({}, {"write": 1e7}, None, "slow", "the disk takes 10.0 MB/s: saving a state takes 5.1 s"),
        ({}, {"refused": {"disk": "Read-only file system"}}, None, "slow", "/data cannot be written (Read-only file system)"),
        ({"memory": Room(10**10, 10**9)}, {}, None, "slow", "1.0 GB of memory free"),
        ({"cores": 1}, {}, None, "note", "1 of the machine's 2 cores may be used"),
        ({"load": 3.0}, {}, None, "slow", "others are computing (load 3.0 on 2 cores)"),
        ({"load": 3.0}, {}, None, "note", "OMP_WAIT_POLICY=passive"),
        ({"faults": ("PROJ is broken: mend it",)}, {}, None, "trouble", "PROJ is broken: mend it"),
    ],
)
def test_each_fault_is_found_and_only_where_it_is(facts: dict, speeds: dict, wanted: Wanted | None, severity: str, words: str) -> None:  # type: ignore[type-arg]
    assert words in said(diagnose(replace(LAPTOP, **facts), replace(SLOW, **speeds), wanted), severity)
    assert words not in "".join(text for _, text in diagnose(LAPTOP, SLOW, wanted))


def test_a_pack_that_is_written_needs_no_room_and_other_programs_on_a_card_are_seen() -> None:
    full = replace(LAPTOP, disk=Room(10**12, 6 * 10**9))
    large = replace(MINE, pack_bytes=10**11)
    assert "does not fit" in said(diagnose(full, SLOW, large), "slow")
    assert "does not fit" not in said(diagnose(full, SLOW, replace(large, is_packed=True)), "slow")
    taken = replace(WORKSTATION, gpus=(replace(H100, memory_used=60 * 10**9),))
    assert "60.0 GB of 80.0 GB of its memory is taken" in said(diagnose(taken, QUICK), "slow")
    assert not said(diagnose(replace(taken, gpus=(replace(H100, memory_used=None),)), QUICK), "slow")


def test_what_was_not_measured_is_not_judged_and_the_worst_comes_first() -> None:
    assert diagnose(replace(LAPTOP, memory=None, disk=None, load=None), Speeds()) == []
    ranks = [severity for severity, _ in diagnose(replace(LAPTOP, faults=("x",), load=9.0), SLOW)]
    assert ranks == sorted(ranks, key=["trouble", "slow", "note"].index) and set(ranks) == {"trouble", "slow", "note"}


@pytest.mark.parametrize(
    ("is_built", "gpus", "driver", "visible", "words"),
    [
        (True, (), None, None, "no NVIDIA driver"),
        (True, (), "550", "", "CUDA_VISIBLE_DEVICES='' shows none"),
        (False, (H100,), "550", None, "built for the CPU alone"),
        (True, (H100,), "440", None, "driver 440 is too old"),
    ],
)
def test_why_there_is_no_gpu(
    is_built: bool, gpus: tuple[Gpu, ...], driver: str | None, visible: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert words in why_no_gpu(is_built, gpus, driver, visible)
