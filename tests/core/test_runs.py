"""A run folder: metrics that survive a kill, TensorBoard's view of them, and a clearing that removes nothing else."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from landseg.core import runs
from landseg.core.errors import LandsegError
from landseg.core.runs import Run, clear, read_metrics, read_surroundings, refuse_existing_run, save_recipe, write_surroundings


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    opened = Run(tmp_path / "run")
    yield opened
    opened.close()


def board(folder: Path) -> list[tuple[int, str, float]]:
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    (path,) = folder.glob("events.out.tfevents.*")
    events = (Event.FromString(raw) for raw in RawEventFileLoader(str(path)).Load())
    return [(event.step, value.tag, round(value.simple_value, 6)) for event in events for value in event.summary.value]


def test_lines_are_on_the_disk_at_once_and_in_tensorboard_after(run: Run) -> None:
    run.add({"step": 5, "epoch": 1, "time_s": 0.5, "train/loss": 0.25})
    run.add({"step": 9, "epoch": 1, "time_s": 0.9, "val/miou": 0.5, "val/iou/道路": None})
    assert [line["step"] for line in read_metrics(run.folder)] == [5, 9]
    assert run.lines == 2
    run.close()
    assert board(run.folder) == [(5, "epoch", 1.0), (5, "train/loss", 0.25), (9, "epoch", 1.0), (9, "val/miou", 0.5)]


def test_a_line_that_a_kill_cut_is_left_out_and_cut_back_removes_it(run: Run) -> None:
    for step in (1, 2, 3):
        run.add({"step": step, "train/loss": step / 4})
    run.close()
    with (run.folder / "metrics.jsonl").open("a", encoding="utf-8") as handle:
        handle.write('{"step": 4, "train/lo')
    again = Run(run.folder)
    assert again.lines == 3
    again.cut_back(2)
    again.add({"step": 7, "train/loss": 1.0})
    again.close()
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 7]
    assert board(run.folder) == [(1, "train/loss", 0.25), (2, "train/loss", 0.5), (7, "train/loss", 1.0)]


def test_the_log_has_lines_with_times_and_the_handler_goes_with_the_run(run: Run) -> None:
    before = runs.log.handlers[:]
    runs.log.warning("tile %s left out 耕地", 3)
    run.close()
    runs.log.warning("afterwards")
    text = (run.folder / "log.txt").read_text(encoding="utf-8")
    assert "WARNING tile 3 left out 耕地" in text and "afterwards" not in text
    assert len(runs.log.handlers) == len(before) - 1


def full(monkeypatch: pytest.MonkeyPatch, takes: int) -> pytest.MonkeyPatch:
    """A disk that takes the first bytes of each write to a file, and no more."""
    write = os.write

    def some(handle: int, data: memoryview) -> int:
        if takes and len(data) > takes and not left:
            left.append(True)
            return write(handle, data[:takes])
        left.clear()
        raise OSError(28, "No space left on device")

    left: list[bool] = []
    monkeypatch.setattr(os, "write", some)
    return monkeypatch


@pytest.mark.parametrize("takes", [0, 7])
def test_on_a_full_disk_lines_wait_whole_and_are_written_when_there_is_room(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, takes: int
) -> None:
    run.add({"step": 1, "train/loss": 0.5})
    with caplog.at_level(logging.WARNING, "landseg"), monkeypatch.context() as patch:
        full(patch, takes)
        for step in (2, 3):
            run.add({"step": step, "train/loss": 0.5})
            assert (run.folder / "metrics.jsonl").read_text(encoding="utf-8") == json.dumps({"step": 1, "train/loss": 0.5}) + "\n"
        assert run.lines == 3
    assert caplog.text.count("metrics.jsonl") == 1 and "No space left" in caplog.text
    run.add({"step": 4, "train/loss": 0.5})
    assert [line["step"] for line in read_metrics(run.folder)] == [1, 2, 3, 4] and run.lines == 4
    run.close()
    assert [step for step, tag, _ in board(run.folder) if tag == "train/loss"] == [1, 2, 3, 4]


def test_a_run_whose_disk_stays_full_is_closed_without_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.add({"step": 1, "train/loss": 0.5})
    with monkeypatch.context() as patch:
        full(patch, 0)
        run.add({"step": 2, "train/loss": 0.5})
        run.close()
    assert [line["step"] for line in read_metrics(run.folder)] == [1]


def test_the_log_on_a_full_disk_prints_no_traceback(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    real, run._log.stream = run._log.stream, Full()
    runs.log.warning("not taken")
    run._log.stream = real
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_cannot_lie_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(LandsegError, match="cannot be written"):
        Run(tmp_path / "file")


def test_surroundings_say_what_a_run_was_made_with(tmp_path: Path) -> None:
    write_surroundings(tmp_path, device="cpu", seed=7, data_fingerprint="abc")
    found = read_surroundings(tmp_path)
    assert (found["device"], found["seed"], found["data_fingerprint"]) == ("cpu", 7, "abc")
    assert found["versions"]["torch"] and found["versions"]["timm"]
    (tmp_path / "environment.json").write_text("{", encoding="utf-8")
    assert read_surroundings(tmp_path) == {} == read_surroundings(tmp_path / "none")


def test_the_commit_is_read_from_gits_files(tmp_path: Path) -> None:
    (tmp_path / ".git" / "refs" / "heads").mkdir(parents=True)
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n", encoding="utf-8")
    assert runs._git_commit(tmp_path) is None
    (tmp_path / ".git" / "refs" / "heads" / "main").write_text("1234abcd\n", encoding="utf-8")
    (tmp_path / "deep").mkdir()
    assert runs._git_commit(tmp_path / "deep") == "1234abcd"
    (tmp_path / ".git" / "packed-refs").write_text("# pack-refs with: peeled\n99887766 refs/heads/main\n", encoding="utf-8")
    (tmp_path / ".git" / "refs" / "heads" / "main").unlink()
    assert runs._git_commit(tmp_path) == "99887766"


def test_clearing_removes_a_run_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Run(folder).close()
    save_recipe(folder, "train: {}\n")
    for name in ("state/step-1.pt", "model/model.json", ".model.old/model.json", ".metrics.jsonl.12.partial", ".git/HEAD", ".DS_Store"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x", encoding="utf-8")
    clear(folder)
    assert sorted(path.name for path in folder.iterdir()) == [".DS_Store", ".git", ".lock"]
    assert (folder / ".git" / "HEAD").is_file()
    clear(tmp_path / "none")


def test_clearing_follows_no_link(tmp_path: Path) -> None:
    folder, other = tmp_path / "run", tmp_path / "elsewhere"
    folder.mkdir()
    other.mkdir()
    (other / "precious").write_text("x", encoding="utf-8")
    (folder / "state").symlink_to(other)
    clear(folder)
    assert (other / "precious").is_file() and not (folder / "state").exists()


def test_a_folder_with_something_else_in_it_is_not_cleared(tmp_path: Path) -> None:
    for name in ("recipe.yaml", "thesis.docx"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    with pytest.raises(LandsegError, match=r"thesis\.docx is in it"):
        clear(tmp_path)
    assert (tmp_path / "recipe.yaml").is_file()


def test_metrics_of_a_run_that_has_none(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    assert logging.getLogger("landseg") is runs.log


def test_a_run_that_ended_before_it_saved_anything_is_begun_anew_by_the_same_command(run: Run) -> None:
    run.close()
    save_recipe(run.folder, "train: {}\n")
    for name in ("state/step-000000000.state", "state/.step-000000005.state.12.partial", ".model.new/model.json", "preview.html"):
        (run.folder / name).parent.mkdir(exist_ok=True)
        (run.folder / name).write_text("x", encoding="utf-8")
    refuse_existing_run(run.folder, overwrite=False)
    Run(run.folder, is_new=True).close()
    assert {path.name.partition(".tfevents")[0] for path in run.folder.iterdir()} == {
        ".lock", "events.out", "log.txt", "metrics.jsonl", "preview.html",
    }  # fmt: skip


@pytest.mark.parametrize(
    "kept", ["state/step-000000005.state", "model/model.json", ".model.old/model.json", "report/report.md", "mine.txt"]
)
def test_a_run_that_saved_something_is_replaced_only_when_told(run: Run, kept: str) -> None:
    run.close()
    (run.folder / kept).parent.mkdir(exist_ok=True)
    (run.folder / kept).write_text("x", encoding="utf-8")
    with pytest.raises(LandsegError, match="--overwrite") as caught:
        refuse_existing_run(run.folder, overwrite=False)
    assert ("--resume" in str(caught.value)) is kept.startswith("state")
    refuse_existing_run(run.folder, overwrite=True)


def test_killed_while_what_was_begun_was_cleared_it_is_begun_anew_all_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.close()
    save_recipe(run.folder, "train: {}\n")
    unlink, removed = Path.unlink, list[str]()

    def killed(self: Path) -> None:
        if len(removed) == 3:
            raise SystemExit
        removed.append(self.name)
        unlink(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(SystemExit):
            clear(run.folder)
    assert "metrics.jsonl" in removed and (run.folder / "recipe.yaml").is_file()
    refuse_existing_run(run.folder, overwrite=False)


def test_a_recipe_that_lies_alone_in_a_folder_is_no_run(tmp_path: Path) -> None:
    save_recipe(tmp_path, "train: {}\n")
    with pytest.raises(LandsegError, match="--overwrite"):
        refuse_existing_run(tmp_path, overwrite=False)


def test_killed_while_a_former_run_was_cleared_nothing_is_left_to_resume(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.close()
    save_recipe(run.folder, "train: {}\n")
    for name in ("state/step-000000005.state", "model/model.json"):
        (run.folder / name).parent.mkdir(exist_ok=True)
        (run.folder / name).write_text("x", encoding="utf-8")
    rmtree, calls = runs.shutil.rmtree, []

    def killed(path: Path) -> None:
        calls.append(path.name)
        if len(calls) > 1:
            raise SystemExit
        rmtree(path)

    monkeypatch.setattr(runs.shutil, "rmtree", killed)
    with pytest.raises(SystemExit):
        clear(run.folder)
    assert calls == ["state", "model"] and (run.folder / "recipe.yaml").is_file()
