"""The verb `predict`: tiles and a model → class maps. It composes; the work is in `inference.folder`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landseg.core.config import load_recipe
from landseg.core.errors import LandsegError
from landseg.core.files import refuse_existing
from landseg.core.progress import clock
from landseg.core.settings import Recipe
from landseg.data.dataset import FILE, open_dataset
from landseg.data.inputs import find_inputs
from landseg.inference.tta import require_known


@dataclass(frozen=True)
class Predicted:
    """What `predict` did."""

    out: Path
    files: int
    pixels: int
    seconds: float
    unreadable: dict[str, str]
    resumed: int = 0

    def as_json(self) -> dict[str, Any]:
        """The document of ``--json``."""
        return {
            "out": str(self.out),
            "files": self.files,
            "pixels": self.pixels,
            "seconds": round(self.seconds, 3),
            "unreadable": self.unreadable,
        }

    def as_text(self) -> str:
        """Lines for a person."""
        made = self.files - self.resumed
        speed = f", {made / self.seconds:.0f} tiles/s" if made and self.seconds >= 1 else ""
        lines = [f"{self.out}: {self.files:,} class maps, {self.pixels / 1e6:.1f} Mpx in {clock(self.seconds)}{speed}"]
        if self.resumed:
            lines.append(f"{self.resumed:,} of them were finished before")
        if self.unreadable:
            lines.append(f"left out, because they cannot be read ({len(self.unreadable)}):")
            lines += [f"  {name}: {reason}" for name, reason in self.unreadable.items()]
        return "\n".join(lines)


def predict(
    model: str | Path | Sequence[str | Path],
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    overlay: bool = False,
    probabilities: bool = False,
    tta: str | None = None,
    recipe: str | Path | Recipe | None = None,
    settings: Sequence[str] = (),
    overwrite: bool = False,
) -> Predicted:
    """Predict tiles into a folder of class maps.

    A call that was interrupted is completed by the same call again.

    Args:
        model: Run folder or model folder, or several (an ensemble).
        inputs: Folder, zip, dataset folder or image, or several in any mixture.
        out: The folder to write: ``<name>.png`` a tile and `predictions.json`.
        overlay: Also ``overlay/<name>.jpg``: the image under the classes' colours.
        probabilities: Also ``<name>.npy``: softmax, float16 (K, H, W).
        tta: none | d4 | scales: test-time augmentation, in place of ``predict.tta``; it is recorded in `predictions.json`.
        recipe: Its section `predict` sets batch, device, bands and augmentation.
        settings: ``key=value`` each, over the recipe.
        overwrite: Replace an earlier prediction.

    Raises:
        LandsegError: No model, no input, no such augmentation, `out` exists, tiles that do not fit the model, or none that can be read.
    """
    chosen = (recipe if isinstance(recipe, Recipe) else load_recipe(recipe, settings)).predict
    augmentation = require_known(chosen.tta if tta is None else tta)
    target, sources = Path(out), _paths(inputs)
    _keep_apart(target, sources)
    tiles = find_inputs(sources)
    # Imported here: torch takes seconds to load, and `landseg --help` and wrong paths shall answer at once.
    from landseg.inference.folder import BEGUN, FINISHED, predict_tiles
    from landseg.network.checkpoint import find_model, load_card
    from landseg.network.engine import load_engine

    if not (target / BEGUN).exists():
        # --overwrite replaces a prediction, not a stranger's folder.
        refuse_existing(target, overwrite=overwrite and (target / FINISHED).exists())
    models = _paths(model)
    fingerprint = "+".join(load_card(find_model(path)).weights_sha256 for path in models)
    done = predict_tiles(
        load_engine(models, chosen.device),
        tiles,
        target,
        batch=chosen.batch,
        overlay=overlay,
        probabilities=probabilities,
        bands=chosen.bands,
        tta=augmentation,
        fingerprint=fingerprint,
        overwrite=overwrite,
    )
    return Predicted(target, done.files, done.pixels, done.seconds, done.unreadable, done.resumed)


def _keep_apart(target: Path, sources: Sequence[Path]) -> None:
    """Refuse an output that lies in an input or holds one: class maps would take the images' place, or be predicted next time."""
    place = target.resolve()
    for path in sources:
        # Beside the images of a dataset folder there is room for predictions, among them there is none.
        folder = open_dataset(path).image_folder if (path / FILE).is_file() else path
        images = folder.resolve()
        if images.is_dir() and (place.is_relative_to(images) or images.is_relative_to(place)):
            where = "it lies inside the input" if place.is_relative_to(images) else "it holds the input"
            raise LandsegError(target, f"{where} {path}", "class maps apart from the images", "choose another --out")


def models_first(paths: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Tell the models at the head of a command line from the inputs behind them: several models are an ensemble.

    Raises:
        LandsegError: Nothing is left to predict.
    """
    given = [Path(path) for path in paths]
    count = 1
    while count < len(given) and any((given[count] / place).is_file() for place in ("model.json", "model/model.json")):
        count += 1
    if count >= len(given):
        raise LandsegError("INPUT", "nothing to predict is named", "a folder, zip, dataset folder or image", "name it after the model")
    return given[:count], given[count:]


def _paths(given: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(given)] if isinstance(given, str | Path) else [Path(item) for item in given]
