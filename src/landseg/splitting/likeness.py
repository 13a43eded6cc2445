"""Whether two tiles, laid on one another, show the same ground: their pixels decide. It does not find out how they lie.

Grey values are correlated window by window, so that brightness and contrast do not count; windows without structure, or with stripes alone,
say nothing. Colour is correlated for itself: rows of roofs of one type fit each other in grey, hardly in colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from landseg.splitting.landmarks import reduced

_WINDOW = 13  # pixels of the reduced picture: over such windows grey values are correlated
_STRUCTURE = 1.5  # grey levels: gradients in every direction that a window needs to count
_STRIPES = 0.2  # gradients in the weakest direction as a share of those in the strongest: less is stripes
_LEAST_EVIDENCE = 2.0  # windows with structure
_COLOUR, _COLOUR_NOISE = 0.06, 3.0  # of the picture's spread, and grey levels of an 8-bit one: less is no colour
_WORTH, _CLEAR = 0.2, 0.93  # likeness between which the transform is refined
_SURE = 0.9  # probability at which no other transform is tried
_STRETCHED = 1.05  # more in one direction than in the other, and it is another place
_MOVED = 12.0  # pixels of the reduced picture that the refinement may move a corner of the common ground


@dataclass(frozen=True)
class Likeness:
    """How alike the common ground of two tiles is.

    `transform` (2, 3) float64, refined from the `choice`-th that was proposed; `similarity` is the mean local correlation of its
    structure, -1..1; `probability` 0..1 that the ground is the same.
    """

    transform: np.ndarray
    similarity: float
    probability: float
    choice: int = 0


@dataclass(frozen=True)
class _Faced:
    """Two pictures (h, w, …) float32 with their ground (h, w) bool: the coarser as the frame; `warp` takes its pixels to the finer's."""

    frame: np.ndarray
    frame_ground: np.ndarray
    other: np.ndarray
    other_ground: np.ndarray
    warp: np.ndarray
    is_b_finer: bool

    def laid(self) -> tuple[np.ndarray, np.ndarray]:
        """The finer picture laid on the frame, and (h, w) bool, the middles of windows that lie in the common ground."""
        size, flags = (self.frame.shape[1], self.frame.shape[0]), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        laid = cv2.warpAffine(self.other, self.warp, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        seen = cv2.warpAffine(self.other_ground.astype(np.float32), self.warp, size, flags=flags)
        common = ((seen > 0.99) & self.frame_ground).astype(np.float32)
        return np.asarray(laid), _mean(common) > 0.999


def compare(image_a: np.ndarray, image_b: np.ndarray, transforms: Sequence[np.ndarray]) -> Likeness:
    """Lay one tile on the other and compare what they have in common.

    Args:
        image_a: (H, W, C) of any dtype.
        image_b: Likewise, of any other size.
        transforms: One or several (2, 3), each takes pixels (x, y) of `a` to those of `b`, to a few pixels; the likeliest first.

    Returns:
        The likeness under the transform that makes them most alike, or under the first that leaves no doubt.
    """
    (grey_a, ground_a, factor_a), (grey_b, ground_b, factor_b) = reduced(image_a), reduced(image_b)
    seen = (ground_a, factor_a), (ground_b, factor_b)
    best = Likeness(np.asarray(transforms[0]), 0.0, 0.0)
    for choice, transform in enumerate(transforms):
        pair = _face(grey_a, ground_a, grey_b, ground_b, _rescaled(transform, 1 / factor_a, 1 / factor_b))
        similarity, evidence = _likeness(pair)
        if _WORTH <= similarity < _CLEAR:
            moved = _refined(pair)
            if moved is not None:
                again = _likeness(moved)
                if again[0] > similarity:
                    (similarity, evidence), pair = again, moved
        probability = _probability(similarity, evidence, None)
        if probability >= max(best.probability, 0.01):
            small = pair.warp if pair.is_b_finer else cv2.invertAffineTransform(pair.warp)
            found = _rescaled(small, factor_a, factor_b)
            probability = _probability(similarity, evidence, _colour_likeness(image_a, image_b, *seen, found))
            if probability > best.probability:
                best = Likeness(found, similarity, probability, choice)
            if probability > _SURE:
                break
    return best


def _face(picture_a: np.ndarray, ground_a: np.ndarray, picture_b: np.ndarray, ground_b: np.ndarray, small: np.ndarray) -> _Faced:
    """The finer picture is laid on the coarser one, blurred to the structure that both can have."""
    picture_a, picture_b = picture_a.astype(np.float32), picture_b.astype(np.float32)
    scale = math.sqrt(abs(float(np.linalg.det(small[:, :2]))))
    if scale > 1:
        return _Faced(picture_a, ground_a, _blurred(picture_b, scale), ground_b, small, True)
    warp = np.asarray(cv2.invertAffineTransform(small), np.float64)
    return _Faced(picture_b, ground_b, _blurred(picture_a, 1 / scale), ground_a, warp, False)


def _blurred(picture: np.ndarray, scale: float) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.6 * math.sqrt(scale * scale - 1))) if scale > 1.05 else picture


def _mean(values: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.boxFilter(values, cv2.CV_32F, (_WINDOW, _WINDOW), borderType=cv2.BORDER_CONSTANT))


def _moments(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variances and covariance of two pictures in the window round each pixel."""
    mean_a, mean_b = _mean(a), _mean(b)
    return _mean(a * a) - mean_a**2, _mean(b * b) - mean_b**2, _mean(a * b) - mean_a * mean_b


def _average(values: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """The weighted mean, 0 where nothing weighs, and how many windows have weight."""
    total = float(weight.sum(dtype=np.float64))
    mean = float((values * weight).sum(dtype=np.float64)) / total if total else 0.0
    return mean, float(np.count_nonzero(weight)) / _WINDOW**2


def _likeness(pair: _Faced) -> tuple[float, float]:
    laid, whole = pair.laid()
    var_a, var_b, both = _moments(pair.frame, laid)
    # The weaker direction's gradients: straight edges and furrows alone fit any others.
    (weaker_a, stronger_a), (weaker_b, stronger_b) = (_gradients(picture) for picture in (pair.frame, laid))
    weight = np.sqrt(weaker_a * weaker_b)
    weight[~whole | (weight < _STRUCTURE) | (weight < _STRIPES * np.sqrt(stronger_a * stronger_b))] = 0
    return _average(both / np.sqrt(np.maximum(var_a * var_b, 1e-6)), weight)


def _gradients(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels a pixel in the direction where a window changes least, and where it changes most."""
    # Eigenvalues of the structure tensor (Förstner & Gülch 1987); OpenCV's routine takes twice as long, as it finds the vectors too.
    x, y = (cv2.Sobel(picture, cv2.CV_32F, *order, ksize=3, scale=0.125) for order in ((1, 0), (0, 1)))
    xx, yy, xy = (cv2.boxFilter(product, cv2.CV_32F, (_WINDOW, _WINDOW)) for product in (x * x, y * y, x * y))
    half, apart = (xx + yy) / 2, cv2.magnitude((xx - yy) / 2, xy)
    return np.sqrt(np.maximum(half - apart, 0)), np.sqrt(np.maximum(half + apart, 0))


def _colour_likeness(
    image_a: np.ndarray, image_b: np.ndarray, seen_a: tuple[np.ndarray, int], seen_b: tuple[np.ndarray, int], transform: np.ndarray
) -> float | None:
    """The same of differences between bands, which tell rows of equal roofs apart; None where there is too little colour.

    `seen_a` and `seen_b` are the ground of each tile, and by how much it was reduced.
    """
    if image_a.shape[2] != image_b.shape[2] or image_a.shape[2] < 2 or image_a.dtype != image_b.dtype:
        return None
    (ground_a, factor_a), (ground_b, factor_b) = seen_a, seen_b
    small = _rescaled(transform, 1 / factor_a, 1 / factor_b)
    pair = _face(_hues(image_a, *seen_a), ground_a, _hues(image_b, *seen_b), ground_b, small)
    laid, whole = pair.laid()
    var_a, var_b, both = (moment.sum(2) for moment in _moments(pair.frame, laid))
    is_coloured = whole & (var_a > 1) & (var_b > 1)
    weight = np.where(is_coloured, np.maximum(var_a * var_b, 0) ** 0.25, 0)
    likeness, evidence = _average(both / np.sqrt(np.maximum(var_a * var_b, 1e-12)), weight)
    return likeness if evidence >= _LEAST_EVIDENCE else None


def _hues(image: np.ndarray, ground: np.ndarray, factor: int) -> np.ndarray:
    """Two differences of bands (h, w, 2) float32, in units of what counts as colour."""
    bands = [image[:, :, k].astype(np.float32) for k in (0, image.shape[2] // 2, -1)]
    if image.dtype.kind == "f":
        bands = [np.nan_to_num(band, nan=0, posinf=0, neginf=0) for band in bands]
    size = image.shape[1] // factor, image.shape[0] // factor
    small = [cv2.resize(band[: size[1] * factor, : size[0] * factor], size, interpolation=cv2.INTER_AREA) for band in bands]
    spread = float(small[1][ground].std(dtype=np.float64)) if ground.any() else 0.0
    unit = max(_COLOUR * spread, _COLOUR_NOISE if image.dtype == np.uint8 else 1e-12)
    return np.stack([small[0] - small[1], small[2] - small[1]], 2) / np.float32(unit)


def _refined(pair: _Faced) -> _Faced | None:
    """With the warp that maximises the correlation (ECC, Evangelidis & Psarakis 2008), None where that leads nowhere or far away."""
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-4)
    whole = np.ones(pair.other.shape, np.uint8)
    try:
        _, found = cv2.findTransformECC(pair.frame, pair.other, pair.warp.astype(np.float32), cv2.MOTION_AFFINE, stop, whole, 5)
    except cv2.error:  # the iterations diverge: what is compared has nothing in common
        return None
    corners = common_corners(pair.warp, pair.frame.shape, pair.other.shape)
    moved = np.abs((found - pair.warp) @ np.concatenate([corners, np.ones((len(corners), 1))], 1).T)
    stretched = np.linalg.svd(found[:, :2], compute_uv=False)
    if not len(corners) or moved.max() > _MOVED or stretched[0] > _STRETCHED * stretched[1]:
        return None
    return replace(pair, warp=np.asarray(found, np.float64))


def _rescaled(transform: np.ndarray, factor_a: float, factor_b: float) -> np.ndarray:
    """A transform between pictures whose pixels were multiplied by these factors; centres stay at whole numbers."""
    scaled = transform.copy()
    scaled[:, :2] *= factor_b / factor_a
    scaled[:, 2] = factor_b * (transform[:, 2] + transform[:, :2] @ np.full(2, 0.5 / factor_a - 0.5) + 0.5) - 0.5
    return scaled


def common_area(transform: np.ndarray, shape_a: Sequence[int], shape_b: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The ground in common of two tiles: its corners (n, 2), x and y in pixels of `a`, and the same in pixels of `b`.

    Args:
        transform: Of an `Overlap`.
        shape_a: (height, width) of tile `a`.
        shape_b: (height, width) of tile `b`.
    """
    corners = common_corners(transform, shape_a, shape_b)
    return corners, corners @ transform[:, :2].T + transform[:, 2]


def common_corners(transform: np.ndarray, shape_a: Sequence[int], shape_b: Sequence[int]) -> np.ndarray:
    """Corners (n, 2) float64, in pixels of `a`, of the ground in common; none where there is none."""
    outlines = []
    for height, width in (shape_a[:2], shape_b[:2]):
        outlines.append(np.asarray([(-0.5, -0.5), (width - 0.5, -0.5), (width - 0.5, height - 0.5), (-0.5, height - 0.5)]))
    back = cv2.invertAffineTransform(np.asarray(transform, np.float64))
    laid = outlines[1] @ back[:, :2].T + back[:, 2]
    area, corners = cv2.intersectConvexConvex(outlines[0].astype(np.float32), laid.astype(np.float32))
    return np.asarray(corners, np.float64).reshape(-1, 2) if area > 0 else np.zeros((0, 2))


def _probability(similarity: float, evidence: float, colour: float | None) -> float:
    """Source: measured, bench/records/recovery.

    True pairs lie above 0.93, or 0.6 in colour, which encoding keeps less well; false ones mostly below 0.5, or 0.2, and they scatter where
    windows are few.
    """
    if evidence < _LEAST_EVIDENCE:
        return 0.0
    odds = 40 * (similarity - 0.78 - 0.12 / math.sqrt(evidence))
    if colour is not None:
        odds = min(odds, 30 * (colour - 0.38))
    return 1 / (1 + math.exp(-odds))
