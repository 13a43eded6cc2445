"""`landseg compete`: from a competition's two zips to a linted `result.zip`, in one command that goes on where it was stopped."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landseg.core.config import load_recipe
from landseg.core.errors import LandsegError
from landseg.core.files import refuse_existing, write_json
from landseg.data.dataset import FILE, open_dataset
from landseg.inference.folder import FINISHED
from landseg.splitting.assignment import split_names
from landseg.verbs.evaluate import evaluate
from landseg.verbs.predict import predict
from landseg.verbs.prepare import prepare
from landseg.verbs.split import split
from landseg.verbs.submit import submit
from landseg.verbs.train import train

log = logging.getLogger("landseg")

STATE = "compete.json"


@dataclass(frozen=True)
class Competed:
    """What `compete` made: the zip, the report, and the validation scores."""

    result: Path
    report: Path
    scores: dict[str, Any]
    table: str

    def as_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints."""
        return {"result": str(self.result), "report": str(self.report), "evaluation": self.scores}

    def as_text(self) -> str:
        """The table of scores, and where things lie."""
        return f"{self.table}\nreport      {self.report}\nsubmission  {self.result}"


def compete(
    train_source: str | Path,
    test_source: str | Path,
    *,
    classes: str,
    out: str | Path,
    minutes: float | None = None,
    recipe: str | Path | None = None,
    settings: Sequence[str] = (),
    overwrite: bool = False,
) -> Competed:
    """Prepare, split, train, evaluate, predict and submit; finished steps are skipped.

    Args:
        train_source: Zip or folder of labelled tiles.
        test_source: Zip or folder of test tiles.
        classes: Names in the order of their ids, or a preset.
        out: Folder of everything: ``data``, ``test``, ``run``, ``predictions``, ``result.zip``.
        minutes: Minutes to train; the recipe's epochs when None.
        recipe: Name or path; ``default`` when None.
        settings: ``key=value`` each, over the recipe.
        overwrite: Begin anew.

    Raises:
        LandsegError: As the verbs say; or `out` holds a journey that was begun otherwise.
    """
    folder = Path(out)
    chosen = [*settings, *([f"train.minutes={minutes:g}"] if minutes is not None else [])]
    resolved = load_recipe(recipe, chosen)
    arguments = {
        "train": _mark(Path(train_source)),
        "test": _mark(Path(test_source)),
        "classes": classes,
        "recipe": resolved.model_dump(mode="json"),
    }
    journey = _begin(folder, arguments, overwrite=overwrite)
    data, test, run, predictions, result = (folder / name for name in ("data", "test", "run", "predictions", "result.zip"))

    def step(name: str, work: Callable[[], object]) -> None:
        if name in journey["done"]:
            log.info("%s: done before", name)
            return
        log.info("— %s", name)
        work()
        journey["done"].append(name)
        write_json(folder / STATE, journey)

    def begin_or_resume() -> None:
        from landseg.training.state import has_state

        is_begun = has_state(run / "state")
        train(data, run, recipe=resolved, resume=is_begun, overwrite=not is_begun)

    def score() -> None:
        found = evaluate(run, data, recipe=resolved)
        journey["evaluation"] = {"scores": found.as_json(), "table": found.as_text(), "report": str(found.report)}

    step("prepare", lambda: prepare([train_source], data, classes=classes, overwrite=(data / FILE).exists()))
    step("prepare test", lambda: prepare([test_source], test, overwrite=(test / FILE).exists()))
    step("split", lambda: split(data, seed=resolved.train.seed, overwrite=bool(split_names(open_dataset(data)))))
    step("train", begin_or_resume)
    step("evaluate", score)
    step("predict", lambda: predict(run, test, predictions, overlay=True, recipe=resolved, overwrite=(predictions / FINISHED).exists()))
    step("submit", lambda: submit(predictions, test, out=result, overwrite=True))
    found = journey["evaluation"]
    return Competed(result, Path(found["report"]), found["scores"], found["table"])


def _begin(folder: Path, arguments: dict[str, Any], *, overwrite: bool) -> dict[str, Any]:
    """What this very journey has finished: ``done`` steps, and the evaluation when that is among them."""
    path = folder / STATE
    if not path.exists() or overwrite:
        if not overwrite:
            refuse_existing(folder, overwrite=False)
        journey: dict[str, Any] = {"arguments": arguments, "done": []}
        write_json(path, journey)
        return journey
    try:
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        before["done"].copy()
        differing = [key for key, value in arguments.items() if before["arguments"].get(key) != value]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise LandsegError(path, "it cannot be read", "what the journey had finished", "begin anew with --overwrite") from error
    if differing:
        raise LandsegError(
            folder,
            f"begun with another {' and '.join(differing)}",
            "the arguments it began with",
            "choose another --out, or begin anew with --overwrite",
        )
    return before


def _mark(source: Path) -> dict[str, Any]:
    """What tells that a source is still the same: its path, size and time of change."""
    try:
        status = source.stat()
    except OSError as error:
        raise LandsegError(source, "no such file or folder", "a zip or folder of tiles", "check the path") from error
    return {"path": str(source.resolve()), "size": status.st_size if source.is_file() else None, "changed_ns": status.st_mtime_ns}
