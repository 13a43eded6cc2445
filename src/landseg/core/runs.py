"""A run folder: its metrics, its log, its surroundings. It knows nothing of networks and imports no torch."""

from __future__ import annotations

import io
import json
import logging
import os
import platform
import re
import shutil
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from landseg.core.errors import LandsegError
from landseg.core.files import Growing, lock, refuse_existing, sweep_partials, unwritable, write_json, write_text

log = logging.getLogger("landseg")

PACKAGES = ("landseg", "torch", "lightning-fabric", "segmentation-models-pytorch", "timm", "numpy", "opencv-python-headless", "rasterio")
"""Whose versions a run remembers."""


_BEGUN = re.compile(
    r"recipe\.yaml|environment\.json|metrics\.jsonl|log\.txt|state|preview\.html|\.lock|\.model\.new|events\.out\.tfevents\..*|\..*\.partial"
)
"""What a run writes before there is anything of it to keep."""

_FIRST = re.compile(r"step-0+\.state")
"""The state before the first step; nothing is lost with it."""

PREVIEW = "preview.html"
"""A page that may lie in a run folder before there is a run, and stays there when a run begins or is replaced."""


class Run:
    """A run folder that is open for writing, by one process at a time.

    Args:
        folder: The run folder; created.
        is_new: Remove a former run from it first.

    Raises:
        LandsegError: The folder cannot be written, another process is writing it, or it holds what no run writes.
    """

    def __init__(self, folder: Path, *, is_new: bool = False) -> None:
        self.folder = folder
        self._is_waiting = False
        try:
            self._lock = lock(folder / ".lock", wait=False)
            sweep_partials(folder)
            if is_new:
                clear(folder)
            self._lines = Growing(folder / "metrics.jsonl")
            self._log = _LogFile(folder / "log.txt", encoding="utf-8")
            self._board = _Board(folder)
        except BlockingIOError as error:
            raise LandsegError(
                folder, "another process is training there", "one process a run", "wait for it, or choose another --out"
            ) from error
        except OSError as error:
            raise unwritable(folder, error) from error
        self._log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        log.addHandler(self._log)
        if log.level == logging.NOTSET:
            log.setLevel(logging.INFO)  # used from Python: nobody chose, and log.txt should not be empty
        self._before = len(read_metrics(folder))

    @property
    def lines(self) -> int:
        """Lines of the metrics, those that wait for room on the disk included."""
        return self._before + self._lines.pieces

    def cut_back(self, lines: int) -> None:
        """Keep the first `lines` lines of the metrics, as many as there were when a state was saved; the rest will be measured again."""
        kept = read_metrics(self.folder)[:lines]
        path = self.folder / "metrics.jsonl"
        self._lines.close()
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept), sync=True)
        self._board.close()
        try:
            self._lines, self._before = Growing(path), len(kept)
            self._board = _Board(self.folder)
        except OSError as error:
            raise unwritable(self.folder, error) from error
        for line in kept:
            self._board.add(line)

    def add(self, line: dict[str, Any]) -> None:
        """Append one line to `metrics.jsonl` and its numbers to TensorBoard's file.

        A line that the disk does not take waits in memory for the next one; the run goes on, and says so once.
        """
        is_waiting = self._is_waiting
        try:
            self._lines.add((json.dumps(line) + "\n").encode())
            self._is_waiting = False
        except OSError as error:
            self._is_waiting = True
            if not is_waiting:
                log.warning("%s: %s; its lines wait for room, and training goes on", self.folder / "metrics.jsonl", error.strerror or error)
        self._board.add(line)

    def sync(self) -> None:
        """Flush the metrics to the disk, as far as it takes them; a state that counts them is saved after this."""
        with suppress(OSError):
            self._lines.sync()

    def close(self) -> None:
        """Close the files; the run folder is whole at any time, this only frees the handles."""
        self._lines.close()
        self._board.close()
        log.removeHandler(self._log)
        with suppress(OSError):
            self._log.close()
        self._lock.close()


class Onlooker:
    """A run folder that another process of the same run writes; nothing is written through this."""

    lines = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def cut_back(self, lines: int) -> None:
        """Nothing."""

    def add(self, line: dict[str, Any]) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class _LogFile(logging.FileHandler):
    """`log.txt`; a line that a full disk does not take is no reason to print a traceback: the person has it on stderr."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Go on; what the file's buffer holds is tried again with the next line."""


class _Board:
    """TensorBoard's view of the metrics: one event file. What a full disk does not take waits for room; a resumed run makes it anew."""

    def __init__(self, folder: Path) -> None:
        # Imported here: it takes half a second, and only training writes it. Its own writer writes on a thread, whose traceback a full
        # disk prints to the person's screen.
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        self._event, self._summary, self._record = Event, Summary, RecordWriter
        self._file = Growing(folder / f"events.out.tfevents.{time.time():.0f}.{platform.node()}.{os.getpid()}")
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, line: dict[str, Any]) -> None:
        values = [
            self._summary.Value(tag=key, simple_value=value)
            for key, value in line.items()
            if isinstance(value, int | float) and key not in ("step", "time_s")
        ]
        self._write(self._event(wall_time=time.time(), step=line["step"], summary=self._summary(value=values)))

    def _write(self, event: Any) -> None:
        record = io.BytesIO()
        self._record(record).write(event.SerializeToString())
        with suppress(OSError):
            self._file.add(record.getvalue())

    def close(self) -> None:
        self._file.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; a last line that a kill cut off is left out."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def write_surroundings(folder: Path, *, device: str, seed: int, data_fingerprint: str, data: str = "") -> None:
    """Write `environment.json`: versions, machine, commit of the working folder, device, seed and data with the name of its data set."""
    write_json(
        folder / "environment.json",
        {
            "versions": {name: _version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "git_commit": _git_commit(Path.cwd()),
            "command": ["landseg", *sys.argv[1:]],
            "device": device,
            "seed": seed,
            "data": data,
            "data_fingerprint": data_fingerprint,
        },
        sync=True,
    )


def note_end(folder: Path, *, epochs: int, steps: int, elapsed_s: float) -> None:
    """Add to `environment.json` that the run came to its end; its states have then nothing left to resume.

    A disk that refuses is no failure of a run that is finished: it then counts as one that can be resumed, and is at once finished again.
    """
    try:
        ended = {"epochs": epochs, "steps": steps, "elapsed_s": round(elapsed_s, 1)}
        write_json(folder / "environment.json", {**read_surroundings(folder), "ended": ended}, sync=True)
    except LandsegError as error:
        log.warning("%s; that the run is finished stands in its log alone", error)


def read_surroundings(folder: Path) -> dict[str, Any]:
    """What `environment.json` says; empty where it is missing or damaged."""
    try:
        content: dict[str, Any] = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content


def refuse_existing_run(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder with something in it, unless the user said ``--overwrite``.

    A preview alone is nothing, and so is a run that ended before it saved a model or a state with a step in it: the same command begins it
    anew.

    Raises:
        LandsegError: `folder` is a file, holds more than that, or cannot be read.
    """
    try:
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        is_saved = any(not _FIRST.fullmatch(path.name) for path in (folder / "state").glob("step-*"))
        is_nothing = names == {PREVIEW} or (".lock" in names and not is_saved and all(_BEGUN.fullmatch(name) for name in names))
    except OSError as error:
        raise unwritable(folder, error) from error
    if is_saved and not overwrite:
        advice = "go on with the run in it by --resume, choose another --out or add --overwrite"
        raise LandsegError(folder, "it exists already", "an output is written to a new place", advice)
    refuse_existing(folder, overwrite=overwrite or is_nothing)


def clear(folder: Path) -> None:
    """Remove a former run from its folder, and nothing that a run does not write.

    Raises:
        LandsegError: The folder holds something else.
    """
    own = re.compile(
        r"recipe\.yaml|environment\.json|metrics\.jsonl|log\.txt|state|model|report(-\w+)*|\.model\.(new|old)|events\.out\.tfevents\..*|\..*\.partial"
    )
    found = [path for path in sorted(folder.iterdir()) if path.name != PREVIEW] if folder.is_dir() else []
    strange = [path.name for path in found if not own.fullmatch(path.name) and not path.name.startswith(".")]
    if strange:
        raise LandsegError(folder, f"{strange[0]} is in it, which no run writes", "a run folder, or an empty one", "choose another --out")
    # States go first: what a kill leaves of the rest is then never taken for a run to resume.
    found.sort(key=lambda path: path.name != "state")
    try:
        for path in found:
            if not own.fullmatch(path.name):
                continue  # hidden and not ours: a .git, a .DS_Store
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise unwritable(folder, error) from error


def save_recipe(folder: Path, text: str) -> None:
    """Write the resolved settings, `recipe.yaml`."""
    write_text(folder / "recipe.yaml", text, sync=True)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit(folder: Path) -> str | None:
    """The commit that is checked out around `folder`, read from the files of git; None outside a repository."""
    for place in (folder, *folder.parents):
        head = place / ".git" / "HEAD"
        if head.is_file():
            text = head.read_text(encoding="utf-8").strip()
            if not text.startswith("ref: "):
                return text
            name = text.removeprefix("ref: ")
            if (place / ".git" / name).is_file():
                return (place / ".git" / name).read_text(encoding="utf-8").strip()
            packed = place / ".git" / "packed-refs"
            lines = packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else []
            return next((line.split()[0] for line in lines if line.endswith(f" {name}")), None)
    return None
