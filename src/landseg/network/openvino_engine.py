"""A converted network run by OpenVINO on the CPU. It converts nothing, and is there where the extra ``openvino`` is installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from landseg.core.errors import LandsegError
from landseg.network.card import ModelCard
from landseg.network.lanes import LaneEngine, Run, failed, first_line

OLDEST = (2024, 4)
"""The first whose wheels go with numpy 2."""


def open_openvino(source: Path | bytes, card: ModelCard, *, is_decoded: bool, lanes: int | None = None) -> LaneEngine:
    """An engine of OpenVINO; arguments as `onnx_engine.open_onnx` takes them, `source` an ``.onnx`` or ``.xml`` file or the former's bytes.

    Raises:
        LandsegError: OpenVINO is not installed, too old, or cannot run the network.
    """
    return LaneEngine(openvino_run(source), card, runtime(), is_decoded=is_decoded, lanes=lanes)


def runtime() -> str:
    """Name and version, as predictions record it.

    Raises:
        LandsegError: OpenVINO is not installed or too old.
    """
    return f"OpenVINO {require_openvino().__version__.partition('-')[0]}"


def require_openvino() -> Any:
    """The module `openvino`.

    Raises:
        LandsegError: It is not installed or too old.
    """
    # It reports its use over the network unless told not to; nothing of ours does.
    os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
    try:
        import openvino
    except ImportError as error:
        raise LandsegError("predict.engine=openvino", "OpenVINO is not installed", "the extra openvino", _INSTALL) from error
    version = str(getattr(openvino, "__version__", "0"))
    numbers = tuple(int(word) if word.isdigit() else 0 for word in version.partition("-")[0].split(".")[:2])
    if numbers < OLDEST or not hasattr(openvino, "Core"):
        raise LandsegError("predict.engine=openvino", f"OpenVINO {version}", f"{OLDEST[0]}.{OLDEST[1]} or later", _INSTALL)
    return openvino


def refusals() -> tuple[type[Exception], ...]:
    """What OpenVINO raises for a network that it cannot take: those of its readers of files are no `RuntimeError`, as all others are.

    Raises:
        LandsegError: OpenVINO is not installed or too old.
    """
    readers = getattr(require_openvino(), "frontend", None)
    own = () if readers is None else vars(readers).values()
    return (RuntimeError, MemoryError, *(kind for kind in own if isinstance(kind, type) and issubclass(kind, Exception)))


def reason(error: Exception) -> str:
    """Why OpenVINO does not take a network, on one line, without the places in its own source that its messages begin with."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    return first_line(RuntimeError(" ".join(line for line in lines if line and not line.startswith(_ITS_OWN)) or str(error)))


_ITS_OWN = ("Exception from ", "Check '", "FrontEnd API failed", "Summary:", "To facilitate ")

_INSTALL = "pip install -U landseg[openvino], or --set predict.engine=onnx"


def openvino_run(source: Path | bytes) -> Run:
    """A converted network as a function that several threads may call at once.

    Raises:
        LandsegError: OpenVINO is not installed, too old, or cannot run the network.
    """
    openvino, refused = require_openvino(), refusals()
    # One thread a request, as many requests as lanes ask for, in full precision: bfloat16, its default where a processor has it, moves
    # classes. As many requests are made as threads ask at once; they are kept, because threads come and go and compiling takes seconds.
    settings = {
        "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False,
    }  # fmt: skip
    try:
        core = openvino.Core()
        model = core.read_model(str(source)) if isinstance(source, Path) else core.read_model(source, b"")
    except refused as error:
        what = source if isinstance(source, Path) else "the converted network"
        raise LandsegError(
            what, f"{runtime()} cannot run it ({reason(error)})", "a network of operators that it has",
            "--set predict.engine=onnx, or a later version: pip install -U openvino",
        ) from error  # fmt: skip
    idle: list[Any] = []  # taking from a list, and giving back, is safe among threads

    def run(images: np.ndarray) -> np.ndarray:
        try:
            try:
                request = idle.pop()
            except IndexError:
                request = core.compile_model(model, "CPU", settings).create_infer_request()
            found = np.array(request.infer({0: images})[0])
        except refused as error:
            raise failed(runtime(), images, error) from error
        idle.append(request)
        return found

    return run
