"""Small arrays on their way to the device: what arrives is what was sent, and no room of augmentation sends any other way."""

import ast
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from landseg.training import augment, batches, colour, mixing, radiometry, sizing, upload, warp


def test_what_arrives_is_what_was_sent() -> None:
    cpu, like = torch.device("cpu"), torch.empty(1)
    index = upload.put(np.arange(10)[::3], cpu)
    assert index.tolist() == [0, 3, 6, 9] and index.dtype == torch.int64 and index.is_contiguous()
    for values in ((0.1, 0.2), np.array([[0.1, 1e300]]), np.float32([3.5])):
        found = upload.floats(values, like)
        with np.errstate(over="ignore"):
            assert found.dtype == torch.float32 and np.array_equal(found.numpy(), np.asarray(values).astype(np.float32))


@pytest.mark.parametrize("room", [augment, batches, colour, mixing, radiometry, sizing, warp], ids=lambda room: room.__name__)
def test_no_step_waits_for_its_device(room: ModuleType) -> None:
    """`torch.tensor(…, device=…)` copies from memory that is not pinned, for which CUDA makes the host wait: it shows on a GPU alone."""
    calls = [node.func for node in ast.walk(ast.parse(Path(str(room.__file__)).read_text())) if isinstance(node, ast.Call)]
    named = {node.attr for node in calls if isinstance(node, ast.Attribute)}
    assert not named & {"tensor", "as_tensor", "from_numpy", "item", "cpu", "nonzero", "synchronize"}
