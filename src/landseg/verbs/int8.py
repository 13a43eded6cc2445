"""What int8 costs and gains: a network is quantised with tiles of a data set, scored and timed beside the one in float32.

It writes nothing; `export` does, and decides whether the loss is too much.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from landseg.core.errors import LandsegError
from landseg.core.settings import PredictConfig
from landseg.data.dataset import open_dataset
from landseg.data.pack import TileStore, open_tiles
from landseg.inference.pieces import piece_edge
from landseg.network.card import ModelCard
from landseg.network.sizes import fit
from landseg.scoring.confusion import scores
from landseg.scoring.evaluate import tile_matrices
from landseg.splitting.assignment import read_split, tile_numbers

if TYPE_CHECKING:
    from landseg.network.engine import Engine

CALIBRATION_TILES = 128
"""Tiles from which int8 takes its ranges, spread evenly over the part: their ranges are averaged, and a mean of so many is steady."""

ROUNDS = 5
"""How often each of the two networks is timed, in turns, so that a machine's drift meets both alike."""

_TIMED_PIXELS = 1_048_576
"""Of the batch that is timed: 16 tiles of 256²."""

_NOT_ALIKE = 0.1
"""By how much the share of equal classes of an int8 network may fall at another size: other pixels are shown there, near other borders."""


@dataclass(frozen=True)
class Quantised:
    """What int8 costs and gains, measured.

    Args:
        part: Where mIoU was measured, and the ranges were taken from.
        tiles: How many tiles it has.
        miou: Of the network in float32.
        miou_int8: Of the one in int8.
        speed: How many times as many tiles a second int8 computes here; below 1 it is slower.
        has_vnni: Whether this CPU has the instructions that int8 gains from; None where that is not known.
    """

    part: str
    tiles: int
    miou: float
    miou_int8: float
    speed: float
    has_vnni: bool | None

    @property
    def loss(self) -> float:
        """Of mIoU, as a fraction; below 0 int8 scores higher."""
        return self.miou - self.miou_int8

    def as_json(self) -> dict[str, Any]:
        """Under ``int8`` in the document of ``--json``."""
        facts = {"part": self.part, "tiles": self.tiles, "miou": self.miou, "miou_int8": self.miou_int8}
        return {"int8": {**facts, "loss": self.loss, "speed": round(self.speed, 3), "vnni": self.has_vnni}}

    def as_text(self) -> str:
        """A line for a person."""
        cost = f"int8: mIoU {self.miou_int8:.4f} on {self.part} ({self.tiles:,} tiles), float32 {self.miou:.4f}, a loss of {self.loss:+.4f}"
        if self.speed >= 1:
            return f"{cost}; {self.speed:.2f} times as fast on this machine"
        why = " (its CPU has no instructions for it, VNNI)" if self.has_vnni is False else ""
        return f"{cost}; on this machine it is slower: {self.speed:.2f} times the speed of float32{why}"


class Tiles(NamedTuple):
    """The tiles that int8 takes its ranges from and is scored on."""

    store: TileStore
    part: str
    indices: list[int]


def find_tiles(data: Path, split: str | None, card: ModelCard) -> Tiles:
    """The val part of a data set, or its train part where val is empty.

    Raises:
        LandsegError: It does not fit the model, has no labels, or no split.
    """
    dataset = open_dataset(data)
    dataset.require_labels("exporting with --int8")
    if card.class_names != dataset.class_names:
        raise LandsegError(
            data, f"classes {', '.join(dataset.class_names)}", f"those of the model: {', '.join(card.class_names)}",
            "quantise with a data set of the model's classes",
        )  # fmt: skip
    chosen, store = read_split(dataset, split), open_tiles(dataset)
    if (len(card.bands), card.dtype) != (store.bands, store.dtype):
        raise LandsegError(
            data, f"{store.bands} bands of {store.dtype}", f"the model was trained on {len(card.bands)} of {card.dtype}",
            "quantise with a data set of the model's bands",
        )  # fmt: skip
    part = "val" if "val" in chosen.parts() else "train"
    return Tiles(store, part, tile_numbers(store, chosen, part))


def measured(data: bytes, card: ModelCard, tiles: Tiles, scratch: Path) -> tuple[bytes, Quantised]:
    """The network in int8, and what that costs and gains."""
    from landseg.network.onnx_engine import open_onnx
    from landseg.network.quantise import has_vnni, quantised

    edge = piece_edge(card.tile_size, card.factor)
    step = -(-len(tiles.indices) // CALIBRATION_TILES)
    # One at a time: of large tiles with many bands all would take gigabytes.
    images = (fit(tiles.store.image(i)[None, :edge, :edge], card.factor) for i in tiles.indices[::step])
    made = quantised(data, (np.ascontiguousarray(image.transpose(0, 3, 1, 2), np.float32) for image in images), scratch)
    plain, int8 = (open_onnx(one, card, is_decoded=False) for one in (data, made))
    _require_any_size(plain, int8, tiles.store.image(tiles.indices[0])[:edge, :edge])
    before, after = _miou(plain, tiles, edge), _miou(int8, tiles, edge)
    return made, Quantised(tiles.part, len(tiles.indices), before, after, _speed(plain, int8, tiles, edge), has_vnni())


def _require_any_size(plain: Engine, int8: Engine, image: np.ndarray) -> None:
    """Hold both networks against each other on a part of an image, and on the image with its mirror images around it.

    Raises:
        LandsegError: They agree less there than on the image, whose size the ranges were taken at.
    """
    height, width = image.shape[:2]
    part, more = image[: height * 5 // 8 + 1, : width * 3 // 4 + 1], np.pad(image, ((0, height), (0, width), (0, 0)), "symmetric")
    shares = [float((plain.preds(one[None]) == int8.preds(one[None])).mean()) for one in (image, part, more)]
    if min(shares) < shares[0] - _NOT_ALIKE:
        raise LandsegError(
            "--int8", f"{min(shares):.1%} of the classes equal at another size than the tiles'", f"as many as at theirs ({shares[0]:.1%})",
            "report it: this is a fault of landseg's; export without --int8",
        )  # fmt: skip


def _miou(engine: Engine, tiles: Tiles, edge: int) -> float:
    names = engine.card.class_names
    matrices = tile_matrices(engine.preds, tiles.store, tiles.indices, len(names), PredictConfig().batch, "measuring", edge)
    found = scores(matrices.sum(0), names).miou
    return 0.0 if found is None else found  # the part has labelled pixels: there is one


def _speed(plain: Engine, int8: Engine, tiles: Tiles, edge: int) -> float:
    """How many times as fast the second is: medians of turns on one batch, after one that nobody times."""
    first = tiles.store.image(tiles.indices[0])[:edge, :edge]
    count = max(1, _TIMED_PIXELS // (first.shape[0] * first.shape[1]))
    batch = np.stack([first] * count)
    times: dict[int, list[float]] = {0: [], 1: []}
    for turn in range(ROUNDS + 1):
        for number, engine in enumerate((plain, int8)):
            started = time.perf_counter()
            engine.preds(batch)
            if turn:
                times[number].append(time.perf_counter() - started)
    return statistics.median(times[0]) / statistics.median(times[1])
