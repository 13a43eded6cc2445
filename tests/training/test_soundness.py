"""A loss or gradient that is no number: found at its step, on a GPU without waiting; the run stops, leaves the step out or goes back."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from landseg.core.config import load_recipe
from landseg.core.errors import LandsegError
from landseg.core.runs import read_metrics
from landseg.data import world
from landseg.data.pack import TileStore
from landseg.network.build import Network
from landseg.training import loop, soundness, step
from landseg.training.augment import augment
from landseg.training.copies import Copies
from landseg.training.draws import tile_keys
from landseg.training.optimiser import set_rates
from landseg.training.soundness import Judge, is_exploding, tiles_in_words
from landseg.training.state import load_state
from shared.runs import NORMALISATION, card_of, differences, run_in, store_of

SETTINGS = [
    "train.device=cpu", "train.epochs=3", "train.batch=4", "train.seed=3", "train.lr=0.05", "train.warmup=0", "train.optimiser=sgd",
    "train.ema=0.9", "train.clip=1.0",
]  # fmt: skip
VICTIM = "tile_0003"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TileStore:
    return store_of(tmp_path_factory.mktemp("tiles"), 14, 32)


class Body(nn.Module):
    """Statistics on both sides of what is spoilt, and draws after it."""

    spoilt: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.decoder = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Conv2d(4, len(world.CLASSES), 1))

    def forward(self, images: Tensor) -> Tensor:
        features = self.encoder(images)
        if self.training and Body.spoilt == "loss":
            features = features * math.nan
        if self.training and Body.spoilt == "gradient":
            features.register_hook(lambda gradient: gradient * math.inf)
        return self.decoder(features)  # type: ignore[no-any-return]


Bad = Callable[[int, np.ndarray, float], str | None]
"""From epoch, keys and rate of a step: what is spoilt in it."""


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[Bad], None]:
    monkeypatch.setattr(Body, "spoilt", None)

    def by(bad: Bad) -> None:
        keep, rate = step.Stepper.step, [0.0]

        def stepping(self: step.Stepper, batch: Any, **at: Any) -> Tensor:
            rate[0] = self.judge.rate
            Body.spoilt = bad(at["epoch"], batch.keys, rate[0])
            return keep(self, batch, **at)

        monkeypatch.setattr(step.Stepper, "step", stepping)

    return by


@pytest.fixture
def like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts stay on the device, and the fused optimiser heeds them there."""
    make = Judge.__init__

    def made(self: Judge, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        self.is_at_once = False

    monkeypatch.setattr(Judge, "__init__", made)
    monkeypatch.setattr(step, "can_fuse", lambda *_arguments, **_options: True)


def session(store: TileStore, *settings: str) -> loop.Loop:
    recipe = load_recipe("tiny", [*SETTINGS, *settings])
    torch.manual_seed(1)
    return loop.Loop(Network(Body(), NORMALISATION), loop.Task(store, range(10), range(10, 14), card_of(32), recipe))


def start(store: TileStore, folder: Path, *settings: str, resume: bool = False) -> loop.Loop:
    made = session(store, *settings)
    run_in(folder, made, resume=resume)
    return made


def key(tile: str = VICTIM) -> np.uint64:
    return tile_keys([tile])[0]  # type: ignore[no-any-return]


def in_epoch(number: int, kind: str = "loss") -> Bad:
    return lambda epoch, keys, _rate: kind if epoch == number and key() in keys else None


def end(folder: Path) -> dict[str, Any]:
    state = load_state(folder / "state")
    for name in ("elapsed_s", "validation_s"):
        del state["position"][name]
    return state


def leave_out(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The victim's step of an epoch is not taken at all."""
    keep = step.Stepper.step

    def stepping(self: step.Stepper, batch: Any, **at: Any) -> Tensor:
        if at["epoch"] != number or key() not in batch.keys:
            return keep(self, batch, **at)
        self.lr = set_rates(self.optimiser, self.settings, at["progress"])
        self.judge.skipped += 1
        return torch.zeros(())

    monkeypatch.setattr(step.Stepper, "step", stepping)
    keep_report = loop.Loop._report

    def reporting(self: loop.Loop) -> None:
        if self.stepper.judge.skipped and not hasattr(self, "is_told"):
            self.is_told = True  # type: ignore[attr-defined]
            self.monitor.left_out(1)
        keep_report(self)

    monkeypatch.setattr(loop.Loop, "_report", reporting)


ALL = {
    "plain": (),
    "adamw": ("train.optimiser=adamw", "train.lr=0.003"),
    "parts": ("train.batch=2", "train.effective_batch=4", "train.ema=null", "train.average=0.7", "train.freeze=0.2", "loss.auxiliary=0"),
}


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize(
    ("settings", "number", "kind"), [("plain", 0, "loss"), ("plain", 1, "gradient"), ("adamw", 1, "loss"), ("parts", 1, "loss")]
)
def test_a_step_that_is_left_out_has_not_been(
    store: TileStore, tmp_path: Path, spoil: Callable[[Bad], None], request: pytest.FixtureRequest, device: str, settings: str, number: int,
    kind: str, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    if device == "gpu":
        request.getfixturevalue("like_a_gpu")
    skip = (*ALL[settings], "train.on_nan=skip")
    with pytest.MonkeyPatch.context() as patch:
        leave_out(patch, number)
        start(store, tmp_path / "without", *skip)
    spoil(in_epoch(number, kind))
    with caplog.at_level("WARNING", "landseg"):
        start(store, tmp_path / "run", *skip)
    one, other = (end(tmp_path / name) for name in ("run", "without"))
    assert one.pop("soundness")["skipped"] == other.pop("soundness")["skipped"] == 1
    assert not differences(one, other)
    lines = [
        [(line["step"], line.get("train/loss"), line.get("val/miou")) for line in read_metrics(tmp_path / name)]
        for name in ("run", "without")
    ]
    assert lines[0] == lines[1] and all(loss is None or math.isfinite(loss) for _, loss, _ in lines[0])
    assert [line["train/skipped"] for line in read_metrics(tmp_path / "run") if "train/lr" in line] == [
        int(epoch >= number) for epoch in range(3)
    ]
    assert caplog.text.count("so the step is left out") == 1 and VICTIM in caplog.text
    assert "1 of 9 steps were left out" in caplog.text


@pytest.mark.parametrize(("policy", "stop"), [("skip", 4), ("skip", 6), ("rollback", 4), ("rollback", 8)])
def test_killed_before_or_after_it_and_resumed_ends_alike(
    store: TileStore, tmp_path: Path, spoil: Callable[[Bad], None], monkeypatch: pytest.MonkeyPatch, policy: str, stop: int
) -> None:
    monkeypatch.setattr(loop, "SAVE_SHARE", math.inf)  # a state at the end of each epoch, however short
    spoil(lambda epoch, keys, rate: "loss" if epoch == 1 and key() in keys and rate == 1 else None)
    start(store, tmp_path / "whole", f"train.on_nan={policy}")
    keep, calls = loop.Loop._report, 0

    def interrupting(self: loop.Loop) -> None:
        nonlocal calls
        calls += 1
        keep(self)
        if calls == stop:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_report", interrupting)
        with pytest.raises(KeyboardInterrupt):
            start(store, tmp_path / "run", f"train.on_nan={policy}")
    start(store, tmp_path / "run", f"train.on_nan={policy}", resume=True)
    # A state within the epoch, which the kill has left, is one more that can be gone back to.
    is_within = policy == "rollback" and stop == 4 and end(tmp_path / "run")["soundness"]["back_to"] == 4
    assert is_within or not differences(end(tmp_path / "run"), end(tmp_path / "whole"))


def test_stopped_it_says_where_and_what_and_keeps_the_state_before(
    store: TileStore, tmp_path: Path, spoil: Callable[[Bad], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_SHARE", math.inf)
    spoil(in_epoch(1))
    with pytest.raises(LandsegError) as error:
        start(store, tmp_path / "run")
    batch = next(keys for keys in order(store, 1) if key() in keys)
    names = [entry.name for entry in store.entries[:10] if tile_keys([entry.name])[0] in batch]
    number = 3 + next(i for i, keys in enumerate(order(store, 1)) if key() in keys) + 1
    assert error.value.what == f"epoch 2, step {number}"
    assert error.value.found.startswith("the loss is nan, no gradient is a number")
    assert all(name in error.value.found for name in names) and error.value.found.count("tile_") == len(names) == len(batch)
    assert "--resume --set train.on_nan=rollback" in error.value.do
    assert load_state(tmp_path / "run" / "state")["step"] == 3
    done = start(store, tmp_path / "run", "train.on_nan=skip", resume=True)
    assert done.at.step == 9 and done.stepper.judge.skipped == 1


def order(store: TileStore, epoch: int) -> list[np.ndarray]:
    return [batch.keys for batch in session(store).batches.epoch(epoch)]


def test_on_a_gpu_the_first_of_them_is_named_at_the_next_line(
    store: TileStore, tmp_path: Path, spoil: Callable[[Bad], None], like_a_gpu: None
) -> None:
    spoil(lambda epoch, _keys, _rate: "gradient" if epoch == 0 else None)
    with pytest.raises(
        LandsegError, match=r"epoch 1, step 1: the loss is \d.*gradients are no numbers, that of body\.encoder\.1\.bias the last"
    ):
        start(store, tmp_path / "run")


def test_ten_steps_in_a_row_are_no_stray_batch(
    store: TileStore, tmp_path: Path, spoil: Callable[[Bad], None], caplog: pytest.LogCaptureFixture
) -> None:
    spoil(lambda epoch, _keys, _rate: "loss" if epoch >= 1 else None)
    with pytest.raises(LandsegError, match=r"epoch 5, step 13: 10 steps in a row are left out; in the last one, the loss is nan"):
        start(store, tmp_path / "run", "train.on_nan=skip", "train.epochs=20", "train.validate_every=20")
    is_empty = [line.get("train/loss") is None for line in read_metrics(tmp_path / "run")]
    assert is_empty == [False, True, True, True], "a window without a loss"
    assert caplog.text.count("so the step is left out") == 1


def test_back_at_half_the_rate_with_the_same_batches(
    store: TileStore, tmp_path: Path, spoil: Callable[[Bad], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop, "SAVE_SHARE", math.inf)
    seen: list[tuple[int, bytes, float]] = []

    def bad(epoch: int, keys: np.ndarray, rate: float) -> str | None:
        seen.append((epoch, keys.tobytes(), rate))
        return "loss" if epoch == 2 and key() in keys and rate > 0.25 else None

    spoil(bad)
    with caplog.at_level("WARNING", "landseg"):
        done = start(store, tmp_path / "run", "train.on_nan=rollback", "train.schedule=constant")
    # The state of step 6 led there twice: the second time, the run goes back to the one before it.
    assert [record.message.partition("; back to ")[2] for record in caplog.records if "rollback" in record.message] == [
        "the state of step 6, at 0.5 of the learning rate (rollback 1 of 3)",
        "the state of step 3, at 0.25 of the learning rate (rollback 2 of 3)",
    ]
    expected = [keys.tobytes() for epoch in range(3) for keys in order(store, epoch)]
    assert [keys for _, keys, rate in seen if rate == 0.25] == expected[3:]
    assert [keys for _, keys, rate in seen if rate == 0.5] == expected[6 : 6 + sum(rate == 0.5 for *_, rate in seen)]
    lines = [line for line in read_metrics(tmp_path / "run") if "train/lr" in line]
    assert [(line["step"], line["train/lr"], line["train/rollbacks"]) for line in lines] == [(3, 0.05, 0), (6, 0.0125, 2), (9, 0.0125, 2)]
    assert [line["step"] for line in read_metrics(tmp_path / "run") if "val/miou" in line] == [3, 6, 9]
    assert done.at.step == 9 and load_state(tmp_path / "run" / "state")["soundness"]["rollbacks"] == 2


def test_back_to_the_start_where_nothing_was_saved_and_three_times_at_most(
    store: TileStore, tmp_path: Path, spoil: Callable[[Bad], None], caplog: pytest.LogCaptureFixture
) -> None:
    spoil(lambda epoch, keys, _rate: "loss" if epoch == 0 and key() in keys else None)
    with (
        caplog.at_level("WARNING", "landseg"),
        pytest.raises(LandsegError, match=r"epoch 1.*the loss is nan.*after 3 rollbacks.*train\.lr=0\.005"),
    ):
        start(store, tmp_path / "run", "train.on_nan=rollback")
    assert [text in caplog.text for text in ("rollback 1 of 3", "rollback 3 of 3", "rollback 4")] == [True, True, False]
    assert caplog.text.count("back to the state of step 0") == 3
    assert load_state(tmp_path / "run" / "state")["soundness"]["rollbacks"] == 3, "a run that is killed keeps the rate"
    first = {name: tensor.clone() for name, tensor in session(store).stepper.network.state_dict().items()}
    assert not differences(load_state(tmp_path / "run" / "state")["network"], first), "not a step of the run that was given up is left"


def test_weights_that_are_no_numbers_are_not_saved_either(store: TileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = step.Stepper._update

    def breaking(self: step.Stepper, *arguments: Any) -> None:
        keep(self, *arguments)
        next(self.network.parameters()).data[0, 0, 0, 0] = math.inf

    monkeypatch.setattr(step.Stepper, "_update", breaking)
    for policy in ("stop", "skip", "rollback"):
        with pytest.raises(LandsegError, match=r"weights are no numbers|the loss is nan"):
            start(store, tmp_path / policy, f"train.on_nan={policy}", "train.epochs=10", "train.save_minutes=1e-9")
        assert [path.name for path in (tmp_path / policy / "state").glob("step-*")] == ["step-000000000.state"]


def test_a_start_that_is_no_number_is_told_whatever_the_policy(store: TileStore, tmp_path: Path) -> None:
    made = session(store, "train.on_nan=rollback")
    next(made.stepper.network.body.decoder.parameters()).data.fill_(math.nan)
    with pytest.raises(LandsegError, match=r"the first weights are no numbers, and no state to go back to"):
        run_in(tmp_path / "run", made)


class NoWait(TorchDispatchMode):
    """Fails where a value is read, for which a GPU would be waited for."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("a value was read")
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("settings", [(), ("train.ema=null", "train.average=1.0", "train.optimiser=adamw")])
def test_a_step_on_a_gpu_reads_no_value(store: TileStore, like_a_gpu: None, settings: tuple[str, ...]) -> None:
    made = session(store, "train.on_nan=skip", *settings)
    batches = list(made.batches.epoch(0))
    with NoWait():
        for number, batch in enumerate(batches):
            made.stepper.step(batch, epoch=0, number=number, progress=0.1)
    with pytest.raises(AssertionError, match="a value was read"), NoWait():
        made.stepper.judge.are_finite()
    assert made.stepper.judge.unsound() == []


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_scaler_of_16_bits_leaves_out_its_own_steps_and_they_do_not_count(
    store: TileStore, spoil: Callable[[Bad], None], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    if device == "gpu":
        request.getfixturevalue("like_a_gpu")
    # Fabric has none on a CPU, though torch does.
    monkeypatch.setattr(step, "Fabric", lambda **_: Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu")))
    made = session(store, "train.on_nan=skip", "train.clip=null")
    batches, stepper = list(made.batches.epoch(0)), made.stepper
    scaler = stepper.fabric.strategy.precision.scaler  # type: ignore[attr-defined]
    before = {name: parameter.detach().clone() for name, parameter in stepper.model.named_parameters()}
    spoil(lambda epoch, _keys, _rate: "gradient" if epoch == 0 else None)
    keep = stepper.loss
    for epoch in range(2):
        # Of an infinite constant the gradients know nothing.
        stepper.loss = keep if epoch == 0 else lambda *pair: keep(*pair) + math.inf  # type: ignore[assignment]
        stepper.step(batches[0], epoch=epoch, number=0, progress=0.0)
        assert scaler.get_scale() == (2.0**15 if epoch == 0 or device == "cpu" else 2.0**14)
        found = stepper.judge.unsound()
        assert [told.found.partition(",")[0] for told in found] == ["the loss is inf"] * epoch
        assert not differences(dict(stepper.model.named_parameters()), before)
    stepper.loss = keep
    stepper.step(batches[0], epoch=2, number=0, progress=0.0)
    assert differences(dict(stepper.model.named_parameters()), before) and stepper.judge.unsound() == []


def test_a_step_that_is_repeated_for_lack_of_memory_is_judged_once(
    store: TileStore, spoil: Callable[[Bad], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocating(images: Tensor, *arguments: Any, **options: Any) -> Any:
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return augment(images, *arguments, **options)

    monkeypatch.setattr(step, "augment", allocating)
    spoil(lambda *_: "loss")
    made = session(store)
    made.stepper.step(next(iter(made.batches.epoch(0))), epoch=0, number=0, progress=0.0)
    assert made.stepper.micro == 2 and len(made.stepper.judge.unsound()) == 1 and made.stepper.judge.skipped == 1


def judged(model: nn.Module, loss: float, gradients: list[float | None], *, is_scaled: bool = False, before: bool = False) -> str:
    judge = Judge(model, torch.device("cpu"), is_scaled=is_scaled)
    parameters = list(model.parameters())
    for values, value in [([3.0, 7.0, 5.0], 1.0)] * before + [(gradients, loss)]:
        for parameter, gradient in zip(parameters, values, strict=True):
            parameter.grad = None if gradient is None else torch.full_like(parameter, gradient)
        is_bad = judge.judged(torch.tensor(value), np.zeros(2, np.uint64), 0, 0)
    found = judge.unsound()
    assert bool(is_bad) == bool(found) and len(found) <= 1
    return found[0].found if found else ""


def test_the_largest_gradient_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False))  # 0.weight, 0.bias, 1.weight
    assert judged(model, 1.0, [1.0, 2.0, 3.0]) == judged(model, 1.0, [1e30, -1e38, None]) == "", "large, but a number"
    assert judged(model, math.inf, [1.0, -9.0, 3.0]) == "the loss is inf, the largest gradient that of 0.bias (9)"
    assert judged(model, 2.0, [1.0, math.inf, 3.0]) == "the loss is 2, 1 of 3 gradients are no numbers, that of 0.bias the last of them"
    assert judged(model, 2.0, [math.nan] * 3) == "the loss is 2, no gradient is a number"
    words = "the loss is nan, no gradient is a number; in the step before, the largest was that of 0.bias"
    assert judged(model, math.nan, [math.nan] * 3, before=True) == f"{words} (7)"
    assert judged(model, math.nan, [math.nan] * 3, before=True, is_scaled=True) == words, "it is not known what was scaled by how much"
    assert judged(model, 2.0, [math.inf] * 3, is_scaled=True) == ""


def test_a_loss_that_is_far_above_what_it_was_for_several_lines_explodes() -> None:
    calm = [1.0, 0.8, 0.9, 0.7, 0.8]
    assert is_exploding([*calm, 9.0, 20.0, 8.5]) and not is_exploding([*calm, 9.0, 20.0, 7.5]) and not is_exploding([*calm, 99.0, 99.0])
    assert not is_exploding([*calm[1:], 9.0, 9.0, 9.0]), "too little is known of what is usual"
    assert not is_exploding([0.0] * 5 + [1.0] * 3), "nothing can be said against a loss of 0"


def test_an_exploding_loss_is_said_once_and_stops_nothing(store: TileStore, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = session(store)
    for number in range(20):
        made.monitor.stepped(torch.tensor(1.0 if number < 10 else 50.0), 4)
        made.monitor.line(made.at, 0.1)
    assert caplog.text.count("far above what it was") == 1


def test_tiles_are_named_each_once_and_not_without_end() -> None:
    assert tiles_in_words(["a"]) == "tile a" and tiles_in_words(["a", "b", "a"]) == "tiles a, b"
    assert tiles_in_words(map(str, range(soundness.NAMED + 5))).endswith(f"{soundness.NAMED - 1} and 5 more")


@pytest.mark.parametrize("is_so", [True, False])
def test_copies_are_put_back_where_the_device_says(is_so: bool) -> None:
    tensors = [torch.ones(3), torch.full((1, 2, 1), 2.0), torch.tensor(7), torch.tensor([1, 2])]
    copies = Copies(tensors)
    copies.take()
    for tensor in tensors:
        tensor.mul_(3)
    tensors[0][1] = math.nan
    copies.put_back_where(torch.tensor(is_so))
    wanted = [[1.0, 1.0, 1.0], [[[2.0], [2.0]]], 7, [1, 2]] if is_so else [[3.0, math.nan, 3.0], [[[6.0], [6.0]]], 21, [3, 6]]
    assert [
        np.array_equal(tensor.numpy(), np.array(value), equal_nan=tensor.is_floating_point())
        for tensor, value in zip(tensors, wanted, strict=True)
    ] == [True] * 4
