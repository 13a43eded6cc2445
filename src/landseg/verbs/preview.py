"""`landseg train --preview`: what training would see, as a page; nothing is trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landseg.core.config import load_recipe
from landseg.core.errors import LandsegError
from landseg.core.runs import PREVIEW
from landseg.core.settings import Recipe
from landseg.data.dataset import open_dataset
from landseg.data.pack import open_tiles
from landseg.splitting.assignment import read_split, tile_numbers
from landseg.verbs.train import check_scaling, normalisation_of

if TYPE_CHECKING:
    from landseg.network.card import Normalisation

log = logging.getLogger("landseg")


@dataclass(frozen=True)
class Previewed:
    """Where the page is, and how many tiles it shows."""

    page: Path
    tiles: int

    def as_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints."""
        return {"preview": str(self.page), "tiles": self.tiles}

    def as_text(self) -> str:
        """The page's path."""
        return str(self.page)


def preview(
    data: str | Path,
    out: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    settings: Sequence[str] = (),
    split: str | None = None,
    resume: bool = False,
) -> Previewed:
    """Write a page of training tiles as `train` with the same arguments would draw them.

    Args:
        data: Dataset folder with a split.
        out: Run folder in which ``preview.html`` is written, anew each time. A run that is there stays as it is; where none is, `train` can
            begin one there.
        recipe: Name of a shipped recipe, path of a YAML file, or settings already resolved; ``default`` when None.
        settings: ``key=value`` each, over the recipe.
        split: Name of the split; the only one when None.
        resume: Begin from the settings of the run in `out`, as going on with it does.

    Returns:
        Where the page is.

    Raises:
        LandsegError: Settings or data that do not fit, no run where one shall be gone on with, or a folder that cannot be written.
    """
    folder = Path(out)
    began = folder / "recipe.yaml"
    if resume and not began.is_file():
        raise LandsegError(folder, "no run to resume", "a run that was interrupted", "leave --resume out")
    resolved = recipe if isinstance(recipe, Recipe) else load_recipe(recipe or (began if resume else None), settings)
    dataset = open_dataset(Path(data))
    dataset.require_labels("training")
    check_scaling(dataset)
    chosen = read_split(dataset, split)
    store = open_tiles(dataset, use_pack=resolved.data.pack, workers=resolved.data.workers)
    train, _ = (tile_numbers(store, chosen, part) for part in ("train", "val"))  # training asks for both

    # Imported here: torch takes seconds to load, and a wrong path or setting should be told at once.
    from landseg.training import preview as drawing
    from landseg.training.augment import Bands
    from landseg.training.batches import Batches
    from landseg.training.preview_page import PreviewPicture, write_preview_page

    knobs, bands = resolved.train, dataset.info.bands
    batches = Batches(store, train, knobs.step_tiles, knobs.seed, resolved.data.workers, knobs.crop, resolved.sample, resolved.augment)
    factor = 1.0 if knobs.size is None else knobs.size / max(batches.shape)
    own = normalisation_of_run(folder) if resume else None
    normalisation = own or normalisation_of(dataset, store, train, resolved.model, resume=False)
    shown = drawing.choose_tiles(store.entries, train, knobs.seed)
    seen = drawing.draw_tiles(batches, store, shown, resolved, Bands.of(normalisation, store.dtype, bands), factor)
    picture = PreviewPicture(
        title=f"{dataset.info.name}: what the network will see",
        tiles=seen,
        classes=dataset.info.classes,
        bands=bands,
        scaling=drawing.stretch(store, shown, bands),
        recipe=resolved,
        epoch=drawing.look_at_epoch(batches, store.entries, train, factor),
    )
    log.info("preview: %s tiles as %s epochs draw them; nothing is trained", len(shown), drawing.EPOCHS)
    return Previewed(write_preview_page(folder / PREVIEW, picture), len(shown))


def normalisation_of_run(folder: Path) -> Normalisation | None:
    """What the network of a run reads its images by, whatever has become of the weights it began from; None before anything was kept.

    Raises:
        LandsegError: What was kept cannot be read.
    """
    from landseg.network.card import Normalisation, has_model, load_card
    from landseg.training.state import has_state, load_state

    if has_model(folder / "model"):
        return load_card(folder / "model").normalisation
    kept = load_state(folder / "state").get("normalisation") if has_state(folder / "state") else None
    return None if kept is None else Normalisation(**kept)
