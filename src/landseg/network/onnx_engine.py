"""A converted network run by ONNX Runtime on the CPU. It converts nothing: `network.convert` does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as raised

from landseg.core.errors import LandsegError
from landseg.network.card import ModelCard
from landseg.network.lanes import LaneEngine, Run, failed, first_line

RUNTIME = f"ONNX Runtime {onnxruntime.__version__}"
IMAGE, LOGITS = "image", "logits"
"""What a converted network takes and gives."""

_REFUSED: tuple[type[Exception], ...] = (
    *(kind for kind in vars(raised).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    *(RuntimeError, ValueError, MemoryError),
)
"""What ONNX Runtime raises for a network that it cannot run: damaged, of a later standard, with an operator that it lacks, or whose ends
have other names. Its own are each an `Exception` and nothing between, and versions differ in which there are."""


_UNREADABLE: tuple[type[Exception], ...] = (*_REFUSED, OSError)


def open_onnx(source: Path | bytes, card: ModelCard, *, is_decoded: bool, lanes: int | None = None) -> LaneEngine:
    """An engine of ONNX Runtime.

    Args:
        source: The converted network, or the file that holds it.
        card: What the model is.
        is_decoded: It takes (N, H, W, B), as the networks that are kept beside models; otherwise (N, B, H, W), as exported ones.
        lanes: As `LaneEngine` takes it.

    Raises:
        LandsegError: ONNX Runtime cannot run it.
    """
    return LaneEngine(onnx_run(source), card, RUNTIME, is_decoded=is_decoded, lanes=lanes)


def onnx_run(source: Path | bytes, output: str = LOGITS) -> Run:
    """A converted network as a function that several threads may call at once.

    Args:
        source: The converted network, or the file that holds it.
        output: The name of what it gives.

    Raises:
        LandsegError: ONNX Runtime cannot run it.
    """
    options = onnxruntime.SessionOptions()
    # Each run on the thread that asks for it: lanes share no pool of threads that would have to wait for one another, nothing spins, and
    # two processes on one machine are scheduled as any two are.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; they are raised as well
    try:
        content = source.read_bytes() if isinstance(source, Path) else source
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except _UNREADABLE as error:
        what = source if isinstance(source, Path) else "the converted network"
        raise LandsegError(
            what, f"{RUNTIME} cannot run it ({first_line(error)})", "a network of operators that it has",
            "--set predict.engine=torch, or a later version: pip install -U onnxruntime",
        ) from error  # fmt: skip

    def run(images: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(session.run([output], {IMAGE: images})[0])
        except _REFUSED as error:  # memory that runs out, mostly
            raise failed(RUNTIME, images, error) from error

    return run
