"""An exported folder takes its place whole or not at all, and a file of it that is missing or changed is told by name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.core.files import write_json
from landseg.network import engine, exported
from landseg.network.card import CARD, ModelCard, find_model, load_card
from landseg.network.exported import NETWORK_FILES, Runtime, export_card, network_file, whole_folder


def card() -> ModelCard:
    plain = ModelCard(
        landseg_version="0", network="unet", encoder="resnet18", bands=("a",), dtype="uint8", mean=(0.0,), std=(1.0,),
        classes=make_classes(["x", "y"]), tile_size=(32, 32), weights_sha256="ab" * 32,
    )  # fmt: skip
    return plain.model_copy(update={"card_sha256": plain.digest()})


def fill(folder: Path, runtime: Runtime, text: str = "network") -> None:
    for name in NETWORK_FILES[runtime]:
        (folder / name).write_text(f"{text} {name}")
    write_json(folder / CARD, export_card(card(), folder, runtime, "float32").model_dump(mode="json"))


@pytest.fixture(params=["onnx", "openvino"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def folder(tmp_path: Path, runtime: Runtime) -> Path:
    with whole_folder(tmp_path / "out") as new:
        fill(new, runtime)
    return tmp_path / "out"


def test_what_was_written_is_opened(folder: Path, runtime: Runtime) -> None:
    found = load_card(find_model(folder))
    assert network_file(folder, found) == folder / NETWORK_FILES[runtime][0]
    assert found.exported is not None and found.exported.source_sha256 == "ab" * 32
    assert found.weights_sha256 not in ("ab" * 32, ""), "its own: predictions of one are not continued with the other"
    assert [path.name for path in folder.parent.iterdir()] == ["out"], "nothing is left beside it"


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("harm", ["removed", "changed"])
def test_a_file_that_is_missing_or_changed_is_named(folder: Path, runtime: Runtime, number: int, harm: str) -> None:
    names = NETWORK_FILES[runtime]
    path = folder / names[min(number, len(names) - 1)]
    if harm == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(LandsegError, match="it is missing" if harm == "removed" else "damaged") as caught:
        network_file(folder, load_card(folder))
    assert caught.value.what == str(path) and "export" in caught.value.do


def test_another_network_has_another_card(tmp_path: Path) -> None:
    cards = []
    for text in ("one", "two", "two"):
        (tmp_path / "model.onnx").write_text(text)
        cards.append(export_card(card(), tmp_path, "onnx", "float32").weights_sha256)
    assert cards[0] != cards[1] == cards[2]


def test_a_model_folder_is_no_exported_one(tmp_path: Path) -> None:
    with pytest.raises(LandsegError, match="no exported model"):
        network_file(tmp_path, card())


def test_a_failure_leaves_what_was_there(folder: Path, runtime: Runtime) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(KeyboardInterrupt), whole_folder(folder) as new:
        fill(new, runtime, "another")
        raise KeyboardInterrupt
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_a_second_one_takes_the_place_of_the_first(folder: Path, runtime: Runtime) -> None:
    with whole_folder(folder) as new:
        fill(new, runtime, "another")
    assert (folder / NETWORK_FILES[runtime][0]).read_text().startswith("another")
    network_file(folder, load_card(folder))
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_killed_between_two_renames_the_old_one_is_found(folder: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    rename, count = os.rename, 0

    def second_kills(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise Killed
        rename(source, target)

    before = load_card(folder)
    with monkeypatch.context() as patched:
        patched.setattr(exported.os, "rename", second_kills)
        patched.setattr(exported.shutil, "rmtree", lambda *_, **__: None)  # a killed process removes nothing
        with pytest.raises(Killed), whole_folder(folder) as new:
            fill(new, runtime, "another")
    assert count == 2 and not folder.exists()
    assert load_card(find_model(folder)) == before
    with whole_folder(folder) as new:
        assert list(new.iterdir()) == [], "what a killed call left is not mixed in"
        fill(new, runtime, "third")
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_without_permission_nothing_is_written(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(LandsegError, match="cannot be written"), whole_folder(closed / "out"):
        pytest.fail("no work begins")


def test_a_place_under_a_file_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LandsegError, match="cannot be written"), whole_folder(tmp_path / "file" / "out"):
        pytest.fail("no work begins")
    assert (tmp_path / "file").read_text() == "x"


def test_a_full_disk_leaves_the_old_one(folder: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = load_card(folder)
    with monkeypatch.context() as patched:
        patched.setattr(exported.os, "fsync", full)
        with pytest.raises(LandsegError, match="No space left"), whole_folder(folder) as new:
            fill(new, runtime, "another")
    assert load_card(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_a_copied_folder_is_as_good(folder: Path, tmp_path: Path) -> None:
    network_file(shutil.copytree(folder, tmp_path / "copy"), load_card(tmp_path / "copy"))


def test_a_device_that_does_not_run_it_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_is_cpu", lambda device: False)  # a machine that has the card
    with pytest.raises(LandsegError, match=r"^predict\.device=cuda: .*out is an exported model, the CPU, where it runs"):
        engine.load_engine([folder], "cuda")


def test_another_precision_than_it_was_exported_in_is_refused(folder: Path) -> None:
    with pytest.raises(LandsegError, match=r"^predict\.precision: bf16, of the exported model .*out, 32: its network computes as it was"):
        engine.load_engine([folder], "cpu", "auto", "bf16")
