"""The page of a map: its figures, its drawing held against the parcels, nothing from outside, bounded, every word escaped."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from landseg.core.errors import LandsegError
from landseg.core.grid import Grid
from landseg.data.raster import write
from landseg.product import map_frame, map_page
from landseg.product.backdrop import Backdrop, read_backdrop
from landseg.product.components import NOTHING, find_runs
from landseg.product.map_frame import MapFrame, frame_of
from landseg.product.map_page import is_map, write_map
from landseg.product.map_shapes import Shapes, pack_shapes
from landseg.product.parcels import Parcels, outline

UTM = CRS.from_epsg(32650)
NORTH_UP = Affine(2, 0, 5e5, 0, -2, 4e6)
NAMES = ["</script><b>roof</b>", "耕地 & field", "water"]
HOLES = np.array([[min(r, c, 8 - r, 8 - c) % 3 for c in range(9)] for r in range(9)], np.uint8)


class Tags(HTMLParser):
    """Every tag with its attributes, and the text within."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "br", "path"):
            self._open.append(dict(attrs).get("id") or tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path",):
            self._open.pop()

    def handle_data(self, data: str) -> None:
        for name in self._open[-1:]:
            self.texts.setdefault(name, []).append(data)


def made(tmp_path: Path, values: np.ndarray, transform: Affine = NORTH_UP, crs: CRS = UTM) -> tuple[Parcels, MapFrame]:
    grid = Grid(*values.shape, transform, crs)
    frame = frame_of(grid)
    path = write(tmp_path / "scene_classes.tif", values, grid, nodata=NOTHING, names=NAMES)
    return outline(path, picture=frame.shape), frame


def columns(shapes: Shapes) -> dict[str, np.ndarray]:
    data, offset, found = zlib.decompress(shapes.data), 0, {}
    for name, dtype, length in (
        ("area", "<f4", shapes.parcels),
        ("perimeter", "<f4", shapes.parcels),
        ("rings", "<u4", shapes.parcels),
        ("vertices", "<u4", shapes.rings),
        ("dx", "<i2", shapes.vertices),
        ("dy", "<i2", shapes.vertices),
        ("class", "u1", shapes.parcels),
        ("confidence", "u1", shapes.parcels),
    ):
        found[name] = np.frombuffer(data, dtype, length, offset)
        offset += found[name].nbytes
    assert offset == len(data)
    return found


def polygons_of(shapes: Shapes) -> list[shapely.Polygon]:
    """The packed outlines, in pixels of the picture."""
    found = columns(shapes)
    places = np.cumsum(np.stack([found["dx"], found["dy"]], 1).astype(np.int64), axis=0) / shapes.steps
    parts = np.split(places, np.cumsum(found["vertices"])[:-1])
    shells = np.cumsum(found["rings"])
    return [shapely.Polygon(parts[end - n], parts[end - n + 1 : end]) for n, end in zip(found["rings"], shells, strict=True)]


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 2, NOTHING])))
@settings(max_examples=60, deadline=None)
def test_packed_outlines_are_the_parcels(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray) -> None:
    parcels, frame = made(tmp_path_factory.mktemp("map"), values)
    assert frame.shape == values.shape and parcels.picture is not None and (parcels.picture == values).all()
    shapes = pack_shapes(parcels, frame, 10**6)
    assert shapes.parcels == len(parcels.polygons) and shapes.left_out == 0
    order = np.argsort(-parcels.area_m2, kind="stable")
    found = columns(shapes)
    assert (found["class"] == parcels.class_id[order]).all() and (found["confidence"] == 255).all()
    assert found["area"] == pytest.approx(parcels.area_m2[order], rel=1e-6)
    assert found["perimeter"] == pytest.approx(parcels.perimeter_m[order], rel=1e-6)
    back = shapely.transform(parcels.polygons[order], lambda places: np.stack(~frame.transform @ tuple(places.T), 1))
    for one, other in zip(polygons_of(shapes), back, strict=True):
        assert one.symmetric_difference(other).area < 1e-6


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_picture_of_runs_is_the_raster_seen_at_the_middles_of_its_pixels(height: int, width: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 3, (17, 13)).astype(np.uint8)
    rows, cols = ((np.arange(n) + 0.5) * full / n for n, full in ((height, 17), (width, 13)))
    expected = values[np.ix_(rows.astype(int), cols.astype(int))]
    assert (find_runs([values], *values.shape).picture(height, width) == expected).all()


def test_a_frame_has_square_pixels_on_the_ground_and_a_bounded_side(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = frame_of(Grid(30, 40, NORTH_UP, UTM))
    assert plain.shape == (30, 40) and not plain.is_reduced and plain.pixel_m == pytest.approx(2, rel=1e-3)
    assert plain.north == pytest.approx((0, -1), abs=0.01)
    degrees = frame_of(Grid(100, 100, Affine(2e-5, 0, 10, 0, -2e-5, 60), CRS.from_epsg(4326)))
    assert degrees.shape[0] == pytest.approx(200, abs=2) and degrees.width == 100
    turned = frame_of(Grid(30, 40, Affine(0, 2, 5e5, 2, 0, 4e6), UTM))  # rows go to the east, columns to the north
    assert turned.north == pytest.approx((1, 0), abs=0.01)
    monkeypatch.setattr(map_frame, "MOST", 20)
    small = frame_of(Grid(30, 40, NORTH_UP, UTM))
    assert small.shape == (15, 20) and small.is_reduced and small.pixel_m == pytest.approx(4, rel=1e-3)
    assert small.transform @ (20, 15) == pytest.approx((5e5 + 80, 4e6 - 60))


def test_the_page_has_a_row_a_class_and_all_that_its_script_draws(tmp_path: Path) -> None:
    parcels, frame = made(tmp_path, HOLES)
    path = write_map(tmp_path / "p.html", parcels, frame, title="<town> & 镇", made_of={"CRS": "<i>"})
    text = path.read_text(encoding="utf-8")
    page = Tags(text)
    rows = [attrs for tag, attrs in page.tags if tag == "tr" and "data-class" in attrs]
    areas = parcels.area_by_class()
    assert [NAMES[int(row["data-class"] or "")] for row in rows] == sorted(areas, key=lambda name: -areas[name])
    assert page.texts["h1"] == ["<town> & 镇"] == page.texts["title"] and page.texts["dd"] == ["<i>"]
    names = [name for name in page.texts["span"] if name in NAMES]
    assert sorted(names) == sorted(NAMES)
    shares = [word for word in page.texts["td"] if word.endswith("%")]
    assert sum(float(word.split()[0]) for word in shares) == pytest.approx(100, abs=0.2)
    about = json.loads(page.texts["about"][0])
    assert about["classes"]["0"][0] == NAMES[0] and (about["width"], about["height"]) == (9, 9)
    ids = zlib.decompress(base64.b64decode(page.texts["ids"][0]))
    assert (np.frombuffer(ids, np.uint8).reshape(9, 9) == HOLES).all() and about["ids"] == [9, 9]
    shapes = pack_shapes(parcels, frame, 10**6)
    assert base64.b64decode(page.texts["shapes"][0]) == shapes.data and about["shapes"] == [5, 9, shapes.vertices, 8]
    assert is_map(path) and not is_map(tmp_path / "none.html")


@pytest.mark.parametrize(
    ("shape", "metres", "words"),
    [((4, 5), 2, "2 m a pixel"), ((1, 9), 10, "10 m a pixel"), ((2, 3), 1500, "1.5 km a pixel"), ((2, 3), 0.05, "5 cm a pixel"),
     ((2, 3), 999.9, "1 km a pixel"), ((2, 3), 0.0996, "10 cm a pixel")],
)  # fmt: skip
def test_the_page_says_the_maps_own_resolution(
    tmp_path: Path, shape: tuple[int, int], metres: float, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a map so thin that its picture, reduced, is a line."""
    monkeypatch.setattr(map_frame, "MOST", 7)
    parcels, frame = made(tmp_path, np.zeros(shape, np.uint8), Affine(metres, 0, 5e5, 0, -metres, 4e6))
    page = Tags(write_map(tmp_path / "p.html", parcels, frame, title="a", made_of={}).read_text(encoding="utf-8"))
    assert words in page.texts["span"]


def test_nothing_in_the_page_comes_from_outside(tmp_path: Path) -> None:
    parcels, frame = made(tmp_path, HOLES)
    ground = Backdrop(np.full((9, 9, 3), 200, np.uint8), np.ones((9, 9), bool))
    text = write_map(tmp_path / "p.html", parcels, frame, title="t", made_of={}, backdrop=ground).read_text(encoding="utf-8")
    page = Tags(text)
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)
    for _, attrs in page.tags:
        assert not {"href", "srcset", "data"} & set(attrs) and (attrs.get("src") or "data:").startswith("data:")
    assert [tag for tag, _ in page.tags].count("script") == 4 == text.count("</script")
    assert not re.search(r"19\d\d-|20\d\d-", text)  # no date


def test_the_same_parcels_give_the_same_page(tmp_path: Path) -> None:
    parcels, frame = made(tmp_path, HOLES)
    one, other = (write_map(tmp_path / name, parcels, frame, title="t", made_of={}).read_bytes() for name in ("a.html", "b.html"))
    assert one == other


def test_a_page_is_bounded_and_says_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).integers(0, 3, (180, 180)).astype(np.uint8)
    values[:40, :40] = 1
    parcels, frame = made(tmp_path, values)
    full = pack_shapes(parcels, frame, 10**9)
    assert full.parcels == len(parcels.polygons) > 5000
    for most in (20_000, 3_000):
        shapes = pack_shapes(parcels, frame, most)
        assert len(shapes.data) <= most and shapes.parcels + shapes.left_out == full.parcels and shapes.parcels > most / 40
        assert shapes.left_out_m2 <= columns(shapes)["area"].min() * (1 + 1e-6)
    monkeypatch.setattr(map_page, "_MOST_SHAPES", 3_000)
    monkeypatch.setattr(map_page, "_MOST_CLASSES", 2_000)
    monkeypatch.setattr(map_page, "_MOST_GROUND", 6_000)
    noise = np.random.default_rng(0).integers(0, 255, (180, 180, 3)).astype(np.uint8)
    page = write_map(
        tmp_path / "p.html", parcels, frame, title="t", made_of={}, backdrop=Backdrop(noise, np.ones((180, 180), bool))
    )  # fmt: skip
    text = page.read_text(encoding="utf-8")
    assert f"{shapes.left_out:,} parcels are too small to be outlined" in text
    bare = write_map(tmp_path / "e.html", *made(tmp_path, np.zeros((1, 1), np.uint8)), title="t", made_of={}).stat().st_size
    assert page.stat().st_size < bare + (3_000 + 2_000 + 6_000) * 4 / 3 + 2_000
    assert (map_page._MOST_SHAPES + map_page._MOST_CLASSES + map_page._MOST_GROUND) * 4 / 3 < map_page.MOST_BYTES


def test_the_parts_of_a_page_fit_into_its_bound(tmp_path: Path) -> None:
    empty = write_map(tmp_path / "e.html", *made(tmp_path, np.zeros((1, 1), np.uint8)), title="t", made_of={}).stat().st_size
    parts = map_page._MOST_SHAPES + map_page._MOST_CLASSES + map_page._MOST_GROUND
    assert parts * 4 / 3 + empty + 100_000 < map_page.MOST_BYTES  # and 255 classes in the legend


def test_parcels_below_a_pixel_of_the_picture_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_frame, "MOST", 10)
    values = np.zeros((40, 40), np.uint8)
    values[3, 3], values[20:28, 20:28] = 1, 2
    parcels, frame = made(tmp_path, values)
    shapes = pack_shapes(parcels, frame, 10**6)
    assert shapes.parcels == 2 and shapes.left_out == 1 and shapes.left_out_m2 == pytest.approx(4, rel=0.01)
    text = write_map(tmp_path / "p.html", parcels, frame, title="t", made_of={}).read_text(encoding="utf-8")
    assert "1 parcel is too small to be outlined" in text and "Shown with 8 m a pixel" in text


def test_a_map_of_nothing_is_a_page_too(tmp_path: Path) -> None:
    parcels, frame = made(tmp_path, np.full((3, 4), NOTHING, np.uint8))
    assert "the map holds no class" in write_map(tmp_path / "p.html", parcels, frame, title="t", made_of={}).read_text(encoding="utf-8")


def scene(tmp_path: Path, values: np.ndarray, transform: Affine = NORTH_UP, crs: CRS | None = UTM, nodata: float | None = None) -> str:
    return str(write(tmp_path / "scene.tif", values, Grid(*values.shape[:2], transform, crs or UTM), nodata=nodata))


def test_a_scene_of_the_maps_grid_is_shown_as_it_is(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    shown = read_backdrop(scene(tmp_path, image), frame_of(Grid(30, 40, NORTH_UP, UTM)))
    assert (shown.picture == image).all() and shown.shows.all()
    part = frame_of(Grid(10, 20, NORTH_UP @ Affine.translation(7, 3), UTM))  # as `predict --bounds` makes it
    assert (read_backdrop(scene(tmp_path, image), part).picture == image[3:13, 7:27]).all()


def test_a_finer_scene_is_reduced_to_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    monkeypatch.setattr("landseg.product.backdrop._READ_SIDE", 40)  # many parts
    shown = read_backdrop(scene(tmp_path, image, NORTH_UP @ Affine.scale(0.5)), frame_of(Grid(30, 40, NORTH_UP, UTM)))
    mean = image.reshape(30, 2, 40, 2, 3).mean((1, 3))
    assert np.abs(shown.picture - mean).max() <= 2


def test_a_scene_in_another_crs_is_brought_onto_the_map(tmp_path: Path) -> None:
    """A step in brightness at the map's middle column must be there again, through degrees."""
    grid = Grid(60, 60, NORTH_UP, UTM)
    left, bottom, right, top = transform_bounds(UTM, CRS.from_epsg(4326), 5e5 - 50, 4e6 - 170, 5e5 + 170, 4e6 + 50)
    size = 400
    degrees = Affine((right - left) / size, 0, left, 0, (bottom - top) / size, top)
    middle, _, _, _ = transform_bounds(UTM, CRS.from_epsg(4326), 5e5 + 60, 4e6 - 60, 5e5 + 60, 4e6 - 60)
    image = np.full((size, size, 3), 40, np.uint8)
    image[:, round((middle - left) / degrees.a) :] = 200
    shown = read_backdrop(scene(tmp_path, image, degrees, CRS.from_epsg(4326)), frame_of(grid))
    assert shown.shows.all() and (shown.picture[:, :28] == 40).all() and (shown.picture[:, 32:] == 200).all()


def test_where_the_scene_has_nothing_the_page_is_clear(tmp_path: Path) -> None:
    image = np.full((30, 40), 900, np.uint16)
    image[:, 30:], image[:5] = 100, 0
    frame = frame_of(Grid(30, 50, NORTH_UP, UTM))
    shown = read_backdrop(scene(tmp_path, image, nodata=0), frame)
    assert not shown.shows[:5].any() and not shown.shows[:, 40:].any() and shown.shows[5:, :40].all()
    picture = cv2.imdecode(np.frombuffer(map_page._webp(shown), np.uint8), cv2.IMREAD_UNCHANGED)
    assert (picture[:, :, 3] == np.where(shown.shows, 255, 0)).all()


@pytest.mark.parametrize(
    ("transform", "crs", "words"),
    [
        (Affine(2, 0, 9e5, 0, -2, 4e6), UTM, "no ground where the map lies"),
        (NORTH_UP, CRS.from_wkt('LOCAL_CS["d",UNIT["metre",1]]'), "no place"),
    ],
)
def test_a_scene_of_elsewhere_is_refused(tmp_path: Path, transform: Affine, crs: CRS, words: str) -> None:
    path = scene(tmp_path, np.ones((30, 40, 3), np.uint8), transform, crs)
    with pytest.raises(LandsegError, match=words):
        read_backdrop(path, frame_of(Grid(30, 40, NORTH_UP, UTM)))
