"""Any image becomes a picture that a person can read, and parcels are outlined in their colour."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from landseg.core.classes import make_classes
from landseg.data import overlay
from landseg.data.overlay import overlay_jpeg, rgb_picture

CLASSES = make_classes(["building", "road", "water"])
COLOURS = ("red", "green", "blue")


def decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def test_overlay_outlines_parcels_in_their_colour() -> None:
    ids = np.zeros((64, 64), np.uint8)
    ids[:, 32:] = 2
    drawn = decoded(overlay_jpeg(np.full((64, 64, 3), 128, np.uint8), ids, COLOURS, CLASSES))
    for column, neighbour, item in [(31, 10, CLASSES[0]), (32, 50, CLASSES[2])]:
        colour = np.array(item.rgb, float)
        at_border, inside = drawn[20, column].astype(float), drawn[20, neighbour].astype(float)
        assert np.abs(at_border - colour).sum() < np.abs(inside - colour).sum() < np.abs(128 - colour).sum()


def test_any_image_becomes_a_picture() -> None:
    random = np.random.default_rng(0)
    image = random.normal(1000, 200, (32, 32, 4)).astype(np.float32)
    image[0, 0] = np.nan
    image[..., 1] = 7.0
    picture = rgb_picture(image, ("nir", "swir", "thermal", "coastal"))
    assert picture.dtype == np.uint8 and picture.shape == (32, 32, 3)
    assert picture[..., 0].min() == 0 and picture[..., 0].max() == 255 and (picture[..., 1] == 128).all()
    eight = random.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    assert (rgb_picture(eight, ("nir", "Blue", "Green", "Red")) == eight[..., [3, 2, 1]]).all()
    assert (rgb_picture(eight[..., :1], ("pan",)) == eight[..., [0, 0, 0]]).all()
    assert not rgb_picture(np.full((4, 4, 3), np.nan), COLOURS).any()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_a_scaling_shows_equal_values_alike_in_all_tiles(dtype: str) -> None:
    scaling = ((0.0, 1.0), (0.0, 100.0), (20.0, 60.0), (-50.0, 50.0))
    image = np.zeros((2, 3, 4), dtype)
    image[..., 1] = [[0, 50, 100], [1, 2, 120]]
    image[..., 2] = [[10, 20, 40], [60, 70, 30]]
    image[..., 3] = np.array([[0, 50, 25], [10, 30, 49]])
    picture = rgb_picture(image, ("x", "blue", "green", "red"), scaling)
    assert picture[..., 2].tolist() == [[0, 127, 255], [2, 5, 255]]
    assert picture[..., 1].tolist() == [[0, 0, 127], [255, 255, 63]]
    assert picture[0, :2, 0].tolist() == [127, 255]


def test_it_is_the_same_drawn_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    image, ids = random.normal(0, 9, (40, 23, 3)), random.integers(0, 3, (40, 23), dtype=np.uint8)
    whole = overlay_jpeg(image, ids, COLOURS, CLASSES)
    monkeypatch.setattr(overlay, "_STRIP", 50)
    assert overlay_jpeg(image, ids, COLOURS, CLASSES) == whole


def test_percentiles_of_a_large_image_are_those_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(1).normal(500, 50, (300, 200, 1)).astype(np.float32)
    whole = rgb_picture(image, ("grey",)).astype(int)
    monkeypatch.setattr(overlay, "_LOOKED_AT", 6000)
    assert np.abs(rgb_picture(image, ("grey",)).astype(int) - whole).max() <= 12


def test_what_is_longer_than_a_jpeg_can_be_is_shown_reduced() -> None:
    ids = np.zeros((2, 70_000), np.uint8)
    assert decoded(overlay_jpeg(np.zeros((2, 70_000, 3), np.uint8), ids, COLOURS, CLASSES)).shape == (1, 35_000, 3)
