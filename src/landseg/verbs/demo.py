"""`landseg demo`: the whole journey on an invented world, where the truth of the test tiles is known."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from landseg.core.files import refuse_existing, write_json
from landseg.data import world
from landseg.data.dataset import list_files
from landseg.data.tiles import decode_codes, read_bytes
from landseg.scoring.confusion import Scores, confusion_matrix, scores
from landseg.verbs.compete import Competed, compete

log = logging.getLogger("landseg")

SEED = 7


@dataclass(frozen=True)
class Demonstrated:
    """What `demo` made: the journey's results, and the scores on the test tiles, which only an invented world can know."""

    journey: Competed
    truth: Scores

    def as_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints."""
        return {**self.journey.as_json(), "test": self.truth.as_json()}

    def as_text(self) -> str:
        """The journey's table, the honest score beside it, and where things lie."""
        val, test = self.journey.scores["miou"] or 0.0, self.truth.miou or 0.0
        return (
            f"{self.journey.table}\n\nmIoU on val {val:.3f}: scenes that were kept apart, recovered from the pixels. "
            f"On the test scenes, whose truth only an invented world has, {test:.3f}.\n"
            f"report.html  {self.journey.report}\nresult.zip   {self.journey.result}\n"
            f"scenes       {self.journey.result.parent / 'data' / 'splits' / 'compete.html'}\n"
            f"overlays     {self.journey.result.parent / 'predictions' / 'overlay'}"
        )


def demo(out: str | Path = "demo", *, minutes: float | None = None, overwrite: bool = False) -> Demonstrated:
    """Invent a landscape, compete on it with the recipe `tiny`, and score the submission against the truth.

    Args:
        out: Folder of everything; a second call goes on where the first was stopped.
        minutes: Minutes to train; the recipe's epochs when None.
        overwrite: Begin anew.

    Raises:
        LandsegError: `out` is something else, or cannot be written.
    """
    folder = Path(out)
    marker = folder / "world" / "world.json"
    if not marker.exists():
        refuse_existing(folder, overwrite=overwrite and (folder / "world").is_dir())
        log.info("inventing a landscape …")
        invented = world.write_competition(folder / "world", SEED)
        write_json(marker, {"seed": SEED, "train": invented.train_zip.name, "test": invented.test_zip.name, "truth": invented.truth.name})
    names = ",".join(item.name for item in world.CLASSES)
    journey = compete(
        folder / "world" / "train_and_label.zip",
        folder / "world" / "img_test.zip",
        classes=names,
        out=folder / "journey",
        minutes=minutes,
        recipe="tiny",
        overwrite=overwrite,
    )
    return Demonstrated(journey, _score(folder / "journey" / "predictions", folder / "world" / "truth"))


def _score(predictions: Path, truth: Path) -> Scores:
    """The predicted test tiles against the truth that the world kept."""
    names = [item.name for item in world.CLASSES]
    total = np.zeros((len(names), len(names)), np.int64)
    predicted = list_files(predictions)
    for name, path in list_files(truth).items():
        total += confusion_matrix(decode_codes(read_bytes(path)), decode_codes(read_bytes(predicted[name])), len(names))
    return scores(total, names)
