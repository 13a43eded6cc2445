"""A network of torch → ONNX, proved to give the same before anybody has it. It keeps no files: `network.converted` does."""

from __future__ import annotations

import copy
import ctypes
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.onnx.errors import OnnxExporterError

from landseg.core.errors import LandsegError
from landseg.network.build import TRIAL, Network
from landseg.network.card import ModelCard
from landseg.network.lanes import Run, first_line
from landseg.network.onnx_engine import IMAGE, LOGITS, onnx_run
from landseg.network.sizes import STRIDE

OPSET = 18
"""Of ONNX: the first with resizing by antialiasing; OpenVINO 2024 and ONNX Runtime 1.15 read it."""

TOLERANCE = 1e-3
"""By which logits may differ from torch's. Source: the two runtimes order float32 sums differently, which is worth 1e-5 or less."""

EQUAL = 0.9999
"""Share of pixels whose class must be torch's."""

_SHOWN = ((1, 2 * TRIAL, TRIAL + 3 * STRIDE), (3, TRIAL, TRIAL + STRIDE))
"""(images, height, width) of the two proofs; the network is traced at another size and number."""

_ODD = (1, TRIAL - 27, TRIAL + 39)
"""In place of the first proof for a network that takes any size."""

_TRACED = (2, TRIAL, TRIAL)

# What torch's exporter, and the networks it traces, raise for what cannot be converted.
_MISFIT = (
    *(OnnxExporterError, RuntimeError, NotImplementedError, AssertionError),
    *(ValueError, TypeError, AttributeError, KeyError, IndexError),
)


def convert(network: Network, card: ModelCard, *, is_decoded: bool, opened: Callable[[bytes], Run] = onnx_run) -> bytes:
    """Convert a network to ONNX and prove that it gives what torch gives.

    Batch, height and width are dynamic; normalisation is inside. The input is called ``image``, the output ``logits``.

    Args:
        network: On the CPU; it is left as it is.
        card: What the model is.
        is_decoded: The input is (N, H, W, B) float32, height and width multiples of `STRIDE`; otherwise (N, B, H, W)
            float32 of any size: padding to such multiples is inside then, and missing values (not finite) count as the mean.
        opened: The runtime that the proof is held with: the network's bytes → the network as a function.

    Returns:
        The ONNX model as a file holds it; its logits are (N, K, H, W) float32.

    Raises:
        LandsegError: It has an operator that cannot be converted, or a proof failed; the message says which.
    """
    what = f"{card.network} with {card.encoder}"
    body = copy.deepcopy(network).cpu().eval()
    _replace_pools(body)
    module = (_Decoded(body, has_gaps=_may_be_missing(card)) if is_decoded else _AnySize(body)).eval()
    axes = {0: "batch", 1: "height", 2: "width"} if is_decoded else {0: "batch", 2: "height", 3: "width"}
    images = torch.from_numpy(_input(tiles(card, *_TRACED), is_decoded=is_decoded))
    buffer = io.BytesIO()
    try:
        with _silence(), torch.no_grad():
            # The exporter that traces, and a trace of our own: within the exporter some networks take ways that it cannot convert. torch's
            # default one took twenty times as long for the default network. What we trust is the proof below, neither of them.
            traced = cast(Any, torch.jit).trace(module, (images,), check_trace=False)
            torch.onnx.export(
                traced, (images,), cast(Any, buffer), dynamo=False, opset_version=OPSET, input_names=[IMAGE], output_names=[LOGITS],
                dynamic_axes={IMAGE: axes, LOGITS: {0: "batch", 2: "height", 3: "width"}},
            )  # fmt: skip
    except _MISFIT as error:
        raise LandsegError(what, f"torch cannot convert it to ONNX ({first_line(error)})", "operators that ONNX has", _TORCH) from error
    data = buffer.getvalue()
    prove(network, card, opened(data), what, is_decoded=is_decoded)
    return data


_TORCH = "--set predict.engine=torch"


def prove(network: Network, card: ModelCard, run: Run, what: str, *, is_decoded: bool) -> None:
    """Hold a converted network against torch, at two sizes and two batch sizes.

    Args:
        network: On the CPU, in evaluation mode.
        card: What the model is.
        run: The converted network; takes what `convert` says of `is_decoded`.
        what: Names it in a message.
        is_decoded: As `convert` takes it.

    Raises:
        LandsegError: Logits differ by more than `TOLERANCE`, or fewer than `EQUAL` of the classes are equal.
    """
    for count, height, width in _SHOWN if is_decoded else (_ODD, _SHOWN[1]):
        images = tiles(card, count, height, width)
        check = f"{count} × {height} × {width} pixels"
        with torch.inference_mode():
            module = _Decoded(network, has_gaps=True) if is_decoded else _AnySize(network)
            wanted = module(torch.from_numpy(_input(images, is_decoded=is_decoded))).numpy()
        try:
            found = run(_input(images, is_decoded=is_decoded))
        except LandsegError as error:
            raise LandsegError(
                f"{what}, converted", f"it fails on {check}: {error.found}", "a network for any size and batch", _TORCH
            ) from error
        if found.shape != wanted.shape:
            raise LandsegError(f"{what}, converted", f"logits of shape {found.shape} of {check}", f"{wanted.shape} as torch's", _TORCH)
        most = float(np.abs(found - wanted).max())
        if not most <= TOLERANCE:  # NaN, too, is not
            raise LandsegError(
                f"{what}, converted", f"logits of {check} differ by {most:.2g} from torch's", f"{TOLERANCE:g} at most", _TORCH
            )
        share = float((found.argmax(1) == wanted.argmax(1)).mean())
        if share < EQUAL:
            needed = f"{EQUAL:.2%} at least"
            raise LandsegError(f"{what}, converted", f"{share:.3%} of the classes of {check} are torch's", needed, _TORCH)


def tiles(card: ModelCard, count: int, height: int, width: int) -> np.ndarray:
    """Images that look like land to a model: fields with straight borders, soft shading and grain, in its own bands, range and dtype.

    Returns:
        (N, H, W, B), the same at every call; missing values among those of a model whose images may have them.
    """
    random = np.random.default_rng(count * height + width)
    bands = len(card.bands)
    y, x = np.mgrid[:height, :width]
    fields = ((y // 37 + count * 5) * 7 + (x + y // 3) // 29 * 13) % 11
    tones = random.normal(0, 1, (count, 11, bands))[:, fields]
    shade = np.sin(y / 31 + random.uniform(0, 6, (count, bands, 1, 1))) * np.cos(x / 47 + random.uniform(0, 6, (count, bands, 1, 1)))
    look = tones + 0.5 * shade.transpose(0, 2, 3, 1) + random.normal(0, 0.25, (count, height, width, bands))
    values = np.asarray(card.mean) + look * np.asarray(card.std)
    if card.scaling is not None:
        low, high = np.asarray(card.scaling).T
        values = low + values * (high - low)
    dtype = np.dtype(card.dtype)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return np.asarray(np.rint(values).clip(limits.min, limits.max), dtype)
    values[:, :5, :7, 0] = np.nan
    return np.asarray(values, dtype)


def _input(images: np.ndarray, *, is_decoded: bool) -> np.ndarray:
    values = images.astype(np.float32)
    return values if is_decoded else np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def _may_be_missing(card: ModelCard) -> bool:
    return np.issubdtype(np.dtype(card.dtype), np.floating)


class _Decoded(nn.Module):
    """(N, H, W, B) float32 as images are decoded, height and width multiples of the stride."""

    def __init__(self, network: Network, *, has_gaps: bool) -> None:
        super().__init__()
        self.network = network
        self.has_gaps = has_gaps

    def forward(self, images: Tensor) -> Tensor:
        values = self.network.normalised(images.permute(0, 3, 1, 2), has_gaps=self.has_gaps)
        return self.network.body(values) if self.network.smallest == 1 else _filled_logits(self.network, values)


class _AnySize(nn.Module):
    """(N, B, H, W) float32 of any size."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return _filled_logits(self.network, self.network.normalised(images, has_gaps=True))


def _filled_logits(network: Network, values: Tensor) -> Tensor:
    """Logits of images of any size, which are filled up for the body by repeating their last row and column."""
    # Tensors, not numbers: what is computed from them is traced, and holds for another size.
    height, width = torch.as_tensor(values.shape[2]), torch.as_tensor(values.shape[3])
    below, right = ((edge.clamp(min=network.smallest) + STRIDE - 1) // STRIDE * STRIDE - edge for edge in (height, width))
    filled = F.pad(values, cast(Any, (0, right, 0, below)), mode="replicate")
    return cast(Tensor, network.body(filled)[:, :, : values.shape[2], : values.shape[3]])


class _AdaptivePool(nn.Module):
    """Adaptive average pooling to a fixed number of rows and columns as two products, which ONNX has for every size of image.

    ONNX has no adaptive pooling, and torch's exporter can write it for one size of image alone. It goes when that has changed:
    https://github.com/pytorch/pytorch/issues/74034
    """

    def __init__(self, rows: int, cols: int) -> None:
        super().__init__()
        self.rows = rows
        self.cols = cols

    def forward(self, values: Tensor) -> Tensor:
        down, across = _shares(values.shape[-2], self.rows), _shares(values.shape[-1], self.cols)
        return down @ values @ across.transpose(0, 1)


def _shares(length: Any, count: int) -> Tensor:
    """(count, length): the share of each pixel in each mean, as torch's windows lie: from floor(i·n/k) to ceil((i+1)·n/k)."""
    size, index = torch.as_tensor(length), torch.arange(count)
    first, last = index * size // count, ((index + 1) * size + count - 1) // count
    place = torch.arange(length)
    inside = (place[None] >= first[:, None]) & (place[None] < last[:, None])
    return inside.float() / (last - first)[:, None].float()


def _replace_pools(network: nn.Module) -> None:
    """Put `_AdaptivePool` in place of adaptive pooling to more than one pixel."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size = child.output_size
                rows, cols = size if isinstance(size, tuple) else (size, size)
                if rows is not None and cols is not None and (rows, cols) != (1, 1):
                    setattr(parent, name, _AdaptivePool(rows, cols))


@contextmanager
def _silence() -> Iterator[None]:
    """Without what the exporter says to its developers: that a trace is one path through a network, which the proof answers, and, from
    C++ to the standard output that is for results, the whole graph of a network that it cannot convert."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    if sys.stdout is not None:  # closed, or a program with windows
        sys.stdout.flush()
    with warnings.catch_warnings(), Path(os.devnull).open("wb") as nowhere:
        own = os.dup(1)
        logger.setLevel(logging.CRITICAL)
        os.dup2(nowhere.fileno(), 1)
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            (ctypes.CDLL("msvcrt") if os.name == "nt" else ctypes.CDLL(None)).fflush(None)  # what C++ has said waits in a buffer of C
            os.dup2(own, 1)
            os.close(own)
            logger.setLevel(before)
