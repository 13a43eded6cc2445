"""`landseg train`: a data set and a recipe become a model."""

from __future__ import annotations

import hashlib
import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from landseg import __version__
from landseg.core import processes, runs
from landseg.core.config import load_recipe, to_yaml
from landseg.core.errors import LandsegError
from landseg.core.settings import ModelConfig, Recipe
from landseg.data.dataset import FILE, Dataset, open_dataset
from landseg.data.pack import TileStore, content_fingerprint, open_tiles
from landseg.data.statistics import Ranges, band_statistics
from landseg.splitting.assignment import Split, read_split, tile_numbers
from landseg.training.interruption import heard

if TYPE_CHECKING:
    from landseg.network.card import ModelCard, Normalisation
    from landseg.training.loop import Loop

log = logging.getLogger("landseg")


@dataclass(frozen=True)
class Trained:
    """What `train` made: the run folder, the best validation mIoU with the epoch it was reached in, and the time."""

    run: Path
    miou: float
    best_epoch: int
    epochs: int
    steps: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints."""
        return {
            "run": str(self.run),
            "model": str(self.run / "model"),
            "miou": self.miou,
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
        }

    def as_text(self) -> str:
        """Two lines for a person."""
        time = f"{self.seconds / 60:.1f} minutes"
        return f"best val mIoU {self.miou:.4f} in epoch {self.best_epoch} of {self.epochs}, {time}\n{self.run / 'model'}"


@heard()
def train(
    data: str | Path,
    out: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    settings: Sequence[str] = (),
    split: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    go_on: str | None = None,
) -> Trained:
    """Train a network on the train part of a data set and keep the best model by mIoU on its val part.

    Args:
        data: Dataset folder with a split.
        out: Run folder to write.
        recipe: Name of a shipped recipe, path of a YAML file, or settings already resolved; ``default`` when None.
        settings: ``key=value`` each, over the recipe.
        split: Name of the split; the only one when None.
        resume: Go on with the run in `out` from its last state.
        overwrite: Replace a run in `out`.
        go_on: What the user shall do to go on after an interruption; the command with ``--resume`` when None.

    Returns:
        Where the model is and how good.

    Raises:
        LandsegError: Settings, data or weights that do not fit; an existing run; a loss that is no number; a disk that refuses.
        KeyboardInterrupt: After the state was saved.
    """
    # Imported here: torch takes seconds to load, and a wrong path or setting should be told at once.
    from landseg.training.state import has_state

    folder = Path(out)
    if resume and not has_state(folder / "state"):
        raise LandsegError(folder, "no state to resume", "a run that was interrupted", "leave --resume out")
    # Settings without a recipe are meant over what the run began with.
    resolved = recipe if isinstance(recipe, Recipe) else load_recipe(recipe or (folder / "recipe.yaml" if resume else None), settings)
    if not resume:
        runs.refuse_existing_run(folder, overwrite=overwrite)
    dataset = open_dataset(Path(data))
    dataset.require_labels("training")
    check_scaling(dataset)
    chosen = read_split(dataset, split)
    store = open_tiles(dataset, use_pack=resolved.data.pack, workers=resolved.data.workers)
    parts = {part: tile_numbers(store, chosen, part) for part in ("train", "val")}
    fingerprint = _fingerprint(store, chosen, dataset)
    if resume:
        _refuse_other(folder, resolved, fingerprint)
    hint = go_on or shlex.join(
        [*_starter(resolved), "landseg", "train", str(data), "--out", str(folder), *(["--split", split] if split else []), "--resume"]
    )
    return _train(folder, dataset, store, parts, resolved, fingerprint, resume=resume, go_on=hint)


def _starter(recipe: Recipe) -> list[str]:
    """What stands before the command where torchrun started this process, and `train.devices` would not start as many again."""
    here, count = processes.here(), processes.count()
    if count == 1 or (count == here and recipe.train.devices != 1):
        return []
    return ["torchrun", *processes.torchrun_options(here, count // here), "-m"]


def _train(
    folder: Path,
    dataset: Dataset,
    store: TileStore,
    parts: dict[str, list[int]],
    recipe: Recipe,
    fingerprint: str,
    *,
    resume: bool,
    go_on: str,
) -> Trained:
    import torch

    from landseg.network.build import build
    from landseg.network.card import ModelCard
    from landseg.network.finetune import load_start
    from landseg.training import loop
    from landseg.training.disk import need, require_disk
    from landseg.training.state import has_state

    settings = recipe.model
    normalisation = normalisation_of(dataset, store, parts["train"], settings, resume=resume)
    torch.manual_seed(recipe.train.seed)
    classes = dataset.info.classes
    network = build(settings.network, settings.encoder, store.bands, len(classes), normalisation, settings.decoder_channels)
    names = [item.name for item in classes]
    loaded = None if resume else load_start(network, settings.encoder, settings.weights, names, dataset.info.bands)
    card = ModelCard(
        landseg_version=__version__,
        network=settings.network,
        encoder=settings.encoder,
        decoder_channels=settings.decoder_channels,
        bands=dataset.info.bands,
        dtype=store.dtype,
        mean=normalisation.mean,
        std=normalisation.std,
        scaling=normalisation.scaling,
        classes=classes,
        resolution_m=dataset.info.resolution_m,
        tile_size=(store.entries[parts["train"][0]].height, store.entries[parts["train"][0]].width),
        size=recipe.train.size,
        recipe=recipe.model_dump(mode="json"),
        data_fingerprint=fingerprint,
    )
    # Everything that can be refused is refused before a former run is touched.
    session = loop.Loop(network, loop.Task(store, parts["train"], parts["val"], card, recipe))
    stepper = session.stepper
    if processes.is_first():
        require_disk(folder, need(stepper.state_dict(), stepper.kept.state_dict(), stepper.optimiser), recipe.train)
    run = runs.Run(folder, is_new=not resume) if processes.is_first() else runs.Onlooker(folder)
    try:
        if loaded is not None and processes.is_first():
            runs.save_recipe(folder, to_yaml(recipe))
            runs.write_surroundings(
                folder, device=str(session.device), seed=recipe.train.seed, data_fingerprint=fingerprint, data=dataset.info.name
            )
            log.info(
                "network: %s with %s, %.1f million parameters",
                settings.network,
                settings.encoder,
                sum(p.numel() for p in network.parameters()) / 1e6,
            )
            log.info("%s", loaded.as_text())
            if recipe.train.freeze and settings.weights == "none":
                log.warning("train.freeze=%g: model.weights is none, so the encoder is held at random weights", recipe.train.freeze)
            log.info(
                "tiles: %s train, %s val%s", f"{len(parts['train']):,}", f"{len(parts['val']):,}", _seen(session, store, parts["train"])
            )
        if resume and processes.is_first() and load_recipe(folder / "recipe.yaml") != recipe:
            runs.save_recipe(folder, to_yaml(recipe))
        done = session.run(run, resume=resume)
        if processes.is_first():
            runs.note_end(folder, epochs=done.epoch, steps=done.step, elapsed_s=done.elapsed_s)
    except KeyboardInterrupt:
        log.info("interrupted; to go on: %s", go_on if has_state(folder / "state") else "the same command again, nothing was saved yet")
        raise
    finally:
        run.close()
    return Trained(folder, done.best_miou, done.best_epoch + 1, done.epoch, done.step, done.elapsed_s)


def normalisation_of(dataset: Dataset, store: TileStore, train: Sequence[int], settings: ModelConfig, *, resume: bool) -> Normalisation:
    """What the network's first layer does: as the weights expect it of such images, or by the statistics of the train part.

    A model of images of the same type, scaled alike or not at all, keeps its numbers for the bands that it knows, by their names, so that
    training begins from what the model knew, and a frozen encoder sees what it learnt from. Bands that it does not know, bands whose
    values range quite otherwise, and all bands of another type have mean 0 and deviation 1 by their own statistics. A resumed run takes
    its own from its state.
    """
    from landseg.network.build import encoder_normalisation
    from landseg.network.card import Normalisation
    from landseg.network.finetune import base_card

    scaling, bands = dataset.info.scaling, dataset.info.bands
    base = None if resume else base_card(settings.weights)
    is_photo = store.bands == 3 and store.dtype == "uint8" and scaling is None
    if base is None and settings.weights != "none" and is_photo:
        return encoder_normalisation(settings.encoder)
    known = {} if base is None or base.dtype != store.dtype else _known_bands(base, bands, scaling)
    if all(band in known for band in bands):
        own = [(0.0, 1.0)] * len(bands)  # of no band: nothing need be measured
    else:
        # Of scaled colours too: how bright a sensor's percentiles are is no photograph's brightness, and what ImageNet's weights expect
        # of a band is mean 0 and deviation 1.
        own = list(zip(*band_statistics(store, train, scaling), strict=True))
    mean, std = zip(*(known[band][:2] if band in known else numbers for band, numbers in zip(bands, own, strict=True)), strict=True)
    if scaling is None:
        return Normalisation(mean, std)
    return Normalisation(
        mean, std, tuple(known[band][2] or pair if band in known else pair for band, pair in zip(bands, scaling, strict=True))
    )


_SHARED = 0.25
"""Of the longer of two ranges, from which they are of the same kind of values: places differ by less, units by more."""


def _known_bands(
    base: ModelCard, bands: Sequence[str], scaling: Ranges | None
) -> dict[str, tuple[float, float, tuple[float, float] | None]]:
    """Mean, standard deviation and scaling of the bands that a model knows and whose values are such as it knew them."""
    if (base.scaling is None) != (scaling is None):
        return {}
    known = {band: (base.mean[i], base.std[i], base.scaling[i] if base.scaling else None) for i, band in enumerate(base.bands)}
    for band, (low, high) in zip(bands, scaling or (), strict=bool(scaling)):
        past = known[band][2] if band in known else None
        if past is not None and min(high, past[1]) - max(low, past[0]) < _SHARED * max(high - low, past[1] - past[0]):
            log.warning(
                "%s: values of %g to %g, the model's were %g to %g; they are taken by their own statistics, not by the model's",
                *(band, low, high, *past),
            )
            del known[band]
    return known


def _seen(session: Loop, store: TileStore, train: Sequence[int]) -> str:
    """What is trained on where that is not simply the tiles."""
    dropped = session.batches.dropped
    words = f"; {dropped:,} of the train part without a label are left out" if dropped else ""
    height, width = shape = session.batches.shape
    if all((store.entries[i].height, store.entries[i].width) == shape for i in train):
        return words
    return f"{words}; {session.batches.images:,} crops of {height} × {width} pixels an epoch, smaller tiles filled up"


def _fingerprint(store: TileStore, split: Split, dataset: Dataset) -> str:
    """Of what the network sees: pixels, labels, parts, and the scaling where there is one."""
    rows = "\n".join(f"{tile.tile} {tile.part}" for tile in split.tiles)
    scaling = "" if dataset.info.scaling is None else f"\n{dataset.info.scaling}"
    return hashlib.sha256(f"{content_fingerprint(store)}\n{rows}{scaling}".encode()).hexdigest()[:32]


def check_scaling(dataset: Dataset) -> None:
    """Refuse a scaling, which people may write by hand, that the network could not divide by."""
    ranges, bands = dataset.info.scaling, dataset.info.bands
    if ranges is None:
        return
    is_good = len(ranges) == len(bands) and all(
        np.isfinite((low, high)).all() and np.float32(low) < np.float32(high) for low, high in ranges
    )
    if not is_good:
        raise LandsegError(
            f"{dataset.folder / FILE}: scaling",
            f"{[list(pair) for pair in ranges]}",
            f"a finite [low, high] with low < high for each of {len(bands)} bands ({', '.join(bands)}), or null",
            "mend the line, or prepare the data set again",
        )


_CHOSEN_ANEW = ("train.on_nan", "train.devices")
"""What a run may be resumed with in another way than it began: what becomes of the step that stopped it and of no other, and how many
processes share steps that stay the same."""


def _refuse_other(folder: Path, recipe: Recipe, fingerprint: str) -> None:
    """A run goes on as it began, or not at all."""
    began = load_recipe(folder / "recipe.yaml")
    differing = [
        f"{section}.{key} {old!r} → {getattr(getattr(recipe, section), key)!r}"
        for section in type(began).model_fields
        for key, old in getattr(began, section)
        if getattr(getattr(recipe, section), key) != old and f"{section}.{key}" not in _CHOSEN_ANEW
    ]
    if differing:
        raise LandsegError(
            folder,
            f"begun with other settings ({'; '.join(differing)})",
            "the settings it began with",
            "leave -c and --set out, or choose another --out",
        )
    before = runs.read_surroundings(folder).get("data_fingerprint")
    if before != fingerprint:
        raise LandsegError(
            folder,
            f"begun on other tiles or another split (fingerprint {before})",
            f"{fingerprint}",
            "name the data it began with, or choose another --out",
        )
