"""Ranges, means and deviations of bands: what is missing, far out or constant does not decide them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.data import statistics
from landseg.data.packing import Entry
from landseg.data.statistics import band_ranges, band_statistics


class Store:
    dtype, is_mapped = "", True

    def __init__(self, images: list[np.ndarray]) -> None:
        self.images, self.bands, self.dtype = images, images[0].shape[2], images[0].dtype.name
        self.entries = [Entry(str(i), 0, 0, *image.shape[:2], "", "", ()) for i, image in enumerate(images)]

    def image(self, i: int) -> np.ndarray:
        return self.images[i]

    def label(self, i: int) -> np.ndarray:
        raise NotImplementedError


def saved(folder: Path, *images: np.ndarray) -> list[Path]:
    paths = [folder / f"{i}.npy" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        np.save(path, image)
    return paths


def random(shape: tuple[int, ...], low: float, high: float, dtype: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("uint16", 300, 4000), ("int16", -500, 9000), ("int32", -70_000, 90_000), ("float32", 0.02, 0.6), ("float64", -3e-7, 8e-7)],
)
def test_a_range_holds_the_values_and_little_more(tmp_path: Path, dtype: str, low: float, high: float) -> None:
    found = band_ranges(saved(tmp_path, *(random((50, 60, 2), low, high, dtype, seed) for seed in range(4))))
    assert found is not None and len(found) == 2
    for pair in found:
        assert low - 0.15 * (high - low) <= pair[0] <= low and high <= pair[1] <= high + 0.15 * (high - low)
        digits = [f"{value:.12g}".partition("e")[0].replace("-", "").replace(".", "").strip("0") for value in pair]
        assert max(map(len, digits)) <= 4, "a person can read it"


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf, -9999.0, -3.4028235e38, 1e30, -32768.0])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.0007])
def test_missing_values_do_not_widen_a_range(tmp_path: Path, missing: float, share: float) -> None:
    image = random((200, 200, 2), 100, 30_000, "float32")
    clean = band_ranges(saved(tmp_path, image))
    is_missing = np.random.default_rng(1).random((200, 200)) < share
    image[is_missing, 0] = missing
    found = band_ranges(saved(tmp_path, image))
    assert clean is not None and found is not None and found[1] == clean[1]
    assert found[0] == pytest.approx(clean[0], rel=0.02, abs=50)


def test_the_least_number_of_a_type_and_a_fill_value_at_once(tmp_path: Path) -> None:
    image = random((100, 100, 1), -200, 9000, "int16")
    image[:30], image[30:50], image[50:55] = -32768, -9999, 32767
    ((low, high),) = band_ranges(saved(tmp_path, image)) or ()
    assert -1400 < low < -200 and 9000 < high < 10_200


def test_a_rare_glint_does_not_squeeze_all_else(tmp_path: Path) -> None:
    image = random((100, 100, 1), 0, 1000, "uint16")
    image[3, 3] = 60_000
    assert (band_ranges(saved(tmp_path, image)) or ((0, 0),))[0] == pytest.approx((0, 1100), abs=15)


@pytest.mark.parametrize("value", [0, 7, -20, 30_000])
def test_a_constant_band_gets_a_range_around_its_value(tmp_path: Path, value: int) -> None:
    ((low, high),) = band_ranges(saved(tmp_path, np.full((9, 9, 1), value, np.int16))) or ()
    assert low < value < high


def test_classes_in_a_band_are_kept_apart(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 2, (80, 80, 1)).astype(np.int16)
    ((low, high),) = band_ranges(saved(tmp_path, image)) or ()
    assert low == 0 and 1 <= high < 1.2


def test_what_says_nothing(tmp_path: Path) -> None:
    assert band_ranges([]) is None
    assert band_ranges(saved(tmp_path, np.zeros((4, 4, 3), np.uint8))) is None
    assert band_ranges(saved(tmp_path, np.full((4, 4, 2), np.nan, np.float32))) == ((0.0, 1.0), (0.0, 1.0))
    (tmp_path / "0.npy").write_bytes(b"no picture")
    assert band_ranges([tmp_path / "0.npy", tmp_path / "gone.npy"]) is None


def test_most_files_decide_the_kind(tmp_path: Path) -> None:
    deep, eight = random((6, 6, 2), 0, 900, "uint16"), np.zeros((6, 6, 2), np.uint8)
    assert len(band_ranges(saved(tmp_path, deep, eight, deep, random((6, 6, 4), 0, 1, "float32"))) or ()) == 2
    assert band_ranges(saved(tmp_path, deep, eight, eight)) is None


def test_many_files_and_bands_are_looked_at_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = saved(tmp_path, *(random((20, 20, 5), i, i + 1, "float32", i) for i in range(9)))
    monkeypatch.setattr(statistics, "_FILES", 4)
    monkeypatch.setattr(statistics, "_VALUES", 500)
    read: list[Path] = []
    real = statistics.read_bytes
    monkeypatch.setattr(statistics, "read_bytes", lambda path: read.append(path) or real(path))
    found = band_ranges(paths)
    assert sorted(read) == [paths[0], paths[3], paths[5], paths[8]]
    assert found is not None and all(low <= 0.5 and high >= 8.5 for low, high in found)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=200), st.sampled_from(["float32", "float64", "int16", "int32", "uint16"]))
def test_a_range_is_always_one(values: list[float], dtype: str) -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        band = np.array(values, np.float64).astype(dtype)
    low, high = np.float32(statistics._range(band))
    assert np.isfinite((low, high)).all() and low < high


def test_statistics_leave_out_what_is_missing() -> None:
    image = random((30, 30, 3), 0, 10, "float32")
    mean, std = band_statistics(Store([image]), [0])
    assert mean == pytest.approx(image.mean((0, 1)), rel=1e-5) and std == pytest.approx(image.std((0, 1)), rel=1e-5)
    spoilt = np.concatenate([image, np.full_like(image, np.nan), np.full_like(image, np.inf)])
    assert band_statistics(Store([spoilt]), [0])[0] == pytest.approx(mean)


def test_statistics_are_of_scaled_values() -> None:
    image = random((40, 40, 2), -100, 300, "int16")
    image[0] = -9999
    scaling = ((0.0, 200.0), (-200.0, 400.0))
    mean, std = band_statistics(Store([image, image]), [0, 1], scaling)
    for band, (low, high) in enumerate(scaling):
        expected = (np.clip(image[..., band].astype(float), low, high) - low) / (high - low)
        assert (mean[band], std[band]) == pytest.approx((expected.mean(), expected.std()))
    constant = band_statistics(Store([np.full((5, 5, 1), 50, np.int16)]), [0], ((0.0, 100.0),))
    assert constant == ((0.5,), (1.0,))


def test_statistics_of_a_large_tile_are_those_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    image = random((200, 200, 2), 0, 1, "float32")
    whole = band_statistics(Store([image]), [0])
    monkeypatch.setattr(statistics, "_VALUES", 8000)
    found = band_statistics(Store([image]), [0])
    assert found != whole
    assert np.allclose(found, whole, atol=0.02)
