"""Tiles → class maps: decoding, the network and encoding overlap. It cuts no scenes and knows no torch.

Vocabulary: a tile is *finished* when its class map lies in the output folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from landseg.core.errors import LandsegError
from landseg.core.files import refuse_existing, replacing, unwritable, write_bytes, write_json
from landseg.core.machine import cores
from landseg.core.progress import progress
from landseg.data.inputs import TileInput
from landseg.data.overlay import overlay_jpeg
from landseg.data.tiles import encode_label
from landseg.inference import reading
from landseg.inference.pieces import by_pieces, piece_edge
from landseg.inference.tta import augmented
from landseg.network.probs import best_classes, softmax

if TYPE_CHECKING:
    from landseg.network.engine import Engine

log = logging.getLogger("landseg")

FINISHED = "predictions.json"
"""Written last: its presence says that the folder is whole."""

BEGUN = ".predicting"
"""Written first: what is being predicted, with which model and settings; gone when all is done."""

STEP_VALUES = 1 << 26
"""Of the images of a step, all bands: 256 MB once they are float32. Only tiles of many bands, or very large batches, come near."""


@dataclass(frozen=True)
class FolderPrediction:
    """What was predicted: class maps in the folder, their pixels, time of this call, tiles left out, maps that an earlier call had made."""

    files: int
    pixels: int
    seconds: float
    unreadable: dict[str, str]
    resumed: int = 0


@dataclass
class _Run:
    """What the stages share: the model, where and what to write, and what was left out."""

    engine: Engine
    out: Path
    overlay: bool
    probabilities: bool
    bands: tuple[int, ...] | None
    edge: int
    unreadable: dict[str, str] = field(default_factory=dict)

    def outputs(self, name: str) -> list[Path]:
        """The files of one tile, its class map last: once that is there, all are."""
        return _outputs(self.out, name, overlay=self.overlay, probabilities=self.probabilities)


def predict_tiles(
    engine: Engine,
    tiles: Iterable[TileInput],
    out: Path,
    *,
    batch: int,
    overlay: bool = False,
    probabilities: bool = False,
    bands: tuple[int, ...] | None = None,
    tta: str = "none",
    fingerprint: str = "",
    overwrite: bool = False,
) -> FolderPrediction:
    """Predict tiles of any sizes into a folder; the files do not depend on `batch` or on the order of the tiles.

    A call that was killed is completed by the next one with the same model, tiles and settings.

    Args:
        engine: The model.
        tiles: From `find_inputs`.
        out: The folder to write, as the contract's "Predictions" says.
        batch: Tiles a step at the size the model was trained on; fewer of larger tiles, so that a step's memory stays the same. An engine
            with lanes takes them one by one. Tiles that are longer than a piece (`inference.pieces`) go through the network piece by piece.
        overlay: Also write the image under the classes' colours.
        probabilities: Also write the softmax, float16 (K, H, W).
        bands: Bands to take of each image, counted from 1; None takes all.
        tta: none | d4 | scales: test-time augmentation (`inference.tta`); it is recorded as the model is.
        fingerprint: Tells models apart; it is recorded, and a prediction by another model is not continued.
        overwrite: Replace an earlier prediction in `out`.

    Raises:
        LandsegError: `out` exists, a tile does not fit the model, or no tile can be read.
    """
    started = time.monotonic()
    todo = list(tiles)
    card = engine.card
    if bands is not None and (len(bands) != len(card.bands) or min(bands) < 1):
        raise LandsegError(
            "predict.bands", f"{list(bands)}", f"the model was trained on {len(card.bands)} bands ({', '.join(card.bands)})",
            "name as many, counted from 1, in that order",
        )  # fmt: skip
    run = _Run(augmented(engine, tta), out, overlay, probabilities, bands, piece_edge(card.tile_size, card.factor))
    how = {"model": fingerprint, "engine": run.engine.runtime, "tta": tta, "overlay": overlay, "probabilities": probabilities}
    begun = {
        **how,
        "bands": None if bands is None else list(bands),
        "inputs": hashlib.sha256("\n".join(sorted(f"{tile.name}\t{tile.version}" for tile in todo)).encode()).hexdigest(),
        "tiles": sorted(tile.name for tile in todo),
    }
    finished = set() if overwrite else _resume(run, begun)
    begin = partial(_begin, out, begun, overwrite=overwrite)
    pixels = sum(_png_pixels(run.outputs(name)[-1]) for name in finished)
    files = len(finished)
    if finished:
        log.info("%s: %s tiles were finished before; predicting the other %s", out, f"{len(finished):,}", f"{len(todo) - files:,}")
    rest = [tile for tile in todo if tile.name not in finished]
    for count in progress(_predict(run, rest, batch, begin), "predict", total=len(rest)):
        files += 1
        pixels += count
    if not files:
        name, reason = next(iter(run.unreadable.items()), ("INPUT", "nothing is named"))
        raise LandsegError(name, f"{reason} (all {len(todo)} tiles are unreadable)", "images that decode", "look at one of the files")
    write_json(
        out / FINISHED,
        {
            "classes": [item.model_dump(mode="json") for item in card.classes],
            **how,
            "count": files,
            "tiles": sorted(tile.name for tile in todo if tile.name not in run.unreadable),
            "unreadable": dict(sorted(run.unreadable.items())),
        },
    )
    (out / BEGUN).unlink(missing_ok=True)
    return FolderPrediction(files, pixels, time.monotonic() - started, dict(sorted(run.unreadable.items())), len(finished))


def _predict(run: _Run, tiles: list[TileInput], batch: int, begin: Callable[[], None]) -> Iterator[int]:
    """Decode on threads ahead of the network, encode on threads behind it; yields each finished tile's pixels."""
    card = run.engine.card
    with closing(reading.decoded(tiles, card, run.bands, run.unreadable)) as images:
        yield from _in_lanes(run, images, begin) if run.engine.lanes > 1 else _in_batches(run, images, batch, begin)


def _in_lanes(run: _Run, images: Iterable[tuple[str, np.ndarray]], begin: Callable[[], None]) -> Iterator[int]:
    """A tile on each lane, from its pixels to its files, so that no core waits for another's batch; a large one on all lanes together."""
    lanes = run.engine.lanes
    begin_once = _once(begin)
    with ThreadPoolExecutor(lanes) as pool:
        waiting: deque[Future[int]] = deque()
        try:
            for name, image in images:
                is_large = max(image.shape[:2]) > run.edge
                while len(waiting) >= (1 if is_large else 2 * lanes):
                    yield waiting.popleft().result()
                if is_large:
                    ids = _ids_by_pieces(run, name, image, begin_once)
                    waiting.append(pool.submit(_write_maps, run, name, image, ids))
                elif begin_once.is_done:
                    waiting.append(pool.submit(_predict_one, run, name, image))
                else:
                    scores = run.engine.logits(image[None])[0]
                    begin_once()
                    waiting.append(pool.submit(_write, run, name, image, scores))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _predict_one(run: _Run, name: str, image: np.ndarray) -> int:
    return _write(run, name, image, run.engine.logits(image[None])[0])


class _once:  # noqa: N801 – it is called as a function
    """Begins with the first result: input that cannot be predicted leaves no folder behind and replaces nothing."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin
        self.is_done = False

    def __call__(self) -> None:
        if not self.is_done:
            self._begin()
        self.is_done = True


def _in_batches(run: _Run, images: Iterable[tuple[str, np.ndarray]], batch: int, begin: Callable[[], None]) -> Iterator[int]:
    """Batches through the network one after the other, encoded on threads behind it."""
    begin_once = _once(begin)
    with ThreadPoolExecutor(cores()) as encoders:
        writing: deque[Future[int]] = deque()
        try:
            for names, stacked in _batches(images, batch, run.engine.card.tile_size, run.edge):
                is_large = max(stacked.shape[1:3]) > run.edge
                if is_large:
                    ids = _ids_by_pieces(run, names[0], stacked[0], begin_once)
                else:
                    logits = run.engine.logits(stacked)
                    begin_once()
                # Of two steps' results or one large tile's may wait to be written; more would only fill the memory.
                while len(writing) > (0 if is_large else len(names)):
                    yield writing.popleft().result()
                if is_large:
                    writing.append(encoders.submit(_write_maps, run, names[0], stacked[0], ids))
                else:
                    writing += [encoders.submit(_write, run, *item) for item in zip(names, stacked, logits, strict=True)]
            while writing:
                yield writing.popleft().result()
        finally:
            for future in writing:
                future.cancel()


def _ids_by_pieces(run: _Run, name: str, image: np.ndarray, begin: Callable[[], None]) -> np.ndarray:
    """Class ids (H, W) of a large tile; its probabilities, where they are wanted, go to their file piece by piece."""
    ids = np.zeros(image.shape[:2], np.uint8)
    with ExitStack() as files:
        probs: np.ndarray | None = None
        for window, scores in by_pieces(run.engine.logits, image, run.edge, run.engine.lanes):
            begin()
            if run.probabilities and probs is None:
                probs = files.enter_context(_mapped(run.out / f"{name}.npy", (len(scores), *ids.shape)))
            ids[window.slices] = _ids(scores, name)
            if probs is not None:
                probs[:, *window.slices] = softmax(scores[None])[0]
    return ids


def _batches(
    images: Iterable[tuple[str, np.ndarray]], batch: int, tile_size: tuple[int, int], edge: int
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Group tiles of equal shape; when too many wait, the shape that has most goes first although its batch is not full.

    Tiles longer than `edge` come at once and alone.
    """
    waiting: dict[tuple[int, ...], list[tuple[str, np.ndarray]]] = {}
    held = 0
    for name, image in images:
        if max(image.shape[:2]) > edge:
            yield [name], image[None]
            continue
        group = waiting.setdefault(image.shape, [])
        group.append((name, image))
        held += image.nbytes
        shape = image.shape
        # A batch is counted in pixels of the model's own tiles, so that larger ones do not exhaust the device.
        full = max(1, min(batch, batch * tile_size[0] * tile_size[1] // (shape[0] * shape[1]), STEP_VALUES // image.size))
        if len(group) < full:
            if held <= reading.HELD_BYTES:
                continue
            shape = max(waiting, key=lambda shape: sum(image.nbytes for _, image in waiting[shape]))
        group = waiting.pop(shape)
        held -= sum(image.nbytes for _, image in group)
        yield [name for name, _ in group], np.stack([image for _, image in group])
    for group in waiting.values():
        yield [name for name, _ in group], np.stack([image for _, image in group])


def _write(run: _Run, name: str, image: np.ndarray, scores: np.ndarray) -> int:
    """Write one tile's files, its class map last; returns its pixels."""
    ids = _ids(scores, name)
    if run.probabilities:
        buffer = io.BytesIO()
        np.save(buffer, softmax(scores[None])[0].astype(np.float16))
        write_bytes(run.out / f"{name}.npy", buffer.getvalue())
    return _write_maps(run, name, image, ids)


def _write_maps(run: _Run, name: str, image: np.ndarray, ids: np.ndarray) -> int:
    """Write one tile's overlay, where it is wanted, and its class map; returns its pixels."""
    card = run.engine.card
    if run.overlay:
        write_bytes(run.out / "overlay" / f"{name}.jpg", overlay_jpeg(image, ids, card.bands, card.classes, card.scaling))
    write_bytes(run.out / f"{name}.png", encode_label(ids, card.classes))
    return ids.size


def _ids(scores: np.ndarray, name: str) -> np.ndarray:
    ids, best = best_classes(scores)
    if not np.isfinite(best.sum()):
        raise LandsegError(
            name, "the network gave no finite number", "finite logits", "predict on another device, or train the model again"
        )
    return ids


@contextmanager
def _mapped(path: Path, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """A float16 NPY file on the disk, to be filled; the same bytes as `np.save` would write."""
    with replacing(path) as partial:
        array = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here; met while writing to the map, it ends the process
            with partial.open("r+b") as handle:
                os.posix_fallocate(handle.fileno(), 0, partial.stat().st_size)
        yield array
        array.flush()


def _outputs(out: Path, name: str, *, overlay: bool, probabilities: bool) -> list[Path]:
    extra = [out / "overlay" / f"{name}.jpg"] * overlay + [out / f"{name}.npy"] * probabilities
    return [*extra, out / f"{name}.png"]


def _begin(out: Path, begun: dict[str, Any], *, overwrite: bool) -> None:
    """Record what is being predicted, after clearing `out` of an earlier prediction where the user wants that."""
    if overwrite:
        try:
            for name in (FINISHED, BEGUN):
                _clear(out, _read_json(out / name))
                (out / name).unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(out, error) from error
    write_json(out / BEGUN, begun)


def _resume(run: _Run, begun: dict[str, Any]) -> set[str]:
    """The tiles that an earlier call of the same prediction finished; any other `out` that exists is refused."""
    earlier = _read_json(run.out / BEGUN)
    if (run.out / FINISHED).exists() or not earlier:
        refuse_existing(run.out, overwrite=False)
        return set()
    if earlier != begun:
        raise LandsegError(
            run.out, "a prediction of other tiles, or with another model or settings, was begun there", "the same again to complete it",
            "choose another --out or add --overwrite",
        )  # fmt: skip
    for leaving in run.out.rglob(".*.partial"):  # of a process that was killed while it wrote
        leaving.unlink(missing_ok=True)
    return {name for name in begun["tiles"] if all(path.is_file() for path in run.outputs(name))}


def _clear(out: Path, record: dict[str, Any]) -> None:
    """Remove exactly the files that an earlier prediction recorded, so that no tile of it stays among the new ones."""
    for name in record.get("tiles", ()):
        if ".." not in PurePosixPath(name).parts and not PurePosixPath(name).is_absolute():
            for path in _outputs(out, name, overlay=bool(record.get("overlay")), probabilities=bool(record.get("probabilities"))):
                path.unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _png_pixels(path: Path) -> int:
    """Pixels of a class map from its header (width and height stand at bytes 16 to 24)."""
    with path.open("rb") as file:
        head = file.read(24)
    return int.from_bytes(head[16:20], "big") * int.from_bytes(head[20:24], "big")
