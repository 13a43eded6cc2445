"""`landseg compete`: from a competition's two zips to a linted `result.zip`, in one command that goes on where it was stopped."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landseg.core import runs
from landseg.core.classes import parse_classes
from landseg.core.config import load_recipe
from landseg.core.errors import LandsegError
from landseg.core.files import refuse_existing, write_json
from landseg.core.settings import Recipe
from landseg.data.dataset import FILE, open_dataset
from landseg.inference.folder import FINISHED
from landseg.verbs.evaluate import evaluate
from landseg.verbs.predict import predict
from landseg.verbs.prepare import prepare
from landseg.verbs.split import split
from landseg.verbs.submit import submit
from landseg.verbs.train import train

log = logging.getLogger("landseg")

STATE = "compete.json"
VAL, FEW, VAL_OF_FEW = 0.1, 500, 0.2
"""Share of the tiles that validate; of few tiles more, so that the score rests on several scenes and has an interval."""

SPLIT = "compete"
"""Name of the journey's split; file lists may have brought others."""

TTA = "d4"
"""How the test tiles of a competition are predicted: about ten times as long, for +0.013 and +0.011 mIoU on ground of Dubai never seen.

Source: measured: bench/records/accuracy/2026-11-23-ablation."""


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
    """Prepare, split by scene, train, evaluate, predict and submit; finished steps are skipped.

    Args:
        train_source: Zip or folder of labelled tiles.
        test_source: Zip or folder of test tiles.
        classes: Names in the order of their ids, or a preset.
        out: Folder of everything: ``data``, ``test``, ``run``, ``predictions``, ``result.zip``.
        minutes: Minutes to train; the recipe's epochs when None.
        recipe: Name or path; ``default`` when None, and then the test tiles are predicted with test-time augmentation (`TTA`), which the
            validation score does not have.
        settings: ``key=value`` each, over the recipe; ``predict.tta=none`` predicts plainly.
        overwrite: Begin anew.

    Raises:
        LandsegError: As the verbs say; or a finished step was done with other arguments.
    """
    folder = Path(out)
    # A recipe of one's own says for itself how it predicts.
    first_settings = [] if recipe else [f"predict.tta={TTA}"]
    resolved = load_recipe(recipe, [*first_settings, *settings, *([f"train.minutes={minutes:g}"] if minutes is not None else [])])
    named = [item.name for item in parse_classes(classes)]
    first, second = {"train": _mark(Path(train_source)), "classes": named}, {"test": _mark(Path(test_source))}
    trained = {"recipe": resolved.model_dump(mode="json")}
    journey = _Journey(folder, overwrite=overwrite)
    if "train" not in journey.done:
        _try_network(resolved, named)
    if overwrite:
        runs.clear(folder / "run")
    data, test, run, predictions, result = (folder / name for name in ("data", "test", "run", "predictions", "result.zip"))

    def train_on() -> None:
        from landseg.training.state import has_steps

        is_begun = has_steps(run / "state")
        train(data, run, split=SPLIT, recipe=resolved, resume=is_begun, overwrite=not is_begun, go_on="the same command again")

    def score() -> None:
        found = evaluate(run, data, split=SPLIT, tta="none", recipe=resolved)
        journey.evaluation = {"scores": found.as_json(), "table": found.table(), "report": str(found.report)}

    journey.step("prepare", first, lambda: prepare([train_source], data, classes=classes, overwrite=(data / FILE).exists()))
    journey.step("prepare test", second, lambda: prepare([test_source], test, overwrite=(test / FILE).exists()))
    seed = resolved.train.seed
    journey.step("split", first | {"seed": seed}, lambda: split(data, val=_val(data), seed=seed, name=SPLIT, overwrite=True))
    journey.step("train", first | trained, train_on)
    journey.step("evaluate", first | trained, score)
    is_predicted = (predictions / FINISHED).exists()
    journey.step(
        "predict", first | second | trained, lambda: predict(run, test, predictions, overlay=True, recipe=resolved, overwrite=is_predicted)
    )
    journey.step("submit", first | second | trained, lambda: submit(predictions, test, out=result, overwrite=True))
    found = journey.evaluation
    return Competed(result, Path(found["report"]), found["scores"], found["table"])


class _Journey:
    """Which steps are finished, and with what; kept in ``OUT/compete.json`` so that a second call goes on."""

    def __init__(self, folder: Path, *, overwrite: bool) -> None:
        self._path = folder / STATE
        self.done: dict[str, Any] = {}
        self.evaluation: dict[str, Any] = {}
        if not self._path.exists():
            refuse_existing(folder, overwrite=False)  # --overwrite replaces a journey, not a stranger's folder
        elif not overwrite:
            try:
                before = json.loads(self._path.read_text(encoding="utf-8"))
                self.done, self.evaluation = dict(before["done"]), dict(before["evaluation"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise LandsegError(
                    self._path, "it cannot be read", "what the journey had finished", "begin anew with --overwrite"
                ) from error

    def step(self, name: str, arguments: dict[str, Any], work: Callable[[], Any]) -> None:
        """Do a step, or pass over it when it was finished with the same arguments.

        Raises:
            LandsegError: It was finished with other arguments.
        """
        if name in self.done:
            differing = [key for key, value in arguments.items() if self.done[name].get(key) != value]
            if differing:
                raise LandsegError(
                    self._path.parent,
                    f"its step {name!r} was done with another {' and '.join(differing)}",
                    "the arguments it was done with",
                    "choose another --out, or begin anew with --overwrite",
                )
            log.info("%s: done before", name)
            return
        self._write()
        log.info("— %s", name)
        result = work()
        if name in ("prepare", "prepare test", "split", "predict"):
            log.info("%s", result.as_text())
        self.done[name] = arguments
        self._write()

    def _write(self) -> None:
        write_json(self._path, {"done": self.done, "evaluation": self.evaluation})


def _val(data: Path) -> float:
    return VAL if len(open_dataset(data).tiles) >= FEW else VAL_OF_FEW


def _try_network(recipe: Recipe, classes: Sequence[str]) -> None:
    """Build the network once before the first step: a misspelt encoder should cost seconds, not the unpacking of a competition."""
    from landseg.network.build import build
    from landseg.network.card import Normalisation
    from landseg.network.finetune import load_start
    from landseg.network.loss import make_loss

    model = recipe.model
    network = build(model.network, model.encoder, 3, len(classes), Normalisation((0.0,) * 3, (1.0,) * 3), model.decoder_channels)
    load_start(network, model.encoder, model.weights, classes, ("red", "green", "blue"))
    make_loss(recipe.loss, len(classes), [1] * len(classes))  # what the classes weigh, the tiles will say


def _mark(source: Path) -> dict[str, Any]:
    """What tells that a source is still the same: its path, size and time of change."""
    try:
        status = source.stat()
    except OSError as error:
        raise LandsegError(source, "no such file or folder", "a zip or folder of tiles", "check the path") from error
    return {"path": str(source.resolve()), "size": status.st_size if source.is_file() else None, "changed_ns": status.st_mtime_ns}
