"""A network whose convolutions compute in 8-bit whole numbers, its ranges taken from images. It scores and times nothing.

What lies before the first convolution (filling up, normalisation) and from the last one on (the head) stays in float32: there a step of
one 256th of the range would be a step in the pixels, or in the logits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as raised
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from landseg.core.errors import LandsegError

_KINDS = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Add", "Mul", "Relu", "Clip", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool")
"""Operators that ONNX Runtime's CPU provider computes in 8 bits, and those between them that then need not leave them."""

# What ONNX Runtime, and the quantiser in Python on top of it, raise for a network that they cannot take.
_REFUSED: tuple[type[Exception], ...] = (
    *(kind for kind in vars(raised).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    *(RuntimeError, ValueError, MemoryError),
)

_CPUINFO = Path("/proc/cpuinfo")


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Batches one after the other, in the form that the calibration asks for them."""

    def __init__(self, name: str, batches: Iterable[np.ndarray]) -> None:
        self._name, self._batches = name, iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch by the input's name, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def quantised(model: bytes, batches: Iterable[np.ndarray], scratch: Path) -> bytes:
    """Quantise a network statically: weights of each channel symmetric, activations by the mean of the batches' least and greatest values.

    The mean, because one odd image would else widen the range of all: over 54 tiles of an invented landscape the loss of mIoU was 0.060 by
    the extremes, 0.037 without the outermost 0.001 %, 0.003 by the mean (unet with mobilenetv3_small_050, mIoU 0.624).

    Weights take 7 bits, because sums of 8 overflow on CPUs without VNNI; the file is to give the same everywhere.
    Source: ONNX Runtime, "Quantize ONNX models", on U8S8 and `reduce_range`.

    Args:
        model: A serialised ONNX network with one input (N, B, H, W) float32.
        batches: Images as that input takes them, each batch of a shape of its own; drawn one by one, and let go before the next.
        scratch: A folder for files between; it must exist.

    Returns:
        The serialised network, with the same input and output.

    Raises:
        LandsegError: It has no convolution, or ONNX Runtime cannot quantise it.
    """
    plain, made = scratch / "plain.onnx", scratch / "int8.onnx"
    try:
        network = _folded(model, plain)
        chosen = _between(network)
        if not chosen:
            raise LandsegError("--int8", "a network of fewer than two convolutions", "one to quantise", "export it without --int8")
        onnx.save(network, plain)
        with _quiet():
            quantize_static(
                plain,
                made,
                _Batches(network.graph.input[0].name, batches),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_KINDS),
                nodes_to_quantize=chosen,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"CalibMovingAverage": True},  # over batches of one call it is their plain mean
            )
    except _REFUSED as error:
        found = f"ONNX Runtime {onnxruntime.__version__} cannot quantise it ({' '.join(str(error).split())[:160]})"
        raise LandsegError("--int8", found, "a network of operators that it can", "export it without --int8") from error
    return made.read_bytes()


def _folded(model: bytes, path: Path) -> onnx.ModelProto:
    """The network with its normalisation layers folded into the convolutions before them, which would else be rounded twice."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def has_vnni() -> bool | None:
    """Whether this CPU has instructions for sums of 8-bit products, without which int8 gains little; None where nobody says."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), None)
    if flags is None:  # ARM calls them features
        features = next((line.split() for line in text.splitlines() if line.startswith("Features")), None)
        return None if features is None else "asimddp" in features
    return any(flag in ("avx512_vnni", "avx_vnni", "amx_int8") for flag in flags)


def _between(network: onnx.ModelProto) -> list[str]:
    """Names of the nodes from the first convolution on that compute on maps, up to the last convolution; in the order of the graph.

    What only computes with sizes stays as it is: a size that is rounded to 8 bits would hold for the calibrated images alone. Every node
    is given a name of its own, by which the quantiser knows it.
    """
    nodes = network.graph.node
    for number, node in enumerate(nodes):
        node.name = f"{number}_{node.op_type}"
    convolutions = [number for number, node in enumerate(nodes) if node.op_type in ("Conv", "ConvTranspose")]
    if len(convolutions) < 2:
        return []
    first, last = convolutions[0], convolutions[-1]
    behind, after = set(nodes[first].input[:1]), set(nodes[last].output)
    chosen = []
    for number, node in enumerate(nodes):
        inputs, outputs = set(node.input), set(node.output)
        if inputs & after:
            after |= outputs
        elif number >= first and inputs & behind and node.op_type not in ("Shape", "Size"):
            behind |= outputs
            if number != last and node.op_type in _KINDS:
                chosen.append(node.name)
    return chosen


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's own lines of advice, which go to the root logger."""
    root = logging.getLogger()
    before, root.disabled = root.disabled, True
    try:
        yield
    finally:
        root.disabled = before
