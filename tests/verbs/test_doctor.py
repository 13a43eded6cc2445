"""The doctor answers on any machine, leaves nothing behind, and says what it could not measure."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from landseg.cli import main
from landseg.core import machine
from landseg.core.errors import LandsegError
from landseg.data import trials
from landseg.data.tiles import decode_image
from landseg.data.world import CLASSES, write_tiles
from landseg.training.trials import BareStep, StepSpeed, copy_rate
from landseg.verbs import doctor as verb
from landseg.verbs.doctor import Examined, doctor


class Step:
    """Stands in for the network, which takes seconds."""

    def __init__(self, device: torch.device, bands: int = 3, classes: int = 5) -> None:
        self.bands, self.classes = bands, classes

    def speed(self, edge: int, batch: int, limit_s: float) -> StepSpeed:
        assert (self.bands, batch) == (3, 8) and self.classes >= 2
        return StepSpeed(10.0 if edge == 256 else 40.0, edge, batch, "32 bits")


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working folder, and measurements that take no time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verb, "_DECODE_S", 0.01)
    monkeypatch.setattr(trials, "FILE_BYTES", 100_000)
    monkeypatch.setattr(trials, "LEAST_BYTES", 100_000)
    monkeypatch.setattr("landseg.training.trials.BareStep", Step)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return tmp_path


def sections(found: Examined) -> dict[str, list[str]]:
    """Title → the lines under it."""
    blocks = [block.splitlines() for block in found.as_text().split("\n\n")]
    return {lines[0]: lines[1:] for lines in blocks}


def test_it_measures_says_and_leaves_nothing_behind(brief: Path) -> None:
    found = doctor()
    assert list(brief.iterdir()) == []
    assert set(found.speeds.decode) == {"JPEG", "PNG"} and min(found.speeds.decode.values()) > 0
    assert found.speeds.write and found.speeds.read and found.speeds.refused == {} and found.speeds.train == {256: 10.0, 128: 40.0}
    shown = sections(found)
    assert list(shown) == ["machine", "software", "measured", "what will be slow, and what to change"]
    assert max(len(line) for line in found.as_text().splitlines()) <= 120
    starts = {line.index(line[2:].lstrip()[0], 2) for title in ("machine", "software", "measured") for line in shown[title]}
    columns = {
        len(line) - len(line[2:].partition("  ")[2].lstrip()) for title in ("machine", "software", "measured") for line in shown[title]
    }
    assert starts == {2} and len(columns) == 1, "all sections share their columns"
    assert any("GDAL" in line and "PROJ" in line for line in shown["software"])
    assert "no GPU: the network trains at 10 images/s" in found.as_text()


def test_the_document_holds_what_the_text_says(brief: Path) -> None:
    done = CliRunner().invoke(main, ["doctor", "--json"])
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    assert document["measured"]["train"] == {"256": 10.0, "128": 40.0} and document["machine"]["cores"] == machine.cores()
    assert {item["severity"] for item in document["findings"]} <= {"trouble", "slow", "note"} and document["software"]["torch"]


def test_quick_measures_nothing(brief: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "_measure", None)
    found = doctor(quick=True)
    assert found.speeds == verb.Speeds() and "measured" not in sections(found) and list(brief.iterdir()) == []


def test_a_data_sets_own_tiles_are_measured_and_counted(brief: Path) -> None:
    data = write_tiles(brief / "data", 1, 9)
    listed = "".join(f"  - {{id: {item.id}, name: {item.name}, colour: '{item.colour}'}}\n" for item in CLASSES)
    (data / "dataset.yaml").write_text(f"name: mine\nclasses:\n{listed}", encoding="utf-8")
    (image, *_) = sorted((data / "images").iterdir())
    height, width, bands = decode_image(image.read_bytes()).shape
    found = doctor(data)
    assert found.wanted is not None
    assert (found.wanted.tiles, found.wanted.pack_bytes, found.wanted.is_packed) == (9, 9 * height * width * (bands + 1), False)
    assert list(found.speeds.decode) == ["its own tiles"] and found.facts.folder == str(data)
    image.write_bytes(b"damaged")
    assert doctor(data, quick=True).wanted.tiles == 9  # type: ignore[union-attr]
    for path in (data / "images").iterdir():
        path.write_bytes(b"damaged")
    assert set(doctor(data).speeds.decode) == {"JPEG", "PNG"}, "of tiles that cannot be read, invented ones stand in"


def test_a_folder_that_is_no_data_set_is_refused(brief: Path) -> None:
    with pytest.raises(LandsegError, match=r"no dataset\.yaml"):
        doctor(brief)


@pytest.mark.parametrize(("number", "words"), [(errno.EROFS, "Read-only"), (errno.ENOSPC, "No space left")])
def test_a_disk_that_refuses_is_told(brief: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def refuse(folder: Path, size: int) -> None:
        import os

        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(trials, "disk_speed", refuse)
    found = doctor()
    assert words in found.speeds.refused["disk"] and found.speeds.write is None
    assert words in "\n".join(sections(found)["measured"]) and "cannot be written" in found.as_text()


def test_a_device_that_torch_does_not_master_is_told(brief: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no kernel image is available\nfor execution on the device")

    monkeypatch.setattr("landseg.training.trials.BareStep", refuse)
    found = doctor()
    assert found.speeds.refused == {"training": "cpu: no kernel image is available for execution on the device"}


@pytest.mark.parametrize("module", ["timm", "numpy"])
def test_without_what_it_needs_it_says_so_and_ends_with_2(brief: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    done = CliRunner().invoke(main, ["doctor", "--quick"])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"landseg: landseg: it cannot work here: {module} cannot be imported")
    assert f"✗ {module} cannot be imported" in done.stdout and "cores" in done.stdout


def test_a_proj_of_another_program_is_named(brief: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rasterio.errors import CRSError

    class Lost:
        @staticmethod
        def from_epsg(_: int) -> None:
            raise CRSError("no database context specified")

    monkeypatch.setattr("rasterio.crs.CRS", Lost)
    monkeypatch.setenv("PROJ_LIB", "/elsewhere")
    monkeypatch.delenv("PROJ_DATA", raising=False)
    found = doctor(quick=True)
    assert found.findings[0][0] == "trouble" and "unset PROJ_LIB, which another program set" in found.findings[0][1]


def test_invented_tiles_are_tiles_of_both_formats() -> None:
    for name, data in trials.invented_tiles(64).items():
        assert decode_image(data).shape == (64, 64, 3), name
        assert trials.decode_rate([data], 0.001) > 0
    assert trials.decode_rate([b"damaged"], 0.001) == 0.0 == trials.decode_rate([], 0.001)


def test_a_disks_speed_is_measured_on_a_file_that_goes_again(tmp_path: Path) -> None:
    speed = trials.disk_speed(tmp_path, 50_000)
    assert speed.write > 0 and speed.read > 0 and list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="No such file"):
        trials.disk_speed(tmp_path / "gone")


def test_a_bare_step_trains_on_any_bands() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        step = BareStep(torch.device("cpu"), bands=4, classes=2)
        before = [parameter.detach().clone() for parameter in step._network.parameters()]
        speed = step.speed(32, 2, 0.0)
        changed = [not torch.equal(old, new) for old, new in zip(before, step._network.parameters(), strict=True)]
    finally:
        torch.set_num_threads(threads)
    assert speed.images_per_s > 0 and (speed.edge, speed.batch, speed.precision) == (32, 2, "32 bits")
    assert np.mean(changed) > 0.9, "it is a whole step: weights move"


def test_a_card_that_is_too_small_gets_a_smaller_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    step = object.__new__(BareStep)
    step._is_half, tried = False, []

    def seconds(edge: int, batch: int, limit_s: float) -> float:
        tried.append(batch)
        if batch > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 0.5

    monkeypatch.setattr(step, "_seconds", seconds)
    assert step.speed(256, 64, 1.0) == StepSpeed(16.0, 256, 8, "32 bits") and tried == [64, 32, 16, 8]
    monkeypatch.setattr(step, "_seconds", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(RuntimeError, match="full"):
        step.speed(256, 64, 1.0)


def test_copying_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landseg.training.trials._COPY_BYTES", 1000)
    assert copy_rate(torch.device("cpu")) > 0
