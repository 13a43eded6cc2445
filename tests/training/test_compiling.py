"""A network that cannot be compiled is trained as it is, from the same step, with the same draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed, TritonUnavailableError, Unsupported
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

from landseg.core.config import load_recipe
from landseg.data import world
from landseg.network.build import Network
from landseg.training.compiling import compiled, is_compile_failure
from landseg.training.step import Stepper
from landseg.training.transfer import Arrays
from shared.runs import NORMALISATION, card_of

COMPILE = torch.compile


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    torch._dynamo.reset()


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.decoder = nn.Sequential(nn.Dropout(0.3), nn.Conv2d(4, len(world.CLASSES), 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(images))  # type: ignore[no-any-return]


def make(*settings: str) -> Stepper:
    recipe = load_recipe("tiny", ["train.device=cpu", "train.batch=4", "train.seed=3", "train.ema=0.9", *settings])
    torch.manual_seed(1)
    return Stepper(Network(Body(), NORMALISATION), recipe, card_of(16), None)


def train(stepper: Stepper, number: int) -> float:
    rng = np.random.default_rng(number)
    images, labels = rng.integers(0, 256, (4, 16, 16, 3), np.uint8), rng.integers(0, len(world.CLASSES), (4, 16, 16)).astype(np.uint8)
    batch = Arrays(rng.integers(0, 2**63, 4).astype(np.uint64), images, labels)
    return float(stepper.step(batch, epoch=0, number=number, progress=number / 10))


def with_backend(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], Exception | None]) -> list[int]:
    """torch.compile with a backend that fails as it is told for the n-th graph, from 1, and else runs it as it is."""
    calls: list[int] = []

    def backend(graph: Any, _examples: Any) -> Any:
        calls.append(len(calls) + 1)
        error = fails(len(calls))
        if error is not None:
            raise error
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model, **options: COMPILE(model, **{**options, "backend": backend}))
    return calls


def same(one: Stepper, other: Stepper) -> bool:
    states = [{**stepper.state_dict(), "is_compiled": None} for stepper in (one, other)]
    kept = [{name: state[part][name] for part in ("network", "average") for name in state[part]} for state in states]
    return all(torch.equal(kept[0][name], kept[1][name]) for name in kept[1])


ERRORS = [RuntimeError("a compiler crashed"), InvalidCxxCompiler(), CppCompileError(["c++"], "no such file"), KeyError("an operation")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_step_that_could_not_be_compiled_is_repeated_without(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = make()
    expected = [train(plain, number) for number in range(3)]
    calls = with_backend(monkeypatch, lambda _: error)
    stepper = make("train.compile=true")
    assert stepper.is_compiled
    with caplog.at_level("WARNING", "landseg"):
        assert [train(stepper, number) for number in range(3)] == expected
    assert len(calls) == 1 and caplog.text.count("cannot be compiled here") == 1 and "training goes on uncompiled" in caplog.text
    assert same(stepper, plain) and not stepper.is_compiled and stepper.micro == 4, "no micro-batch was halved for it"


def test_what_fails_to_compile_amid_a_run_stays_uncompiled_when_it_is_resumed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_backend(monkeypatch, lambda call: RuntimeError("not this shape") if call > 1 else None)
    whole = make("train.compile=true")
    train(whole, 0)
    assert whole.is_compiled and "uncompiled" not in caplog.text
    torch._dynamo.reset()  # as where another shape comes
    train(whole, 1)
    state = deepcopy(whole.state_dict())
    assert state["is_compiled"] is False
    calls = with_backend(monkeypatch, lambda _: None)
    resumed = make("train.compile=true")
    resumed.load(state)
    assert train(resumed, 2) == train(whole, 2) and same(resumed, whole) and not calls
    older = make("train.compile=true")
    older.load({key: value for key, value in state.items() if key not in ("is_compiled", "soundness")})
    assert older.is_compiled


def test_what_torch_cannot_compile_anywhere_is_said_at_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refusing(_model: nn.Module) -> nn.Module:
        raise RuntimeError("Dynamo is not supported on Python 3.99+\nmore")

    monkeypatch.setattr(torch, "compile", refusing)
    model = nn.Linear(1, 1)
    assert compiled(model) is model and "Python 3.99+); training goes on uncompiled" in caplog.text


def test_which_errors_say_that_it_cannot_be_compiled() -> None:
    for error in (
        InvalidCxxCompiler(),
        Unsupported("an operation"),
        BackendCompilerFailed(print, ValueError("x"), None),
        TritonUnavailableError("x"),
    ):
        assert is_compile_failure(error)
    assert not is_compile_failure(BackendCompilerFailed(print, torch.OutOfMemoryError("CUDA out of memory"), None))
    assert not is_compile_failure(RuntimeError("sizes do not match")) and not is_compile_failure(
        torch.OutOfMemoryError("CUDA out of memory")
    )
