"""What `bench/gpu.py` does without a GPU, and what it makes of its findings; `--rehearse` runs all of it on a CPU."""

from __future__ import annotations

import multiprocessing
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def gpu() -> Any:
    sys.path.insert(0, str(BENCH))
    try:
        import gpu
    finally:
        sys.path.remove(str(BENCH))
    return gpu


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here, and would be measured")
def test_without_a_gpu_it_says_so_in_a_line(gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--peer", "train_smp.py"])
    with pytest.raises(SystemExit) as caught:
        gpu.main()
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith("no GPU here") and said.err.count("\n") == 1 and not said.out


def test_waits_are_counted_by_the_line_that_makes_them(gpu: Any) -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally at …)", UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
    figures = gpu.waits_of(found)
    assert figures["waits"] == 3 and list(figures["where"].values()) == [3]
    assert next(iter(figures["where"])).startswith("repo/test_gpu_bench.py:")


def test_a_part_that_fails_or_comes_late_is_recorded(gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parts = gpu.Parts(100.0, torch.device("cpu"))

    def fails() -> dict[str, Any]:
        raise RuntimeError("CUDA error: no kernel image")

    monkeypatch.setattr(gpu, "release", lambda _: None)
    assert parts.do("script", fails) == {}
    turns = {"landseg images/s": 97.0, "bare images/s": 80.0, "bare compiled images/s": 100.0, "best": "bare compiled"}
    assert parts.do("in turns", lambda: {**turns, "ratio": 0.97, "met": True})["ratio"] == 0.97
    now = time.perf_counter()
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: now + 101)
    assert parts.do("memory", lambda: {"peak MB": 1}) == {}
    gpu.write({"surroundings": gpu.surroundings(torch.device("cpu")), **parts.found}, tmp_path / "record", "python bench/gpu.py")
    text = (tmp_path / "record" / "README.md").read_text(encoding="utf-8")
    assert "0.970 of the best bare step, bar 0.95: met" in text
    assert "script: RuntimeError: CUDA error: no kernel image" in text and "memory: 10" in text and " s had gone" in text
    assert "| landseg / ordinary script | – |" in text and "| peak MB of a step | – |" in text
    assert "RuntimeError" in (tmp_path / "record" / "gpu.json").read_text(encoding="utf-8")


def test_a_script_that_dies_is_a_finding_and_ends_no_benchmark(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    side, (ours, theirs) = object.__new__(gpu.Apart), multiprocessing.Pipe()
    side._pipe = ours
    theirs.close()
    parts = gpu.Parts(100.0, torch.device("cpu"))
    monkeypatch.setattr(gpu, "release", lambda _: None)
    assert parts.do("script", lambda: {"images": side(1)}) == {}
    assert "the script's process has ended" in parts.found["script"]["failed"]
