"""Scenes whose pixels are not square on the ground: the network sees squares, the map lies on the scene's own grid, in the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from landseg.core.classes import LandClass, make_classes
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid
from landseg.data import raster
from landseg.inference import scenes
from landseg.inference.plan import Choices
from landseg.inference.scenes import SceneMap, predict_scenes
from landseg.inference.squares import square_logits

DEGREES = CRS.from_epsg(4326)
NORTH = Affine(1e-5, 0, 10, 0, -1e-5, 60)
"""At 60° north, 0.56 m wide and 1.11 m high."""


@pytest.fixture(scope="module", autouse=True)
def no_sheets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "draw_sheet", lambda path, picture, *_: path.write_bytes(picture.tobytes()))
        yield


@dataclass
class Card:
    """What prediction reads of a model card."""

    resolution_m: float | None = 1.0
    classes: tuple[LandClass, ...] = make_classes(["dark", "light"])
    bands: tuple[str, ...] = ("red", "green", "blue")
    dtype: str = "uint8"
    tile_size: tuple[int, int] = (32, 32)
    factor: float = 1.0
    scaling: tuple[tuple[float, float], ...] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.classes)


@dataclass
class Light:
    """An engine that tells light from dark, and keeps what it was shown."""

    card: Card = field(default_factory=Card)
    seen: list[np.ndarray] = field(default_factory=list)
    scales: set[float] = field(default_factory=set)
    stop_after: int = 10**9
    runtime: str = "stand-in 1"
    lanes: int = 1

    def logits(self, images: np.ndarray, scale: float = 1.0) -> np.ndarray:
        self.scales.add(scale)
        if len(self.seen) == self.stop_after:
            raise KeyboardInterrupt
        self.seen += list(images)
        light = self.score(images[..., 0].astype(np.float32) / 255)
        return np.stack([0.5 - light, light - 0.5], 1)

    def score(self, values: np.ndarray) -> np.ndarray:
        return values


class Blur(Light):
    """One to which a window's surroundings, its edges among them, matter: equally in all directions."""

    def score(self, values: np.ndarray) -> np.ndarray:
        wide = np.stack([cv2.GaussianBlur(one, (0, 0), 5, borderType=cv2.BORDER_CONSTANT) for one in values])
        return 0.5 + (values - wide) * 3


def write_disc(path: Path, grid: Grid, radius: tuple[float, float]) -> np.ndarray:
    """A light disc on dark ground, of so many pixels of radius (rows, columns); returns where it is light."""
    rows, cols = (np.arange(length) + 0.5 - length / 2 for length in grid.shape)
    inside = (rows[:, None] / radius[0]) ** 2 + (cols / radius[1]) ** 2 < 1
    raster.write(path, np.repeat(np.where(inside, 250, 5)[..., None], 3, 2).astype(np.uint8), grid)
    return inside


def run(engine: Light, path: Path, out: Path, choices: Choices | None = None, **options: object) -> SceneMap:
    return predict_scenes(engine, [str(path)], out, choices or Choices(), **options)[0]  # type: ignore[arg-type]


def every_byte(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.mark.parametrize(("metres", "across"), [(1.0, 100.0), (0.5, 200.0), (2.0, 50.0)])
def test_what_is_round_on_the_ground_is_round_to_the_network(tmp_path: Path, metres: float, across: float) -> None:
    # 100 m across: 1.114 m a pixel down and 0.558 m across, by the lengths of a degree on WGS 84 at 60° (111 412 m and 55 800 m).
    inside = write_disc(tmp_path / "a.tif", Grid(200, 380, NORTH, DEGREES), (50 / 1.11412, 50 / 0.558))
    engine = Light(Card(metres))
    done = run(engine, tmp_path / "a.tif", tmp_path / "out")
    assert engine.scales == {1.0} and len(engine.seen) == 1
    light = engine.seen[0][..., 0] > 127
    high, wide = light.any(1).sum(), light.any(0).sum()
    assert abs(high - across) <= 2 and abs(wide - across) <= 2
    found, grid, _ = raster.read(done.files[0])
    assert (grid.transform, grid.crs, grid.shape) == (NORTH, DEGREES, (200, 380))
    border = cv2.dilate(inside.astype(np.uint8), np.ones((7, 7))) != cv2.erode(inside.astype(np.uint8), np.ones((7, 7)))
    assert (found[..., 0] == inside)[~border].all()
    assert "pixels 1.11 m high and 0.558 m wide" in done.notes[0] and "of its height and" in done.notes[0]


def test_a_web_mercator_metre_is_half_a_metre_at_60_degrees(tmp_path: Path) -> None:
    grid = Grid(120, 120, Affine(1, 0, 1_113_194.9, 0, -1, 8_399_737.9), CRS.from_epsg(3857))  # 10° east, 60° north
    write_disc(tmp_path / "a.tif", grid, (50, 50))
    engine = Light(Card(2.0))
    done = run(engine, tmp_path / "a.tif", tmp_path / "out")
    assert engine.scales == {0.25} and "0.501 m a pixel" in done.notes[0], "and not 0.5, as web-Mercator's metres would have it"


def test_bytes_are_the_same_of_parts_and_after_kills(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    image = cv2.resize(rng.integers(0, 255, (20, 45, 3), np.uint8), (360, 160), interpolation=cv2.INTER_NEAREST)
    raster.write(tmp_path / "a.tif", image, Grid(160, 360, NORTH, DEGREES))
    choices = {"window": 64, "confidence": True}
    wanted = run(Blur(), tmp_path / "a.tif", tmp_path / "whole", Choices(**choices), workers=3)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        run(Blur(stop_after=17), tmp_path / "a.tif", tmp_path / "killed", Choices(**choices), workers=1)  # type: ignore[arg-type]
    assert run(Blur(), tmp_path / "a.tif", tmp_path / "killed", Choices(**choices), step=1, workers=1).is_resumed  # type: ignore[arg-type]
    assert every_byte(tmp_path / "killed") == every_byte(tmp_path / "whole")
    (left, top), (right, bottom) = NORTH @ (71, 40), NORTH @ (250, 133)
    part = run(Blur(), tmp_path / "a.tif", tmp_path / "part", Choices(bounds=(left, bottom, right, top), **choices))  # type: ignore[arg-type]
    for whole, some in zip(wanted.files[:2], part.files[:2], strict=True):
        cut = raster.read(whole)[0][40:133, 71:250]
        assert (raster.read(some)[0] == cut).all() and len(np.unique(cut)) > 1


def test_quarter_turns_turn_ground(tmp_path: Path) -> None:
    """To an engine to which all directions are equal, a turned window says the same; not so, were it turned before it is stretched."""
    write_disc(tmp_path / "a.tif", Grid(90, 180, NORTH, DEGREES), (40, 80))
    plain = run(Blur(), tmp_path / "a.tif", tmp_path / "plain", Choices(confidence=True))
    turned = run(Blur(), tmp_path / "a.tif", tmp_path / "turned", Choices(confidence=True), tta="d4")
    confidence = [raster.read(item.files[1])[0].astype(int) for item in (plain, turned)]
    assert np.ptp(confidence[0]) > 50 and abs(confidence[0] - confidence[1]).max() <= 1


def test_where_the_model_states_no_resolution_pixels_stay_and_it_is_said(tmp_path: Path) -> None:
    write_disc(tmp_path / "a.tif", Grid(64, 96, NORTH, DEGREES), (20, 20))
    engine = Light(Card(None))
    done = run(engine, tmp_path / "a.tif", tmp_path / "out")
    assert engine.seen[0].shape == (64, 96, 3) and "shown to the network as they are" in done.notes[0]
    with pytest.raises(LandsegError, match=r"1\.11 m high and 0\.558 m wide, the model was trained at 1 m; resample it"):
        run(Light(), tmp_path / "a.tif", tmp_path / "exact", Choices(exact=True))
    with pytest.raises(LandsegError, match="may differ by a factor of 8"):
        run(Light(Card(8.0)), tmp_path / "a.tif", tmp_path / "far")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 4, 13])
@pytest.mark.parametrize("scale", [(2.0, 0.5), (1.11, 0.557), (0.37, 0.73)])
def test_any_type_and_any_bands_are_stretched(dtype: str, bands: int, scale: tuple[float, float]) -> None:
    values = np.arange(bands) * 7 + 3
    images = np.broadcast_to(values.astype(dtype), (2, 20, 30, bands)).copy()
    engine = Light()
    logits = square_logits(engine, images, scale)
    assert logits.shape == (2, 2, 20, 30) and logits.dtype == np.float32
    shape = round(20 * scale[0]), round(30 * scale[1]), bands
    assert all(image.shape == shape and image.dtype == dtype and np.allclose(image, values, rtol=1e-6) for image in engine.seen)


@pytest.mark.parametrize("scale", [(0.557, 0.25), (1.11, 0.558), (2.3, 0.8)])
def test_a_window_says_the_same_alone_or_among_others_and_on_any_number_of_threads(scale: tuple[float, float]) -> None:
    images = np.random.default_rng(0).integers(0, 60_000, (2, 217, 310, 5)).astype(np.uint16)
    before, found = cv2.getNumThreads(), []
    try:
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            found += [square_logits(Light(), images, scale), np.concatenate([square_logits(Light(), one[None], scale) for one in images])]
    finally:
        cv2.setNumThreads(before)
    assert all((one == found[0]).all() for one in found) and np.ptp(found[0]) > 1
