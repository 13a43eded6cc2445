"""One step: what becomes of it when memory runs out at any of its moments."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from landseg.core.config import load_recipe
from landseg.core.errors import LandsegError
from landseg.data import world
from landseg.network.build import Network
from landseg.training import step
from landseg.training.memory import Choice
from landseg.training.step import Stepper
from landseg.training.transfer import Arrays, Batch
from shared.runs import NORMALISATION, card_of

EDGE = 32
SETTINGS = ["train.device=cpu", "train.batch=8", "train.ema=0.9", "train.seed=3", "train.clip=1.0", "augment.noise=0.5"]


class Allocator(nn.Module):
    """Fails as torch's does, where it is told to: `fails(call, tiles, is_backward)` gives the error."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: Callable[[int, int, bool], Exception | None] = lambda *_: None
        self.calls = 0
        self.seen: list[weakref.ref[Tensor]] = []

    def forward(self, features: Tensor) -> Tensor:
        self.calls += 1
        call, tiles, activation = self.calls, len(features), features * 1.0
        self.seen.append(weakref.ref(activation))

        def check(is_backward: bool) -> None:
            error = self.fails(call, tiles, is_backward)
            if error is not None:
                raise error

        check(False)
        if activation.requires_grad:
            activation.register_hook(lambda _: check(True))
        return activation


class Body(nn.Module):
    """Batch normalisation and dropout before and after the layer that may fail; `pooled` sees one value a channel of each tile."""

    def __init__(self, is_pooled: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4)) if is_pooled else None
        self.allocator = Allocator()
        self.decoder = nn.Sequential(nn.Dropout(0.3), nn.BatchNorm2d(4), nn.Conv2d(4, len(world.CLASSES), 1))

    def forward(self, images: Tensor) -> Tensor:
        features = self.encoder(images)
        if self.pooled is not None:
            features = features + self.pooled(features)
        return self.decoder(self.allocator(features))  # type: ignore[no-any-return]


def make(*settings: str, is_pooled: bool = False) -> tuple[Stepper, Allocator]:
    recipe = load_recipe("tiny", [*SETTINGS, *settings])
    torch.manual_seed(1)
    body = Body(is_pooled)
    return Stepper(Network(body, NORMALISATION), recipe, card_of(EDGE), None), body.allocator


def batch(number: int, tiles: int = 8) -> Batch:
    rng = np.random.default_rng(number)
    images = rng.integers(0, 256, (tiles, EDGE, EDGE, 3), np.uint8)
    labels = rng.integers(0, len(world.CLASSES), (tiles, EDGE, EDGE)).astype(np.uint8)
    return Arrays(rng.integers(0, 2**63, tiles).astype(np.uint64), images, labels)


def train(stepper: Stepper, number: int) -> float:
    return float(stepper.step(batch(number), epoch=0, number=number, progress=number / 10))


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


ERRORS = {
    "gpu": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity …"),
    "cpu": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"),
    "numpy": MemoryError,
}


@pytest.mark.parametrize(
    ("kind", "fails", "micros"),
    [
        *((kind, lambda call, tiles, is_backward: tiles > 4 and call > 1 and not is_backward, [8, 4, 4]) for kind in ERRORS),
        ("gpu", lambda call, tiles, is_backward: tiles > 4 and call > 1 and is_backward, [8, 4, 4]),
        ("gpu", lambda call, tiles, is_backward: tiles > 2 and not is_backward, [2, 2, 2]),
        ("cpu", lambda call, tiles, is_backward: tiles > 1 and call > 2, [8, 8, 1]),
        # Another program takes memory amid a step: its second part fails, when the first has left gradients and statistics.
        ("gpu", lambda call, tiles, is_backward: call in (2, 6) and is_backward, [8, 4, 2]),
    ],
)
def test_a_step_that_did_not_fit_leaves_no_trace(
    kind: str, fails: Callable[[int, int, bool], bool], micros: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    stepper, allocator = make()
    allocator.fails = lambda *state: ERRORS[kind]() if fails(*state) else None
    losses, taken = [], []
    with caplog.at_level("WARNING", "landseg"):
        for number in range(3):
            losses.append(train(stepper, number))
            taken.append(stepper.micro)
    assert taken == micros
    told = [record for record in caplog.records if "out of memory" in record.message]
    assert len(told) == len(set(micros) - {8}), "once for each change, however often it was halved"

    told_before, _ = make()
    expected = []
    for number, micro in enumerate(micros):
        told_before.micro = micro
        expected.append(train(told_before, number))
    assert losses == expected
    assert same(stepper.state_dict(), told_before.state_dict())


def test_the_optimiser_that_finds_no_room_for_its_state_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rehearse, calls = step.rehearse, []

    def failing(optimiser: torch.optim.Optimizer) -> None:
        calls.append(len(optimiser.state))
        if len(calls) == 1:
            raise ERRORS["gpu"]()
        rehearse(optimiser)

    monkeypatch.setattr(step, "rehearse", failing)
    stepper, _ = make()
    train(stepper, 0)
    assert calls == [0, 0]
    other, _ = make()
    other.micro = 4
    train(other, 0)
    assert same(stepper.state_dict(), other.state_dict())


def test_no_tensor_of_the_failed_step_is_held_when_it_is_repeated() -> None:
    stepper, allocator = make()
    gc.collect()
    alive: list[int] = []

    def fails(call: int, _tiles: int, is_backward: bool) -> Exception | None:
        if call > 1:
            alive.append(sum(reference() is not None for reference in allocator.seen[:1]))
        return ERRORS["gpu"]() if call == 1 and is_backward else None

    allocator.fails = fails
    train(stepper, 0)
    assert alive and not any(alive)


@pytest.mark.parametrize(("is_pooled", "tiles"), [(False, "1 tile"), (True, "2 tiles")])
def test_the_smallest_micro_batch_that_does_not_fit_stops_with_advice(is_pooled: bool, tiles: str) -> None:
    stepper, allocator = make(is_pooled=is_pooled)
    before = {name: tensor.clone() for name, tensor in stepper.network.state_dict().items()}
    allocator.fails = lambda _call, tiles, is_backward: ERRORS["gpu"]() if tiles > 1 or is_backward else None
    with pytest.raises(LandsegError, match=rf"train\.batch: out of memory in training with {tiles} at once.*train\.size"):
        train(stepper, 0)
    assert same(stepper.network.state_dict(), before)


def test_other_errors_come_out() -> None:
    stepper, allocator = make()
    allocator.fails = lambda *_: RuntimeError("the sizes do not match")
    with pytest.raises(RuntimeError, match="the sizes do not match"):
        train(stepper, 0)
    assert stepper.micro == 8
    with pytest.raises(RuntimeError, match="the sizes do not match"):
        stepper.predict(batch(0).images)


def test_a_batch_of_three_is_cut_into_single_tiles_when_it_must_be() -> None:
    stepper, allocator = make("train.batch=4")
    allocator.fails = lambda _call, tiles, _is_backward: ERRORS["gpu"]() if tiles > 2 else None
    stepper.step(batch(0, 3), epoch=0, number=0, progress=0.0)
    assert stepper.micro == 1


def test_validation_predicts_fewer_at_once_and_the_same(caplog: pytest.LogCaptureFixture) -> None:
    stepper, allocator = make()
    stepper.network.eval()
    images = batch(0).images
    whole = stepper.predict(images)
    allocator.fails = lambda _call, tiles, _is_backward: ERRORS["cpu"]() if tiles > 3 else None
    with caplog.at_level("WARNING", "landseg"):
        assert np.array_equal(stepper.predict(images), whole)
        calls = allocator.calls
        assert np.array_equal(stepper.predict(images[:5]), whole[:5])
    assert (stepper.predict_micro, stepper.micro, allocator.calls - calls) == (2, 8, 3)
    assert caplog.text.count("out of memory in validation") == 1
    allocator.fails = lambda *_: ERRORS["cpu"]()
    with pytest.raises(LandsegError, match="in validation with 1 tile at once"):
        stepper.predict(images)


def test_what_the_network_sees_at_once_is_part_of_the_state() -> None:
    stepper, _ = make()
    stepper.micro, stepper.predict_micro = 4, 2
    state = stepper.state_dict()
    other, _ = make()
    other.load(state)
    assert (other.micro, other.predict_micro) == (4, 2)
    older, _ = make()
    older.load({key: value for key, value in state.items() if "micro" not in key})
    assert (older.micro, older.predict_micro) == (8, 8)


@pytest.mark.parametrize(("settings", "kind"), [((), "cpu"), (("train.optimiser=adamw", "train.freeze=0.5", "loss.lovasz=1"), "gpu")])
def test_measuring_leaves_no_trace(settings: tuple[str, ...], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "free_bytes", lambda _device: 10**12)
    stepper, allocator = make("train.batch=auto", "train.effective_batch=8", *settings)
    before = deepcopy(stepper.state_dict())
    generator = torch.get_rng_state()
    allocator.fails = lambda _call, tiles, _is_backward: ERRORS[kind]() if tiles > 2 else None
    stepper.choose_micro()
    assert stepper.micro == 2, "three did not fit"
    assert same(stepper.state_dict() | {"micro": 8, "predict_micro": 8}, before)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in stepper.model.parameters())
    other, _ = make("train.batch=2", "train.effective_batch=8", *settings)
    assert [train(stepper, number) for number in range(2)] == [train(other, number) for number in range(2)]
    assert same(stepper.state_dict(), other.state_dict())


@pytest.mark.parametrize(("free", "micro"), [(10**12, 8), (0, 2), (None, 8)])
def test_the_free_memory_decides_how_many_tiles_are_seen_at_once(
    free: int | None, micro: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(step, "free_bytes", lambda _device: free)
    stepper, _ = make("train.batch=auto", "train.effective_batch=8")
    with caplog.at_level("INFO", "landseg"):
        stepper.choose_micro()
    assert (stepper.micro, stepper.predict_micro) == (micro, micro)
    assert caplog.text.count(f"micro-batch {micro} of 8: ") == 1


def test_room_is_left_for_the_state_of_the_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def noting(_probe: object, _batch: int, free: int, *, for_speed: bool) -> Choice:
        seen.append(free)
        return Choice(2, 0.0, free, 0.0)

    monkeypatch.setattr(step, "free_bytes", lambda _device: 10**6)
    monkeypatch.setattr(step, "choose_micro", noting)
    for optimiser in ("train.momentum=0", "train.momentum=0.9", "train.optimiser=adamw"):
        make("train.optimiser=sgd", optimiser)[0].choose_micro()
    weights = sum(parameter.nbytes for parameter in make()[0].model.parameters())
    assert seen == [10**6 - states * weights for states in (0, 1, 2)]
