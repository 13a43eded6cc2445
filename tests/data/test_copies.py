"""Copies are found through every flip and turn and through re-encoding, and nothing else is taken for one."""

from __future__ import annotations

import itertools
import tracemalloc
import weakref
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from landseg.core.machine import cores
from landseg.data.copies import LENGTH, TURNS, Copy, _near, band_histograms, compose, find_copies, group_copies, inverse, signature, turned
from landseg.data.world import make_scene


def tiles(seed: int = 3, tile: int = 64) -> list[np.ndarray]:
    """Tiles of one landscape: alike, but no two the same."""
    image = make_scene(seed, 256, 256).image
    return [np.ascontiguousarray(image[row : row + tile, col : col + tile]) for row in range(0, 256, tile) for col in range(0, 256, tile)]


def search(images: list[np.ndarray], across: np.ndarray | None = None) -> list[Copy]:
    return find_copies(np.stack([signature(image) for image in images]), lambda i: images[i], across=across)


def test_the_eight_turns_are_a_group() -> None:
    probe = np.arange(6).reshape(2, 3)
    assert len({turned(probe, turn).tobytes() + bytes(turned(probe, turn).shape) for turn in TURNS}) == 8
    for first, second in itertools.product(TURNS, TURNS):
        assert np.array_equal(turned(probe, compose(first, second)), turned(turned(probe, first), second))
    assert all(compose(turn, inverse(turn)) == "same" for turn in TURNS)
    assert np.array_equal(turned(probe, "turned 90° clockwise"), np.rot90(probe, -1))
    assert np.array_equal(turned(probe, "flipped left-right"), np.fliplr(probe))


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "grey", "oblong"])
def test_a_turned_copy_is_found_and_named(turn: str, kind: str) -> None:
    images = tiles()
    if kind in ("uint16", "float32"):
        rng = np.random.default_rng(1)
        images = [(image + rng.random(image.shape)).astype(kind) for image in images]
    if kind == "float32":
        images[5][3, 4] = np.nan  # a tile with NaN is a copy of itself
    if kind == "grey":
        images = [image[:, :, :1] for image in images]
    if kind == "oblong":
        images = [image[:40] for image in images]
    images.append(np.ascontiguousarray(turned(images[5], turn)))
    assert search(images) == [Copy(5, 16, turn, True)]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.sampled_from(["uint8", "int16", "float32"]), st.integers(0, 99))
def test_no_turn_changes_a_signature(height: int, width: int, bands: int, dtype: str, seed: int) -> None:
    image = (np.random.default_rng(seed).random((height, width, bands)) * 255).astype(dtype)
    whole = signature(image)
    assert whole.shape == (LENGTH,)
    for turn in TURNS:
        other = signature(np.ascontiguousarray(turned(image, turn)))
        assert np.array_equal(whole[:4], other[:4])
        assert np.allclose(whole, other, atol=1.0)  # the thumbnail's cells are rounded


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_a_re_encode_is_found_and_is_not_exact(quality: int) -> None:
    images = tiles()
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(images[2][:, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    images.append(decoded)
    assert search(images) == [Copy(2, 16, "flipped left-right", False)]


def test_neighbours_shifted_tiles_and_flat_tiles_are_no_copies() -> None:
    image = make_scene(3, 256, 256).image
    flat = [np.full((64, 64, 3), 7, np.uint8)] * 3
    assert search([*tiles(), np.ascontiguousarray(image[20:84, 30:94]), *flat]) == []


def test_same_values_in_another_order_are_no_copy() -> None:
    image = tiles()[0]
    mixed = image.reshape(-1, 3)[np.random.default_rng(0).permutation(64 * 64)].reshape(64, 64, 3)
    assert np.array_equal(signature(image)[:4], signature(mixed)[:4])  # candidates, and pixels decide
    assert search([image, mixed]) == []


def test_several_copies_are_one_group_and_each_lies_as_said() -> None:
    first = tiles()[1]
    images = [np.ascontiguousarray(turned(first, turn)) for turn in ("turned 180°", "same", "turned 90° clockwise")]
    found = group_copies(search(images))
    assert [(numbers, exact) for numbers, _, exact in found] == [((0, 1, 2), True)]
    for number, turn in zip(*found[0][:2], strict=True):
        assert np.array_equal(turned(images[0], turn), images[number])


def test_across_pairs_have_one_tile_on_each_side() -> None:
    images = tiles()
    images += [images[0], images[0], np.ascontiguousarray(images[3][::-1]), images[7]]
    side = np.arange(20) >= 16
    side[7] = True  # and so its copy is on its own side
    assert search(images, side) == [
        Copy(0, 16, "same", True),
        Copy(0, 17, "same", True),
        Copy(3, 18, "flipped upside down", True),
    ]


def test_thousands_of_signatures_need_no_square_of_memory() -> None:
    rng = np.random.default_rng(0)
    many = np.repeat(np.stack([signature(image) for image in tiles()]), 1500, axis=0)
    many[:, :4] = rng.integers(0, 65536, (len(many), 4))
    many[:, 5:] += rng.normal(0, 12, (len(many), LENGTH - 5)).astype(np.float32)

    def read(i: int) -> np.ndarray:
        raise AssertionError("nothing is near enough to be read")

    assert find_copies(many, read) == []


def shuffled(number: int) -> np.ndarray:
    """The same pixels in another order, each order twice: the second time turned."""
    order = np.random.default_rng(number // 2).permutation(32 * 32)
    image = (order < 50).astype(np.uint8).reshape(32, 32, 1) * 255
    return np.ascontiguousarray(turned(image, TURNS[number % 2 * 5]))


def hardly_one_colour(_: int) -> np.ndarray:
    image = np.zeros((9, 9, 1), np.uint8)
    image[4, 4] = 1
    return image


@pytest.mark.parametrize(("make", "groups"), [(shuffled, 1000), (hardly_one_colour, 1)])
def test_work_and_memory_grow_with_the_tiles_however_alike_they_are(
    make: Callable[[int], np.ndarray], groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, reads, compared, held = 2000, 0, 0, []

    def read(number: int) -> np.ndarray:
        nonlocal reads
        reads += 1
        held.append(weakref.ref(image := make(number)))
        return image

    def is_equal(a: np.ndarray, b: np.ndarray) -> bool:
        nonlocal compared
        compared += 1
        assert sum(ref() is not None for ref in held[-100:]) <= 4 * cores()
        return bool(np.array_equal(a, b))

    monkeypatch.setattr("landseg.data.copies._is_equal", is_equal)
    found = group_copies(find_copies(np.stack([signature(make(number)) for number in range(count)]), read))
    assert len(found) == groups and sum(len(tiles) for tiles, _, _ in found) == count
    assert reads <= 4 * count and compared <= 8 * count


def test_a_search_among_equal_thumbnails_does_not_look_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    many = np.repeat(signature(tiles()[0])[None], 2000, axis=0)
    many[:, :4] = np.random.default_rng(0).integers(0, 65536, (len(many), 4))

    def tree(points: np.ndarray) -> cKDTree:
        assert len(np.unique(points, axis=0)) == len(points)  # equal ones share a leaf, however many they are
        return cKDTree(points)

    monkeypatch.setattr("landseg.data.copies.cKDTree", tree)
    pairs = _near(many, np.zeros(len(many), bool), None)
    assert len({i for pair in pairs for i in pair}) == len(many) and len(pairs) <= 9 * len(many)


def test_the_signature_of_a_large_image_needs_little_memory() -> None:
    image = np.random.default_rng(0).integers(0, 3000, (1000, 1500, 2), np.uint16)
    tracemalloc.start()
    try:
        whole = signature(image)
        assert tracemalloc.get_traced_memory()[1] < 2 * image.nbytes + 4 * 8 * (1 << 18)
    finally:
        tracemalloc.stop()
    assert np.array_equal(whole, signature(np.ascontiguousarray(image[::-1])))


def test_histograms_count_every_band() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 20, 6), np.uint8)
    expected = [np.bincount(image[:, :, band].ravel(), minlength=256) for band in range(6)]
    assert np.array_equal(band_histograms(image), expected)
    assert np.array_equal(band_histograms(np.ascontiguousarray(image[:, :, :3])), expected[:3])
