"""An image through a network piece by piece: every pixel once, each with its context, whatever the sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.inference.pieces import EDGE, MARGIN, by_pieces, class_ids, piece_edge, pieces

SIDES = st.integers(1, 150)
EDGES = st.integers(8, 64)


@given(SIDES, SIDES, EDGES)
def test_cores_cover_every_pixel_once_and_pieces_have_one_size(height: int, width: int, edge: int) -> None:
    covered = np.zeros((height, width), int)
    found = pieces(height, width, edge)
    for piece in found:
        covered[piece.core.slices] += 1
        assert 0 <= piece.seen.row <= piece.core.row and piece.core.row + piece.core.height <= piece.seen.row + piece.seen.height <= height
        assert 0 <= piece.seen.col <= piece.core.col and piece.core.col + piece.core.width <= piece.seen.col + piece.seen.width <= width
    assert (covered == 1).all()
    assert len({(piece.seen.height, piece.seen.width) for piece in found}) == 1
    assert max(found[0].seen.height, found[0].seen.width) <= edge
    assert (len(found) == 1) == (max(height, width) <= edge)


@settings(deadline=None)
@given(SIDES, SIDES, EDGES)
def test_what_looks_no_further_than_the_margin_sees_no_pieces(height: int, width: int, edge: int) -> None:
    """A blur as wide as the margin gives the same as on the whole image: around each core lies the margin, or the image ends."""
    margin = int(edge * MARGIN)

    def blur(images: np.ndarray) -> np.ndarray:
        padded = np.pad(images[..., 0].astype(np.int64), ((0, 0), (margin, margin), (margin, margin)))
        return sum(
            padded[:, row : row + images.shape[1], col : col + images.shape[2]] * (row + 3 * col + 1)
            for row in range(2 * margin + 1)
            for col in range(2 * margin + 1)
        )  # type: ignore[return-value]

    image = np.random.default_rng(height * width).integers(0, 256, (height, width, 2), dtype=np.uint8)
    found = np.full((height, width), -1, np.int64)
    for window, result in by_pieces(blur, image, edge):
        found[window.slices] = result
    assert np.array_equal(found, blur(image[None])[0])


@given(SIDES, SIDES, EDGES)
def test_a_network_that_is_right_gives_back_exactly_the_labels(height: int, width: int, edge: int) -> None:
    label = np.random.default_rng(height + width).integers(0, 5, (height, width, 1), dtype=np.uint8)
    assert np.array_equal(class_ids(lambda images: images[..., 0], label, edge), label[..., 0])


def test_logits_keep_their_classes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 70, 3), dtype=np.uint8)
    for window, found in by_pieces(lambda images: images.transpose(0, 3, 1, 2), image, 32):
        assert np.array_equal(found, image[window.slices].transpose(2, 0, 1))


def test_what_the_network_is_given_is_whole_in_memory_and_one_at_a_time() -> None:
    def look(images: np.ndarray) -> np.ndarray:
        assert images.shape[0] == 1 and images.flags.c_contiguous
        return images[..., 0]

    image = np.zeros((100, 100, 3), np.uint8)
    image.flags.writeable = False
    class_ids(look, image, 64)


@pytest.mark.parametrize(
    ("tile_size", "factor", "expected"),
    [
        ((256, 256), 1.0, EDGE), ((256, 256), 0.25, EDGE), ((1200, 900), 1.0, 1216), ((2048, 64), 0.5, 2048), ((128, 128), 4.0, EDGE // 4),
        ((512, 512), 4.0, 512), ((1, 1), 100.0, 32),
    ],
)  # fmt: skip
def test_a_piece_is_no_smaller_than_a_training_tile_and_small_where_the_network_enlarges(
    tile_size: tuple[int, int], factor: float, expected: int
) -> None:
    assert piece_edge(tile_size, factor) == expected


def test_an_image_hardly_longer_than_a_piece_costs_hardly_more() -> None:
    found = pieces(1040, 700, 1024)
    assert sum(piece.seen.height * piece.seen.width for piece in found) < 1.4 * 1040 * 700
