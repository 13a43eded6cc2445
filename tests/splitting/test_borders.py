from __future__ import annotations

import cv2
import numpy as np
import pytest

from landseg.data.world import make_scene
from landseg.splitting.borders import PIECE, Seam, Values, pieces, read_borders


def _tiles(tile: int = 64, seed: int = 1) -> list[np.ndarray]:
    image = make_scene(seed, 4 * tile, 4 * tile).image
    return [image[r : r + tile, c : c + tile] for r in range(0, 4 * tile, tile) for c in range(0, 4 * tile, tile)]


def _learnt(tiles: list[np.ndarray]) -> tuple[Seam, dict[str, tuple[np.ndarray, np.ndarray]]]:
    facings, out, into = read_borders(tiles.__getitem__, [tile.shape[:2] for tile in tiles], workers=1)
    return Seam(out, into), {facing.side: (facing.out, facing.into) for facing in facings}


@pytest.mark.parametrize("side", ["right", "below"])
def test_true_neighbours_fit_better_than_the_others(side: str) -> None:
    seam, strips = _learnt(_tiles())
    out, into = (seam.features(strip) for strip in strips[side])
    true = [(4 * r + c, 4 * r + c + 1) if side == "right" else (4 * c + r, 4 * c + r + 4) for r in range(4) for c in range(3)]
    for a, b in true:
        fits = seam.fit(out, into, np.array([(a, j) for j in range(16) if j != a]))[0]
        assert [j for j in range(16) if j != a][int(fits.argmax())] == b


def test_the_descriptors_order_pairs_nearly_as_the_fit_and_their_products_are_exact() -> None:
    seam, strips = _learnt(_tiles())
    out, into = (seam.features(strip) for strip in strips["right"])
    first, second = seam.descriptors(out, 8)[0], seam.descriptors(into, 8)[1]
    product = first @ second.T
    assert np.array_equal(product, (first.astype(np.float64) @ second.astype(np.float64).T).astype(np.float32))
    pairs = np.stack(np.meshgrid(range(16), range(16), indexing="ij"), -1).reshape(-1, 2)
    assert np.corrcoef(-np.log(product.ravel() - product.min() + 1), seam.fit(out, into, pairs)[0])[0, 1] > 0.6


def test_inner_cuts_lie_where_jpeg_blocks_meet_and_strips_count_from_the_border() -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None], (64, 64, 1)).copy()
    facings, out, into = read_borders(lambda _: ramp, [(64, 64)], workers=1)
    right = next(facing for facing in facings if facing.side == "right")
    assert right.out[0, 0].tolist() == [63, 62, 61] and right.into[0, 0].tolist() == [0, 1, 2]
    across = [i for i in range(len(out)) if out[i, 0, 0] != out[i, 1, 0] or out[i, 0, 0] == 31]
    assert out[across[0], 0].tolist() == [31, 30, 29] and into[across[0], 0].tolist() == [32, 33, 34]


@pytest.mark.parametrize(("length", "count"), [(32, 1), (63, 1), (64, 2), (100, 3), (256, 8)])
def test_pieces_cover_a_strip_from_end_to_end(length: int, count: int) -> None:
    strips = np.arange(length)[None, :, None]
    cut = pieces(strips)
    assert cut.shape == (1, count, PIECE, 1)
    assert cut[0, 0, 0, 0] == 0 and (count == 1 or cut[0, -1, -1, 0] == length - 1)


def test_other_depths_and_more_bands_become_small_whole_numbers() -> None:
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 4000, (64, 64, 8)).astype(np.float32)
    deep[:3] = np.nan
    values = Values([deep])
    found = values(deep)
    assert found.dtype == np.int16 and found.shape == (64, 64, 4)
    plain = Values([np.zeros((8, 8, 3), np.uint8)])
    assert plain(np.full((2, 2, 3), 7, np.uint8)).dtype == np.uint8


def test_brightness_that_differs_a_little_does_not_hide_a_neighbour() -> None:
    rng = np.random.default_rng(3)
    tiles = [np.clip(tile * rng.normal(1, 0.04), 0, 255).round().astype(np.uint8) for tile in _tiles(seed=4)]
    tiles = [cv2.imdecode(cv2.imencode(".jpg", tile, [cv2.IMWRITE_JPEG_QUALITY, 85])[1], cv2.IMREAD_COLOR) for tile in tiles]
    seam, strips = _learnt(tiles)
    out, into = (seam.features(strip) for strip in strips["right"])
    right = 0
    for r in range(4):
        for c in range(3):
            others = [j for j in range(16) if j != 4 * r + c]
            fits = seam.fit(out, into, np.array([(4 * r + c, j) for j in others]))[0]
            right += others[int(fits.argmax())] == 4 * r + c + 1
    assert right >= 11


@pytest.mark.parametrize("shape", [(1, 1, 3), (40, 1, 3), (1, 40, 1), (31, 31, 3)])
def test_tiny_tiles_are_no_error(shape: tuple[int, int, int]) -> None:
    facings, out, into = read_borders(lambda _: np.zeros(shape, np.uint8), [shape[:2]] * 3, workers=1)
    assert all(facing.out.shape[1] >= PIECE for facing in facings)
    seam = Seam(out, into)
    for facing in facings:
        assert len(seam.fit(seam.features(facing.out), seam.features(facing.into), np.array([(0, 1)]))[0]) == 1


def test_no_tile_at_all() -> None:
    facings, out, _ = read_borders(lambda _: np.zeros((1, 1, 1), np.uint8), [])
    assert facings == [] and len(out) == 0
