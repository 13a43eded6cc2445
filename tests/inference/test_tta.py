"""Test-time augmentation puts every view back in its place, averages what it should, and asks no more of the memory than one view."""

from __future__ import annotations

import subprocess
import sys
import weakref
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core.errors import LandsegError
from landseg.inference.pieces import EDGE, by_pieces, class_ids
from landseg.inference.tta import SCALES, augmented
from landseg.network.probs import softmax

K = 4


@dataclass
class Stand:
    """What stands for a model: it records what it is shown, and whether its earlier results are still in memory."""

    card: SimpleNamespace = field(default_factory=SimpleNamespace)
    runtime: str = "stand-in 1"
    lanes: int = 3
    shown: list[np.ndarray] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    given: list[weakref.ref[np.ndarray]] = field(default_factory=list)

    def logits(self, images: np.ndarray, scale: float = 1.0) -> np.ndarray:
        assert images.flags.c_contiguous and min(images.strides) >= 0, "torch takes no negative step, not even along one pixel"
        assert not [one for one in self.given if one() is not None], "the logits of an earlier view are still held"
        self.shown.append(images)
        self.scales.append(scale)
        found = self.scores(images)
        self.given.append(weakref.ref(found))
        return found

    def scores(self, images: np.ndarray) -> np.ndarray:
        """The label that the first band holds, as logits."""
        return np.where(images[..., :1] == np.arange(K), 5, -5).astype(np.float32).transpose(0, 3, 1, 2).copy()

    def preds(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self.logits(images).argmax(1), np.uint8)


class Lopsided(Stand):
    """It sees what lies above and left of a pixel, and where the pixel is, as a badly trained network does."""

    def scores(self, images: np.ndarray) -> np.ndarray:
        values = images[..., 0].astype(np.float32) / 255
        rows, cols = (np.linspace(0, 1, length, dtype=np.float32) for length in values.shape[1:])
        before = values.cumsum(1) / 10 + values.cumsum(2) / 7
        return np.stack([before, values + rows[:, None] + 0 * before, cols * values * 2, 1 - values], axis=1)


def labels(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, K, shape, dtype=np.uint8)


def photos(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.sampled_from(["uint8", "uint16", "float64"]))
def test_what_is_always_right_stays_right_under_d4(count: int, height: int, width: int, is_square: bool, dtype: str) -> None:
    truth = labels((count, height, height if is_square else width))
    engine = augmented(Stand(), "d4")
    images = np.repeat(truth[..., None], 3, -1).astype(dtype)
    found = engine.preds(images)
    assert found.dtype == np.uint8 and np.array_equal(found, truth)
    logits = engine.logits(images)
    assert logits.dtype == np.float32 and logits.flags.c_contiguous and np.array_equal(logits.argmax(1), truth)


@pytest.mark.parametrize("shape", [(150, 150), (97, 161), (64, 300), (1, 200)])
def test_large_images_are_right_in_pieces(shape: tuple[int, int]) -> None:
    truth = labels(shape)
    assert np.array_equal(class_ids(augmented(Stand(), "d4").preds, truth[..., None], 64), truth)


def test_an_image_longer_than_a_piece_is_right() -> None:
    truth = labels((EDGE + 13, EDGE // 4 + 1))
    stand = Stand()
    assert np.array_equal(class_ids(augmented(stand, "d4").preds, truth[..., None], EDGE), truth)
    assert len(stand.shown) == 2 * 8


def test_d4_is_the_mean_over_the_eight_symmetries() -> None:
    images = photos((2, 17, 17))
    expected = np.zeros((2, K, 17, 17))
    for turns in range(4):
        for is_flipped in (False, True):
            view = np.rot90(images, turns, (1, 2))
            view = view[:, :, ::-1] if is_flipped else view
            probs = softmax(Lopsided().scores(view))
            expected += np.rot90(probs[..., ::-1] if is_flipped else probs, -turns, (2, 3)) / 8
    stand = Lopsided()
    found = softmax(augmented(stand, "d4").logits(images))
    assert np.allclose(found, expected, atol=1e-6)
    assert len({view.tobytes() for view in stand.shown}) == len(stand.shown) == 8
    assert np.array_equal(stand.shown[0], images)


@pytest.mark.parametrize("shape", [(24, 24), (9, 14), (1, 5), (1, 1)])
def test_a_turned_image_gives_the_turned_prediction(shape: tuple[int, int]) -> None:
    images = photos((1, *shape))
    engine = augmented(Lopsided(), "d4")
    probs = softmax(engine.logits(images))
    for turns in range(4):
        for is_flipped in (False, True):
            turned, wanted = np.rot90(images, turns, (1, 2)), np.rot90(probs, turns, (2, 3))
            if is_flipped:
                turned, wanted = turned[:, ::-1], wanted[:, :, ::-1]
            assert np.allclose(softmax(engine.logits(turned)), wanted, atol=1e-6)
            if turns and min(shape) > 1:
                assert not np.allclose(
                    softmax(Lopsided().scores(turned)), np.rot90(softmax(Lopsided().scores(images)), turns, (2, 3)), atol=0.01
                )


def test_images_that_are_not_square_have_eight_views_too() -> None:
    stand = Lopsided()
    augmented(stand, "d4").logits(photos((2, 9, 14)))
    assert [view.shape for view in stand.shown] == [(2, 9, 14, 3)] * 4 + [(2, 14, 9, 3)] * 4


@pytest.mark.parametrize("tta", ["d4", "scales"])
@pytest.mark.parametrize("shape", [(16, 16), (12, 19)])
def test_a_batch_gives_bit_for_bit_what_its_tiles_give(tta: str, shape: tuple[int, int]) -> None:
    images = photos((5, *shape))
    together = augmented(Lopsided(), tta).logits(images)
    for i in range(5):
        assert np.array_equal(augmented(Lopsided(), tta).logits(images[i : i + 1])[0], together[i])


def test_scales_ask_for_three_sizes_of_the_image_itself() -> None:
    stand, images = Lopsided(), photos((2, 33, 50))
    engine = augmented(stand, "scales")
    engine.logits(images)
    assert stand.scales == list(SCALES) and all(view is images for view in stand.shown)
    augmented(engine, "d4").logits(images)
    assert stand.scales[3:] == [*SCALES] * 8, "views of views keep their scale"


def test_scales_are_the_mean_of_probabilities() -> None:
    class Sized(Stand):
        def scores(self, images: np.ndarray) -> np.ndarray:
            found = np.zeros((len(images), K, *images.shape[1:3]), np.float32)
            found[:, SCALES.index(self.scales[-1])] = 3.0
            return found

    probs = softmax(augmented(Sized(), "scales").logits(photos((1, 40, 40))))
    sure, other = np.exp(3) / (np.exp(3) + 3), 1 / (np.exp(3) + 3)
    assert np.allclose(probs[0, :, 7, 9], [*[(sure + 2 * other) / 3] * 3, other], atol=1e-6)


@pytest.mark.parametrize("tta", ["d4", "scales"])
def test_pieces_give_logits_at_their_own_size(tta: str) -> None:
    image = photos((100, 70))
    for window, found in by_pieces(augmented(Lopsided(), tta).logits, image, 64):
        assert found.shape == (K, window.height, window.width) and np.isfinite(found).all()


def test_no_augmentation_is_the_model_itself() -> None:
    stand = Stand()
    assert augmented(stand, "none") is stand
    around = augmented(stand, "d4")
    assert around.card is stand.card and (around.runtime, around.lanes) == ("stand-in 1", 3)


def test_another_word_is_refused() -> None:
    with pytest.raises(LandsegError, match=r"^tta: 'd8', one of none, d4, scales"):
        augmented(Stand(), "d8")


def test_it_needs_no_torch() -> None:
    code = "import sys, landseg.inference.tta; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
