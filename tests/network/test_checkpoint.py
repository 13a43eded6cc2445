"""A model folder is written whole, read back equal, and refused when one byte of it differs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core import files
from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.network import checkpoint
from landseg.network.build import Network, Normalisation, build
from landseg.network.checkpoint import ModelCard, find_model, load_card, load_model, save_model

SMALL = "mobilenetv3_small_050"
CLASSES = make_classes(["建筑", "b", "c"])


def make(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build("unet", SMALL, 4, 3, Normalisation((1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0)))


def card(**changes: object) -> ModelCard:
    facts = {
        "landseg_version": "0", "network": "unet", "encoder": SMALL, "bands": ("r", "g", "b", "n"), "dtype": "uint16",
        "mean": (1.0, 2.0, 3.0, 4.0), "std": (5.0, 6.0, 7.0, 8.0), "classes": CLASSES, "tile_size": (40, 50),
        "scores": {"val": {"miou": 0.5, "iou": {"建筑": None}}},
    }  # fmt: skip
    return ModelCard.model_validate({**facts, **changes})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_model(folder, make().state_dict(), card())
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run" / "model"))


def test_what_is_saved_is_loaded(model: Path) -> None:
    network = make()
    for path in (model, model.parent):
        loaded, found = load_model(path)
        assert not loaded.training
        state = loaded.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
        assert found == card(weights_sha256=found.weights_sha256, card_sha256=found.card_sha256) and len(found.weights_sha256) == 64
    assert found.class_names == ("建筑", "b", "c")
    assert sorted(path.name for path in model.iterdir()) == ["model.json", "model.safetensors"]
    text = (model / "model.json").read_text(encoding="utf-8")
    assert "建筑" in text and json.loads(text)["tile_size"] == [40, 50]


def test_a_scaling_is_saved_with_the_weights(tmp_path: Path) -> None:
    scaling = ((0.0, 1.0), (-5.5, 300.0), (0.1, 0.3), (-9999.0, 1e6))
    network = build("unet", SMALL, 4, 3, Normalisation((0.0,) * 4, (1.0,) * 4, scaling)).eval()
    save_model(tmp_path, network.state_dict(), card(mean=(0.0,) * 4, std=(1.0,) * 4, scaling=scaling, dtype="float64"))
    loaded, found = load_model(tmp_path)
    assert found.scaling == scaling and found.normalisation == Normalisation((0.0,) * 4, (1.0,) * 4, scaling)
    images = torch.rand(1, 4, 32, 32) * 400
    with torch.inference_mode():
        assert torch.equal(loaded(images), network(images))


def test_a_card_from_before_there_were_scalings_and_decoder_channels_loads(model: Path) -> None:
    """Its checksum was made of what it said then."""
    document = json.loads((model / "model.json").read_text(encoding="utf-8"))
    assert [document.pop(key) for key in ("scaling", "decoder_channels", "exported")] == [None] * 3
    told = {key: value for key, value in document.items() if key != "card_sha256"}
    assert document["card_sha256"] == hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    (model / "model.json").write_text(json.dumps(document), encoding="utf-8")
    assert load_model(model)[1].scaling is None


def test_a_card_that_a_later_version_wrote_says_so(model: Path) -> None:
    document = json.loads((model / "model.json").read_text(encoding="utf-8"))
    (model / "model.json").write_text(json.dumps(document | {"landseg_version": "9.1.0", "novelty": 1}), encoding="utf-8")
    with pytest.raises(LandsegError, match=r"model\.json: it cannot be read .*it is of landseg 9\.1\.0, this is"):
        load_model(model)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_changed_byte_of_the_weights_is_refused(saved: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "flipped"
    if not folder.exists():
        shutil.copytree(saved, folder)
    content = bytearray((saved / "model.safetensors").read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(LandsegError, match=r"model\.safetensors: checksum .* damaged"):
        load_model(folder)


@pytest.mark.parametrize("place", [0, 7, 8, 100, -1])
def test_the_ends_of_the_weights_are_checked_too(model: Path, place: int) -> None:
    content = bytearray((model / "model.safetensors").read_bytes())
    content[place] ^= 1
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(LandsegError, match="damaged"):
        load_model(model)


@pytest.mark.parametrize("harm", ["cut", "empty", "remove", "more"])
def test_weights_of_another_length_are_refused(model: Path, harm: str) -> None:
    path = model / "model.safetensors"
    data = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes({"cut": data[:-1], "empty": b"", "more": data + b"\0"}[harm])
    with pytest.raises(LandsegError, match=r"model\.safetensors"):
        load_model(model)


def test_weights_and_card_of_two_models_are_refused(model: Path) -> None:
    other = load_card(model).model_copy(update={"encoder": "mobilenetv3_small_075"})
    with pytest.raises(LandsegError, match=r"model\.json: its checksum differs"):
        (model / "model.json").write_text(other.model_dump_json(), encoding="utf-8")
        load_model(model)
    signed = other.model_copy(update={"card_sha256": other.digest()})
    (model / "model.json").write_text(signed.model_dump_json(), encoding="utf-8")
    with pytest.raises(LandsegError, match="do not belong together") as caught:
        load_model(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"network": "unet"}', b'{"classes": [{"id": "x"}]}', b"<html>"]
)
def test_a_damaged_card_is_refused(model: Path, content: bytes) -> None:
    (model / "model.json").write_bytes(content)
    with pytest.raises(LandsegError, match=r"model\.json: it cannot be read"):
        load_model(model)


def test_any_changed_byte_of_the_card_loads_or_is_one_line(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "model"))
    content = (saved / "model.json").read_bytes()
    for place in range(0, len(content), max(1, len(content) // 60)):
        changed = bytearray(content)
        changed[place] ^= 1
        (folder / "model.json").write_bytes(changed)
        try:
            load_model(folder)
        except LandsegError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("what", ["nothing", "empty", "other"])
def test_no_model_says_how_to_get_one(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "run"
    if what != "nothing":
        folder.mkdir()
    if what == "other":
        (folder / "model").mkdir()
    with pytest.raises(LandsegError, match="landseg train DATA --out RUN"):
        load_model(folder)


def swap_back(model: Path) -> None:
    """What a kill between the two renames leaves."""
    os.rename(model, model.with_name(".model.old"))
    shutil.copytree(model.with_name(".model.old"), model.with_name(".model.new"))


def test_a_kill_between_the_two_renames_heals_when_read(model: Path) -> None:
    swap_back(model)
    assert find_model(model.parent) == model
    load_model(model)


def test_a_kill_between_the_two_renames_heals_when_written(model: Path) -> None:
    swap_back(model)
    save_model(model, make(1).state_dict(), card(landseg_version="1"))
    assert load_model(model)[1].landseg_version == "1"
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_a_kill_before_the_old_model_was_removed_does_not_stop_the_next_one(model: Path) -> None:
    shutil.copytree(model, model.with_name(".model.old"))
    save_model(model, make(1).state_dict(), card(landseg_version="1"))
    assert load_model(model)[1].landseg_version == "1"
    assert [path.name for path in model.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("broken", ["weights", "card", "first rename", "second rename"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_saving_is_whole_or_not_at_all(model: Path, monkeypatch: pytest.MonkeyPatch, broken: str, error: BaseException) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    calls = []
    real_rename, real_write = os.rename, files.write_bytes

    def rename(source: Path, target: Path) -> None:
        calls.append("rename")
        if broken == {1: "first rename", 2: "second rename"}.get(calls.count("rename")):
            raise error
        real_rename(source, target)

    def write(path: Path, data: bytes, *, sync: bool = False) -> None:
        if (broken, path.name) in (("weights", "model.safetensors"), ("card", "model.json")):
            real_write(path, data[: len(data) // 2])
            raise error if not isinstance(error, OSError) else files.unwritable(path, error)
        real_write(path, data, sync=sync)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        patch.setattr(checkpoint, "write_bytes", write)
        with pytest.raises(LandsegError if isinstance(error, OSError) else KeyboardInterrupt):
            save_model(model, make(1).state_dict(), card(landseg_version="1"))
    if isinstance(error, OSError):
        assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    assert load_model(model.parent)[1].landseg_version == "0"
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    save_model(model, make(1).state_dict(), card(landseg_version="1"))
    assert load_model(model)[1].landseg_version == "1"
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_a_reader_that_heals_does_not_break_a_writer_between_its_renames(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename
    found = []

    def rename(source: Path, target: Path) -> None:
        real(source, target)
        if Path(target).name == ".model.old" and not found:
            found.append(load_model(model.parent)[1].landseg_version)

    monkeypatch.setattr(os, "rename", rename)
    save_model(model, make(1).state_dict(), card(landseg_version="1"))
    assert found == ["0"]
    assert load_model(model)[1].landseg_version == "1"


def test_a_place_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(LandsegError, match="cannot be written"):
        save_model(tmp_path / "file" / "model", make().state_dict(), card())


def test_a_reader_between_the_two_files_of_a_model_reads_one_model_and_calls_none_damaged(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training puts a better one in its place when the card of the old one has been read and its weights have not."""
    real, better = Path.read_bytes, make(1).state_dict()
    swapped = []

    def read(self: Path) -> bytes:
        if self.name == "model.safetensors" and not swapped:
            swapped.append(self)
            save_model(model, better, card(landseg_version="1"))
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", read)
    network, found = load_model(model)
    assert swapped and found.landseg_version == "1"
    assert all(torch.equal(tensor, better[name]) for name, tensor in network.state_dict().items())


def test_the_new_name_is_on_the_disk_before_the_old_model_goes(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut could find the old one gone and the new one not yet named."""
    done: list[str] = []
    rename, sync, remove = os.rename, checkpoint.sync_folder, shutil.rmtree

    def renaming(source: Path, target: Path) -> None:
        done.append(f"{Path(source).name} to {Path(target).name}")
        rename(source, target)

    def syncing(folder: Path) -> None:
        done.append(f"flush {folder.name}")
        sync(folder)

    def removing(folder: Path, **options: bool) -> None:
        if folder.exists():
            done.append(f"remove {folder.name}")
        remove(folder, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "rename", renaming)
    monkeypatch.setattr(checkpoint, "sync_folder", syncing)
    monkeypatch.setattr(checkpoint.shutil, "rmtree", removing)
    save_model(model, make(1).state_dict(), card(landseg_version="1"))
    assert done == ["model to .model.old", ".model.new to model", f"flush {model.parent.name}", "remove .model.old"]


def test_where_the_old_model_cannot_be_put_back_it_is_not_removed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swap_back(model)

    def refuse(source: Path, target: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(LandsegError, match="Input/output error"):
            save_model(model, make(1).state_dict(), card(landseg_version="1"))
    assert load_model(model.parent)[1].landseg_version == "0"
