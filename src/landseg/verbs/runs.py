"""`landseg runs`: what was trained, with what, how well; what differs between runs; what of them need not be kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from landseg.core.columns import columns
from landseg.core.errors import LandsegError
from landseg.core.files import human_bytes, lock, refuse_existing
from landseg.core.ledger import RunFolder, file_bytes, find_runs, open_run
from landseg.scoring.comparison import Comparison, Row

PAGE = Path("comparison.html")
"""Where a comparison goes, in the working folder."""

_TITLE = b"<title>Comparison of "


@dataclass(frozen=True)
class Runs:
    """Runs below a folder, in the order of the list."""

    folder: Path
    runs: tuple[RunFolder, ...]

    def as_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints."""
        return {"folder": str(self.folder), "runs": [_facts(run) for run in self.runs]}

    def as_text(self) -> str:
        """A line a run, and what else can be said of them."""
        heads = ("run", "mIoU", "on", "epoch", "", "minutes", "size", "state", "network", "data")
        rows = [heads, *(self._cells(run) for run in self.runs)]
        if not any(cells[-1] for cells in rows[1:]):
            rows = [cells[:-1] for cells in rows]
        lines = columns(rows, "lrlrlrrlll"[: len(rows[0])])
        faults = [f"{_name(run.path, self.folder)}: {fault}" for run in self.runs for fault in run.faults]
        states = sum(file_bytes(path) for run in self.runs if run.standing == "finished" and run.has_model for path in run.states)
        lines += ["", f"{_count(len(self.runs), 'run')}, {human_bytes(sum(run.size for run in self.runs))}"]
        if states:
            lines[-1] += f"; `landseg runs prune {self.folder}` would free {human_bytes(states)}"
        if any(run.standing == "interrupted" for run in self.runs):
            lines.append("what is interrupted goes on with `landseg train DATA --out RUN --resume`")
        return "\n".join(lines + faults)

    def _cells(self, run: RunFolder) -> tuple[str, ...]:
        best = run.best
        return (
            _name(run.path, self.folder),
            f"{best.miou:.4f}" if best else "–",
            best.part if best else "",
            str(run.epoch),
            f"of {run.planned}" if run.planned else "",
            f"{run.minutes:.1f}",
            human_bytes(run.size),
            run.standing,
            run.network,
            f"{run.data} {run.fingerprint[:8]}".strip(),
        )


@dataclass(frozen=True)
class Compared:
    """Runs side by side, and the page with their curves."""

    found: Comparison
    page: Path

    def as_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints."""
        return {**self.found.as_json(), "page": str(self.page)}

    def as_text(self) -> str:
        """Scores, settings that differ, warnings, and where the page lies."""
        found = self.found
        heads = ("", *found.names)
        facts = [
            ("epoch", tuple(f"{run.epoch} of {run.planned}" if run.planned else f"{run.epoch}" for run in found.runs)),
            ("minutes", tuple(f"{run.minutes:.1f}" for run in found.runs)),
            ("images/s", tuple("–" if pace is None else f"{pace:.1f}" for pace in found.images_per_s())),
        ]
        scores = [(name, *_scores(values)) for name, values in [*found.headlines, *found.classes]]
        align = "l" + "r" * len(found.names)
        lines = columns([heads, *((name, *values) for name, values in facts), *scores], align)
        settings = _told(found.settings)
        lines += ["", f"settings that differ ({len(settings)}; {found.same_settings} are the same)"]
        lines += columns(settings, align, before="  ")
        if found.surroundings:
            lines += ["", "surroundings that differ", *columns(_told(found.surroundings), align, before="  ")]
        remarks = [f"warning: {text}" for text in found.warnings] + [found.advice] * bool(found.advice and found.leader is not None)
        return "\n".join([*lines, *([""] if remarks else []), *remarks, "", str(self.page)])


@dataclass(frozen=True)
class Freed:
    """What of one run need not be kept: its files and their bytes."""

    run: RunFolder
    files: tuple[Path, ...]
    bytes: int


@dataclass(frozen=True)
class Pruned:
    """What was freed, or would be: runs that give something, and those that keep their states, with the reason."""

    folder: Path
    freed: tuple[Freed, ...]
    kept: tuple[tuple[RunFolder, str], ...]
    is_done: bool

    @property
    def bytes(self) -> int:
        """Of all runs."""
        return sum(item.bytes for item in self.freed)

    def as_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints."""
        return {
            "folder": str(self.folder),
            "is_done": self.is_done,
            "bytes": self.bytes,
            "freed": [
                {"run": str(item.run.path), "state": item.run.standing, "bytes": item.bytes, "files": [str(path) for path in item.files]}
                for item in self.freed
            ],
            "kept": [{"run": str(run.path), "state": run.standing, "reason": reason} for run, reason in self.kept],
        }

    def as_text(self) -> str:
        """A line a run, what is left alone, and what to do."""
        rows = [(human_bytes(item.bytes), _name(item.run.path, self.folder), item.run.standing, _what(item)) for item in self.freed]
        lines = columns([("bytes", "run", "state", "what"), *rows], "rlll") if rows else []
        kept = [("left alone", _name(run.path, self.folder), run.standing, reason) for run, reason in self.kept]
        lines += [*([""] if lines and kept else []), *columns(kept, "llll", longest=90), *([""] if lines or kept else [])]
        if not self.freed:
            return "\n".join([*lines, "nothing to free"])
        runs = _count(len(self.freed), "run")
        if self.is_done:
            return "\n".join([*lines, f"freed {human_bytes(self.bytes)} of {runs}; models, metrics and reports are kept"])
        last = f"would free {human_bytes(self.bytes)} of {runs}; nothing was removed, add --yes to do it"
        return "\n".join([*lines, last])


def runs(folder: str | Path | None = None, *, by: Literal["score", "time"] = "score") -> Runs:
    """List the runs in a folder and below it.

    Args:
        folder: Where to look; when None, ``runs`` in the working folder where there is one, else the working folder.
        by: ``score``: the best first; ``time``: the latest first.

    Raises:
        LandsegError: There is none.
    """
    place = _place(folder)
    found = find_runs(place)
    key = (lambda run: -run.modified) if by == "time" else (lambda run: -run.best.miou if run.best else 1.0)
    return Runs(place, tuple(sorted(found, key=key)))


def runs_compare(folders: Sequence[str | Path], *, out: str | Path | None = None, overwrite: bool = False) -> Compared:
    """Lay runs side by side: settings that differ, scores of each class, curves.

    Args:
        folders: Two run folders or more; the first is what the others are compared with.
        out: The page to write; ``comparison.html`` in the working folder when None. A former comparison is replaced.
        overwrite: Replace another file too.

    Raises:
        LandsegError: Fewer than two, one of them twice, or one that is no run folder.
    """
    paths = [Path(folder) for folder in folders]
    if len(paths) < 2:
        raise LandsegError("runs compare", f"{_count(len(paths), 'run')} named", "two or more", "name another; `landseg runs` lists them")
    known: set[Path] = set()
    for path in paths:
        if path.resolve() in known:
            raise LandsegError(path, "it is named twice", "different runs", "leave one out; a run does not differ from itself")
        known.add(path.resolve())
    target = PAGE if out is None else Path(out)
    refuse_existing(target, overwrite=overwrite or _is_comparison(target))
    found = Comparison(tuple(open_run(path) for path in paths))
    # Imported here: drawing takes a second to load, and a wrong path should be told at once.
    from landseg.scoring.comparison_page import comparison_page

    return Compared(found, comparison_page(found).write(target))


def runs_prune(folder: str | Path | None = None, *, unfinished: bool = False, yes: bool = False) -> Pruned:
    """Free what runs need no more: the states of those that are finished, and what killed processes left half-written.

    Models, metrics, logs and reports are never touched, nor is a run that a process is writing.

    Args:
        folder: Where to look, as for `runs`.
        unfinished: Take the states of interrupted runs too, which can then not be resumed.
        yes: Do it; otherwise only say what would be freed.

    Raises:
        LandsegError: There is no run, or the disk refuses.
    """
    place = _place(folder)
    freed, kept = [], []
    for run in find_runs(place):
        reason = _why_kept(run, unfinished=unfinished)
        if reason and run.states:
            kept.append((run, reason))
        files = _spare(run, unfinished=unfinished)
        if files:
            freed.append(Freed(run, tuple(files), sum(map(file_bytes, files))))
    if yes:
        freed = [_remove(item, unfinished=unfinished) for item in freed]
    return Pruned(place, tuple(item for item in freed if item.files), tuple(kept), yes)


def _place(folder: str | Path | None) -> Path:
    return Path(folder) if folder is not None else Path("runs") if Path("runs").is_dir() else Path()


def _name(path: Path, folder: Path) -> str:
    return path.name or str(path.resolve().name) if path == folder else path.relative_to(folder).as_posix()


def _facts(run: RunFolder) -> dict[str, Any]:
    return {
        "path": str(run.path),
        "state": run.standing,
        "network": run.settings.get("model.network") or run.card.get("network"),
        "encoder": run.settings.get("model.encoder") or run.card.get("encoder"),
        "data": run.data or None,
        "data_fingerprint": run.fingerprint or None,
        "miou": run.best.miou if run.best else None,
        "part": run.best.part if run.best else None,
        "best_epoch": run.best.epoch if run.best else None,
        "epoch": run.epoch,
        "planned": run.planned,
        "minutes": round(run.minutes, 2),
        "bytes": run.size,
        "modified": run.modified,
        "faults": list(run.faults),
    }


def _scores(values: Sequence[float | None]) -> list[str]:
    """Each score, with its difference to the first."""
    first, cells = values[0], []
    for i, value in enumerate(values):
        change = f" {value - first:+.4f}" if i and value is not None and first is not None else ""
        cells.append("–" if value is None else f"{value:.4f}{change}")
    return cells


def _told(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Settings as a recipe has them."""

    def word(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

    return [(name, *map(word, values)) for name, values in rows]


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def _is_comparison(path: Path) -> bool:
    """Whether a file is a page of ours, which a new comparison may replace."""
    try:
        with path.open("rb") as handle:
            return _TITLE in handle.read(1000)
    except OSError:
        return False


def _why_kept(run: RunFolder, *, unfinished: bool) -> str:
    """Why the states of a run stay; nothing where they may go."""
    if run.standing == "running":
        return "a process is writing it"
    if not run.has_ended:
        return "" if unfinished else "its state can be resumed; --unfinished takes it too"
    return "" if run.has_model else "there is no model in it, so its state is all there is"


def _spare(run: RunFolder, *, unfinished: bool) -> list[Path]:
    """Files of a run that nobody needs: partial ones of killed processes, and its states where they may go."""
    if run.standing == "running":
        return []
    states = [] if _why_kept(run, unfinished=unfinished) else run.states
    return [*states, *sorted(path for path in run.path.rglob(".*.partial") if path.is_file())]


def _remove(item: Freed, *, unfinished: bool) -> Freed:
    """Remove the files while no process can begin to write the run; one that has meanwhile begun keeps them."""
    try:
        held = lock(item.run.path / ".lock", wait=False)
    except BlockingIOError:
        return Freed(item.run, (), 0)
    except OSError as error:
        raise _refused(item.run.path, error) from error
    removed, freed = [], 0
    with held:
        if open_run(item.run.path).has_ended != item.run.has_ended and not unfinished:
            return Freed(item.run, (), 0)
        for path in item.files:
            size = file_bytes(path)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _refused(path, error) from error
            removed.append(path)
            freed += size
    return Freed(item.run, tuple(removed), freed)


def _refused(path: Path, error: OSError) -> LandsegError:
    return LandsegError(
        path, f"it cannot be removed ({error.strerror or error})", "a folder that you may write", "mend the permissions, then once more"
    )


def _what(item: Freed) -> str:
    states = sum(path in item.run.states for path in item.files)
    partial = len(item.files) - states
    words = [_count(states, "state")] if states else []
    return ", ".join([*words, *([f"{_count(partial, 'file')} half-written by a killed process"] if partial else [])])
