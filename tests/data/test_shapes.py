"""Areas drawn into labels, against references that share no code with ours: shapely's point in polygon and pycocotools."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_masks

from landseg.data.documents import Faults, compact, numbers, parse_json
from landseg.data.masks import count_pixels, paste, runs
from landseg.data.shapes import MAX_POINTS, Shape, draw, draw_segments, ellipse, measure, rectangle, ring
from landseg.data.tiles import UnreadableTile

SIZE = (40, 56)
COORDINATE = st.floats(-20, 80, width=32).map(lambda value: round(value * 8) / 8 + 0.013)
POINTS = st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=12)
IDS = {"a": 0, "b": 1, "c": 2}


def polygon(points: object, name: str = "a") -> Shape:
    data = ring(np.asarray(points, float).tolist(), Counter())
    assert data is not None
    return Shape(name, (data,))


def drawn(*shapes: Shape, size: tuple[int, int] = SIZE) -> np.ndarray:
    label = np.full(size, 255, np.uint8)
    draw(shapes, IDS, label)
    return label


def is_inside(area: shapely.Geometry, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Whether each pixel's centre lies in an area, and whether that is clear: not on its border."""
    rows, cols = np.mgrid[: size[0], : size[1]] + 0.5
    clear = shapely.distance(shapely.boundary(area), shapely.points(cols.ravel(), rows.ravel())) > 1e-3
    return shapely.contains_xy(area, cols.ravel(), rows.ravel()).reshape(size), clear.reshape(size)


@given(POINTS)
@settings(max_examples=60, deadline=None)
def test_a_pixel_belongs_to_a_polygon_when_its_centre_does(points: list[tuple[float, float]]) -> None:
    """Also where the polygon crosses itself (as shapely's make_valid has it: even-odd) and where it leaves the image."""
    if ring(points and [list(point) for point in points], Counter()) is None:
        return
    expected, clear = is_inside(shapely.make_valid(shapely.Polygon(points)))
    found = drawn(polygon(points)) == 0
    assert (found == expected)[clear].all()


@given(POINTS)
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decode under NumPy 2
def test_polygons_are_those_of_pycocotools_but_for_their_borders(points: list[tuple[float, float]]) -> None:
    inside = [(min(max(x, 0), SIZE[1]), min(max(y, 0), SIZE[0])) for x, y in points]
    area = shapely.Polygon(inside)
    if not area.is_valid or area.area < 2:
        return
    theirs = coco_masks.decode(coco_masks.frPyObjects([[value for point in inside for value in point]], *SIZE))[:, :, 0] > 0
    ours = drawn(polygon(inside)) == 0
    rows, cols = np.nonzero(ours != theirs)
    distance = shapely.distance(area.boundary, shapely.points(cols + 0.5, rows + 0.5))
    assert (distance <= 1).all()
    assert abs(ours.sum() - area.area) <= area.length + 1


def test_later_shapes_lie_on_top_whether_polygon_or_mask() -> None:
    square = [[2, 2], [20, 2], [20, 20], [2, 20]]
    mask = runs([0, 100], (10, 10), Counter(), corner=(5, 5))
    assert mask is not None
    label = drawn(polygon(square, "a"), Shape("b", mask=mask), polygon([[8, 8], [12, 8], [12, 12], [8, 12]], "c"))
    assert [label[3, 3], label[6, 6], label[10, 10], label[30, 30]] == [0, 1, 2, 255]
    assert np.bincount(label.ravel(), minlength=3)[:3].tolist() == [18 * 18 - 100, 100 - 16, 16]


def test_rings_in_rings_are_holes_and_rings_side_by_side_parts() -> None:
    def box(low: float, high: float, right: float = 0) -> list[list[float]]:
        return [[low + right, low], [high + right, low], [high + right, high], [low + right, high]]

    faults: Faults = Counter()
    rings = [ring(points, faults) for points in (box(6, 18), box(2, 30), box(9, 12), box(2, 6, 40), box(9, 12), box(3, 7, 40))]
    label = drawn(Shape("b", tuple(data for data in rings if data)))
    expected = np.full(SIZE, 255)
    expected[2:30, 2:30] = 1
    expected[6:18, 6:18] = 255
    expected[9:12, 9:12] = 1  # an island in the hole, listed twice
    expected[2:6, 42:46] = expected[3:7, 43:47] = 1  # two parts that overlap
    assert (label == expected).all() and not faults


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([[1, 1], [5, 5]], "fewer than three"),
        ([1, 1, 5, 5, 1, 1], "on one line"),
        ([[1, 1], [5, 5], [1, 1], [5, 5]], "on one line"),
        ([[0, 0], [2, 2], [4, 4], [9, 9]], "on one line"),
        ([1, 2, 3, 4, 5], "no pairs"),
        ([[1, 2, 3], [4, 5, 6], [7, 8, 10]], "no pairs"),
        ([[1, 2], [3], [4, 5]], "no pairs"),
        ([["1", "2"], ["3", "4"], ["5", "9"]], "no pairs"),
        ([[1, 2], [3, None], [4, 5]], "no pairs"),
        ([[1, 2], [3, True], [4, 5]], "no pairs"),
        ([[1, 2], [3, 10**400], [4, 5]], "no pairs"),
        ("1,2,3,4,5,6", "no pairs"),
        (None, "no pairs"),
        ([], "fewer than three"),
        ([[0, 0], [float("nan"), 2], [4, 9]], "NaN"),
        ([[0, 0], [float("inf"), 2], [4, 9]], "NaN"),
        ([0, 1] * (MAX_POINTS + 1), "more than"),
    ],
)
def test_what_is_no_outline_is_counted_with_its_reason(points: object, reason: str) -> None:
    faults: Faults = Counter()
    assert ring(points, faults) is None
    assert len(faults) == 1 and reason in next(iter(faults)) and faults.total() == 1


def test_far_away_corners_do_no_harm() -> None:
    assert (drawn(polygon([[-1e300, -1e300], [1e300, -1e300], [1e300, 1e300], [-1e300, 1e300]])) == 0).all()


def test_rectangles_and_ellipses_turn_clockwise_about_their_anchor() -> None:
    assert rectangle(10, 10, 6, 2, 90) == pytest.approx(np.array([[10, 10], [10, 16], [8, 16], [8, 10]]))
    assert rectangle(10, 10, 6, 2, 90, about_centre=True) == pytest.approx(np.array([[14, 8], [14, 14], [12, 14], [12, 8]]))
    area = shapely.Polygon(ellipse(20, 20, 10, 4, 30))
    assert area.area == pytest.approx(np.pi * 40, rel=0.005)
    assert area.contains(shapely.Point(20 + 9 * np.cos(np.pi / 6), 20 + 9 * np.sin(np.pi / 6)))
    for broken in (rectangle(0, 0, float("inf"), 1), ellipse(0, 0, 1, float("nan")), rectangle(0, 0, 1, 1, float("inf"))):
        assert ring(broken, Counter()) is None


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40), elements=st.integers(0, 1)))
@settings(max_examples=80, deadline=None)
def test_run_lengths_are_those_of_pycocotools(mask: np.ndarray) -> None:
    packed = coco_masks.encode(np.asfortranarray(mask))["counts"].decode()
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=2))
    counts = np.diff(edges, prepend=0).tolist()
    for text in (packed, counts, [float(count) for count in counts]):
        read = runs(text, mask.shape, Counter(), by_columns=True)
        assert read is not None and count_pixels(read) == mask.sum()
        label = np.full((50, 50), 255, np.uint8)
        paste(read, 3, label)
        assert (label[: mask.shape[0], : mask.shape[1]] == np.where(mask, 3, 255)).all() and (label == 3).sum() == mask.sum()


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30))
@settings(max_examples=200, deadline=None)
def test_no_text_of_run_lengths_does_harm(text: str) -> None:
    mask = runs(text, (6, 7), Counter(), by_columns=True)
    if mask is not None:
        paste(mask, 1, np.zeros((6, 7), np.uint8))


@pytest.mark.parametrize("counts", [[5, -1], [1.5], ["1"], [40, 3], [float("nan")], [1e300], "P", "\u4e2d", None, {"a": 1}, [[1, 2]]])
def test_run_lengths_that_fit_nothing_are_counted(counts: object) -> None:
    faults: Faults = Counter()
    assert runs(counts, (6, 7), faults) is None
    assert faults.total() == 1


def test_a_mask_is_cut_at_the_border_of_the_image_and_refused_when_larger() -> None:
    label = np.zeros((10, 10), np.uint8)
    mask = runs([0, 16], (4, 4), Counter(), corner=(8, 7))
    assert mask is not None
    paste(mask, 1, label)
    assert label.sum() == 2 * 3 and label[8:, 7:].all()
    with pytest.raises(UnreadableTile, match="4 × 4"):
        paste(mask, 1, np.zeros((3, 10), np.uint8))


def test_areas_and_crossings_are_measured() -> None:
    faults: Faults = Counter()
    mask = runs([3, 5, 2, 4], (6, 7), faults)
    bow = polygon([[0, 0], [10, 10], [10, 0], [0, 10]])
    assert measure([polygon([[0, 0], [4, 0], [4, 3], [0, 3]]), Shape("b", mask=mask), bow], faults).tolist()[:2] == [12, 9]
    assert faults.total() == 1 and "even-odd" in next(iter(faults))


def test_segments_are_read_from_colours() -> None:
    colours = np.zeros((4, 5, 3), np.uint8)
    colours[:2] = (7, 2, 1)  # 7 + 512 + 65536
    colours[3] = (9, 0, 0)  # not listed
    label = np.full((4, 5), 255, np.uint8)
    draw_segments(colours, {66055: "b", 1 << 23: "a"}, IDS, label)
    assert (label == np.array([1, 1, 255, 255])[:, None]).all()


def test_drawing_on_many_threads_gives_the_same_labels() -> None:
    rng = np.random.default_rng(1)
    shapes = [polygon(rng.uniform(0, 50, (5, 2)), "abc"[i % 3]) for i in range(12)]
    first = drawn(*shapes)
    with ThreadPoolExecutor(4) as pool:
        assert all((label == first).all() for label in pool.map(lambda _: drawn(*shapes), range(40)))


def test_hostile_rings_are_drawn_without_an_overlay() -> None:
    """An overlay of this tangle with itself would take minutes; the suite's time limit would end it."""
    rng = np.random.default_rng(2)
    tangle = ring(rng.uniform(0, 50, (5000, 2)), Counter())
    nested = tuple(data for i in range(400) if (data := ring(rectangle(i / 20, i / 20, 50 - i / 10, 40 - i / 10), Counter())))
    assert tangle is not None and len(nested) == 400
    assert 0.3 < (drawn(Shape("a", (tangle,))) == 0).mean() < 0.7
    assert (drawn(Shape("b", nested)) == 1).any()


def test_numbers_are_judged_by_their_types() -> None:
    assert numbers([1, 2.5]) is not None and numbers([[1, 2], [3, 4]]).shape == (2, 2)  # type: ignore[union-attr]
    huge = ["x" * 1_000_000] + [1] * 10_000
    assert numbers(huge) is None, "as an array of texts it would take 40 GB"
    assert compact({"points": [[1, 2], [3, 4]], "other": [1, 2]})["other"] == [1, 2]
    assert isinstance(parse_json('{"segmentation": [[1, 2, 3, 4], "x"]}', "x")["segmentation"][0], np.ndarray)
