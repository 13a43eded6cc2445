"""The verb lists, compares and prunes; nothing that could be missed is removed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from landseg.cli import main
from landseg.core.errors import LandsegError
from landseg.core.files import lock
from landseg.verbs.runs import runs, runs_compare, runs_prune


def write(folder: Path, miou: float = 0.5, *, ended: bool = True, model: bool = True, states: int = 2, lr: float = 0.1) -> Path:
    """A run folder of two epochs, its two states of 1,000 bytes each."""
    (folder / "state").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(f"model: {{network: unet, encoder: tiny}}\ntrain: {{epochs: 2, lr: {lr}}}\n")
    surroundings = {"data": "village", "data_fingerprint": "abcdef0123456789", **({"ended": {"epochs": 2}} if ended else {})}
    (folder / "environment.json").write_text(json.dumps(surroundings))
    lines = [{"step": 4 * k, "epoch": k, "time_s": 60.0 * k, "train/loss": 1.0, "val/miou": miou} for k in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "report").mkdir()
    (folder / "report" / "report.html").write_text("r")
    for k in range(states):
        (folder / "state" / f"step-{k}.state").write_bytes(b"s" * 1000)
    if model:
        (folder / "model").mkdir()
        score = {"miou": miou, "epoch": 2, "iou": {"road": miou}, "confusion": [[1]]}
        (folder / "model" / "model.json").write_text(json.dumps({"scores": {"val": score}, "classes": [{"id": 0, "name": "road"}]}))
        (folder / "model" / "model.safetensors").write_bytes(b"w")
    return folder


def landseg(*words: object) -> Result:
    return CliRunner().invoke(main, ["runs", *map(str, words)])


def left(folder: Path) -> dict[str, int]:
    """Every file below a folder with its size."""
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs of every kind in `runs`, seen from the folder that it lies in; the later the older."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "runs" / "low", 0.25)
    write(tmp_path / "runs" / "more" / "high", 0.75, lr=0.5)
    write(tmp_path / "runs" / "halted", 0.6, ended=False)
    write(tmp_path / "runs" / "lost", 0.5, ended=False, model=False, states=0)
    for age, name in enumerate(("lost", "low", "halted", "more/high")):
        os.utime(tmp_path / "runs" / name / "metrics.jsonl", (1e9 - age, 1e9 - age))
    return tmp_path / "runs"


def test_runs_are_listed_by_score_or_time(several: Path) -> None:
    rows = landseg().stdout.splitlines()
    assert [row.split()[0] for row in rows[1:5]] == ["more/high", "halted", "lost", "low"]
    assert [landseg("--by", "time").stdout.splitlines()[k].split()[0] for k in range(1, 5)] == ["lost", "low", "halted", "more/high"]
    assert rows[1].split() == [
        *["more/high", "0.7500", "val", "2", "of", "2", "epochs", "2.0"],
        *rows[1].split()[8:10],
        *["finished", "unet", "tiny", "village", "abcdef01"],
    ]
    assert "would free 4.0 kB" in landseg().stdout and "--resume" in landseg().stdout


def test_the_document_and_the_ways_to_name_the_same_list(several: Path) -> None:
    document = json.loads(landseg("--json").stdout)
    assert document == json.loads(landseg("list", "runs", "--json").stdout) == json.loads(landseg("runs", "--json").stdout)
    assert [run["state"] for run in document["runs"]] == ["finished", "interrupted", "given up", "finished"]
    assert document["runs"][0]["miou"] == 0.75 and document["runs"][0]["bytes"] == sum(left(several / "more" / "high").values())
    one = json.loads(landseg("runs/low", "--json").stdout)
    assert [run["path"] for run in one["runs"]] == ["runs/low"]


def test_without_a_folder_called_runs_it_looks_here(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(several / "more")
    assert [run.path for run in runs().runs] == [Path("high")]
    monkeypatch.chdir(several / "more" / "high")
    assert landseg().stdout.splitlines()[1].split()[0] == "high"


def test_comparing_writes_a_page_and_says_what_differs(several: Path, tmp_path: Path) -> None:
    done = landseg("compare", "runs/low", "runs/more/high", "--json")
    document = json.loads(done.stdout)
    assert document["settings"] == {"train.lr": {"low": 0.1, "high": 0.5}} and document["scores"]["mIoU"] == {"low": 0.25, "high": 0.75}
    assert (document["ground"], document["warnings"], document["page"]) == ("same", [], "comparison.html")
    text = landseg("compare", "runs/low", "runs/more/high", "--out", "deep/er.html").stdout
    assert "0.7500 +0.5000" in text and "settings that differ (1; 3 are the same)" in text and text.splitlines()[-1] == "deep/er.html"
    assert (tmp_path / "deep" / "er.html").read_bytes() == (tmp_path / "comparison.html").read_bytes()


def test_a_page_replaces_a_former_one_and_nothing_else(several: Path, tmp_path: Path) -> None:
    words = ["compare", "runs/low", "runs/more/high"]
    assert landseg(*words).exit_code == 0 == landseg(*words).exit_code
    (tmp_path / "comparison.html").write_text("my thesis")
    refused = landseg(*words)
    assert refused.exit_code == 2 and "comparison.html: it exists already" in refused.stderr
    assert (tmp_path / "comparison.html").read_text() == "my thesis"
    assert landseg(*words, "--overwrite").exit_code == 0
    assert "Comparison of 2 runs" in (tmp_path / "comparison.html").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["compare", "runs/low"], "runs compare: 1 run named"),
        (["compare", "runs/low", "runs/more/../low"], "it is named twice"),
        (["compare", "runs/low", "runs/lost/nowhere"], "no such folder"),
        (["compare", "runs/low", "runs"], "no run in it, but 4 below it"),
        (["compare", "runs/low", "runs/low/model"], "a model folder, which has no history"),
        (["compare", "runs/low", "runs/low/recipe.yaml"], "a file"),
        (["nowhere"], "nowhere: no such folder"),
        (["runs/low/report"], "no run in it or below it"),
        (["prune", "runs/low/report"], "no run in it or below it"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(several: Path, tmp_path: Path, words: list[str], says: str) -> None:
    before = left(tmp_path)
    done = landseg(*words)
    assert done.exit_code == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1
    assert left(tmp_path) == before


def test_pruning_shows_first_and_frees_only_when_told(several: Path) -> None:
    before = left(several)
    shown = landseg("prune")
    assert "would free 4.0 kB of 2 runs; nothing was removed, add --yes" in shown.stdout and "halted" in shown.stdout
    assert left(several) == before
    done = json.loads(landseg("prune", "--yes", "--json").stdout)
    assert (done["is_done"], done["bytes"]) == (True, 4000)
    gone = before.keys() - left(several).keys()
    assert gone == {f"{name}/state/step-{k}.state" for name in ("low", "more/high") for k in (0, 1)}
    assert "nothing to free" in landseg("prune", "--yes").stdout
    assert [run.standing for run in runs(several).runs] == ["finished", "interrupted", "given up", "finished"]


def test_what_can_be_resumed_goes_only_when_it_is_named(several: Path) -> None:
    (item,) = runs_prune(several).kept
    assert item[0].path.name == "halted" and "--unfinished" in item[1]
    pruned = runs_prune(several, unfinished=True, yes=True)
    assert pruned.bytes == 6000 and pruned.kept == () and not list(several.rglob("*.state"))
    assert len(list(several.rglob("model.safetensors"))) == 3


def test_a_run_that_is_written_keeps_everything(several: Path) -> None:
    (several / "low" / ".metrics.jsonl.7.partial").write_bytes(b"half")
    with lock(several / "low" / ".lock", wait=False):
        before = left(several / "low")
        runs_prune(several, unfinished=True, yes=True)
        assert left(several / "low") == before
    assert runs_prune(several, yes=True).bytes == 2004
    assert not list(several.rglob("*.partial"))


def test_a_run_that_begins_between_looking_and_removing_keeps_everything(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either it holds the lock by then, or its surroundings are those of a run that has not ended."""
    from landseg.verbs import runs as verb

    real: Any = verb._remove
    started: list[Any] = []

    def begin(item: Any, *, unfinished: bool) -> Any:
        if item.run.path.name == "low":
            started.append(lock(item.run.path / ".lock", wait=False))
        else:
            (item.run.path / "environment.json").write_text('{"data": "village"}')
        return real(item, unfinished=unfinished)

    monkeypatch.setattr(verb, "_remove", begin)
    before = set(several.rglob("*.state"))
    pruned = runs_prune(several, yes=True)
    assert set(several.rglob("*.state")) == before and pruned.bytes == 0 and len(started) == 1
    started[0].close()


def test_a_finished_run_without_its_model_keeps_its_states(several: Path) -> None:
    (several / "low" / "model" / "model.safetensors").unlink()
    assert runs_prune(several, unfinished=True, yes=True).bytes == 4000
    assert len(list((several / "low").rglob("*.state"))) == 2


def test_foreign_files_in_a_state_folder_stay(several: Path) -> None:
    (several / "low" / "state" / "notes.txt").write_text("mine")
    runs_prune(several / "low", yes=True)
    assert left(several / "low" / "state") == {"notes.txt": 4}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may remove everything")
def test_a_folder_that_we_may_not_write_is_told(several: Path) -> None:
    (several / "low" / "state").chmod(0o555)
    try:
        with pytest.raises(LandsegError, match="cannot be removed"):
            runs_prune(several / "low", yes=True)
    finally:
        (several / "low" / "state").chmod(0o755)


def test_damage_is_told_beside_the_list(several: Path) -> None:
    (several / "low" / "metrics.jsonl").write_bytes(b"\xff\n" + (several / "low" / "metrics.jsonl").read_bytes())
    assert "low: metrics.jsonl: 1 damaged line is left out" in landseg().stdout
    assert "metrics.jsonl: 1 damaged line" in runs_compare(["runs/low", "runs/halted"], out="page.html").as_text()


def test_the_verbs_need_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, landseg.verbs.runs, landseg.scoring.comparison_page; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
