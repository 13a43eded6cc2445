"""A model is converted once: what is kept is found again, and nothing else is. Whoever keeps a stale or damaged file, it is not used."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import cv2
import numpy as np
import pytest
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as raised

from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.model import load_model
from landseg.network import convert as convert_room
from landseg.network import converted as room
from landseg.network.build import Network, build
from landseg.network.card import ModelCard, has_model, load_card
from landseg.network.checkpoint import save_model
from landseg.network.converted import PLACE
from landseg.network.engine import load_engine
from landseg.network.lanes import LaneEngine, failed
from landseg.network.torch_engine import TorchEngine

CARD = ModelCard(
    landseg_version="0", network="linknet", encoder="mobilenetv3_small_050", bands=("red", "green", "blue"), dtype="uint8",
    mean=(100.0,) * 3, std=(50.0,) * 3, classes=make_classes(["a", "b", "c"]), tile_size=(64, 64),
)  # fmt: skip


def network(seed: int) -> Network:
    torch.manual_seed(seed)
    return build(CARD.network, CARD.encoder, 3, 3, CARD.normalisation).eval()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its conversion beside it."""
    folder = tmp_path_factory.mktemp("original") / "model"
    save_model(folder, network(0).state_dict(), CARD)
    load_engine([folder], "cpu")
    return folder


@pytest.fixture
def model(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, with a user's cache that is empty; to convert anything fails, unless a test says otherwise."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("landseg.network.convert.convert", refuse)
    return shutil.copytree(original, tmp_path / "model")


def refuse(*_: object, **__: object) -> bytes:
    raise LandsegError("linknet", "it was converted again", "no conversion", "mend the test")


def again(monkeypatch: pytest.MonkeyPatch, original: Path) -> list[int]:
    """Let a model be converted, to what was had already: for tests of where it goes. Returns a list that grows by one each time."""
    data, times = next((original / PLACE).iterdir()).read_bytes(), list[int]()

    def convert(*_: object, **__: object) -> bytes:
        times.append(1)
        return data

    monkeypatch.setattr("landseg.network.convert.convert", convert)
    return times


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / PLACE).iterdir())


def test_what_is_kept_is_used_and_nothing_is_converted(model: Path) -> None:
    engine = load_engine([model], "cpu")
    assert isinstance(engine, LaneEngine) and engine.runtime.startswith("ONNX Runtime ")
    batch = np.random.default_rng(0).integers(0, 255, (2, 50, 40, 3), np.uint8)
    wanted = TorchEngine(network(0), CARD, torch.device("cpu")).logits(batch)
    assert np.abs(engine.logits(batch) - wanted).max() < 1e-3
    assert len(kept(model)) == 1 and has_model(model) and not list(model.parent.glob("cache"))


def test_it_takes_no_torch_to_predict_and_no_second_conversion(model: Path, tmp_path: Path) -> None:
    (tmp_path / "tiles").mkdir()
    cv2.imwrite(str(tmp_path / "tiles" / "a.jpg"), np.full((64, 64, 3), 90, np.uint8))
    code = (
        "import sys, numpy, landseg\n"
        "landseg.predict({model!r}, {image!r}, {out!r})\n"
        "landseg.load_model({model!r}).predict(numpy.zeros((70, 40, 3), 'uint8'))\n"
        "assert not {{'torch', 'timm', 'segmentation_models_pytorch', 'onnx', 'matplotlib', 'scipy', 'pyarrow'}} & set(sys.modules)\n"
    ).format(model=str(model), image=str(tmp_path / "tiles" / "a.jpg"), out=str(tmp_path / "out"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "a.png").is_file() and len(kept(model)) == 1


@pytest.mark.parametrize("way", ["cut", "flipped", "emptied"])
def test_what_is_damaged_is_converted_again_with_a_word(
    model: Path, original: Path, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = model / PLACE / kept(model)[0]
    data = bytearray(path.read_bytes())
    if way == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes(data if way == "flipped" else data[: len(data) // 2 if way == "cut" else 0])
    times = again(monkeypatch, original)
    with caplog.at_level(logging.INFO, "landseg"):
        load_engine([model], "cpu")
    assert f"{path}: it is damaged, the model is converted again" in caplog.text
    assert "converted for ONNX Runtime" in caplog.text and f"kept in {model / PLACE}" in caplog.text
    load_engine([model], "cpu")
    assert len(times) == 1 and kept(model) == kept(original)


@pytest.mark.parametrize("what", ["_version", "_FORMAT"])
def test_what_another_version_kept_is_not_used_and_stays_for_it(
    model: Path, original: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept(model)
    times = again(monkeypatch, original)
    for _ in range(2):  # two environments in turns: neither takes the other's away
        with monkeypatch.context() as other:
            other.setattr(room, what, (lambda package: "99") if what == "_version" else 99)
            load_engine([model], "cpu")
        load_engine([model], "cpu")
    assert len(times) == 1 and len(kept(model)) == 2 and set(before) < set(kept(model))


def test_a_better_model_comes_without_it(model: Path, original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(model, network(1).state_dict(), CARD)
    assert not (model / PLACE).exists() and not list(model.parent.glob(".model.*"))
    times = again(monkeypatch, original)
    load_engine([model], "cpu")
    assert len(times) == 1, "of other weights, another conversion"


def test_a_folder_that_takes_no_file_sends_it_to_the_users_cache(
    model: Path, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(model / PLACE)
    (model / PLACE).write_text("a file where the folder would be")
    times = again(monkeypatch, original)
    with caplog.at_level(logging.INFO, "landseg"):
        load_engine([model], "cpu")
    assert f"kept in {tmp_path / 'cache' / 'landseg' / 'engines'}" in caplog.text
    load_engine([model], "cpu")
    assert len(times) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(model / PLACE))  # no folder, either
    caplog.clear()
    with caplog.at_level(logging.INFO, "landseg"):
        engine = load_engine([model], "cpu")
    assert isinstance(engine, LaneEngine) and len(times) == 2
    assert caplog.text.count("nowhere may it be kept, so the next call converts again") == 1
    assert "once" not in caplog.text
    assert (model / PLACE).is_file()


def test_a_training_that_replaces_the_model_meanwhile_is_not_disturbed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = load_card(model)
    shutil.rmtree(model / PLACE)
    save_model(model, network(1).state_dict(), CARD)  # between the reading of the weights and the keeping of what was made of them
    assert room._keep(model, card, "onnx-of-the-one-before", ".onnx", b"") == tmp_path / "cache" / "landseg" / "engines"
    assert not (model / PLACE).exists()
    card = load_card(model)
    os.rename(model, tmp_path / ".model.old")  # what `save_model` does first
    monkeypatch.setattr(room, "load_card", lambda folder: card)  # it was there a moment ago
    assert room._keep(model, card, "onnx-x", ".onnx", b"") == tmp_path / "cache" / "landseg" / "engines"
    assert not model.exists(), "a folder made anew would be in the way of the new model"


def test_why_one_cannot_be_converted_is_kept_too(model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(model / PLACE)
    with pytest.raises(LandsegError, match="linknet: it was converted again"):
        load_engine([model], "cpu", "onnx")
    assert [Path(name).suffix for name in kept(model)] == [".txt"]
    monkeypatch.delattr("landseg.network.convert.convert")  # nobody tries a second time
    with pytest.raises(LandsegError, match="linknet: it was converted again, no conversion; mend the test"):
        load_engine([model], "cpu", "onnx")
    with caplog.at_level(logging.INFO, "landseg"):
        engine = load_engine([model], "cpu")
    assert isinstance(engine, TorchEngine)
    assert [record.getMessage() for record in caplog.records] == [
        f"{model}: PyTorch runs it, which takes longer: linknet: it was converted again"
    ]


def test_the_engine_follows_the_device_and_what_was_asked_for(model: Path) -> None:
    assert isinstance(load_engine([model], "cpu", "torch"), TorchEngine)
    assert isinstance(load_engine([model], "cpu", "onnx"), LaneEngine)
    with pytest.raises(LandsegError, match=r"^predict\.engine=onnx: predict\.device=cuda, the CPU, where this engine runs"):
        load_engine([model], "cuda", "onnx")
    batch = np.zeros((40, 33, 3), np.uint8)
    assert np.array_equal(load_model(model, "cpu").predict(batch), load_model(model, "cpu", engine="torch").predict(batch))


def test_damaged_weights_are_refused_though_a_conversion_is_there(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    for engine in ("auto", "onnx", "torch"):
        with pytest.raises(LandsegError, match="the file is damaged or not the one that was saved"):
            load_engine([model], "cpu", engine)


def test_a_card_that_cannot_go_with_its_weights_is_an_error_on_any_engine(tmp_path: Path) -> None:
    other = CARD.model_copy(update={"classes": make_classes(["a", "b"])})
    save_model(tmp_path / "m", network(0).state_dict(), other)
    for engine in ("auto", "onnx", "torch"):
        with pytest.raises(LandsegError, match="do not belong together"):
            load_engine([tmp_path / "m"], "cpu", engine)
    assert not list((tmp_path / "m").glob(f"{PLACE}/*"))


@pytest.mark.parametrize(
    ("cause", "is_kept"),
    [
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), False),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), False),
        (raised.RuntimeException(f"running {'Conv' * 60}: Failed to allocate memory for requested buffer of size 9"), False),
        (raised.Fail("std::bad_alloc"), False),
        (raised.RuntimeException("Got invalid dimensions for input"), True),
    ],
)
def test_memory_that_ran_out_is_no_fault_of_the_network(
    model: Path, original: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception, is_kept: bool
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        try:
            raise failed("ONNX Runtime", np.zeros((1, 8, 8, 3)), cause) from cause
        except LandsegError as error:
            raise LandsegError("linknet", f"it fails ({error.found})", "memory", "try again") from error

    shutil.rmtree(model / PLACE)
    monkeypatch.setattr("landseg.network.convert.convert", fail)
    assert isinstance(load_engine([model], "cpu"), TorchEngine)
    times = again(monkeypatch, original)
    assert isinstance(load_engine([model], "cpu"), TorchEngine if is_kept else LaneEngine)
    assert len(times) == (not is_kept)


def test_what_a_killed_call_was_writing_goes_and_what_another_is_writing_stays(
    model: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, name = model / PLACE, kept(model)[0]
    for path in place.iterdir():
        path.unlink()
    old, new = place / f".{name}.1.partial", place / f".{name}.2.partial"
    for path in (old, new):
        path.write_bytes(b"half of it")
    os.utime(old, (1, 1))
    again(monkeypatch, original)
    load_engine([model], "cpu")
    assert kept(model) == sorted([new.name, name])


def test_threads_that_convert_the_same_model_at_once_are_not_in_each_others_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, write = Barrier(2), Path.write_bytes

    def write_together(path: Path, data: bytes) -> int:
        done = write(path, data)
        both.wait(10)
        return done

    monkeypatch.setattr(Path, "write_bytes", write_together)
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(room._write, tmp_path, "onnx-x", b"network") for _ in range(2)]:
            future.result()
    assert [path.name for path in tmp_path.iterdir()] == ["onnx-x"]


def aged(place: Path, count: int, size: int = 1) -> list[str]:
    """Files of other models and versions, the first of them used longest ago, all of them hours before; their names."""
    place.mkdir(parents=True, exist_ok=True)
    names = [f"onnx-{i:020x}-{i:020x}.onnx" for i in range(count)]
    for i, name in enumerate(names):
        (place / name).write_bytes(b"x" * size)
        os.utime(place / name, (10_000 + i, 10_000 + i))
    return names


def test_beside_a_model_those_that_were_used_longest_ago_go(model: Path, original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, (own,) = model / PLACE, kept(model)
    names = aged(place, 6)
    (place / "notes.txt").write_text("a stranger's")
    for path in (place / own, place / names[0]):
        os.utime(path, (1, 1))
    load_engine([model], "cpu")  # which is to use it
    again(monkeypatch, original)
    monkeypatch.setattr(room, "_version", lambda package: "99")
    load_engine([model], "cpu")
    (new,) = set(kept(model)) - {own, *names, "notes.txt"}
    assert room.FEW == 4 and kept(model) == sorted([own, new, *names[-2:], "notes.txt"])


@pytest.mark.parametrize(("most", "most_bytes", "left"), [(3, 10**9, 3), (64, 35, 3), (64, 5, 1), (1, 1, 1)])
def test_the_users_cache_is_bounded_by_number_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, most_bytes: int, left: int
) -> None:
    names = aged(tmp_path, 5, size=10)
    (tmp_path / "onnx-new").write_bytes(b"x")
    monkeypatch.setattr(room, "_places", lambda folder: [tmp_path])
    monkeypatch.setattr(room, "MANY", most)
    monkeypatch.setattr(room, "MOST_BYTES", most_bytes)
    assert room._keep(tmp_path / "no-model", CARD, f"onnx-{0xF:020x}", ".onnx", b"0123456789") == tmp_path
    new = f"onnx-{0xF:020x}-{room._short(b'0123456789')}.onnx"
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == sorted([new, *names[len(names) - left + 1 :], "onnx-new"]), "what is in use stays, though it be too large alone"


def test_what_was_used_within_the_hour_stays_though_it_be_one_too_many(tmp_path: Path) -> None:
    names = aged(tmp_path, 9)
    for name in names[:5]:
        (tmp_path / name).touch()
    room._prune(tmp_path, names[0], 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == names[:5]


def test_what_was_written_where_nothing_can_be_listed_is_kept_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, before = load_card(model), kept(model)

    def refused(place: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(place))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refused)
        assert room._keep(model, card, "onnx-x", ".onnx", b"") == model / PLACE
    assert len(kept(model)) == len(before) + 1 and not (model.parent / "cache").exists()


def test_processes_that_prune_at_once_are_not_in_each_others_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, stat, unlink = aged(tmp_path, 5), Path.stat, Path.unlink

    def gone(path: Path, **options: bool) -> os.stat_result:
        if path.name == names[1]:
            unlink(path)  # by another one, between the list and the look at it
        return stat(path, **options)

    def gone_too(path: Path, *, missing_ok: bool = False) -> None:
        unlink(path)
        unlink(path, missing_ok=missing_ok)  # as where another one was faster

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", gone)
        patched.setattr(Path, "unlink", gone_too)
        room._prune(tmp_path, names[4], 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == names[3:]


def test_what_vanishes_before_it_is_read_is_converted_again_without_a_word(
    model: Path, original: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read, times, (name,) = Path.read_bytes, again(monkeypatch, original), kept(model)

    def vanish(path: Path) -> bytes:
        if path.name == name and not times:
            path.unlink(missing_ok=True)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", vanish)
    with caplog.at_level(logging.WARNING, "landseg"):
        load_engine([model], "cpu")
    assert len(times) == 1 and not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_conversion_is_announced_once_before_it_begins(
    model: Path, original: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(model / PLACE)
    times, said = again(monkeypatch, original), list[list[str]]()
    do = convert_room.convert

    def convert(*arguments: object, **options: object) -> bytes:
        said.append([record.getMessage() for record in caplog.records])
        return do(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(convert_room, "convert", convert)
    with caplog.at_level(logging.INFO, "landseg"):
        load_engine([model], "cpu")
        load_engine([model], "cpu")
    assert len(times) == 1 and len(said[0]) == 1
    assert said[0][0].startswith(f"{model}: converting it for ONNX Runtime ")
    assert sum("converting it" in record.getMessage() for record in caplog.records) == 1, "what is kept is used without a word"
