"""The same batches, and the same weights, wherever the tiles lie; and what becomes of tiles that do not fit."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from landseg.core import machine
from landseg.core.config import load_recipe
from landseg.core.errors import LandsegError
from landseg.core.settings import AugmentConfig, SampleConfig
from landseg.data import world
from landseg.data.pack import TileStore
from landseg.data.packing import Entry
from landseg.network.build import Network, build
from landseg.network.torch_engine import to_tensor
from landseg.training import residency, step, transfer
from landseg.training.batches import Batches
from landseg.training.loop import Loop, Task
from landseg.training.residency import SHARE, Held, Resident, choose, is_lossless, size_of, stored, widened
from landseg.training.transfer import Arrays, Drawn, Lane, blank
from shared.runs import NORMALISATION, card_of, run_in, store_of

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
MIXED = AugmentConfig(class_mix=0.6, cut_mix=0.6)
RARE = SampleConfig(repeat=3.0, rare=0.9)
MIXED_SIZES = [(12, 12)] * 7 + [(12, 20), (30, 12), (25, 33), (5, 7), (12, 9), (3, 40), (40, 3)]


class Store:
    """Tiles of random numbers, all bits of which count; `bands` of any dtype, a tenth of the labels ignored."""

    def __init__(self, shapes: list[tuple[int, int]], dtype: str = "uint8", bands: int = 3, is_mapped: bool = True) -> None:
        self.bands, self.dtype, self.is_mapped = bands, dtype, is_mapped
        self.read: list[int] = []
        rng = np.random.default_rng(0)
        self.images = [self._random(rng, (*shape, bands)) for shape in shapes]
        self.labels = [rng.choice(np.array([0, 1, 2, 255], np.uint8), shape, p=[0.6, 0.25, 0.05, 0.1]) for shape in shapes]
        counts = [np.bincount(label.ravel(), minlength=256)[:3].tolist() for label in self.labels]
        self.entries = [
            Entry(f"tile {i}", 0, 0, *shape, "", "", tuple(count)) for i, (shape, count) in enumerate(zip(shapes, counts, strict=True))
        ]

    def _random(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        if np.dtype(self.dtype).kind == "f":
            return rng.normal(0, 1e3, shape).astype(self.dtype)
        limits = np.iinfo(self.dtype)
        return rng.integers(limits.min, limits.max, shape, self.dtype, endpoint=True)

    def image(self, i: int) -> np.ndarray:
        self.read.append(i)
        return self.images[i]

    def label(self, i: int) -> np.ndarray:
        return self.labels[i]


def settled(store: TileStore, where: str, **how: Any) -> Batches:
    batches = Batches(store, range(len(store.entries)), 4, 1, **how)
    batches.reside(where, CPU)
    batches.settle()
    assert batches.where == where
    return batches


def tensors(batches: Batches, epoch: int, start: int = 0) -> list[tuple[list[int], Tensor, Tensor]]:
    return [(batch.keys.tolist(), *batch.on(CPU)) for batch in batches.epoch(epoch, start)]


def assert_alike(first: list[tuple[list[int], Tensor, Tensor]], second: list[tuple[list[int], Tensor, Tensor]]) -> None:
    assert len(first) == len(second) > 0
    for (keys, images, labels), (other_keys, other_images, other_labels) in zip(first, second, strict=True):
        assert keys == other_keys
        assert images.dtype == other_images.dtype and images.shape == other_images.shape and images.stride() == other_images.stride()
        assert torch.equal(images, other_images) and torch.equal(labels, other_labels)


WAYS: dict[str, tuple[list[tuple[int, int]], dict[str, Any]]] = {
    "whole": ([(12, 12)] * 11, {}),
    "sizes": (MIXED_SIZES, {}),
    "crops": (MIXED_SIZES, {"crop": 9}),
    "rare": (MIXED_SIZES, {"crop": 10, "sample": RARE}),
    "mixed whole": ([(12, 12)] * 11, {"augment": MIXED}),
    "mixed crops": (MIXED_SIZES, {"crop": 9, "sample": RARE, "augment": MIXED}),
}


@pytest.mark.parametrize("is_mapped", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_batches_are_the_same_wherever_tiles_lie(way: str, is_mapped: bool) -> None:
    shapes, how = WAYS[way]
    store = Store(shapes, is_mapped=is_mapped)
    on_disk, in_memory, on_device = (settled(store, where, **how) for where in ("disk", "host", "device"))
    for epoch in (0, 3):
        store.read.clear()
        found = tensors(on_disk, epoch)
        assert store.read
        store.read.clear()
        assert_alike(tensors(in_memory, epoch), found)
        assert_alike(tensors(on_device, epoch), found)
        assert not store.read, "no image is read again"
    assert all(isinstance(batch, Drawn) for batch in on_device.epoch(0))
    assert_alike(tensors(on_device, 3, start=2), tensors(on_disk, 3)[2:])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float16", "float32", "float64"])
def test_every_dtype_comes_as_it_would_from_arrays(dtype: str) -> None:
    store = Store(MIXED_SIZES, dtype, bands=5)
    how = {"crop": 9, "augment": MIXED}
    expected = [to_tensor(batch.images, CPU) for batch in settled(store, "disk", **how).epoch(0)]
    assert is_lossless(dtype) == (dtype not in {"uint32", "uint64", "float64"})
    for where in ("device", "host"):
        for images, (_, found, _) in zip(expected, tensors(settled(store, where, **how), 0), strict=True):
            assert found.dtype == images.dtype and torch.equal(found, images)
    values = stored(store.images[0])
    assert values.itemsize <= store.images[0].itemsize and size_of(store, [0]) == 144 * (5 * values.itemsize + 1)
    assert torch.equal(widened(torch.from_numpy(values), dtype), to_tensor(store.images[0][None], CPU)[0].permute(1, 2, 0))


@pytest.mark.parametrize("is_mapped", [True, False])
@pytest.mark.parametrize("has_memory", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_tiles_that_leave_the_device_give_the_same_batches(
    dtype: str, has_memory: bool, is_mapped: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, how = Store(MIXED_SIZES, dtype, is_mapped=is_mapped), {"crop": 9, "augment": MIXED}
    expected, batches = tensors(settled(store, "disk", **how), 2), settled(store, "device", **how)
    monkeypatch.setattr(machine, "memory", lambda: machine.Room(10**12, 10**12 if has_memory else 0))
    found = []
    for number, batch in enumerate(batches.epoch(2)):
        if number == 2:
            with caplog.at_level(logging.WARNING, "landseg"):
                assert batches.leave_device() and not batches.leave_device()
        halves = [batch.part(slice(0, 2)).on(CPU), batch.part(slice(2, None)).on(CPU)]
        found.append((batch.keys.tolist(), torch.cat([pair[0] for pair in halves]), torch.cat([pair[1] for pair in halves])))
    for (keys, images, labels), (own_keys, own_images, own_labels) in zip(expected, found, strict=True):
        assert keys == own_keys and torch.equal(images, own_images) and torch.equal(labels, own_labels)
    goes_to_memory = has_memory and dtype != "uint32"
    assert batches.where == ("host" if goes_to_memory else "disk")
    # Warnings alone: a test before this one may have left the log at INFO.
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"out of memory: the training tiles leave cpu for {'memory' if goes_to_memory else 'the disk'}, which frees "
        f"{residency.human_bytes(size_of(store, range(len(MIXED_SIZES))))}"
    ]
    assert_alike(tensors(batches, 2), expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float64"])
def test_a_lane_sends_batches_before_they_are_asked_for(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU nothing overlaps; but a batch goes the way that it goes to a GPU, and the next one before this one is done with."""
    store = Store(MIXED_SIZES, dtype)
    expected, batches = tensors(settled(store, "disk", crop=9, augment=MIXED), 1), settled(store, "disk", crop=9, augment=MIXED)
    batches._lane = lane = Lane(CPU)
    send, sent, is_ahead = lane.send, list[int](), threading.Event()

    def sending(batch: Any) -> Any:
        sent.append(len(batch.keys))
        if len(sent) == len(expected) + 2:  # all of the first time, and two of the second
            is_ahead.set()
        return send(batch)

    monkeypatch.setattr(lane, "send", sending)
    assert_alike(tensors(batches, 1), expected)
    assert len(sent) == len(expected)
    epoch = iter(batches.epoch(1))
    next(epoch)
    assert is_ahead.wait(30), "the next one is sent while this one is in use"
    del epoch


def test_what_is_sent_is_held_where_it_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    lane, keys = Lane(CPU), np.arange(3, dtype=np.uint64)
    batch = blank(keys, (4, 5), 2, "uint16", lane)
    assert not batch.images.any() and (batch.labels == 255).all()
    batch.images[1, 2, 3] = 65535, 7
    assert lane.receive(lane.send(batch)).on(CPU)[0][1, :, 2, 3].tolist() == [65535, 7]
    assert batch.part(slice(1, 2)).on(CPU)[0][0, :, 2, 3].tolist() == [65535, 7]
    monkeypatch.setattr(transfer, "_SENT_BYTES", 10)
    assert lane.send(batch).batch is batch, "a large one is left to the step"
    plain = Arrays(keys, batch.images, batch.labels)
    assert lane.send(plain).batch is plain

    def fails(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(transfer, "_SENT_BYTES", 10**9)
    monkeypatch.setattr(Tensor, "to", fails)
    assert lane.send(batch).batch is batch, "one without room is left to the step, which can make some"


def test_a_batch_that_cannot_be_pinned_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems and containers limit what may be pinned: the thread that makes batches meets that where no step can repeat anything."""
    store = Store(MIXED_SIZES)
    expected, batches = tensors(settled(store, "disk"), 1), settled(store, "disk")
    batches._lane, real = Lane(CPU), torch.empty

    def limited(*sizes: Any, **options: Any) -> Tensor:
        if "pin_memory" in options:
            raise RuntimeError("CUDA error: out of memory")
        return real(*sizes, **options)

    monkeypatch.setattr(transfer.torch, "empty", limited)
    assert_alike(tensors(batches, 1), expected)


@pytest.mark.parametrize(
    ("setting", "device", "free", "memory", "expected"),
    [
        ("auto", GPU, 80, 100, "device"),
        ("auto", GPU, 19, 100, "host"),
        ("auto", GPU, 19, 19, "disk"),
        ("auto", GPU, None, 100, "host"),
        ("auto", GPU, 80, None, "device"),
        ("auto", GPU, None, None, "disk"),
        ("auto", CPU, 100, 100, "disk"),
        ("auto", torch.device("mps"), 100, 100, "disk"),
        ("device", CPU, 20, 20, "device"),
        ("device", GPU, None, 20, "device"),
        ("host", GPU, 80, 20, "host"),
        ("host", CPU, 80, 20, "host"),
        ("host", CPU, 19, 19, "disk"),
        ("disk", GPU, 80, 80, "disk"),
    ],
)
def test_where_tiles_lie(setting: str, device: torch.device, free: int | None, memory: int | None, expected: str) -> None:
    assert SHARE == 0.5
    gigabytes = [None if room is None else room * 10**9 for room in (free, memory)]
    found = choose(setting, 10 * 10**9, device, *gigabytes)
    assert found.where == expected
    assert "10.0 GB" in found.words and found.words.startswith("tiles: ")
    if setting == "auto" and device == GPU:
        for room, where in ((free, "cuda:0"), (memory, "in memory")):
            if expected == "disk" or where != "in memory" or expected == "host":
                assert (f"{room}.0 GB free" if room is not None else "an unknown amount free") + (
                    f" on {where}" if where == "cuda:0" else " in memory"
                ) in found.words


def test_a_device_that_is_too_small_is_refused_with_sizes() -> None:
    with pytest.raises(LandsegError) as caught:
        choose("device", 10 * 10**9, GPU, 19 * 10**9, 10**12)
    text = str(caught.value)
    assert "data.residency" in text and "10.0 GB" in text and "19.0 GB free on cuda:0" in text and "20.0 GB" in text and "auto" in text


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_device_that_lied_about_its_room(is_asked: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    store = Store([(12, 12)] * 6)

    def fails(*_: object, **__: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    batches = Batches(store, range(6), 4, 1)
    batches.reside("device", CPU)
    assert batches._home is not None
    batches._home._is_asked = is_asked
    with monkeypatch.context() as patch:
        patch.setattr(residency.torch, "empty", fails)
        if is_asked:
            with pytest.raises(LandsegError, match=r"data.residency: device, but .* could not be had on cpu \(CUDA out of memory"):
                batches.settle()
            return
        with caplog.at_level(logging.WARNING, "landseg"):
            batches.settle()
    assert batches.where == "host" and "could not be had on cpu; in memory instead" in caplog.text
    assert_alike(tensors(batches, 0), tensors(settled(store, "disk"), 0))


def test_other_tiles_of_the_store_are_still_there() -> None:
    store = Store(MIXED_SIZES)
    held = Held(store, np.array([1, 8, 9]))
    store.read.clear()
    for i in range(len(MIXED_SIZES)):
        assert np.array_equal(held.image(i), store.images[i]) and np.array_equal(held.label(i), store.labels[i])
    assert store.read == [i for i in range(len(MIXED_SIZES)) if i not in {1, 8, 9}]


def test_tiles_are_loaded_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(MIXED_SIZES)
    tiles, parts = np.arange(1, len(MIXED_SIZES)), []
    for size in (1, 3000, 10**9):
        monkeypatch.setattr(residency, "_LOAD_BYTES", size)
        resident = Resident(store, tiles, CPU)
        parts.append((resident._images, resident._labels))
    for images, labels in parts:
        assert torch.equal(images, parts[0][0]) and torch.equal(labels, parts[0][1])
        assert np.array_equal(images.numpy(), np.concatenate([store.images[i].reshape(-1, 3) for i in tiles]))
        assert np.array_equal(labels.numpy(), np.concatenate([store.labels[i].reshape(-1) for i in tiles]))


SETTINGS = ["train.epochs=2", "train.batch=4", "train.device=cpu", "train.ema=0.9", "model.network=unet", "train.crop=32"]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileStore:
    return store_of(tmp_path_factory.mktemp("tiles"), 9, 48)


def loop(store: TileStore, *settings: str) -> Loop:
    recipe = load_recipe("tiny", [*SETTINGS, "augment.class_mix=0.5", *settings])
    torch.manual_seed(0)
    network: Network = build(recipe.model.network, recipe.model.encoder, store.bands, len(world.CLASSES), NORMALISATION)
    card = card_of(48, recipe.model.network, recipe.model.encoder)
    return Loop(network, Task(store, range(7), range(7, 9), card, recipe))


def trained(store: TileStore, folder: Path, *settings: str, ready: Callable[[Loop], None] = lambda _: None) -> dict[str, Tensor]:
    made = loop(store, *settings)
    ready(made)
    run_in(folder, made)
    state = made.stepper.state_dict()
    return {**state["network"], **{f"average {name}": tensor for name, tensor in state["average"].items()}}


@pytest.fixture(scope="module")
def from_disk(tiles: TileStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return trained(tiles, tmp_path_factory.mktemp("disk") / "run", "data.residency=disk")


@pytest.mark.parametrize("where", ["device", "host"])
def test_training_ends_alike_wherever_tiles_lie(tiles: TileStore, from_disk: dict[str, Tensor], tmp_path: Path, where: str) -> None:
    found = trained(tiles, tmp_path / "run", f"data.residency={where}")
    assert found.keys() == from_disk.keys() and all(torch.equal(found[name], from_disk[name]) for name in found)


@pytest.mark.parametrize("moment", ["step", "validation"])
def test_tiles_leave_the_device_before_fewer_are_shown_at_once(
    tiles: TileStore,
    from_disk: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    moment: str,
) -> None:
    """Memory runs out once: the step is repeated whole, so that the weights are those of a run that had enough."""
    loops: list[Loop] = []
    name = "rehearse" if moment == "step" else "full_size_logits"
    real, calls = getattr(step, name), []

    def short(*arguments: Any) -> Any:
        calls.append(loops[0].batches.where)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(*arguments)

    monkeypatch.setattr(step, name, short)
    with caplog.at_level(logging.INFO, "landseg"):
        found = trained(tiles, tmp_path / "run", "data.residency=device", ready=loops.append)
    assert all(torch.equal(found[name], from_disk[name]) for name in found)
    assert calls[:2] == ["device"] * 2 and set(calls[2:]) == {"host"}
    assert (loops[0].stepper.micro, loops[0].stepper.predict_micro) == (4, 4)
    assert caplog.text.count("the training tiles leave cpu for memory") == 1
    assert caplog.text.count("tiles: on cpu, ") == 1


def test_memory_that_stays_short_halves_what_is_shown(tiles: TileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loops: list[Loop] = []
    gradients = step.Stepper._gradients

    def short(stepper: Any, batch: Any, *arguments: Any) -> Any:
        if stepper.micro > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gradients(stepper, batch, *arguments)

    monkeypatch.setattr(step.Stepper, "_gradients", short)
    trained(tiles, tmp_path / "run", "data.residency=device", "train.epochs=1", ready=loops.append)
    assert loops[0].stepper.micro == 2 and loops[0].batches.where == "host"


def test_a_run_is_refused_before_anything_is_written(tiles: TileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "free_bytes", partial(lambda free, _: free, 100))
    with pytest.raises(LandsegError, match=r"data\.residency"):
        loop(tiles, "data.residency=device")
