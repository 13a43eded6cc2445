"""Images and logits are resized and filled up in numpy as torch does it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.network import torch_engine
from landseg.network.sizes import enlarged, fit, fitted_shape, pad

SAME = 1e-4 * 50
"""Of values of 8 bits, which a network divides by about 50: 1e-4 of what it sees. torch finds a pixel's place in float32."""

DTYPES = ["uint8", "uint16", "int16", "float32", "float64"]


def images(shape: tuple[int, ...], dtype: str = "uint8", missing: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    values = rng.uniform(0, 255, shape)
    if missing:
        values[rng.random(shape) < missing] = rng.choice([np.nan, np.inf, -np.inf])
    return values.astype(dtype)


def by_torch(function: object, batch: np.ndarray, *arguments: object) -> np.ndarray:
    found = function(torch_engine.to_tensor(batch, torch.device("cpu")), *arguments)  # type: ignore[operator]
    return np.asarray(found.permute(0, 2, 3, 1).float().numpy())


sides = st.integers(1, 70)


@settings(max_examples=50, deadline=None)
@given(sides, sides, st.floats(0.05, 3.5), st.sampled_from(DTYPES))
def test_images_are_fitted_as_torch_fits_them(height: int, width: int, factor: float, dtype: str) -> None:
    batch = images((2, height, width, 3), dtype)
    found = fit(batch, factor)
    assert found.shape[1:3] == fitted_shape(height, width, factor)
    assert np.abs(found.astype(np.float64) - by_torch(torch_engine.fit, batch, factor)).max() <= SAME


@settings(max_examples=50, deadline=None)
@given(sides, sides, st.floats(0.1, 3), st.sampled_from([0.02, 0.5, 0.98, 1.0]))
def test_missing_values_stay_where_torch_leaves_them(height: int, width: int, factor: float, missing: float) -> None:
    batch = images((1, height, width, 2), "float32", missing)
    found, wanted = fit(batch, factor), by_torch(torch_engine.fit, batch, factor)
    weight = fit(np.isfinite(batch).astype(np.float32), factor)
    is_clear = np.abs(weight - 0.5) > 1e-6  # where just half is missing, the last digit decides
    assert np.array_equal(np.isfinite(found)[is_clear], np.isfinite(wanted)[is_clear])
    both = np.isfinite(found) & np.isfinite(wanted)
    assert not both.any() or np.abs(found[both] - wanted[both]).max() <= SAME


def test_an_image_of_its_own_size_is_itself() -> None:
    batch = images((1, 40, 33, 3))
    assert fit(batch, 1.0) is batch and fit(batch, 1.001) is batch
    whole = images((1, 64, 32, 3))
    assert pad(whole) is whole


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 100), st.integers(1, 100), st.sampled_from(DTYPES))
def test_images_are_filled_up_as_torch_fills_them(height: int, width: int, dtype: str) -> None:
    batch = images((1, height, width, 2), dtype)
    assert pad(batch).dtype == batch.dtype
    assert np.array_equal(pad(batch).astype(np.float32), by_torch(torch_engine.pad, batch))


@settings(max_examples=50, deadline=None)
@given(sides, sides, sides, sides)
def test_logits_come_back_as_torch_brings_them(height: int, width: int, to_height: int, to_width: int) -> None:
    logits = np.random.default_rng(0).normal(0, 50, (2, 3, height, width)).astype(np.float32)
    wanted = F.interpolate(torch.from_numpy(logits), (to_height, to_width), mode="bilinear", align_corners=False).numpy()
    found = enlarged(logits, to_height, to_width)
    assert found.shape == wanted.shape and found.dtype == np.float32 and np.abs(found - wanted).max() <= SAME


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_images_themselves_are_left_alone(factor: float) -> None:
    batch = images((1, 20, 30, 3), "float32", 0.1)
    before = batch.copy()
    fit(batch, factor)
    assert np.array_equal(batch, before, equal_nan=True)
