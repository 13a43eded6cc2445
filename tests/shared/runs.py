"""Tiny runs: invented tiles to train on, the card of what is trained, and what two ends of a run differ in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from landseg.core.runs import Run
from landseg.data import world
from landseg.data.dataset import Dataset, DatasetInfo, open_dataset, write_info
from landseg.data.pack import TileStore, open_tiles
from landseg.network.card import ModelCard, Normalisation
from landseg.splitting.assignment import Placed, Split, write_split
from landseg.training.loop import Loop, Position
from landseg.training.state import load_state

NORMALISATION = Normalisation((110.0, 110.0, 100.0), (45.0, 45.0, 45.0))


def store_of(folder: Path, tiles: int, tile: int) -> TileStore:
    """So many invented tiles, of so many pixels an edge."""
    return open_tiles(Dataset(world.write_tiles(folder, 1, tiles, tile=tile), DatasetInfo(name="w", classes=world.CLASSES)))


def divided(folder: Path, tiles: int, val: int, tile: int = 32) -> Path:
    """A data set of invented tiles, of which the last ones validate."""
    world.write_tiles(folder, 1, tiles, tile=tile)
    write_info(folder, DatasetInfo(name="w", classes=world.CLASSES))
    dataset = open_dataset(folder)
    names = [entry.name for entry in open_tiles(dataset, use_pack=False).entries]
    placed = tuple(Placed(name, "train" if n < tiles - val else "val", str(n)) for n, name in enumerate(names))
    write_split(dataset, Split("random", placed))
    return folder


def card_of(tile: int, network: str = "unet", encoder: str = "resnet18") -> ModelCard:
    """What a model that such tiles train says of itself."""
    return ModelCard(
        landseg_version="test", network=network, encoder=encoder, bands=("red", "green", "blue"), dtype="uint8", mean=NORMALISATION.mean,
        std=NORMALISATION.std, classes=world.CLASSES, tile_size=(tile, tile),
    )  # fmt: skip


def run_in(folder: Path, session: Loop, *, resume: bool = False) -> Position:
    """Train to the end, the run's folder closed whatever befalls it."""
    run = Run(folder)
    try:
        return session.run(run, resume=resume)
    finally:
        run.close()


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    """The weights at a run's end, and their average."""
    state = load_state(run / "state")
    return {**state["network"], **{f"average {name}": tensor for name, tensor in state["average"].items()}}


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """The places where two documents of numbers, words and tensors differ, and how."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [line for name in one for line in differences(one[name], other[name], f"{where}/{name}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [line for i, pair in enumerate(zip(one, other, strict=True)) for line in differences(*pair, f"{where}/{i}")]
    is_same = torch.equal(one, other) if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) else one == other
    return [] if is_same else [f"{where}: {one}, not {other}"]
