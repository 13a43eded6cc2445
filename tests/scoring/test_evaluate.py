"""One confusion matrix a tile, whatever the tiles' sizes and the batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.data.packing import Entry
from landseg.scoring.confusion import confusion_matrix
from landseg.scoring.evaluate import tile_matrices


class Store:
    """Labels of some shapes with unlabelled pixels; the images say what a stand-in network will answer."""

    bands, dtype, is_mapped = 3, "uint8", True

    def __init__(self, shapes: list[tuple[int, int]]) -> None:
        rng = np.random.default_rng(len(shapes))
        self.entries = [Entry(str(i), 0, 0, *shape, "", "", ()) for i, shape in enumerate(shapes)]
        self.labels = [rng.choice([0, 1, 2, 255], shape).astype(np.uint8) for shape in shapes]
        self.images = [rng.integers(0, 3, (*shape, 3)).astype(np.uint8) for shape in shapes]

    def image(self, i: int) -> np.ndarray:
        return self.images[i]

    def label(self, i: int) -> np.ndarray:
        return self.labels[i]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=9), st.integers(1, 5), st.integers(8, 60))
def test_pieces_and_batches_count_every_pixel_once(shapes: list[tuple[int, int]], batch: int, edge: int) -> None:
    store = Store(shapes)
    seen: list[tuple[int, ...]] = []

    def predict(images: np.ndarray) -> np.ndarray:
        seen.append(images.shape)
        return images[..., 0]

    indices = list(range(len(shapes)))[::-1]
    found = tile_matrices(predict, store, indices, 3, batch, edge=edge)
    for place, i in enumerate(indices):
        assert np.array_equal(found[place], confusion_matrix(store.labels[i], store.images[i][..., 0], 3))
    assert all(shape[0] <= batch and max(shape[1:3]) <= edge for shape in seen)


def test_the_network_sees_whole_tiles_up_to_the_edge() -> None:
    seen: list[tuple[int, ...]] = []

    def predict(images: np.ndarray) -> np.ndarray:
        seen.append(images.shape)
        return images[..., 0]

    tile_matrices(predict, Store([(40, 40), (40, 40), (41, 3)]), range(3), 3, 8, edge=40)
    assert seen[0] == (2, 40, 40, 3) and len(seen) == 3
    assert seen[1][1:3] == seen[2][1:3] == pytest.approx((32, 3))


def test_bands_count_too() -> None:
    store, seen = Store([(256, 256)] * 3), []
    store.bands = 600
    tile_matrices(lambda images: seen.append(len(images)) or images[..., 0], store, range(3), 3, 8)
    assert seen == [1, 1, 1]
