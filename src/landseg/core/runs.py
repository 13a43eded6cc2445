"""A run folder: its metrics, its log, its surroundings. It knows nothing of networks and imports no torch."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shutil
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from landseg.core.errors import LandsegError
from landseg.core.files import lock, refuse_existing, sweep_partials, unwritable, write_json, write_text

log = logging.getLogger("landseg")

PACKAGES = ("landseg", "torch", "lightning-fabric", "segmentation-models-pytorch", "timm", "numpy", "opencv-python-headless", "rasterio")
"""Whose versions a run remembers."""


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
        try:
            self._lock = lock(folder / ".lock", wait=False)
            sweep_partials(folder)
            if is_new:
                clear(folder)
            self._handle = (folder / "metrics.jsonl").open("a", encoding="utf-8")
            self._log = logging.FileHandler(folder / "log.txt", encoding="utf-8")
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
        self._board = _Board(folder)
        self.lines = len(read_metrics(folder))

    def cut_back(self, lines: int) -> None:
        """Keep the first `lines` lines of the metrics, as many as there were when a state was saved; the rest will be measured again."""
        kept = read_metrics(self.folder)[:lines]
        self._handle.close()
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        self._handle = (self.folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._board.close()
        self._board = _Board(self.folder)
        for line in kept:
            self._board.add(line)
        self.lines = len(kept)

    def add(self, line: dict[str, Any]) -> None:
        """Append one line to `metrics.jsonl` and its numbers to TensorBoard's file.

        Raises:
            LandsegError: The disk does not take it.
        """
        try:
            self._handle.write(json.dumps(line) + "\n")
            self._handle.flush()
        except OSError as error:
            raise unwritable(self.folder / "metrics.jsonl", error) from error
        self.lines += 1
        self._board.add(line)

    def close(self) -> None:
        """Close the files; the run folder is whole at any time, this only frees the handles."""
        self._handle.close()
        self._board.close()
        log.removeHandler(self._log)
        self._log.close()
        self._lock.close()


class _Board:
    """TensorBoard's view of the metrics: one event file."""

    def __init__(self, folder: Path) -> None:
        # Imported here: it takes half a second, and only training writes it.
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder))

    def add(self, line: dict[str, Any]) -> None:
        values = [
            self._summary.Value(tag=key, simple_value=value)
            for key, value in line.items()
            if isinstance(value, int | float) and key not in ("step", "time_s")
        ]
        self._writer.add_event(self._event(wall_time=time.time(), step=line["step"], summary=self._summary(value=values)))

    def close(self) -> None:
        self._writer.close()


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


def write_surroundings(folder: Path, *, device: str, seed: int, data_fingerprint: str) -> None:
    """Write `environment.json`: versions, machine, commit of the working folder, device, seed and data."""
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
            "data_fingerprint": data_fingerprint,
        },
    )


def read_surroundings(folder: Path) -> dict[str, Any]:
    """What `environment.json` says; empty where it is missing or damaged."""
    try:
        content: dict[str, Any] = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content


def refuse_existing_run(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder with something in it, unless the user said ``--overwrite``; a preview alone is nothing.

    Raises:
        LandsegError: `folder` is a file, holds more than a preview, or cannot be read.
    """
    try:
        is_preview = folder.is_dir() and [path.name for path in folder.iterdir()] == [PREVIEW]
    except OSError as error:
        raise unwritable(folder, error) from error
    refuse_existing(folder, overwrite=overwrite or is_preview)


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
    write_text(folder / "recipe.yaml", text)


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
