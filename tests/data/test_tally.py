"""Statistics gathered tile by tile are those of all pixels at once."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from landseg.data.tally import _MOST_VALUES, _STRIP, BandTally


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_moments_and_percentiles_are_those_of_all_pixels(dtype: str) -> None:
    rng = np.random.default_rng(0)
    tiles = [(rng.gamma(4, 20, (40, 50, 3)).clip(0, 255) + (0 if dtype == "uint8" else 1000)).astype(dtype) for _ in range(30)]
    halves = BandTally(3, dtype), BandTally(3, dtype)
    for i, tile in enumerate(tiles):
        halves[i % 2].add(tile)
    halves[0].merge(halves[1])
    every = np.concatenate([tile.reshape(-1, 3) for tile in tiles]).astype(np.float64)
    for band, found in enumerate(halves[0].statistics()):
        values = every[:, band]
        assert (found.mean, found.std) == pytest.approx((values.mean(), values.std()), rel=1e-6)
        assert (found.low, found.high) == (values.min(), values.max())
        for share, value in found.percentiles.items():
            near = np.percentile(values, [max(share - 2, 0), min(share + 2, 100)])
            assert near[0] - 1 <= value <= near[1] + 1
        assert sum(found.bins) > 0 and found.not_finite == 0


def test_percentiles_of_bytes_are_exact() -> None:
    image = np.random.default_rng(1).integers(0, 200, (64, 64, 1), np.uint8)
    tally = BandTally(1, "uint8")
    tally.add(image)
    expected = np.percentile(image, [1, 2, 50, 98, 99], method="inverted_cdf")
    assert list(tally.statistics()[0].percentiles.values()) == expected.tolist()


def test_nan_and_infinity_are_counted_and_left_out() -> None:
    image = np.linspace(0, 1, 4096, dtype=np.float32).reshape(64, 64, 1)
    image[0, :10], image[1, :5] = np.nan, np.inf
    tally = BandTally(1, "float32")
    tally.add(image)
    band = tally.statistics()[0]
    assert band.not_finite == 15
    assert band.mean == pytest.approx(image[np.isfinite(image)].mean(), rel=1e-6)
    assert band.high == 1.0


def test_a_band_without_a_number_has_statistics_all_the_same() -> None:
    tally = BandTally(1, "float32")
    tally.add(np.full((8, 8, 1), np.nan, np.float32))
    assert tally.statistics()[0].as_json() | {"not_finite": 0} == dict.fromkeys(tally.statistics()[0].as_json(), 0)


def test_the_sample_stays_small_however_much_is_seen() -> None:
    tally, tile = BandTally(200, "uint16"), np.ones((64, 64, 200), np.uint16)
    for _ in range(20):
        tally.add(tile)
    assert sum(kept.size for kept in tally._sample) <= 1 << 20
    assert tally.statistics()[0].mean == 1.0


def test_a_large_image_needs_no_more_memory_than_a_strip_and_a_sample() -> None:
    image = np.random.default_rng(0).integers(-3000, 9000, (1500, 3000, 8), np.int16)
    tally = BandTally(8, "int16")
    tracemalloc.start()
    try:
        tally.add(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 8 * _STRIP + 3 * 2 * _MOST_VALUES
    whole = image.reshape(-1, 8)
    for band, found in enumerate(tally.statistics()):
        assert (found.mean, found.std) == pytest.approx((whole[:, band].mean(), whole[:, band].std()), rel=1e-9)


def test_the_sample_is_every_so_many_th_pixel_of_all_tiles() -> None:
    pixels = np.arange(900_000, dtype=np.uint32).repeat(4).reshape(-1, 4)
    tally = BandTally(4, "uint32")
    for part in np.split(pixels, [7, 300_000, 300_001, 820_000]):
        tally.add(part[None])
    assert np.array_equal(np.concatenate(tally._sample), pixels[:: tally._stride]) and tally._stride > 1


def test_many_small_tallies_of_many_bands_are_thinned_too() -> None:
    whole = BandTally(1 << 10, "uint16")
    for number in range(2100):
        part = BandTally(1 << 10, "uint16")
        part.add(np.full((1, 1, 1 << 10), number, np.uint16))
        whole.merge(part)
    assert sum(kept.size for kept in whole._sample) <= _MOST_VALUES
    assert whole.statistics()[0].percentiles[50] == pytest.approx(1050, abs=10)
