"""A trained model in the hands of a Python user: one image in, one class map out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from landseg.core.errors import LandsegError
from landseg.inference.pieces import by_pieces, class_ids, piece_edge
from landseg.inference.tta import augmented, require_known
from landseg.network.card import ModelCard, find_model
from landseg.network.engine import Engine, load_engine
from landseg.network.probs import softmax


class Model:
    """A trained model, or an ensemble of several."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._edge = piece_edge(engine.card.tile_size, engine.card.factor)

    @property
    def card(self) -> ModelCard:
        """What the model is: classes, bands, normalisation, scores."""
        return self._engine.card

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of their ids."""
        return self.card.class_names

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Class ids (H, W) uint8 of an image (H, W, C) of any size, in the bands and dtype that the model was trained on.

        Raises:
            LandsegError: The image has other bands or another dtype.
        """
        return class_ids(self._engine.preds, self._checked(image), self._edge, self._engine.lanes)

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Softmax (K, H, W) float32 of an image (H, W, C) of any size.

        Raises:
            LandsegError: The image has other bands or another dtype.
        """
        checked = self._checked(image)
        probs = np.zeros((len(self.card.classes), *checked.shape[:2]), np.float32)
        for window, found in by_pieces(self._engine.logits, checked, self._edge, self._engine.lanes):
            probs[:, *window.slices] = softmax(found[None])[0]
        return probs

    def _checked(self, image: np.ndarray) -> np.ndarray:
        bands, dtype = self.card.bands, self.card.dtype
        if image.ndim != 3 or image.size == 0 or image.shape[2] != len(bands) or image.dtype.name != dtype:
            raise LandsegError(
                "image", f"shape {image.shape} of {image.dtype}", f"(height, width, {len(bands)}) of {dtype}: {', '.join(bands)}",
                "choose the bands and the type that the model was trained on",
            )  # fmt: skip
        return image


def load_model(
    path: str | Path | Sequence[str | Path], device: str = "auto", tta: str = "none", engine: str = "auto", precision: str = "32"
) -> Model:
    """Load a trained model.

    Args:
        path: Run folder or model folder, or several (an ensemble: their probabilities are averaged).
        device: auto | cpu | cuda | cuda:1 | mps.
        tta: none | d4 | scales: test-time augmentation, as `inference.tta` says.
        engine: auto | torch | onnx | openvino: what runs the network, as ``predict.engine``.
        precision: 32 | bf16 | 16, as ``predict.precision``.

    Raises:
        LandsegError: There is no model, or it is damaged; no such augmentation; or an engine or precision that is not here or does not do.
    """
    require_known(tta)
    paths = [path] if isinstance(path, str | Path) else list(path)
    return Model(augmented(load_engine([find_model(Path(item)) for item in paths], device, engine, precision), tta))
