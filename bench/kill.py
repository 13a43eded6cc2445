"""Kill the real command with SIGKILL again and again, resume it each time, and compare the end with a run that nobody killed.

    python bench/kill.py FOLDER --kills 100

A tiny data set is made in FOLDER, and `landseg train` learns it in a process of its own. Half of the processes, drawn at random, are killed
at a random instant from their start on; the others by a file layer that kills them before a change of the run's files drawn at random, or
with half of a write done. Each is resumed by the command that a person would give: with --resume where there is a state, else the same
command again. After every kill there has to be a state that can be read and a model no worse than it says, or nothing; at the end, state,
model and metrics have to be those of the undisturbed run, bit for bit but for times. Then the next run begins, up to the last kill.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from landseg.__main__ import run as command
from landseg.data import world
from landseg.training.state import has_state
from landseg.verbs.prepare import prepare
from landseg.verbs.split import split

LAYERS = Path(__file__).parents[1] / "tests" / "e2e"
sys.path.insert(0, str(LAYERS))
from faults import Faults  # noqa: E402 - they lie beside the tests that use them
from killing import end_of, judge_end, judge_killed  # noqa: E402

SETTINGS = ("train.epochs=12", "train.batch=4", "train.device=cpu", "train.save_minutes=1e-9", "train.seed=3")

SOON = 0.3
"""Of a whole run, within which each process is killed, so that a run is killed several times, the later ones further on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60.0, help="kill no more after these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fork", action="store_true", help="fork processes that have torch imported: several times the kills in the time")
    options = parser.parse_args()
    Campaign(options.folder, options.seed, is_forked=options.fork).fight(options.kills, options.minutes)


class Campaign:
    """Runs that are killed, and what was found after each kill."""

    def __init__(self, folder: Path, seed: int, *, is_forked: bool) -> None:
        self.folder, self.random, self.is_forked = folder, random.Random(seed), is_forked
        self.instants, self.wrong = Counter[str](), list[str]()
        self.data = _data(folder)
        whole = folder / "whole"
        start = time.monotonic()
        self._finish(whole)
        self.takes_s = time.monotonic() - start
        self.end: dict[str, Any] = end_of(whole)
        self.changes = _changes(self.end)

    def fight(self, kills: int, minutes: float) -> None:
        """Kill until there were enough kills or the minutes have passed; print what came of it."""
        begun, runs = time.monotonic(), 0
        while self.kills < kills and time.monotonic() - begun < 60 * minutes:
            self._fight_one(self.folder / "run", kills, begun + 60 * minutes)
            runs += 1
        for instant, count in sorted(self.instants.items(), key=lambda item: -item[1]):
            print(f"{count:6}  {instant}")
        print(f"{self.kills} kills in {runs} runs of 12 epochs, {(time.monotonic() - begun) / 60:.1f} min: {len(self.wrong)} failures")
        for line in self.wrong:
            print(line)
        raise SystemExit(bool(self.wrong))

    @property
    def kills(self) -> int:
        """How many there were."""
        return sum(self.instants.values())

    def _fight_one(self, run: Path, kills: int, until: float) -> None:
        """One run to its end, through as many kills as it takes."""
        shutil.rmtree(run, ignore_errors=True)
        while self.kills < kills and time.monotonic() < until:
            is_inside = self.random.random() < 0.5
            code, said = self._killed_inside(run) if is_inside else self._killed_from_outside(run)
            if code == 0:
                break
            if code != -9:
                self.wrong.append(f"ended with {code}: {said}")
                return
            self.instants[("at a change of files; " if is_inside else "at any instant; ") + _left(run)] += 1
            self.wrong += judge_killed(run)
        self._finish(run)
        self.wrong += judge_end(run, self.end)

    def _killed_from_outside(self, run: Path) -> tuple[int, str]:
        return self._process(self._words(run), None, self.random.uniform(0, self.takes_s * SOON))

    def _killed_inside(self, run: Path) -> tuple[int, str]:
        fault = [str(run), str(self.random.randrange(int(self.changes * SOON))), self.random.choice(("kill", "half"))]
        return self._process(self._words(run), fault, None)

    def _finish(self, run: Path) -> None:
        code, said = self._process(self._words(run), None, None)
        if code:
            self.wrong.append(f"not resumed: {said}")

    def _process(self, words: list[str], fault: list[str] | None, seconds: float | None) -> tuple[int, str]:
        """Run the command in a process of its own, killed after some seconds: its exit code, or minus its signal, and what it said."""
        said = self.folder / "said"
        with said.open("wb") as stream:
            if self.is_forked:
                code = _forked(words, fault, seconds, stream.fileno())
            else:
                first = ["-m", "landseg"] if fault is None else [str(LAYERS / "faults.py"), *fault]
                process = subprocess.Popen([sys.executable, *first, *words], stdout=subprocess.DEVNULL, stderr=stream)
                try:
                    code = process.wait(seconds)
                except subprocess.TimeoutExpired:
                    process.kill()
                    code = process.wait()
        return code, said.read_text(encoding="utf-8", errors="replace")

    def _words(self, run: Path) -> list[str]:
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        anew = ["-c", "tiny", *settings]
        if (run / "model").exists():
            anew.append("--overwrite")  # killed between its first model and its first state
        how = ["--resume"] if has_state(run / "state") else anew
        return ["train", str(self.data), "--out", str(run), *how]


def _forked(words: list[str], fault: list[str] | None, seconds: float | None, stderr: int) -> int:
    """The command in a child of this process, which has all of it imported."""
    child = os.fork()
    if not child:
        code = 1
        try:
            os.dup2(stderr, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.argv = ["landseg", *words]
            if fault is not None:
                Faults(Path(fault[0]), int(fault[1]), fault[2]).install()
            command()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os._exit(code)
    until = time.monotonic() + (seconds if seconds is not None else float("inf"))
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            os.kill(child, signal.SIGKILL)
            until = float("inf")
        time.sleep(0.001)


def _data(folder: Path) -> Path:
    """Twelve tiles of an invented landscape with a split, packed by the first run."""
    folder.mkdir(parents=True)
    source = world.write_tiles(folder / "tiles", 1, 12, tile=32)
    names = ",".join(item.name for item in world.CLASSES)
    prepare([source], folder / "data", classes=names)
    split(folder / "data", by="random", val=0.3)
    return folder / "data"


def _changes(end: dict[str, Any]) -> int:
    """About how many changes of files a run makes: some ten a state and twenty a better model."""
    return 12 * int(end["state"]["step"]) + 20


def _left(run: Path) -> str:
    """What a kill left behind, for a person."""
    if not (run / ".lock").exists():
        return "before the run folder was begun"
    half = [path.name for path in run.rglob(".*.partial")]
    if half:
        return f"within the writing of {'a state' if 'state' in half[0] else 'a model' if 'model' in half[0] else 'another file'}"
    if not (run / "model").exists() and (run / ".model.old").exists():
        return "between the two names of a model"
    if (run / ".model.new").exists() or (run / ".model.old").exists():
        return "within the keeping of a model"
    return "training, with a state" if has_state(run / "state") else "before the first state"


if __name__ == "__main__":
    main()
