"""Several processes that share a run: they end as one process does, whatever befalls one of them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import landseg
from landseg.core.config import load_recipe
from landseg.core.errors import LandsegError
from landseg.core.runs import read_metrics
from landseg.network.checkpoint import load_card
from landseg.training.memory import cut
from landseg.training.ranks import Ranks, Share, whole
from landseg.training.state import load_state
from landseg.training.transfer import Arrays
from landseg.verbs import train as verb
from landseg.verbs.launch import torchrun
from shared.runs import divided, weights_of

SCRIPT = Path(__file__).with_name("sharing.py")

TIMEOUT_S = 600
"""For processes that hang; a machine that is busy takes minutes to start two."""

pytestmark = pytest.mark.timeout(TIMEOUT_S + 60)


@dataclass(frozen=True)
class Shared:
    """What two processes did: their folder, what each said of its end, and the script, to do the same in this one."""

    folder: Path
    said: tuple[dict[str, Any], dict[str, Any]]
    script: ModuleType


def launched(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = torchrun([], 2)
    full = [*command[: command.index("-m", 3)], *map(str, (SCRIPT, *words))]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(full, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        if process.poll() is None:
            process.terminate()  # a kill would leave those that it started
            process.communicate()
    return subprocess.CompletedProcess(full, process.returncode, out, err)


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sharing", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    folder, script = tmp_path_factory.mktemp("shared"), loaded()
    script.write(folder)
    done = launched(folder)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((folder / f"said-{number}.json").read_text(encoding="utf-8")) for number in (0, 1))
    return Shared(folder, (first, second), script)


def distance(first: Path, second: Path) -> float:
    a, b = weights_of(first), weights_of(second)
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def test_all_processes_end_with_the_same_weights_moments_and_scores(shared: Shared) -> None:
    first, second = shared.said
    assert first == second
    kinds = ("whole", "ignoring", "spoilt", "rolled", "normed", "timed")
    assert len({first[name]["weights"] for name in kinds}) == len(kinds), "the check sees differences"
    assert first["rolled"]["rollbacks"] == 1 and first["normed"]["steps"] == 9 and first["timed"]["steps"] > 0


def test_two_processes_are_one_with_the_same_step(shared: Shared) -> None:
    one = shared.script.train(shared.folder, "one")
    assert one["steps"] == shared.said[0]["whole"]["steps"] == 9
    assert distance(shared.folder / "one", shared.folder / "shared") < 1e-5
    assert one["miou"] == pytest.approx(shared.said[0]["whole"]["miou"], abs=1e-3)
    assert read_metrics(shared.folder / "shared")[0].keys() == read_metrics(shared.folder / "one")[0].keys()


def test_pixels_without_a_label_count_as_in_micro_batches(shared: Shared) -> None:
    shared.script.train(shared.folder, "ignoring-one", *shared.script.IGNORING)
    assert distance(shared.folder / "ignoring-one", shared.folder / "ignoring-shared") < 1e-5
    assert distance(shared.folder / "ignoring-one", shared.folder / "shared") > 1e-3, "the check sees differences"


def test_where_one_runs_out_of_memory_both_halve_and_repeat_the_step(shared: Shared) -> None:
    assert shared.said[0]["short"]["micro"] == 1
    assert distance(shared.folder / "short", shared.folder / "shared") < 1e-5


def test_a_loss_that_is_no_number_in_one_is_none_in_both(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.script, "SPOILT", shared.script.spoilt_key(shared.folder))
    with shared.script.Disturbed(shared.script.spoil):
        one = shared.script.train(shared.folder, "spoilt-one", "train.on_nan=skip")
    assert one["skipped"] == shared.said[0]["spoilt"]["skipped"] == 1
    assert distance(shared.folder / "spoilt-one", shared.folder / "spoilt-shared") < 1e-5


def test_a_signal_to_one_stops_both_at_the_same_step_and_two_go_on_bit_for_bit(shared: Shared) -> None:
    stopped, resumed = shared.said[0]["stopped"], shared.said[0]["resumed"]
    assert stopped["is_stopped"] and stopped["steps"] == 5
    assert not resumed["is_stopped"] and resumed["weights"] == shared.said[0]["whole"]["weights"]


def test_one_process_goes_on_with_what_two_began(shared: Shared) -> None:
    assert shared.said[0]["left"]["is_stopped"]
    shared.script.train(shared.folder, "left", resume=True)
    assert distance(shared.folder / "left", shared.folder / "shared") < 1e-5


def test_a_signal_to_one_in_validation_saves_the_state(shared: Shared) -> None:
    assert "saved, as a signal asked" in (shared.folder / "asked" / "log.txt").read_text(encoding="utf-8")
    assert shared.said[0]["asked"]["weights"] == shared.said[0]["whole"]["weights"]


def test_only_the_first_writes(shared: Shared) -> None:
    steps = [(line["step"], "val/miou" in line) for line in read_metrics(shared.folder / "shared")]
    assert len(steps) == len(set(steps)) == 6
    assert len(list((shared.folder / "shared").glob("events.out.tfevents.*"))) == 1


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """A data set, and the command of whose two processes the second is killed in its third step, of four an epoch."""
    folder = tmp_path_factory.mktemp("killed")
    data, run = divided(folder / "data", 20, val=4), folder / "run"
    words = ("train", data, "--out", run, "-c", "tiny", "--set", "train.epochs=2", "--set", "train.batch=4", "--set", "train.device=cpu")
    return data, run, launched(folder, *words, "--set", "train.save_minutes=1e-9")


def test_the_end_of_one_ends_the_run_with_a_word_and_resume_goes_on(
    killed: tuple[Path, Path, subprocess.CompletedProcess[str]],
) -> None:
    data, run, done = killed
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("landseg: ")]
    assert "another process of the run has ended" in line and "--resume" in line
    assert "landseg/training" not in done.stderr, "torchrun's traceback is its own, ours is none"
    assert load_state(run / "state")["step"] == 2
    trained = landseg.train(data, run, resume=True)
    assert trained.steps == 8
    assert load_card(run / "model").scores["val"]["miou"] is not None


def alone(settings: Any) -> Ranks:
    return Ranks(load_recipe(None, settings).train, torch.device("cpu"))


def launched_as(monkeypatch: pytest.MonkeyPatch, number: int, count: int, here: int) -> None:
    for name, value in {"RANK": number, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": here, "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("processes", [2, 3, 4, 7])
@pytest.mark.parametrize("tiles", [14, 15, 16, 27])
def test_shares_are_all_of_a_step_and_even(monkeypatch: pytest.MonkeyPatch, processes: int, tiles: int) -> None:
    keys = np.arange(tiles, dtype=np.uint64)
    batch = Arrays(keys, np.zeros((tiles, 2, 2, 3), np.uint8), np.zeros((tiles, 2, 2), np.uint8))
    shares = []
    for number in range(processes):
        launched_as(monkeypatch, number, processes, processes)
        ranks = alone([])
        share = ranks.share(batch)
        assert isinstance(share, Share) and ranks.share(share) is share and (whole(share) == keys).all()
        assert sum(ranks.cut(tiles, 3)) == len(share.keys) <= ranks.most(tiles)
        assert ranks.cut(tiles, 3) == cut(len(share.keys), 3)
        shares.append(share)
    assert np.concatenate([share.keys for share in shares]).tolist() == keys.tolist()
    assert max(len(share.keys) for share in shares) - min(len(share.keys) for share in shares) <= 1


@pytest.mark.parametrize("most", [1, 2, 3, 16])
@pytest.mark.parametrize("tiles", [6, 7, 8, 16, 31])
def test_where_normalisation_asks_all_each_has_as_many_micro_batches(monkeypatch: pytest.MonkeyPatch, tiles: int, most: int) -> None:
    found = []
    for number in range(3):
        launched_as(monkeypatch, number, 3, 3)
        ranks = alone([])
        ranks.is_synced = True
        found.append(ranks.cut(tiles, most))
    assert len({len(sizes) for sizes in found}) == 1
    assert sum(map(sum, found)) == tiles and all(size > 0 for sizes in found for size in sizes)


def test_alone_it_is_all_of_everything_and_asks_nobody() -> None:
    ranks, tiles = alone([]), [3, 1, 2]
    batch = Arrays(np.arange(3, dtype=np.uint64), np.zeros((3, 2, 2, 3), np.uint8), np.zeros((3, 2, 2), np.uint8))
    loss = torch.ones(())
    assert ranks.is_alone and ranks.is_first and not ranks.is_synced
    assert ranks.share(batch) is batch and ranks.spread(tiles) is tiles and ranks.summed(loss, torch.nn.Identity(), 1.0) is loss
    assert ranks.each(5) == [5] and ranks.agreed((1.5,), (True, False)) == ([1.5], [True, False])
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("settings", "launch", "words"),
    [
        (["train.devices=2"], None, "2, but this is one process.*torchrun --standalone .*--nproc-per-node 2 SCRIPT"),
        (["train.devices=3"], (0, 2, 2), "3, but torchrun started 2.*torchrun --standalone .*--nproc-per-node 3$"),
        (["train.devices=3"], (0, 4, 2), "3, but torchrun started 2.*--nnodes 2 --nproc-per-node 3 .*--rdzv-endpoint node-1:29500$"),
        ([], (0, 3, 2), "as many on each machine"),
    ],
)
def test_processes_that_were_not_asked_for_are_refused(
    monkeypatch: pytest.MonkeyPatch, settings: list[str], launch: tuple[int, int, int] | None, words: str
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node-1")
    if launch is not None:
        launched_as(monkeypatch, *launch)
    with pytest.raises(LandsegError, match=words):
        alone(settings)


def test_steps_too_small_to_share_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    alone([]).require_tiles(2)
    launched_as(monkeypatch, 0, 2, 2)
    alone([]).require_tiles(4)
    with pytest.raises(LandsegError, match="steps of 3 tiles for 2 processes"):
        alone([]).require_tiles(3)


def test_other_commands_are_refused_in_several_processes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from landseg.cli import main

    launched_as(monkeypatch, 0, 2, 2)
    with pytest.raises(SystemExit) as left:
        main(["recipe", "list"], standalone_mode=False)
    assert left.value.code == 2
    assert "2 processes of `landseg" in capsys.readouterr().err


def test_the_command_starts_as_many_as_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from landseg.verbs import launch

    started: list[list[str]] = []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(launch.os, "execv", lambda _path, command: started.append(command))
    monkeypatch.setattr(sys, "argv", ["landseg", "train", "data", "--set", "train.devices=2"])
    launch.launch(tmp_path, None, ["train.devices=2"], resume=False)
    assert started == [torchrun(["train", "data", "--set", "train.devices=2"], 2)]
    words = " ".join(started[0])
    assert words.endswith("--nproc-per-node 2 -m landseg train data --set train.devices=2")
    assert "--local-addr localhost" in words, "a machine need not be able to look up its own name"
    launch.launch(tmp_path, None, [], resume=False)
    launch.launch(tmp_path, None, ["train.devices=auto", "train.device=cpu"], resume=False)
    launched_as(monkeypatch, 0, 2, 2)
    launch.launch(tmp_path, None, ["train.devices=2"], resume=False)
    assert len(started) == 1, "one process needs no other, and those that were started start none"


@pytest.mark.parametrize(
    ("settings", "launch", "words"),
    [
        ([], None, ""),
        (["train.devices=2"], (0, 2, 2), ""),  # the command starts them itself
        ([], (0, 2, 2), "torchrun --standalone --local-addr localhost --nproc-per-node 2 -m"),
        ([], (0, 4, 2), "torchrun --nnodes 2 --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint node-1:29500 -m"),
        (["train.devices=2"], (0, 4, 2), "torchrun --nnodes 2 --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint node-1:29500 -m"),
    ],
)
def test_an_interrupted_run_is_told_how_as_many_processes_go_on(
    monkeypatch: pytest.MonkeyPatch, settings: list[str], launch: tuple[int, int, int] | None, words: str
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node-1")
    if launch is not None:
        launched_as(monkeypatch, *launch)
    assert " ".join(verb._starter(load_recipe(None, settings))) == words
