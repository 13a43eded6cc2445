"""One raster of any size → a class map on its own grid, strip by strip: reading, network and writing overlap. It looks for no scenes.

The same scene, model and settings give the same bytes, whatever the number of cores, and whether the map was made at once, in several
calls, or of a part: windows stand on a grid of the whole scene (`inference.blend`), the network sees one shape, in steps of one size, and
on a CPU each window is computed by a single core, for torch's sums depend on the cores that share them.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

import numpy as np

from landseg.core.errors import LandsegError
from landseg.core.grid import Window
from landseg.core.machine import cores
from landseg.core.progress import parallel_map
from landseg.data.cog import NODATA, Strips
from landseg.data.raster import Scene
from landseg.inference.blend import Block, Prediction, blended
from landseg.inference.plan import Plan
from landseg.inference.squares import square_logits

if TYPE_CHECKING:
    from pathlib import Path

    from landseg.network.engine import Engine

T = TypeVar("T")

STEPS = 200
"""What probabilities are multiplied by to be stored. Source: the contract, 0–200 = 0–100 %."""

_CHUNK_BYTES = 16_000_000
"""Pixels read at a time: a row of windows in one or several parts."""


def predict_scene(
    engine: Engine,
    scene: Scene,
    plan: Plan,
    layers: dict[str, Strips],
    spill: Path,
    *,
    step: int = 1,
    workers: int | None = None,
) -> Generator[int, None, None]:
    """Predict the strips of a scene that are not there yet; to be closed before the scene is.

    Args:
        engine: The model, with its augmentation around it.
        scene: Open.
        plan: Of this scene and model.
        layers: Where strips go: ``classes``, and ``confidence`` and ``probabilities`` where they are wanted.
        spill: A folder for rows that wait where they are too many for memory.
        step: Windows that the network sees at once, always as many; the bytes may depend on it.
        workers: Steps at a time, each on one core; the number of cores when None. The bytes do not depend on it.

    Yields:
        Pixels finished, as they are, the strips found finished first.

    Raises:
        LandsegError: The scene is damaged, the network fails, or a strip cannot be written.
    """
    strips = plan.strips
    todo = [i for i in range(len(strips)) if not all(layer.has(i) for layer in layers.values())]
    yield sum((end - begin) * plan.part.width for i, (begin, end) in enumerate(strips) if i not in set(todo))
    run = _Run(engine, scene, plan, step)
    with ThreadPoolExecutor(1) as writer, _single_cores(workers) as count:
        writing: list[Future[None]] = []
        for first, last in _runs(todo):
            begin, end = strips[first][0], strips[last - 1][1]
            part = Window(plan.part.row + begin, plan.part.col, end - begin, plan.part.width)
            with closing(run.predictions(part, count)) as predicted:
                at, values = first, dict[str, np.ndarray]()
                for block in blended(plan.rows, plan.cols, part, predicted, spill):
                    values = values or run.empty(strips[at], layers)
                    run.fill(block, strips[at], values)
                    if block.window.col + block.window.width == part.col + part.width:  # the strip's last
                        while writing:
                            writing.pop(0).result()
                        writing.append(writer.submit(_write, layers, at, values))
                        at, values = at + 1, {}
                    yield block.window.height * block.window.width
        for future in writing:
            future.result()


@dataclass
class _Run:
    """What the stages share."""

    engine: Engine
    scene: Scene
    plan: Plan
    step: int
    count: int = field(init=False)

    def __post_init__(self) -> None:
        self.count = len(self.engine.card.classes)

    def empty(self, strip: tuple[int, int], layers: Iterable[str]) -> dict[str, np.ndarray]:
        """A strip of no data for each layer, (bands, rows, width) uint8."""
        height, width = strip[1] - strip[0], self.plan.part.width
        return {name: np.full((self.count if name == "probabilities" else 1, height, width), NODATA, np.uint8) for name in layers}

    def fill(self, block: Block, strip: tuple[int, int], values: dict[str, np.ndarray]) -> None:
        """Write a block's classes and probabilities into its strip."""
        if block.logits is None:
            return
        part = self.plan.part
        row, col = block.window.row - part.row - strip[0], block.window.col - part.col
        place = slice(row, row + block.window.height), slice(col, col + block.window.width)
        ids, best = _best(block.logits)
        whole = bool(block.valid.all())
        if not np.isfinite(best if whole else best[block.valid]).all():
            raise LandsegError(
                self.scene.path, "the network gave no finite number", "finite logits", "predict on another device, or train the model again"
            )
        found = {"classes": ids[None]} | (_probabilities(block.logits, best, values) if len(values) > 1 else {})
        for name, stored in found.items():
            values[name][:, *place] = stored if whole else np.where(block.valid, stored, NODATA)

    def predictions(self, part: Window, workers: int) -> Generator[Prediction, None, None]:
        """What the network says of each window of a part, read ahead on a thread and computed on several."""
        # Closed at once when the work ends early: a thread that still reads from a raster that is closed would end the process.
        with _ending(parallel_map(self._read, _chunks(self.plan, part, self.scene), workers=1, ahead=1)) as reading:
            groups = _groups((window for chunk in reading for window in chunk), self.step)
            with _ending(parallel_map(partial(_predict, self), groups, workers=workers, ahead=1)) as found:
                for group in found:
                    yield from group

    def _read(self, chunk: _Chunk) -> list[_Seen]:
        image, valid = self.scene.read(chunk.window, self.plan.bands)
        shape = self.plan.rows.size, self.plan.cols.size
        return [_seen(image[:, at : at + shape[1]], valid[:, at : at + shape[1]], shape) for at in chunk.starts]


class _Chunk(NamedTuple):
    """Some windows of a row that are read at once, and where each begins in what is read."""

    window: Window
    starts: tuple[int, ...]


class _Seen(NamedTuple):
    """A window as the network sees it: (height, width, C), None where nothing is valid; and what is valid of it."""

    image: np.ndarray | None
    valid: np.ndarray


def _chunks(plan: Plan, part: Window, scene: Scene) -> Iterator[_Chunk]:
    height, width = plan.rows.size, plan.cols.size
    cols = plan.cols.touching(part.col, part.col + part.width)
    count = max(1, _CHUNK_BYTES // (height * width * len(plan.bands) * np.dtype(scene.dtype).itemsize))
    for row in plan.rows.touching(part.row, part.row + part.height):
        begin = plan.rows.starts[row]
        for first in range(cols.start, cols.stop, count):
            starts = plan.cols.starts[first : min(first + count, cols.stop)]
            # Only a scene that is smaller than its window has less to read.
            end_row, end_col = min(begin + height, plan.rows.length), min(starts[-1] + width, plan.cols.length)
            yield _Chunk(Window(begin, starts[0], end_row - begin, end_col - starts[0]), tuple(at - starts[0] for at in starts))


def _seen(image: np.ndarray, valid: np.ndarray, shape: tuple[int, int]) -> _Seen:
    """A window filled up to `shape` by reflection, as far as the scene ends before it does."""
    below, right = shape[0] - image.shape[0], shape[1] - image.shape[1]
    if below or right:
        image = np.pad(image, ((0, below), (0, right), (0, 0)), "reflect")
        valid = np.pad(valid, ((0, below), (0, right)))
    return _Seen(np.ascontiguousarray(image) if valid.any() else None, valid)


def _groups(windows: Iterator[_Seen], step: int) -> Iterator[list[_Seen]]:
    """Windows in their order, as many as hold `step` images; not too many without one."""
    group: list[_Seen] = []
    for window in windows:
        group.append(window)
        if sum(one.image is not None for one in group) == step or len(group) == 4 * step:
            yield group
            group = []
    if group:
        yield group


def _predict(run: _Run, group: list[_Seen]) -> list[Prediction]:
    """The logits of a group; what is missing to a whole step is filled up with nothing, so that the network sees one shape."""
    images = [window.image for window in group if window.image is not None]
    if not images:
        return [Prediction(window.valid, None) for window in group]
    images += [np.zeros_like(images[0])] * (run.step - len(images))
    logits = iter(square_logits(run.engine, np.stack(images), run.plan.scale))
    return [Prediction(window.valid, None if window.image is None else next(logits)) for window in group]


def _best(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, h, w) → the class with the highest logit, the first of equals, uint8, and that logit."""
    best = logits[0].copy()
    ids = np.zeros(best.shape, np.uint8)
    for k in range(1, len(logits)):
        np.copyto(ids, k, where=logits[k] > best)
        np.maximum(best, logits[k], out=best)
    return ids, best


def _probabilities(logits: np.ndarray, best: np.ndarray, wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """Softmax as it is stored, uint8; summed class by class, so that a pixel's bits depend on no other's."""
    shares = logits - best
    np.exp(shares, out=shares)
    total = shares[0].copy()
    for share in shares[1:]:
        total += share
    found = {}
    if "confidence" in wanted:
        found["confidence"] = np.rint(STEPS / total)[None]  # the best one's own share is exp(0)
    if "probabilities" in wanted:
        shares *= STEPS
        shares /= total
        found["probabilities"] = np.rint(shares)
    return {name: values.astype(np.uint8) for name, values in found.items()}


def _write(layers: dict[str, Strips], i: int, values: dict[str, np.ndarray]) -> None:
    for name, layer in layers.items():
        layer.write(i, values[name])


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as stretches (first, last + 1) without a gap."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number:
            runs[-1] = runs[-1][0], number + 1
        else:
            runs.append((number, number + 1))
    return runs


@contextmanager
def _ending(results: Iterator[T]) -> Iterator[Iterator[T]]:
    """Within, results of threads; after it these are done, however it ends."""
    try:
        yield results
    finally:
        cast(Generator[T, None, None], results).close()


@contextmanager
def _single_cores(workers: int | None) -> Iterator[int]:
    """How many steps to compute at a time; within, what torch computes on a thread of ours it computes on that thread alone.

    torch's number of threads is a thread's own once it has computed, and for new threads what was last set: so it is set here.
    """
    torch = sys.modules.get("torch")  # an engine that needs it has loaded it
    if torch is None:
        yield workers or cores()
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield workers or cores()
    finally:
        torch.set_num_threads(before)
