"""Tiles that show the same ground are found however the second was made, with the place where it lies; nothing else is."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from landseg.data.copies import TURNS, turned
from landseg.data.world import make_scene
from landseg.splitting import landmarks, likeness
from landseg.splitting.likeness import common_area
from landseg.splitting.overlaps import Overlap, find_overlaps

TILE = 192


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    data = cv2.imencode(".jpg", cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))


def toned(image: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    return np.clip((image.astype(np.float32) - 128) * contrast + 128 + brightness, 0, 255).astype(np.uint8)


def zoomed(image: np.ndarray, row: int, column: int, side: int) -> np.ndarray:
    way = cv2.INTER_AREA if side > TILE else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image[row : row + side, column : column + side], (TILE, TILE), interpolation=way))


def crop(scene: np.ndarray, row: int, column: int, edge: int = TILE) -> np.ndarray:
    return scene[row : row + edge, column : column + edge]


def find(images: Sequence[np.ndarray], **options: object) -> list[Overlap]:
    return find_overlaps(images.__getitem__, len(images), **options)  # type: ignore[arg-type]


FIRST = (100, 100)  # row and column of the first tile in its scene
CASES = {
    "re-encoded": lambda s: (jpeg(crop(s, *FIRST), 50), (100, 100, 1.0), "same"),
    "flipped": lambda s: (turned(jpeg(crop(s, *FIRST), 75), "flipped left-right"), (100, 100, 1.0), "flipped left-right"),
    "turned": lambda s: (turned(jpeg(crop(s, *FIRST), 75), "turned 90° clockwise"), (100, 100, 1.0), "turned 90° clockwise"),
    "darker": lambda s: (toned(crop(s, *FIRST), -25, 0.7), (100, 100, 1.0), "same"),
    "brighter": lambda s: (jpeg(toned(crop(s, *FIRST), 25, 1.4), 80), (100, 100, 1.0), "same"),
    "a fifth to the right": lambda s: (jpeg(crop(s, 100, 100 + TILE * 4 // 5), 75), (100, 100 + TILE * 4 // 5, 1.0), "same"),
    "a quarter up, mirrored": lambda s: (
        turned(jpeg(crop(s, 100 - TILE // 2, 100 + TILE // 2), 75), "flipped upside down"), (4, 196, 1.0), "flipped upside down",
    ),
    "half, brighter": lambda s: (jpeg(toned(crop(s, 100 + TILE // 2, 100), 20, 1.2), 60), (100 + TILE // 2, 100, 1.0), "same"),
    "twice as near": lambda s: (jpeg(zoomed(s, 140, 130, TILE // 2), 75), (140, 130, 2.0), "same"),
    "twice as far": lambda s: (jpeg(zoomed(s, 10, 20, TILE * 2), 75), (10, 20, 0.5), "same"),
    "a third nearer, flipped": lambda s: (turned(zoomed(s, 120, 110, TILE * 3 // 4), TURNS[6]), (120, 110, 4 / 3), TURNS[6]),
}  # fmt: skip


@pytest.fixture(scope="module")
def planted() -> tuple[list[np.ndarray], list[Overlap]]:
    images = []
    for number, make in enumerate(CASES.values()):
        scene = make_scene(300 + number, 480, 480).image
        images += [jpeg(crop(scene, *FIRST), 90), make(scene)[0]]
    return images, find(images)


@pytest.mark.parametrize("name", CASES)
def test_the_same_ground_is_found_where_it_lies(name: str, planted: tuple[list[np.ndarray], list[Overlap]]) -> None:
    number = list(CASES).index(name)
    overlap = {(found.a, found.b): found for found in planted[1]}[2 * number, 2 * number + 1]
    _, (row, column, zoom), turn = CASES[name](make_scene(300 + number, 480, 480).image)
    # Where the first tile's corners must lie in the second: moved, zoomed, and then turned as its pixels were.
    corners = np.asarray([(0.0, 0.0), (TILE - 1, 0), (TILE - 1, TILE - 1), (0, TILE - 1)])
    moved = (corners + 0.5 + [FIRST[1] - column, FIRST[0] - row]) * zoom - 0.5
    grid = turned(np.dstack(np.meshgrid(np.arange(TILE), np.arange(TILE))), turn)
    # `grid` says which (x, y) each place of the turned tile had: an affine map, read off at three of its corners.
    places = np.asarray([(0.0, 0), (TILE - 1, 0), (0, TILE - 1)])
    sources = np.asarray([grid[0, 0], grid[0, -1], grid[-1, 0]], float)
    to_turned = cv2.getAffineTransform(sources.astype(np.float32), places.astype(np.float32))
    expected = moved @ to_turned[:, :2].T + to_turned[:, 2]
    assert np.abs(corners @ overlap.transform[:, :2].T + overlap.transform[:, 2] - expected).max() < 2.5
    assert overlap.is_mirrored == ("flipped" in turn)
    assert overlap.zoom == pytest.approx(zoom, rel=0.02)
    side = TILE / zoom
    common = [max(0.0, min(FIRST[k] + TILE, (row, column)[k] + side) - max(FIRST[k], (row, column)[k])) for k in (0, 1)]
    assert overlap.share_a == pytest.approx(common[0] * common[1] / TILE**2, abs=0.02)
    assert overlap.share_b == pytest.approx(common[0] * common[1] / side**2, abs=0.02)


def test_nothing_else_is_found(planted: tuple[list[np.ndarray], list[Overlap]]) -> None:
    assert [(found.a, found.b) for found in planted[1]] == [(2 * k, 2 * k + 1) for k in range(len(CASES))]


def test_tiles_that_only_touch_share_no_ground() -> None:
    scene = make_scene(40, 3 * TILE, 3 * TILE).image
    assert not find([jpeg(crop(scene, row * TILE, column * TILE), 85) for row in range(3) for column in range(3)])


def roofs(rng: np.random.Generator) -> np.ndarray:
    """One street plan and one type of house; roofs, gardens and soil are each other's equals only by type."""
    image = rng.normal(110, 6, (192, 192, 3))
    for row in range(8, 192, 32):
        for column in range(6, 192, 24):
            image[row : row + 14, column : column + 12] = rng.normal(170, 25, 3)
            image[row + 6 : row + 8, column : column + 12] -= 30
    return np.asarray(np.clip(cv2.GaussianBlur(image, (0, 0), 0.8), 0, 255), np.uint8)


def furrows(rng: np.random.Generator) -> np.ndarray:
    x = np.arange(256) + rng.uniform(0, 12)
    rows = 120 + 30 * np.sin(x / 12 * 2 * np.pi)[None] + rng.normal(0, 5, (256, 256))
    return np.repeat(np.clip(rows, 0, 255).astype(np.uint8)[:, :, None], 3, 2)


def wedge(rng: np.random.Generator) -> np.ndarray:
    """Water beyond the same slanted edge of the satellite's swath."""
    image = rng.normal(70, 3, (256, 256, 3)).astype(np.uint8)
    image[np.add.outer(np.arange(256), np.arange(256)) < 200] = 0
    return image


@pytest.mark.parametrize("ground", [roofs, furrows, wedge])
def test_ground_that_repeats_itself_is_not_the_same_ground(ground: object) -> None:
    rng = np.random.default_rng(0)
    assert not find([jpeg(ground(rng), 80) for _ in range(5)])  # type: ignore[operator]


def test_tiles_without_structure_match_nothing() -> None:
    rng = np.random.default_rng(0)
    flat = [np.full((96, 96, 3), value, np.uint8) for value in (0, 0, 90, 90, 255)]
    noise = [jpeg(np.clip(rng.normal(60, 3, (96, 96, 3)), 0, 255).astype(np.uint8), 75) for _ in range(6)]
    slope = [np.repeat(np.linspace(40, 200, 96)[None, :, None].repeat(96, 0), 3, 2).astype(np.uint8)] * 2
    assert not find([*flat, *noise, *slope])


@pytest.mark.parametrize(
    "images", [[], [make_scene(1, 128, 128).image], [np.zeros((1, 1, 3), np.uint8)] * 3, [np.zeros((9, 300, 1), np.uint16)] * 2]
)
def test_hardly_anything_to_compare(images: list[np.ndarray]) -> None:
    assert find(images) == []


def in_bands(image: np.ndarray, bands: int, dtype: str) -> np.ndarray:
    grey = image.mean(2, dtype=np.float32)
    if dtype == "uint8":
        return grey.astype(np.uint8)[:, :, None].repeat(bands, 2)
    if dtype == "uint16":
        return np.stack([(grey * 16 * (1 - 0.5 * k / bands)).astype(np.uint16) for k in range(bands)], 2)
    values = np.stack([grey / 255 * (1 - 0.5 * k / bands) for k in range(bands)], 2)
    values[:20, :30] = np.nan
    values[50, 60] = np.inf
    return values


@pytest.mark.parametrize(("bands", "dtype"), [(1, "uint8"), (1, "uint16"), (4, "uint16"), (224, "uint16"), (3, "float32")])
def test_any_bands_and_depth(bands: int, dtype: str) -> None:
    scene = make_scene(61, 320, 320).image
    images = [in_bands(part, bands, dtype) for part in (crop(scene, 0, 0), crop(scene, 30, 60), make_scene(62, TILE, TILE).image)]
    (found,) = find(images)
    assert (found.a, found.b) == (0, 1)
    assert np.abs(found.transform - [[1, 0, -60], [0, 1, -30]]).max() < 0.7


def test_tiles_of_other_sizes_and_bands_are_compared() -> None:
    scene = make_scene(63, 512, 512).image
    images = [
        crop(scene, 0, 0, 400),
        crop(scene, 250, 230, 96),
        crop(scene, 300, 310, 202)[:150],
        in_bands(crop(scene, 60, 20), 1, "uint16"),
    ]
    found = {(overlap.a, overlap.b): overlap for overlap in find(images)}
    assert {(0, 1), (0, 2), (0, 3)} <= found.keys()
    assert found[0, 1].share_b == pytest.approx(1, abs=0.02)
    assert found[0, 1].share_a == pytest.approx(96**2 / 400**2, abs=0.01)


def test_identical_tiles_are_all_found() -> None:
    images = [make_scene(64, 96, 96).image] * 8
    found = find(images)
    assert {tile for overlap in found for tile in (overlap.a, overlap.b)} == set(range(8))
    assert all(np.abs(overlap.transform - np.eye(2, 3)).max() < 0.01 for overlap in found)


def test_only_the_sides_and_tiles_asked_for_are_compared() -> None:
    scene = make_scene(65, 300, 300).image
    images = [crop(scene, 30 * k, 25 * k) for k in range(4)]
    assert len(find(images)) == 6
    across = np.asarray(["train", "val", "train", "test"])
    assert {(found.a, found.b) for found in find(images, across=across)} == {(0, 1), (0, 3), (1, 2), (1, 3), (2, 3)}
    assert {(found.a, found.b) for found in find(images, across=across == "val")} == {(0, 1), (1, 2), (1, 3)}
    assert {(found.a, found.b) for found in find(images, tiles=[0, 3, 2])} == {(0, 2), (0, 3), (2, 3)}
    assert not find(images, across=np.zeros(4))


def test_the_number_of_threads_does_not_matter(planted: tuple[list[np.ndarray], list[Overlap]]) -> None:
    images = planted[0][:6]
    one, three = find(images, workers=1), find(images, workers=3)
    assert len(one) == 3
    assert [found.transform.tolist() for found in one] == [found.transform.tolist() for found in three]
    assert [(found.a, found.b, found.probability) for found in one] == [(found.a, found.b, found.probability) for found in three]


def test_the_code_of_a_mirror_image_is_known_without_looking() -> None:
    image = make_scene(66, 256, 256).image
    marks = landmarks.find_landmarks([image, image[:, ::-1]].__getitem__, [0, 1])
    straight, mirrored = marks.of(0), marks.of(1)
    gap = np.abs((255 - np.conj(marks.place[straight]))[:, None] - marks.place[mirrored][None])
    pairs = np.argwhere(gap < 0.3)
    distances = landmarks.squared_distances(marks.code[straight] * marks.signs, marks.code[mirrored])
    assert len(pairs) > 100
    # A landmark may have two directions; its own is the nearest of those at its place.
    nearest = [distances[i][gap[i] < 0.3].min() for i in np.unique(pairs[:, 0])]
    assert np.median(nearest) < 5**2
    assert np.median(landmarks.squared_distances(marks.code[straight], marks.code[mirrored])[pairs[:, 0], pairs[:, 1]]) > 40**2


@pytest.mark.parametrize("shape", [(16, 16), (17, 900), (64, 64), (191, 40), (700, 260)])
def test_landmarks_of_any_size_of_tile_lie_on_it(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), 1.5))
    marks = landmarks.find_landmarks([image].__getitem__, [0])
    assert ((marks.place.real > -0.5) & (marks.place.real < shape[1]) & (marks.place.imag > -0.5) & (marks.place.imag < shape[0])).all()
    assert len(marks.code) == len(marks.place) == marks.start[-1]
    assert len(marks.code) > 10 or min(shape) < 20


def test_landmarks_are_the_strongest_of_each_cell_and_stand_on_the_ground() -> None:
    rng = np.random.default_rng(1)
    ground = np.ones((128, 100), bool)
    ground[40:80, 20:50] = False
    points = [
        cv2.KeyPoint(float(x), float(y), 3.0, float(angle), float(strength))
        for x, y, angle, strength in rng.uniform((0, 0, 0, 0), (100, 128, 360, 1), (400, 4)).astype(np.float32)
    ]
    cells: dict[tuple[int, int], list[cv2.KeyPoint]] = {}
    for point in sorted(points, key=lambda point: -point.response):
        if ground[int(point.pt[1]), int(point.pt[0])]:
            cells.setdefault((int(point.pt[0]) // 32, int(point.pt[1]) // 32), []).append(point)
    for most in (0, 1, 16, 50, 1000):
        kept = landmarks._spread(points, ground, most)
        assert len(kept) == min(most, sum(map(len, cells.values())))
        for members in cells.values():
            chosen = [point for point in kept if point in members]
            assert chosen == members[: len(chosen)]
        counts = [sum(point in members for point in kept) for members in cells.values()]
        # Cells take turns: none has two more than another that has one left to give.
        assert all(max(counts) - count <= 1 or count == len(members) for count, members in zip(counts, cells.values(), strict=True))
    assert landmarks._spread([], ground, 9) == []


def test_distances_of_codes_are_exact() -> None:
    codes = np.random.default_rng(2).integers(-127, 128, (300, landmarks.CODE)).astype(np.int8)
    codes[0], codes[1] = 127, -127
    whole = codes.astype(np.int64)
    expected = ((whole[:200, None] - whole[None, 100:]) ** 2).sum(2)
    assert (landmarks.squared_distances(codes[:200], codes[100:]) == expected).all()
    assert landmarks.squared_distances(codes[:1], codes[1:2]) == landmarks.CODE * 254**2


def test_gradients_are_those_of_the_structure_tensor() -> None:
    picture = (make_scene(67, 130, 150).image.mean(2) + np.random.default_rng(0).normal(0, 4, (130, 150))).astype(np.float32)
    values = np.sqrt(np.maximum(cv2.cornerEigenValsAndVecs(picture, likeness._WINDOW, 3)[:, :, :2], 0)) / 2
    weaker, stronger = likeness._gradients(picture)
    assert np.allclose(weaker, values.min(2), atol=1e-3) and np.allclose(stronger, values.max(2), atol=1e-3)
    flat = likeness._gradients(np.full((40, 40), 77, np.float32))
    assert not np.any(flat)


def test_the_common_area_is_the_same_ground_in_both() -> None:
    turn = np.asarray([[0.0, -1, 250], [1, 0, -40]])
    in_a, in_b = common_area(turn, (200, 220), (180, 240))
    assert np.allclose(in_a @ turn[:, :2].T + turn[:, 2], in_b)
    assert cv2.contourArea(in_a.astype(np.float32)) == pytest.approx(cv2.contourArea(in_b.astype(np.float32)))
    assert ((in_a >= -0.51) & (in_a <= [219.51, 199.51])).all() and ((in_b >= -0.51) & (in_b <= [239.51, 179.51])).all()
    assert len(common_area(np.asarray([[1.0, 0, -220], [0, 1, 0]]), (200, 220), (200, 220))[0]) == 0
