"""Small arrays on their way to the device: numbers drawn on the host, of which a step needs some dozens, and none may make it wait."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def put(values: np.ndarray, device: torch.device) -> Tensor:
    """An array on a device, without waiting for it: from pinned memory a GPU fetches it by itself.

    From memory that is not pinned, as of `torch.tensor(…, device=…)`, CUDA copies only when all that was asked of the GPU before is done,
    and the host waits until then (CUDA Runtime API, "API synchronization behavior").
    """
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def floats(values: Any, like: Tensor) -> Tensor:
    """Numbers, in an array or a sequence, as float32 on the device of a tensor, without waiting for it; infinite where float32 ends."""
    with np.errstate(over="ignore"):
        return put(np.asarray(values, np.float32), like.device)
