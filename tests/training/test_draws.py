"""Draws are uniform and depend on seed, epoch, tile and purpose alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.training.draws import step_seed, tile_keys, uniform

NAMES = [f"tile_{i:06d}" for i in range(20_000)]
KEYS = tile_keys(NAMES)


def distance(values: np.ndarray) -> float:
    """Kolmogorov and Smirnov's: how far the share below x is from x, at most."""
    ordered, n = np.sort(values), len(values)
    return float(max((np.arange(1, n + 1) / n - ordered).max(), (ordered - np.arange(n) / n).max()))


@pytest.mark.parametrize("purpose", ["order", "rotation", "crop row"])
@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (7, 99), (2**31 - 1, 10_000)])
def test_draws_are_uniform_over_the_tiles(seed: int, epoch: int, purpose: str) -> None:
    values = uniform(seed, epoch, KEYS, purpose)
    assert values.min() >= 0 and values.max() < 1
    assert distance(values) < 1.95 / np.sqrt(len(values))  # one in a thousand of truly uniform draws goes further


def test_draws_are_uniform_over_the_epochs_and_over_the_seeds() -> None:
    key = KEYS[:1]
    assert distance(np.concatenate([uniform(3, epoch, key, "turns") for epoch in range(5000)])) < 1.95 / np.sqrt(5000)
    assert distance(np.concatenate([uniform(seed, 3, key, "turns") for seed in range(5000)])) < 1.95 / np.sqrt(5000)


def test_draws_of_other_epochs_seeds_and_purposes_are_unrelated() -> None:
    base = uniform(0, 0, KEYS, "rotation")
    for other in (uniform(0, 1, KEYS, "rotation"), uniform(1, 0, KEYS, "rotation"), uniform(0, 0, KEYS, "blur"), np.roll(base, 1)):
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.03


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=30, unique=True), st.randoms(), st.integers(0, 2**31 - 1), st.integers(0, 10**6))
def test_a_tile_keeps_its_draws_in_any_company(names: list[str], random: object, seed: int, epoch: int) -> None:
    alone = {name: float(uniform(seed, epoch, tile_keys([name]), "order")[0]) for name in names}
    shuffled = names[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    chosen = shuffled[: max(1, len(names) // 2)]
    assert dict(zip(chosen, uniform(seed, epoch, tile_keys(chosen), "order").tolist(), strict=True)) == {
        name: alone[name] for name in chosen
    }


def test_draws_stay_what_they_were() -> None:
    # Fixed numbers: another version of landseg must resume a run with the same draws.
    assert uniform(0, 0, tile_keys(["a", "b"]), "order").tolist() == [0.07887342804418929, 0.9835666487394268]
    assert step_seed(0, 0, 0) == 1258325208445246750


def test_step_seeds_differ_and_fit_torch() -> None:
    seeds = {step_seed(seed, epoch, step) for seed in range(3) for epoch in range(30) for step in range(30)}
    assert len(seeds) == 2700 and min(seeds) >= 0 and max(seeds) < 2**63


def test_keys_tell_names_apart() -> None:
    assert KEYS.dtype == np.uint64 and len(set(KEYS.tolist())) == len(NAMES)
    assert len(tile_keys([])) == 0
