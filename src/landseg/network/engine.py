"""Batch → logits with a trained model, whatever its tiles' size: which engine runs it, and several models as one. No torch by itself.

A batch is (N, H, W, C) in the images' own dtype, as tiles are decoded; logits are (N, K, H, W) float32.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from landseg.core.errors import LandsegError
from landseg.core.machine import gpus
from landseg.network.card import ModelCard, find_model, load_card, read_model
from landseg.network.probs import mean_logits

log = logging.getLogger("landseg")

_PRECISIONS = ("32", "bf16", "16")


class Engine(Protocol):
    """Something that turns a batch of images into logits.

    Attributes:
        card: What the model is.
        runtime: Name and version of what computes: a prediction that one began is not continued by another.
        lanes: How many images it computes at a time, each by itself on one core, when it is called from as many threads. With 1 it takes
            a batch at a time, and results may depend on the batch.
    """

    card: ModelCard
    runtime: str
    lanes: int

    def logits(self, images: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """(N, H, W, C) → (N, K, H, W) float32; the network sees the images larger by `scale` than it otherwise would."""
        ...

    def preds(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, C) → (N, H, W) uint8 class ids."""
        ...


class Ensemble:
    """Several engines whose probabilities are averaged; its logits are the logarithms of the mean.

    They share classes, bands and type; networks, training sizes, tile sizes and runtimes are their own.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.card = _joint_card([engine.card for engine in engines])
        self.engines = tuple(engines)
        self.runtime = ", ".join(dict.fromkeys(engine.runtime for engine in engines))
        self.lanes = min(engine.lanes for engine in engines)

    def logits(self, images: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """(N, H, W, C) → (N, K, H, W) float32."""
        return mean_logits(engine.logits(images, scale) for engine in self.engines)

    def preds(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, C) → (N, H, W) uint8 class ids."""
        return np.asarray(self.logits(images).argmax(1), np.uint8)


def load_engine(models: Sequence[Path], device: str = "auto", engine: str = "auto", precision: str = "32") -> Engine:
    """Load one model, or several as an ensemble.

    Args:
        models: Run folders, model folders or exported ones.
        device: auto | cpu | cuda | cuda:1 | mps.
        engine: auto | torch | onnx | openvino. ``auto`` is torch on a GPU and ONNX Runtime on a CPU, for networks that can be converted.
        precision: 32 | bf16 | 16, as `TorchEngine` takes it; below 32, ``auto`` is torch on a CPU too.

    Raises:
        LandsegError: None is named, no model there, models of an ensemble that differ in classes or bands, no such precision, an engine
            that is not installed or does not run on that device or in that precision, or one that was asked for and cannot run the network.
    """
    if not models:
        raise LandsegError("MODEL", "nothing is named", "a run folder or a model folder", "name at least one")
    if precision not in _PRECISIONS:
        raise LandsegError("predict.precision", f"{precision!r}", "'32', 'bf16' or '16'", "--set predict.precision=32")
    if engine in ("onnx", "openvino") and device not in ("auto", "cpu"):
        raise LandsegError(
            f"predict.engine={engine}", f"predict.device={device}", "the CPU, where this engine runs",
            "--set predict.device=cpu, or --set predict.engine=torch",
        )  # fmt: skip
    if precision != "32" and engine in ("onnx", "openvino"):
        raise LandsegError(
            f"predict.precision={precision}", f"predict.engine={engine}, which computes in 32 bits", "torch, which computes in fewer",
            "--set predict.precision=32, or --set predict.engine=torch",
        )  # fmt: skip
    chosen = engine if engine != "auto" else "onnx" if precision == "32" and _is_cpu(device) else "torch"
    engines = [_load(find_model(path), device, chosen, precision, is_free=engine == "auto") for path in models]
    first = engines[0].card
    for path, one in zip(models, engines, strict=True):
        for what in ("class_names", "bands", "dtype"):
            mine, theirs = getattr(one.card, what), getattr(first, what)
            if mine != theirs:
                raise LandsegError(
                    path, f"its {what} are {mine}", f"an ensemble shares them ({models[0]}: {theirs})", "leave one of the models out"
                )
    return engines[0] if len(engines) == 1 else Ensemble(engines)


def _load(folder: Path, device: str, engine: str, precision: str, *, is_free: bool) -> Engine:
    """One model on one engine; `is_free`: on another where that one cannot run it."""
    card = load_card(folder)
    if card.exported is not None:
        if device not in ("auto", "cpu"):
            raise LandsegError(
                f"predict.device={device}", f"{folder} is an exported model", "the CPU, where it runs", "--set predict.device=auto"
            )
        if precision != "32":
            needed = "32: its network computes as it was exported"
            raise LandsegError("predict.precision", f"{precision}, of the exported model {folder}", needed, "--set predict.precision=32")
        return _exported(folder, card, card.exported.runtime if is_free else engine)
    if engine == "torch":
        return _on_torch(folder, device, precision)
    card, weights = read_model(folder)
    try:
        return _on_runtime(folder, card, weights, engine)
    except LandsegError as error:
        if not is_free:
            raise
        log.info("%s: PyTorch runs it, which takes longer: %s: %s", folder, error.what, error.found)
        return _on_torch(folder, device, precision)


def _on_torch(folder: Path, device: str, precision: str) -> Engine:
    # Imported here, as all engines are: torch takes seconds to load, and a model that has been converted does without.
    from landseg.network.checkpoint import load_model
    from landseg.network.torch_engine import TorchEngine, choose_device

    place = choose_device(device, "predict.device")
    return TorchEngine(*load_model(folder), place, precision)


def _on_runtime(folder: Path, card: ModelCard, weights: bytes, engine: str) -> Engine:
    from landseg.network.converted import converted

    if engine == "openvino":
        from landseg.network.openvino_engine import open_openvino, openvino_run, runtime

        data = converted(folder, card, weights, runtime(), openvino_run)
        return open_openvino(data, card, is_decoded=True)
    from landseg.network.onnx_engine import RUNTIME, onnx_run, open_onnx

    data = converted(folder, card, weights, RUNTIME, onnx_run)
    return open_onnx(data, card, is_decoded=True)


def _exported(folder: Path, card: ModelCard, engine: str) -> Engine:
    """A network that was converted already, as its files are: proved when they were written, kept nowhere else."""
    from landseg.network.exported import network_file

    path = network_file(folder, card)
    if engine == "openvino":
        from landseg.network.openvino_engine import open_openvino

        return open_openvino(path, card, is_decoded=False)
    if engine == "onnx" and path.suffix == ".onnx":
        from landseg.network.onnx_engine import open_onnx

        return open_onnx(path, card, is_decoded=False)
    runtime = path.suffix.removeprefix(".").replace("xml", "openvino")
    raise LandsegError(
        f"predict.engine={engine}", f"{folder} is a model exported for {runtime}", "an engine that runs it", "--set predict.engine=auto"
    )


def _is_cpu(device: str) -> bool:
    """Whether a device is the CPU. Without torch where that can be told: no card that NVIDIA's or AMD's driver knows, no Mac's."""
    if device == "cpu":
        return True
    is_mac = platform.system() == "Darwin" and platform.machine() == "arm64"
    if device == "auto" and not (gpus() or Path("/dev/kfd").exists() or is_mac):
        return True
    from landseg.network.torch_engine import choose_device

    return choose_device(device, "predict.device").type == "cpu"


def _joint_card(cards: Sequence[ModelCard]) -> ModelCard:
    """The first model's card, with a tile size and a factor for all: the tiles of the model whose network sees the most pixels of one,
    at the factor of the model that enlarges most. So neither pieces of large images nor batches take any model's network beyond
    what one of them asks for alone, whatever the pair; a model that was trained on longer tiles sees less around a pixel than it did."""
    first = cards[0]
    if all((card.tile_size, card.size) == (first.tile_size, first.size) for card in cards):
        return first
    factor = max(card.factor for card in cards)
    most = max(cards, key=lambda card: card.tile_size[0] * card.tile_size[1] * card.factor**2)
    height, width = (max(1, int(edge * (most.factor / factor))) for edge in most.tile_size)
    return first.model_copy(update={"tile_size": (height, width), "size": round(factor * max(height, width))})
