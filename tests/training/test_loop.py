"""The training loop: what it learns, what it keeps, and that stopping it changes nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from landseg.core.config import load_recipe
from landseg.core.errors import LandsegError
from landseg.core.runs import Run, read_metrics
from landseg.core.settings import Recipe
from landseg.core.stopwatch import Stopwatch
from landseg.data import world
from landseg.data.dataset import Dataset, DatasetInfo
from landseg.data.pack import TileStore, open_tiles
from landseg.network.build import Network, build
from landseg.network.checkpoint import load_card, load_model, save_model
from landseg.scoring.confusion import scores
from landseg.scoring.evaluate import tile_matrices
from landseg.training import keeping, loop, step
from landseg.training.augment import augment
from landseg.training.keeping import Keeper
from landseg.training.state import load_state, save_state
from shared.runs import NORMALISATION, card_of, run_in, store_of, weights_of

SETTINGS = ["train.epochs=3", "train.batch=4", "train.device=cpu", "train.ema=0.9", "model.network=unet", "train.seed=3"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TileStore:
    return store_of(tmp_path_factory.mktemp("tiles"), 14, 64)


def start(store: TileStore, folder: Path, *settings: str, resume: bool = False, val: range = range(10, 14)) -> loop.Position:
    return run_in(folder, loop.Loop(*make(store, load_recipe("tiny", [*SETTINGS, *settings]), val)), resume=resume)


def make(store: TileStore, recipe: Recipe, val: range) -> tuple[Network, loop.Task]:
    torch.manual_seed(0)
    network = build(recipe.model.network, recipe.model.encoder, store.bands, len(world.CLASSES), NORMALISATION)
    return network, loop.Task(store, range(10), val, card_of(64, recipe.model.network, recipe.model.encoder), recipe)


def same(first: Path, second: Path) -> bool:
    a, b = weights_of(first), weights_of(second)
    equal = a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    return equal and (first / "model" / "model.safetensors").read_bytes() == (second / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(store: TileStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    start(store, folder)
    return folder


def test_a_run_repeats_bit_for_bit(store: TileStore, undisturbed: Path, tmp_path: Path) -> None:
    start(store, tmp_path / "again")
    assert same(undisturbed, tmp_path / "again")


def test_another_seed_gives_another_run(store: TileStore, undisturbed: Path, tmp_path: Path) -> None:
    start(store, tmp_path / "other", "train.seed=4")
    assert not same(undisturbed, tmp_path / "other")


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6, 7])
def test_stopped_at_any_step_and_resumed_ends_alike(
    store: TileStore, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    calls = 0

    def interrupting(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == stop:
            os.kill(os.getpid(), signal.SIGINT)
        return augment(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(step, "augment", interrupting)
        with pytest.raises(KeyboardInterrupt):
            start(store, tmp_path / "run")
    at = load_state(tmp_path / "run" / "state")["position"]
    assert at["step"] == stop
    start(store, tmp_path / "run", resume=True)
    assert same(undisturbed, tmp_path / "run")
    steps = [(line["step"], "val/miou" in line) for line in read_metrics(tmp_path / "run")]
    assert len(set(steps)) == len(steps), "a line of the metrics stands there twice"
    assert {number for number, is_val in steps if is_val} == {line["step"] for line in read_metrics(undisturbed) if "val/miou" in line}


def test_interrupted_while_validating_ends_alike(
    store: TileStore, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = tile_matrices

    def interrupting(*arguments: object, **options: object) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "tile_matrices", interrupting)
        with pytest.raises(KeyboardInterrupt):
            start(store, tmp_path / "run")
    start(store, tmp_path / "run", resume=True)
    assert same(undisturbed, tmp_path / "run")


def test_a_state_from_before_the_last_epoch_leads_to_the_same_end(store: TileStore, undisturbed: Path, tmp_path: Path) -> None:
    """As after kill -9: the newest state is gone, the best model on the disk is of a later epoch."""
    start(store, tmp_path / "run")
    newest = sorted((tmp_path / "run" / "state").glob("step-*.state"))[-1]
    newest.unlink()
    start(store, tmp_path / "run", resume=True)
    assert same(undisturbed, tmp_path / "run")


def test_signal_handlers_are_put_back(store: TileStore, undisturbed: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    start(store, tmp_path / "run", "train.epochs=1")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_it_trains_on_a_thread_too(store: TileStore, tmp_path: Path) -> None:
    done: list[loop.Position] = []
    thread = threading.Thread(target=lambda: done.append(start(store, tmp_path / "run", "train.epochs=1")))
    thread.start()
    thread.join()
    assert done and done[0].epoch == 1


def test_one_batch_is_learnt(tmp_path: Path) -> None:
    store = store_of(tmp_path / "tiles", 2, 48)
    settings = ["train.epochs=70", "train.batch=2", "train.ema=null", "train.validate_every=70", "model.encoder=resnet10t"]
    still = ["augment.flips=false", "augment.quarter_turns=false"]
    network, task = make(store, load_recipe("tiny", [*SETTINGS, *settings, *still]), range(2))
    run = Run(tmp_path / "run")
    done = loop.train(network, loop.Task(store, range(2), range(2), task.card, task.recipe), run, resume=False)
    run.close()
    assert done.best_miou > 0.95


def test_the_kept_model_scores_what_was_printed(store: TileStore, undisturbed: Path) -> None:
    network, card = load_model(undisturbed)

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(images).permute(0, 3, 1, 2)).argmax(1).to(torch.uint8).numpy()

    again = scores(tile_matrices(predict, store, range(10, 14), len(world.CLASSES), 4).sum(0), card.class_names)
    best = max(line["val/miou"] for line in read_metrics(undisturbed) if "val/miou" in line)
    assert again.miou == pytest.approx(best, abs=1e-4)
    assert card.scores["val"]["miou"] == best
    assert json.loads((undisturbed / "model" / "model.json").read_text())["scores"]["val"]["definition"]


def test_metrics_and_files_are_those_of_the_contract(undisturbed: Path) -> None:
    lines = read_metrics(undisturbed)
    assert all({"step", "epoch", "time_s"} <= line.keys() for line in lines)
    keys = set().union(*lines)
    assert {"train/loss", "train/lr", "val/miou", "val/iou/road", "speed/images_per_s"} <= keys
    assert [line["epoch"] for line in lines if "val/miou" in line] == [1, 2, 3]
    names = {path.name.split(".tfevents")[0] for path in undisturbed.iterdir() if not path.name.startswith(".")}
    assert names == {"metrics.jsonl", "log.txt", "model", "state", "events.out"}
    assert len(list((undisturbed / "state").glob("*.state"))) == 2
    assert {path.name for path in (undisturbed / "model").iterdir()} == {"model.safetensors", "model.json"}


def test_the_loss_that_is_no_number_stops_the_run(store: TileStore, tmp_path: Path) -> None:
    with pytest.raises(LandsegError, match=r"the loss is (nan|inf).*train\.lr"):
        start(store, tmp_path / "run", "train.lr=1e30", "train.optimiser=sgd", "train.warmup=0")


def test_patience_stops_early(store: TileStore, tmp_path: Path) -> None:
    done = start(store, tmp_path / "run", "train.epochs=50", "train.patience=2", "train.lr=1e-12", "train.ema=null")
    assert done.epoch < 50
    assert done.since_best == 2
    again = start(store, tmp_path / "run", "train.epochs=50", "train.patience=2", "train.lr=1e-12", "train.ema=null", resume=True)
    assert again == done, "a finished run stays finished"


def test_minutes_end_the_run_in_the_middle_of_an_epoch(store: TileStore, tmp_path: Path) -> None:
    done = start(store, tmp_path / "run", "train.minutes=0.02", "train.batch=2")
    assert 0 < done.elapsed_s < 20
    assert (tmp_path / "run" / "model" / "model.json").is_file()
    again = start(store, tmp_path / "run", "train.minutes=0.02", "train.batch=2", resume=True)
    assert again.step == done.step


def test_train_size_trains_small_and_scores_at_full_size(store: TileStore, tmp_path: Path) -> None:
    start(store, tmp_path / "run", "train.size=40", "train.epochs=1")
    card = load_card(tmp_path / "run" / "model")
    assert card.size == 40
    labelled = sum(sum(store.entries[i].class_pixels) for i in range(10, 14))
    assert card.scores["val"]["pixels"] == labelled


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> TileStore:
    """Tiles of three shapes; the last four, which validate, are longer than a training crop."""
    folder = tmp_path_factory.mktemp("mixed")
    for i, (height, width) in enumerate([(40, 60)] * 4 + [(64, 64)] * 3 + [(200, 130)] * 3 + [(150, 200)] * 4):
        source = world.write_tiles(folder / f"of {i}", i, 1, tile=200)
        for kind in ("images", "labels"):
            (folder / kind).mkdir(exist_ok=True)
            pixels = cv2.imread(str(source / kind / "tile_0000.png"), cv2.IMREAD_UNCHANGED)
            cv2.imwrite(str(folder / kind / f"{i:02}.png"), pixels[:height, :width])
    return open_tiles(Dataset(folder, DatasetInfo(name="w", classes=world.CLASSES)))


def test_crops_of_mixed_tiles_stopped_and_resumed_end_alike(mixed: TileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crop = ("train.crop=32", "train.epochs=1", "train.batch=20")
    start(mixed, tmp_path / "whole", *crop)
    calls = 0

    def interrupting(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return augment(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(step, "augment", interrupting)
        with pytest.raises(KeyboardInterrupt):
            start(mixed, tmp_path / "run", *crop)
    done = start(mixed, tmp_path / "run", *crop, resume=True)
    assert done.step == 5, "4 × 2 + 3 × 4 + 3 × 25 crops make five batches of twenty at most"
    assert same(tmp_path / "whole", tmp_path / "run")
    assert load_card(tmp_path / "run" / "model").tile_size == (32, 32)


def test_large_tiles_are_validated_in_pieces_to_their_last_pixel(mixed: TileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landseg.inference.pieces.EDGE", 64)
    start(mixed, tmp_path / "run", "train.crop=32", "train.size=48", "train.epochs=1", "train.batch=20")
    card = load_card(tmp_path / "run" / "model")
    labelled = sum(sum(mixed.entries[i].class_pixels) for i in range(10, 14))
    assert card.scores["val"]["pixels"] == labelled and card.factor == 1.5


def test_clipping_precision_and_adamw_run(store: TileStore, tmp_path: Path) -> None:
    done = start(
        store, tmp_path / "run", "train.clip=1.0", "train.precision=bf16", "train.epochs=1", "augment.rotation_deg=15", "augment.blur=0.5"
    )
    assert done.step == 3


def test_a_missing_device_is_refused(store: TileStore, tmp_path: Path) -> None:
    with pytest.raises(LandsegError, match=r"train\.device"):
        start(store, tmp_path / "run", "train.device=cuda:77")


def test_what_is_no_number_is_not_saved_when_the_user_interrupts(store: TileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def interrupting(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:  # the first step's weights are huge, the second step's loss is no number
            os.kill(os.getpid(), signal.SIGINT)
        return augment(*arguments, **options)  # type: ignore[arg-type]

    diverging = ("train.lr=1e30", "train.optimiser=sgd", "train.warmup=0")
    monkeypatch.setattr(step, "augment", interrupting)
    with pytest.raises(LandsegError, match=r"finite loss, gradients and weights"):
        start(store, tmp_path / "run", *diverging)
    assert [path.name for path in (tmp_path / "run" / "state").glob("step-*")] == ["step-000000000.state"]


def test_a_bad_device_or_weight_leaves_a_former_run_alone(store: TileStore, tmp_path: Path) -> None:
    for setting in ("train.device=cuda:77", "loss.class_weights=[1.0]"):
        network, task = make(store, load_recipe("tiny", [*SETTINGS, setting]), range(10, 14))
        with pytest.raises(LandsegError):
            loop.Loop(network, task)


def test_states_are_saved_within_an_epoch_too(store: TileStore, undisturbed: Path, tmp_path: Path) -> None:
    saved: list[int] = []
    keep = keeping.save_state

    def noting(folder: Path, state: dict[str, object]) -> None:
        saved.append(int(state["step"]))  # type: ignore[call-overload]
        keep(folder, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "save_state", noting)
        start(store, tmp_path / "run", "train.save_minutes=1e-9")
    assert saved[:4] == [0, 1, 2, 3]
    assert same(undisturbed, tmp_path / "run")


def test_the_kept_model_is_never_given_up_for_a_lesser_one(store: TileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill between keeping a model and saving the state, when what follows goes otherwise (minutes, another machine)."""
    start(store, tmp_path / "run", "train.epochs=1")
    folder = tmp_path / "run" / "model"
    network, kept = load_model(folder)
    save_model(folder, network.state_dict(), kept.model_copy(update={"scores": {"val": kept.scores["val"] | {"miou": 0.999}}}))
    card = folder / "model.json"
    before = card.read_bytes()
    done = start(store, tmp_path / "run", "train.epochs=3", resume=True)
    assert done.best_miou == 0.999
    assert card.read_bytes() == before


def failing_from(call: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a step on, no more than `most` tiles fit in the memory."""
    calls = 0

    def allocating(images: torch.Tensor, *arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls >= call and len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return augment(images, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(step, "augment", allocating)


def test_killed_after_memory_ran_out_and_resumed_goes_on_with_the_smaller_micro_batch(
    store: TileStore, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing_from(5, 2, patch)
        start(store, tmp_path / "whole")
    assert not same(undisturbed, tmp_path / "whole"), "batch normalisation sees fewer tiles at once"
    with monkeypatch.context() as patch:
        failing_from(5, 2, patch)
        keep = loop.Loop._report

        def interrupting(self: loop.Loop) -> None:
            keep(self)
            if self.at.step == 5:
                os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(loop.Loop, "_report", interrupting)
        with pytest.raises(KeyboardInterrupt):
            start(store, tmp_path / "run")
    start(store, tmp_path / "run", resume=True)
    assert same(tmp_path / "whole", tmp_path / "run")
    seen = [(line["epoch"], line["memory/micro_batch"]) for line in read_metrics(tmp_path / "run") if "train/loss" in line]
    assert seen == [(1, 4), (2, 1), (3, 1)], "three tiles are cut into single ones, not into two and one"


def test_the_batch_is_measured_once_and_a_resumed_run_keeps_what_was_found(
    store: TileStore, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    auto = ("train.batch=auto", "train.effective_batch=4")
    with caplog.at_level("INFO", "landseg"):
        start(store, tmp_path / "run", *auto)
    assert caplog.text.count("micro-batch 4 of 4: ") == 1
    assert same(undisturbed, tmp_path / "run"), "four tiles fit, and measuring has left no trace"
    sorted((tmp_path / "run" / "state").glob("step-*.state"))[-1].unlink()
    monkeypatch.setattr(step, "choose_micro", None)
    start(store, tmp_path / "run", *auto, resume=True)
    assert same(undisturbed, tmp_path / "run")


def test_sigusr1_saves_and_goes_on(store: TileStore, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    keep_report, keep_save = loop.Loop._report, keeping.save_state

    def asking(self: loop.Loop) -> None:
        keep_report(self)
        if self.at.step == 2:
            os.kill(os.getpid(), signal.SIGUSR1)

    def noting(folder: Path, state: dict[str, object]) -> None:
        saved.append(int(state["step"]))  # type: ignore[call-overload]
        keep_save(folder, state)

    monkeypatch.setattr(loop.Loop, "_report", asking)
    monkeypatch.setattr(keeping, "save_state", noting)
    start(store, tmp_path / "run")
    assert saved[:2] == [0, 2] and saved.count(2) == 1
    assert same(undisturbed, tmp_path / "run")


ALL = (
    "train.epochs=2", "train.batch=2", "train.effective_batch=4", "train.ema=null", "train.average=0.6", "train.freeze=0.3",
    "train.encoder_lr=0.5", "train.layer_decay=0.9", "train.schedule=one_cycle", "loss.auxiliary=0.4",
    "augment.class_mix=0.5", "sample.repeat=3", "augment.noise=0.5",
)  # fmt: skip


@pytest.fixture(scope="module")
def everything(store: TileStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten tiles make batches of four, three and three an epoch, the first of which is cut in two."""
    folder = tmp_path_factory.mktemp("everything") / "run"
    done = start(store, folder, *ALL)
    assert (done.step, done.epoch) == (6, 2)
    return folder


@pytest.mark.parametrize(("stop", "calls_then"), [(1, 2), (2, 2), (4, 4), (5, 6), (7, 7)])
def test_with_all_at_once_stopped_in_any_batch_and_resumed_ends_alike(
    store: TileStore, everything: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, calls_then: int
) -> None:
    """Micro-batches, averaging, freezing, slower stages, a second head, one cycle: stopped amid a step, at its end, in either epoch."""
    calls = 0

    def interrupting(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == stop:
            os.kill(os.getpid(), signal.SIGINT)
        return augment(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(step, "augment", interrupting)
        with pytest.raises(KeyboardInterrupt):
            start(store, tmp_path / "run", *ALL)
    position = load_state(tmp_path / "run" / "state")["position"]
    assert position["step"] == {2: 1, 4: 3, 6: 4, 7: 5}[calls], "a state is of the end of a step"
    assert calls == calls_then, "the step in hand was ended"
    start(store, tmp_path / "run", *ALL, resume=True)
    assert same(everything, tmp_path / "run")
    heads = [load_state(folder / "state")["second_head"] for folder in (everything, tmp_path / "run")]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_the_second_head_is_not_in_the_model(everything: Path) -> None:
    network, _ = load_model(everything)
    assert network.state_dict().keys() == load_state(everything / "state")["network"].keys()


class Plain(torch.nn.Module):
    """No batch normalisation: what a batch gives does not depend on what stands beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.decoder = torch.nn.Conv2d(4, len(world.CLASSES), 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.decoder(torch.relu(self.encoder(images)))  # type: ignore[no-any-return]


class EveryPixel(torch.nn.Module):
    """As if every pixel were labelled: the mean of batches' means is then the mean of all."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, labels.long().clamp(max=logits.shape[1] - 1))


def stepped(store: TileStore, batch: int, *settings: str, steps: int = 1, all_labelled: bool = False) -> tuple[loop.Loop, Network]:
    """A loop of eight tiles after some steps."""
    recipe = load_recipe("tiny", [*SETTINGS, f"train.batch={batch}", "train.warmup=0", "train.lr=0.1", "train.optimiser=sgd", *settings])
    _, task = make(store, recipe, range(10, 14))
    torch.manual_seed(1)
    network = Network(Plain(), NORMALISATION)
    session = loop.Loop(network, loop.Task(store, range(8), task.val, task.card, recipe))
    if all_labelled:
        session.stepper.loss = EveryPixel()
    for item in islice(session._rest(), steps):
        session.step(item)
    return session, network


@pytest.mark.parametrize("clip", ["null", "0.001"])
def test_micro_batches_are_one_large_batch(store: TileStore, clip: str) -> None:
    """Of micro-batches of 3, 3 and 2 tiles each tile counts alike."""
    settings = [(batch, "train.effective_batch=8", f"train.clip={clip}") for batch in (8, 3)]
    (whole, one), (parts, many) = (stepped(store, *three, all_labelled=True) for three in settings)
    assert [whole.stepper.micro, parts.stepper.micro] == [8, 3]
    torch.manual_seed(1)
    before = Network(Plain(), NORMALISATION).state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.allclose(tensor, many.state_dict()[name], atol=1e-6), name
        assert name in ("mean", "std") or not torch.equal(tensor, before[name]), name
    assert whole.monitor.mean_loss() == pytest.approx(parts.monitor.mean_loss(), rel=1e-5)
    counts = [session.watch.so_far().counts for session in (whole, parts)]
    assert [(count["steps"], count["images"]) for count in counts] == [(1, 8)] * 2


@pytest.mark.parametrize(("batch", "effective", "sizes"), [(2, "null", [2] * 4), (2, "4", [4, 4]), (2, "6", [4, 4]), (3, "100", [8])])
def test_a_batch_is_what_a_step_learns_from(store: TileStore, batch: int, effective: str, sizes: list[int]) -> None:
    session, _ = stepped(store, batch, f"train.effective_batch={effective}", steps=0)
    assert [len(item.keys) for item in session._rest()] == sizes


def encoder_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in load_state(folder / "state")["network"].items() if name.startswith("body.encoder.")}


def test_a_frozen_encoder_keeps_weights_and_statistics_while_the_decoder_learns(store: TileStore, tmp_path: Path) -> None:
    network, _ = make(store, load_recipe("tiny", SETTINGS), range(10, 14))
    start(store, tmp_path / "run", "train.epochs=1", "train.freeze=1", "train.weight_decay=0.5")
    before, after = network.state_dict(), load_state(tmp_path / "run" / "state")["network"]
    for name, tensor in before.items():
        if name.startswith("body.encoder."):
            assert torch.equal(tensor, after[name]), name
    assert not torch.equal(before["body.decoder.blocks.0.conv1.0.weight"], after["body.decoder.blocks.0.conv1.0.weight"])
    assert int(after["body.decoder.blocks.0.conv1.1.num_batches_tracked"]) == 3


def test_the_encoder_is_let_go_after_its_share(store: TileStore, tmp_path: Path) -> None:
    start(store, tmp_path / "run", "train.epochs=2", "train.freeze=0.5")  # of six steps the first three
    counts = {int(tensor) for name, tensor in encoder_of(tmp_path / "run").items() if name.endswith("num_batches_tracked")}
    assert counts == {3}


def test_freezing_ends_with_the_minutes_too(store: TileStore) -> None:
    session, network = stepped(store, 4, "train.minutes=1", "train.freeze=0.5", steps=0)
    is_held = []
    for elapsed_s in (0.0, 20.0, 40.0, 59.0):
        session.at = replace(session.at, elapsed_s=elapsed_s, step=1, validation_s=1e-6)
        session.stepper.stepped.train()
        session.stepper._freeze(session._progress())
        is_held.append((network.encoder.training, next(network.encoder.parameters()).requires_grad))
    assert is_held == [(False, False), (False, False), (True, True), (True, True)]


def test_the_average_of_the_last_share_is_what_is_kept(store: TileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    validated: list[torch.Tensor] = []
    name = "body.segmentation_head.0.weight"
    keep_step, keep_validation = loop.Loop.step, loop.Loop._validate

    def noting_step(self: loop.Loop, *arguments: object) -> None:
        keep_step(self, *arguments)  # type: ignore[arg-type]
        seen.append(self.stepper.network.state_dict()[name].clone())

    def noting_validation(self: loop.Loop) -> None:
        validated.append(self.stepper.kept.state_dict()[name].clone())
        keep_validation(self)

    monkeypatch.setattr(loop.Loop, "step", noting_step)
    monkeypatch.setattr(loop.Loop, "_validate", noting_validation)
    start(store, tmp_path / "run", "train.epochs=3", "train.ema=null", "train.average=0.5")  # of nine steps the last four
    assert len(seen) == 9
    assert torch.equal(validated[0], seen[2]), "before it begins, the weights themselves"
    assert torch.allclose(validated[1], seen[5], atol=1e-7), "of one step"
    assert torch.allclose(validated[2], torch.stack(seen[5:]).mean(0), atol=1e-6)


def test_the_monitor_knows_when_the_tiles_have_left_the_device(store: TileStore) -> None:
    session, _ = stepped(store, 4, "data.residency=device", steps=0)
    session.batches.settle()
    places = []
    for act in (lambda: True, session.stepper.make_room):
        assert act()
        session.monitor._bottleneck()
        places.append((session.monitor.pace.situation.residency, session.batches.where))
    assert places[0] == ("device", "device") and places[1][0] == places[1][1] != "device"


def test_the_losses_of_both_heads_are_weighed(store: TileStore) -> None:
    recipe = load_recipe("tiny", [*SETTINGS, "loss.auxiliary=0.25"])
    network, task = make(store, recipe, range(10, 14))
    session = loop.Loop(network, task)
    stepper, batch = session.stepper, next(iter(session.batches.epoch(0)))
    first = torch.rand(len(batch.labels), len(world.CLASSES), 64, 64)
    stepper.stepped = lambda _images: (first, -first)  # type: ignore[assignment]
    moved: list[torch.Tensor] = []
    keep = stepper.loss

    def noting(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        moved.append(keep(logits, labels))
        return moved[-1]

    stepper.loss = noting  # type: ignore[assignment]
    assert float(stepper._loss(batch, 0)) == pytest.approx(float(moved[0]) + 0.25 * float(moved[1]))
    assert float(moved[0]) != pytest.approx(float(moved[1]))


def test_memory_is_kept_for_training_on_a_cpu(store: TileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(step, "keep_memory", lambda: calls.append(True))
    stepped(store, 4, steps=0)
    assert calls == [True]


def test_a_run_keeps_its_own_normalisation(store: TileStore, tmp_path: Path) -> None:
    """As when the model that it began from has gone meanwhile, and the data's own rule says something else."""
    start(store, tmp_path / "run", "train.epochs=1")
    recipe = load_recipe("tiny", [*SETTINGS, "train.epochs=2"])
    network, task = make(store, recipe, range(10, 14))
    card = task.card.model_copy(update={"mean": (1.0, 2.0, 3.0), "std": (9.0, 9.0, 9.0)})
    session = loop.Loop(network, loop.Task(store, task.train, task.val, card, recipe))
    run = Run(tmp_path / "run", is_new=False)
    session.run(run, resume=True)
    run.close()
    assert session.stepper.card.normalisation == NORMALISATION
    assert torch.equal(session.stepper.network.mean.flatten(), torch.tensor(NORMALISATION.mean))


def test_class_weights_come_from_the_train_part(store: TileStore) -> None:
    session, _ = stepped(store, 4, "loss.class_weights=inverse", steps=0)
    pixels = np.array([store.entries[i].class_pixels for i in range(8)]).sum(0)
    weight = session.stepper.loss.weight.numpy()  # type: ignore[union-attr, operator]
    present = pixels > 0
    assert np.allclose((weight * pixels)[present], (weight * pixels)[present][0])


def test_a_run_of_before_groups_had_shares_and_states_their_normalisation_is_gone_on_with(
    store: TileStore, undisturbed: Path, tmp_path: Path
) -> None:
    start(store, tmp_path / "run")
    newest = sorted((tmp_path / "run" / "state").glob("step-*.state"))[-1]
    newest.unlink()
    state = load_state(tmp_path / "run" / "state")
    del state["normalisation"], state["position"]["progress"]
    for group in state["optimiser"]["param_groups"]:
        del group["share"]
    save_state(tmp_path / "run" / "state", state)
    start(store, tmp_path / "run", resume=True)
    assert same(undisturbed, tmp_path / "run")


def test_progress_never_goes_back_when_validation_takes_longer_or_shorter_than_guessed(store: TileStore) -> None:
    session, _ = stepped(store, 4, "train.minutes=1", steps=0)
    session._val_tiles, found = 1000.0, []
    for elapsed_s, number, validation_s in [
        (10, 1, 0),
        (11, 2, 0),
        (20, 9, 0),
        (21, 9, 1),
        (30, 15, 1),
        (31, 15, 20),
        (38, 20, 1),
        (59, 30, 1),
    ]:
        session.at = replace(session.at, elapsed_s=float(elapsed_s), step=number, validation_s=float(validation_s))
        session.at = replace(session.at, progress=session._progress())
        found.append(session.at.progress)
    assert found == sorted(found) and found[-1] == 1.0
    assert all(share < 1 for share in found[:-1])
    assert found[0] <= 2 * 10 / 60, "a slow first step does not end the run"


def test_progress_is_kept_in_the_state(store: TileStore, tmp_path: Path) -> None:
    start(store, tmp_path / "run", "train.minutes=0.01")
    assert load_state(tmp_path / "run" / "state")["position"]["progress"] > 0


@pytest.mark.parametrize(("average", "is_told"), [("0.01", True), ("0.9", False)])
def test_an_average_that_never_began_is_told(
    store: TileStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, average: str, is_told: bool
) -> None:
    short = ("train.epochs=9", "train.patience=1", "train.lr=1e-12", "train.ema=null", f"train.average={average}")
    with caplog.at_level("WARNING", "landseg"):
        start(store, tmp_path / "run", *short)
    assert ("train.average=0.01 never began" in caplog.text) is is_told


@pytest.mark.parametrize(
    ("place", "name", "seconds", "expected", "share"),
    [
        (loop.Stepper, "step", 20.0, "the network: 100 % of the time", "step"),
        (loop, "tile_matrices", 60.0, "validation takes 67 % of the time: train.validate_every=4", "validation"),
        (Keeper, "save_state", 60.0, "saving takes 67 % of the time: train.save_minutes=20", "saving"),
        (loop.Loop, "_rest", 30.0, "waiting for data 50 %: ", "data"),
    ],
)
def test_what_a_run_spends_its_time_on_is_named(
    store: TileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: object, name: str, seconds: float, expected: str, share: str
) -> None:
    """Time is planted into one part of a real run, on a clock that stands still but for that and for ten seconds a step."""
    now = 0.0

    def planted(number: float, work: Callable[..., object]) -> Callable[..., object]:
        def late(*arguments: object, **options: object) -> object:
            nonlocal now
            now += number
            return work(*arguments, **options)

        return late

    def slowly(work: Callable[..., Iterator[object]]) -> Callable[..., Iterator[object]]:
        def late(*arguments: object) -> Iterator[object]:
            nonlocal now
            for item in work(*arguments):
                now += 10.0  # three batches an epoch
                yield item

        return late

    monkeypatch.setattr(loop, "Stopwatch", lambda: Stopwatch(lambda: now))
    monkeypatch.setattr(loop, "SAVE_SHARE", float("inf"))  # at the end of each epoch, however short
    monkeypatch.setattr(loop.Stepper, "step", planted(10.0, loop.Stepper.step))
    changed = slowly(getattr(place, name)) if name == "_rest" else planted(seconds, getattr(place, name))
    monkeypatch.setattr(place, name, changed)
    _, task = make(store, load_recipe("tiny", [*SETTINGS, "train.ema=null"]), range(10, 14))
    session, run = loop.Loop(Network(Plain(), NORMALISATION), task), Run(tmp_path / "run")
    try:
        session.run(run, resume=False)
    finally:
        run.close()
    found = session.monitor.pace.bottleneck()
    assert found is not None and found.words.startswith(expected)
    lines = read_metrics(tmp_path / "run")
    spent = sum(line[f"time/{share}_share"] * line["time/window_s"] for line in lines)
    wanted = 9 * 30.0 if share == "step" else 9 * 10.0 if share == "data" else 3 * seconds
    assert spent == pytest.approx(wanted, rel=1e-3), "every second is in one line; but for the last save, after which there is none"
