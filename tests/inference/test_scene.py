"""A scene's map equals the truth that a stand-in engine reads out of it; its bytes depend on scene, model and settings alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import cv2
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from landseg.core.classes import LandClass, make_classes
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid
from landseg.data import raster
from landseg.data.cog import Strips
from landseg.inference import plan as planning
from landseg.inference import scenes
from landseg.inference.folder import BEGUN
from landseg.inference.plan import Choices
from landseg.inference.scenes import SceneMap, is_scene, predict_scenes, stem_of

CLASSES = make_classes(["building 建筑", "road", "water"])
UTM = CRS.from_epsg(32633)
PLACE = Affine(2.0, 0, 500_000, 0, -2.0, 5_000_000)


REAL_SHEET = scenes.draw_sheet


@pytest.fixture(scope="module", autouse=True)
def no_sheets() -> Iterator[None]:
    """Pictures take longer than all else; one test draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "draw_sheet", lambda path, picture, *_: path.write_bytes(picture.tobytes()))
        yield


@dataclass
class Card:
    """What prediction reads of a model card."""

    classes: tuple[LandClass, ...] = CLASSES
    bands: tuple[str, ...] = ("red", "green", "blue")
    dtype: str = "uint8"
    tile_size: tuple[int, int] = (32, 32)
    factor: float = 1.0
    resolution_m: float | None = None
    scaling: tuple[tuple[float, float], ...] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.classes)


@dataclass
class Reader:
    """An engine whose classes stand in the image: the first band modulo the number of classes."""

    card: Card = field(default_factory=Card)
    runtime: str = "stand-in 1"
    lanes: int = 1
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    scales: set[float] = field(default_factory=set)
    stop_after: int = 10**9
    calls: int = 0

    def logits(self, images: np.ndarray, scale: float = 1.0) -> np.ndarray:
        self.shapes.add(images.shape)
        self.scales.add(scale)
        self.calls += 1
        if self.calls > self.stop_after:
            raise KeyboardInterrupt
        return self.score(images)

    def score(self, images: np.ndarray) -> np.ndarray:
        count = len(self.card.classes)
        truth = images[..., 0] % count
        return np.where(truth[:, None] == np.arange(count)[None, :, None, None], 4.0, -1.0).astype(np.float32)


class Blur(Reader):
    """An engine whose logits differ from window to window at the same pixel, as those of a network do."""

    def score(self, images: np.ndarray) -> np.ndarray:
        seen = images.astype(np.float32).mean(-1)
        wide = np.stack([cv2.GaussianBlur(one, (0, 0), 9, borderType=cv2.BORDER_CONSTANT) for one in seen])
        near = np.stack([cv2.GaussianBlur(one, (0, 0), 2, borderType=cv2.BORDER_CONSTANT) for one in seen])
        return np.stack([seen - wide, near - seen, (wide - near) * 2], 1) / 9


def make_scene(path: Path, height: int, width: int, *, seed: int = 0, nodata: float | None = None, grid: Grid | None = None) -> np.ndarray:
    """A scene of random values; with `nodata` a third of it, in one piece, is that."""
    image = np.random.default_rng(seed).integers(1, 255, (height, width, 3), dtype=np.uint8)
    if nodata is not None:
        image[: height // 2, : 2 * width // 3] = nodata
    raster.write(path, image, grid or Grid(height, width, PLACE, UTM), nodata=nodata)
    return image


def run(engine: Reader, path: Path, out: Path, choices: Choices | None = None, **options: object) -> SceneMap:
    choices = choices or Choices(window=64)
    return predict_scenes(engine, [str(path)], out, choices, **({"fingerprint": "abc"} | options))[0]  # type: ignore[arg-type]


def read(path: Path) -> np.ndarray:
    return raster.read(path)[0]


def every_byte(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_the_identity_gives_back_the_labels(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("identity")
    height, width = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 150))
    truth = make_scene(folder / "a.tif", height, width, seed=data.draw(st.integers(0, 9)))[..., 0] % 3
    engine = Reader()
    choices = Choices(overlap=data.draw(st.floats(0, 0.75)), window=data.draw(st.integers(32, 100)))
    tta, step, workers = data.draw(st.sampled_from(["none", "d4", "scales"])), data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    done = run(engine, folder / "a.tif", folder / "out", choices, tta=tta, step=step, workers=workers)
    assert (read(done.files[0])[..., 0] == truth).all()
    assert len({shape[0] for shape in engine.shapes}) == 1 and len({tuple(sorted(shape[1:3])) for shape in engine.shapes}) == 1


def test_a_map_is_a_cog_with_all_that_a_reader_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "draw_sheet", REAL_SHEET)
    image = make_scene(tmp_path / "农田 1.tif", 700, 900, nodata=0)
    done = run(Reader(), tmp_path / "农田 1.tif", tmp_path / "out", Choices(confidence=True, probabilities=True), overlay=True)
    names = ["classes.tif", "confidence.tif", "probabilities.tif", "classes.qml", "map.png", "overlay.png"]
    assert [path.name for path in done.files] == [f"农田 1_{name}" for name in names]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in done.files} | {"农田 1_classes.tif.aux.xml"}
    valid = (image != 0).any(-1)
    with rasterio.open(done.files[0]) as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and dataset.overviews(1) == [2]
        assert (dataset.dtypes, dataset.nodata, dataset.crs, dataset.transform) == (("uint8",), 255, UTM, PLACE)
        assert [dataset.colormap(1)[item.id][:3] for item in CLASSES] == [item.rgb for item in CLASSES]
        assert dataset.tags(1) == {f"class_{item.id}": item.name for item in CLASSES}
        tags = {key: value for key, value in dataset.tags().items() if key.startswith("LANDSEG_")}
        assert (dataset.read(1) == np.where(valid, image[..., 0] % 3, 255)).all()
    assert tags["LANDSEG_MODEL"] == "abc" and not any(str(tmp_path) in value for value in tags.values())
    assert "<Category>building 建筑</Category>" in (tmp_path / "out" / "农田 1_classes.tif.aux.xml").read_text(encoding="utf-8")
    share = np.exp(4) / (np.exp(4) + 2 * np.exp(-1))
    assert (read(done.files[1])[..., 0] == np.where(valid, round(200 * share), 255)).all()
    with rasterio.open(done.files[2]) as dataset:
        probs = dataset.read().astype(int)
        assert dataset.descriptions == tuple(item.name for item in CLASSES) and dataset.nodata == 255
    assert (probs[:, ~valid] == 255).all() and (abs(probs[:, valid].sum(0) - 200) <= 2).all()
    style = done.files[3].read_text(encoding="utf-8")
    assert all(f'value="{item.id}" color="{item.colour}" alpha="255" label="{item.name}"' in style for item in CLASSES)
    sheet, overlay = (cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in done.files[4:])
    assert sheet.shape == overlay.shape and min(sheet.shape[:2]) > 700
    assert all((sheet == item.rgb).all(-1).sum() > 30_000 for item in CLASSES) and (sheet != overlay).any()


def test_the_table_measures_the_ground(tmp_path: Path) -> None:
    image = make_scene(tmp_path / "a.tif", 130, 70, nodata=0)
    done = run(Reader(), tmp_path / "a.tif", tmp_path / "out")
    ids = np.where((image != 0).any(-1), image[..., 0] % 3, 255)
    assert [item.pixels for item in done.classes] == [int((ids == k).sum()) for k in range(3)]
    assert done.nodata == int((ids == 255).sum()) and done.pixels == ids.size
    for item in done.classes:  # UTM's scale on the central meridian is 0.9996 along either axis
        assert item.area_ha == pytest.approx(item.pixels * 4e-4 / 0.9996**2, rel=1e-5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A scene, and every byte of its maps by an engine to which windows matter."""
    folder = tmp_path_factory.mktemp("made")
    make_scene(folder / "a.tif", 200, 310, nodata=0)
    run(Blur(), folder / "a.tif", folder / "out", ALL)
    return folder / "a.tif", every_byte(folder / "out")


ALL = Choices(window=64, confidence=True, probabilities=True)


@pytest.mark.parametrize("options", [{"workers": 3}, {"workers": 1, "step": 1}], ids=str)
def test_bytes_do_not_depend_on_workers(tmp_path: Path, made: tuple[Path, dict[str, bytes]], options: dict[str, int]) -> None:
    scene, wanted = made
    run(Blur(), scene, tmp_path / "out", ALL, **options)
    assert every_byte(tmp_path / "out") == wanted


@pytest.mark.parametrize("cells", [1, 8, 10**9])
def test_bytes_do_not_depend_on_what_is_read_at_once(
    tmp_path: Path, made: tuple[Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, cells: int
) -> None:
    scene, wanted = made
    monkeypatch.setattr("landseg.inference.scene._CHUNK_BYTES", cells * 64 * 64 * 3)
    monkeypatch.setattr("landseg.inference.blend.CARRIED_BYTES", 0 if cells == 8 else 10**9)
    run(Blur(), scene, tmp_path / "out", ALL)
    assert every_byte(tmp_path / "out") == wanted


@pytest.mark.parametrize("kills", [[0], [3], [19], [11, 3, 9, 8]], ids=str)
def test_a_killed_prediction_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, made: tuple[Path, dict[str, bytes]], kills: list[int]
) -> None:
    scene, wanted = made
    for stop_after in kills:
        with pytest.raises(KeyboardInterrupt):
            run(Blur(stop_after=stop_after), scene, tmp_path / "out", ALL, workers=1)
        assert not [path for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")]
    strips = len(list((tmp_path / "out" / ".a.predicting").glob("classes-*.tif")))
    engine = Blur()
    done = run(engine, scene, tmp_path / "out", ALL, workers=1)
    assert every_byte(tmp_path / "out") == wanted
    assert done.is_resumed == (strips > 0)
    if kills == [19]:
        assert strips and engine.calls < 24, "finished strips are not predicted again"


def test_strips_lost_in_any_order_are_made_again(tmp_path: Path, made: tuple[Path, dict[str, bytes]]) -> None:
    scene, wanted = made
    with pytest.raises(KeyboardInterrupt):
        run(Blur(stop_after=23), scene, tmp_path / "out", ALL, workers=1)
    work = tmp_path / "out" / ".a.predicting"
    (work / "classes-00001.tif").unlink()
    (work / "confidence-00002.tif").unlink()
    (work / ".probabilities-00003.tif.17.partial").write_bytes(b"half")
    run(Blur(), scene, tmp_path / "out", ALL)
    assert every_byte(tmp_path / "out") == wanted


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_a_part_is_the_crop_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[Path, dict[str, bytes]], data: st.DataObject
) -> None:
    scene, wanted = made
    folder = tmp_path_factory.mktemp("part")
    for name in ("classes", "confidence", "probabilities"):
        (folder / f"{name}.tif").write_bytes(wanted[f"a_{name}.tif"])
    row, col = data.draw(st.integers(0, 199)), data.draw(st.integers(0, 309))
    end_row, end_col = data.draw(st.integers(row + 1, 200)), data.draw(st.integers(col + 1, 310))
    left, top = PLACE @ (col, row)
    right, bottom = PLACE @ (end_col, end_row)
    engine = Blur()
    done = run(engine, scene, folder / "out", Choices(window=64, confidence=True, probabilities=True, bounds=(left, bottom, right, top)))
    for name, path in zip(("classes", "confidence", "probabilities"), done.files, strict=False):
        found, grid, _ = raster.read(path)
        assert (found == read(folder / f"{name}.tif")[row:end_row, col:end_col]).all()
        assert grid.transform.almost_equals(PLACE @ Affine.translation(col, row))
    assert engine.calls <= 4 * ((end_row - row) // 44 + 2) * ((end_col - col) // 49 + 2)


def test_what_lies_under_nodata_changes_nothing_and_is_not_predicted(tmp_path: Path) -> None:
    engine = Blur()
    for value in (0, 255):
        image = np.random.default_rng(0).integers(1, 255, (200, 300, 3), dtype=np.uint8)
        image[:150, :260] = value
        raster.write(tmp_path / str(value) / "a.tif", image, Grid(200, 300, PLACE, UTM), nodata=value)
        done = run(engine, tmp_path / str(value) / "a.tif", tmp_path / f"out{value}")
        assert (read(done.files[0])[:150, :260] == 255).all()
    assert every_byte(tmp_path / "out0") == every_byte(tmp_path / "out255")
    assert engine.calls < 2 * 24


def test_a_scene_without_a_valid_pixel(tmp_path: Path) -> None:
    raster.write(tmp_path / "a.tif", np.zeros((90, 70, 3), np.uint8), Grid(90, 70, PLACE, UTM), nodata=0)
    engine = Reader()
    done = run(engine, tmp_path / "a.tif", tmp_path / "out", overlay=True)
    assert engine.calls == 0 and (read(done.files[0]) == 255).all() and done.nodata == 90 * 70


@pytest.mark.parametrize(
    "transform",
    [Affine(2, 0, 5e5, 0, 2, 5e6), Affine(1.5, 0.6, 5e5, 0.6, -1.5, 5e6), Affine.identity()],
    ids=["south-up", "rotated", "nowhere"],
)
def test_other_transforms_are_kept(tmp_path: Path, transform: Affine) -> None:
    crs = None if transform.is_identity else UTM
    image = make_scene(tmp_path / "a.tif", 80, 120, grid=Grid(80, 120, transform, crs))
    done = run(Reader(), tmp_path / "a.tif", tmp_path / "out", overlay=True)
    found, grid, _ = raster.read(done.files[0])
    assert (found[..., 0] == image[..., 0] % 3).all()
    assert (grid.transform, grid.crs) == (transform, crs)
    assert all((item.area_ha is None) == (crs is None) for item in done.classes)
    if crs is not None:
        (x0, y0), (x1, y1) = transform @ (40, 20), transform @ (60, 50)
        bounds = min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
        part = run(Reader(), tmp_path / "a.tif", tmp_path / "part", Choices(window=64, bounds=bounds))
        found, grid, _ = raster.read(part.files[0])
        col, row = ~transform @ (grid.transform.c, grid.transform.f)
        assert (round(row) <= 20, round(col) <= 40) == (True, True)
        rows, cols = slice(round(row), round(row) + grid.height), slice(round(col), round(col) + grid.width)
        assert (found[..., 0] == image[rows, cols, 0] % 3).all() and found.shape[0] >= 30 and found.shape[1] >= 20


@pytest.mark.parametrize(("own", "scale", "window"), [(0.5, 0.25, 2048), (2.1, 1.0, 512), (8.0, 4.0, 128)])
def test_another_resolution_is_resampled_for_the_network(tmp_path: Path, own: float, scale: float, window: int) -> None:
    make_scene(tmp_path / "a.tif", 40, 50, grid=Grid(40, 50, Affine(own, 0, 5e5, 0, -own, 5e6), UTM))
    engine = Reader(Card(resolution_m=2.0))
    done = run(engine, tmp_path / "a.tif", tmp_path / "out", Choices())
    assert engine.scales == {scale} and raster.read(done.files[0])[1].shape == (40, 50)
    assert len(done.notes) == (scale != 1) and all(f"{own:.3g} m a pixel" in note for note in done.notes)
    with raster.open_scene(tmp_path / "a.tif") as scene:
        assert planning.plan_scene(scene, engine.card, Choices()).rows.edge == window  # type: ignore[arg-type]


def test_bands_are_taken_by_name_where_they_have_them(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(1, 255, (40, 50, 3), dtype=np.uint8)
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=40, width=50, count=3, dtype="uint8", transform=PLACE, crs=UTM
    ) as dataset:
        dataset.write(np.moveaxis(image, 2, 0))
        dataset.descriptions = ("blue", "green", "red")
    done = run(Reader(), tmp_path / "a.tif", tmp_path / "out")
    assert (read(done.files[0])[..., 0] == image[..., 2] % 3).all() and "by name" in done.notes[0]
    done = run(Reader(), tmp_path / "a.tif", tmp_path / "chosen", Choices(bands=(2, 2, 1)))
    assert (read(done.files[0])[..., 0] == image[..., 1] % 3).all() and not done.notes
    done = run(Reader(), tmp_path / "a.tif", tmp_path / "named", Choices(bands=("green", 1, "RED")))
    assert (read(done.files[0])[..., 0] == image[..., 1] % 3).all() and done.notes == ("bands 2, 1, 3 are green, 1, RED",)
    done = run(Reader(Card(bands=("red", "blue"))), tmp_path / "a.tif", tmp_path / "fewer")
    assert (read(done.files[0])[..., 0] == image[..., 2] % 3).all() and "bands 3, 1 of 3 are taken by name for the model's" in done.notes[0]


def test_bands_are_taken_by_wavelength_where_the_model_was_trained_on_such(tmp_path: Path) -> None:
    image = make_scene(tmp_path / "a.tif", 40, 50)
    with rasterio.open(tmp_path / "a.tif", "r+") as dataset:
        for number, centre in enumerate((0.4924, 0.6646, 0.8328), 1):
            dataset.update_tags(number, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=centre)
    done = run(Reader(Card(bands=("833nm", "665nm"))), tmp_path / "a.tif", tmp_path / "out")
    assert (read(done.files[0])[..., 0] == image[..., 2] % 3).all() and "bands 3, 2 of 3" in done.notes[0]
    with pytest.raises(LandsegError, match="3 bands, the model was trained on 1 "):
        run(Reader(Card(bands=("1610nm",))), tmp_path / "a.tif", tmp_path / "far")


def test_ground_control_points_alone_place_a_map(tmp_path: Path) -> None:
    image = make_scene(tmp_path / "a.tif", 40, 50, grid=Grid(40, 50))
    points = [GroundControlPoint(row, col, *(PLACE @ (col, row))) for row, col in ((0, 0), (0, 50), (40, 0), (40, 50))]
    with rasterio.open(tmp_path / "a.tif", "r+") as dataset:
        dataset.gcps = points, UTM
    assert is_scene(str(tmp_path / "a.tif"))
    engine = Reader(Card(resolution_m=4.0))
    done = run(engine, tmp_path / "a.tif", tmp_path / "out")
    found, grid, _ = raster.read(done.files[0])
    assert (found[..., 0] == image[..., 0] % 3).all() and engine.scales == {0.5}
    assert grid.crs == UTM and grid.transform.almost_equals(PLACE, precision=1e-6) and done.classes[0].area_ha


@pytest.mark.parametrize("stated", [True, False])
def test_nan_is_nodata_stated_or_not(tmp_path: Path, stated: bool) -> None:
    image = make_scene(tmp_path / "b.tif", 40, 50).astype(np.float32)
    image[:10, :20, 1] = np.nan
    raster.write(tmp_path / "a.tif", image, Grid(40, 50, PLACE, UTM), nodata=np.nan if stated else None)
    done = run(Reader(Card(dtype="float32")), tmp_path / "a.tif", tmp_path / "out", overlay=True)
    wanted = np.where(np.isnan(image[..., 1]), 255, image[..., 0] % 3)
    assert (read(done.files[0])[..., 0] == wanted).all() and done.nodata == 200


def test_an_alpha_band_of_16_bits_is_validity(tmp_path: Path) -> None:
    image = make_scene(tmp_path / "b.tif", 40, 50).astype(np.uint16)
    alpha = np.full((40, 50), 65535, np.uint16)
    alpha[:10], alpha[10:20] = 0, 200  # GDAL's own mask would make 200 of 65535 nothing
    profile = {"driver": "GTiff", "height": 40, "width": 50, "count": 4, "dtype": "uint16", "transform": PLACE, "crs": UTM}
    with rasterio.open(tmp_path / "a.tif", "w", photometric="rgb", alpha="yes", **profile) as dataset:
        dataset.write(np.concatenate([np.moveaxis(image, 2, 0), alpha[None]]))
    done = run(Reader(Card(dtype="uint16")), tmp_path / "a.tif", tmp_path / "out")
    assert (read(done.files[0])[..., 0] == np.where(alpha == 0, 255, image[..., 0] % 3)).all()


BESIDE = (0.0, 0.0, 10.0, 10.0)


@pytest.mark.parametrize(
    ("card", "choices", "words"),
    [
        (
            Card(bands=("red", "nir")),
            Choices(),
            r"3 bands, the model was trained on 2 \(red, nir\); choose them with --set predict.bands=\[1,2\]",
        ),
        (Card(bands=tuple("abcd")), Choices(), "3 bands, the model was trained on 4"),
        (Card(), Choices(bands=(1, 2, 7)), "no band 7, one of 1 red, 2 green, 3 blue; mend predict.bands"),
        (Card(), Choices(bands=(1, 2)), "trained on 3 bands"),
        (Card(dtype="uint16"), Choices(), "uint8 pixels, the model was trained on uint16"),
        (Card(resolution_m=4.0), Choices(exact=True), "2 m a pixel, the model was trained at 4 m"),
        (Card(resolution_m=40.0), Choices(), "may differ by a factor of 8"),
        (Card(), Choices(bounds=BESIDE), "nothing of .* lies in them, some of its own, 500000 4999920 500100 5000000"),
        (Card(), Choices(bounds=(9.0, 0.0, 1.0, 5.0)), "left bottom right top"),
        (Card(), Choices(overlap=0.9), "predict.overlap"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path, card: Card, choices: Choices, words: str) -> None:
    make_scene(tmp_path / "a.tif", 40, 50)
    with pytest.raises(LandsegError, match=words):
        run(Reader(card), tmp_path / "a.tif", tmp_path / "out", choices)
    assert not (tmp_path / "out").exists()


def test_a_damaged_scene_and_a_network_without_numbers_are_named(tmp_path: Path) -> None:
    make_scene(tmp_path / "a.tif", 200, 300)
    broken = Blur()
    broken.score = lambda images: np.full((len(images), 3, *images.shape[1:3]), np.nan, np.float32)  # type: ignore[method-assign]
    with pytest.raises(LandsegError, match="no finite number"):
        run(broken, tmp_path / "a.tif", tmp_path / "out")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    (tmp_path / "b.tif").write_bytes(data)
    with pytest.raises(LandsegError, match=r"b\.tif: "):
        run(Reader(), tmp_path / "b.tif", tmp_path / "other")


def test_an_output_that_exists_is_kept(tmp_path: Path) -> None:
    make_scene(tmp_path / "a.tif", 40, 50)
    make_scene(tmp_path / "b.tif", 40, 50, seed=1)
    run(Reader(), tmp_path / "a.tif", tmp_path / "out", Choices(window=64, confidence=True))
    before = every_byte(tmp_path / "out")
    with pytest.raises(LandsegError, match="it exists already"):
        run(Reader(), tmp_path / "a.tif", tmp_path / "out", Choices(window=64, confidence=True))
    run(Reader(), tmp_path / "b.tif", tmp_path / "out")
    assert before.items() <= every_byte(tmp_path / "out").items(), "another scene's maps lie beside"
    run(Reader(), tmp_path / "a.tif", tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "a_confidence.tif").exists(), "nothing old lies beside the new map"


def test_another_prediction_is_not_gone_on_with(tmp_path: Path) -> None:
    make_scene(tmp_path / "a.tif", 200, 300)
    with pytest.raises(KeyboardInterrupt):
        run(Blur(stop_after=9), tmp_path / "a.tif", tmp_path / "out", workers=1)
    kept = (tmp_path / "out" / BEGUN).read_bytes()
    for options in ({"fingerprint": "another"}, {"tta": "d4"}, {"choices": Choices(window=96)}, {"overlay": True}):
        with pytest.raises(LandsegError, match="was begun there"):
            run(Reader(), tmp_path / "a.tif", tmp_path / "out", **options)  # type: ignore[arg-type]
    make_scene(tmp_path / "a.tif", 200, 300, seed=3)
    with pytest.raises(LandsegError, match="was begun there"):
        run(Reader(), tmp_path / "a.tif", tmp_path / "out")
    assert (tmp_path / "out" / BEGUN).read_bytes() == kept
    done = run(Reader(), tmp_path / "a.tif", tmp_path / "out", overwrite=True)
    assert not done.is_resumed and not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tiles" / BEGUN).write_text(json.dumps({"tiles": ["1"]}))
    with pytest.raises(LandsegError, match="was begun there"):
        run(Reader(), tmp_path / "a.tif", tmp_path / "tiles", overwrite=True)


def test_a_kill_while_the_files_are_put_together_loses_nothing(
    tmp_path: Path, made: tuple[Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, wanted = made
    for place in ("raster_style", "draw_sheet", "shutil.rmtree"):

        def killed(*given: object, **_: object) -> None:
            if not (isinstance(given[0], Path) and given[0].suffix == ".predicting") or given[0].exists():
                raise KeyboardInterrupt
            raise FileNotFoundError

        with monkeypatch.context() as patch:
            patch.setattr(f"landseg.inference.scenes.{place}", killed)
            with pytest.raises(KeyboardInterrupt):
                run(Blur(), scene, tmp_path / place, ALL)
        engine = Blur()
        assert run(engine, scene, tmp_path / place, ALL).is_resumed and engine.calls == 0
        assert every_byte(tmp_path / place) == wanted


def test_the_class_map_takes_its_place_last_though_it_is_made_first(
    tmp_path: Path, made: tuple[Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever finds it finds its confidences and probabilities: parcels are made of what lies there."""
    scene, wanted = made
    finish, is_made, found = Strips.finish, Event(), list[bool]()

    def waiting(layer: Strips, path: Path, **how: object) -> None:
        if "palette" in how:
            finish(layer, path, **how)  # type: ignore[arg-type]
            is_made.set()
        else:
            assert is_made.wait(30), "files are made at the same time"
            found.append((tmp_path / "out" / "a_classes.tif").exists())
            finish(layer, path, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Strips, "finish", waiting)
    run(Blur(), scene, tmp_path / "out", ALL)
    assert found == [False, False]
    assert every_byte(tmp_path / "out") == wanted


@pytest.mark.parametrize(("last", "placed"), [("confidence", 1), ("classes", 3)])
def test_a_kill_while_files_are_moved_leaves_no_class_map_without_what_belongs_to_it(
    tmp_path: Path, made: tuple[Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, last: str, placed: int
) -> None:
    scene, wanted = made
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target).name == f"a_{last}.tif":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run(Blur(), scene, tmp_path / "out", ALL)
    assert sorted(path.name for path in (tmp_path / "out").glob("a_*")) == sorted(
        ["a_probabilities.tif", "a_confidence.tif", "a_classes.tif.aux.xml"][:placed]
    )
    engine = Blur()
    assert run(engine, scene, tmp_path / "out", ALL).is_resumed and engine.calls == 0
    assert every_byte(tmp_path / "out") == wanted


def test_of_several_scenes_the_finished_stay(tmp_path: Path) -> None:
    for i, name in enumerate("ab"):
        make_scene(tmp_path / f"{name}.tif", 100, 130, seed=i)
    sources = [str(tmp_path / f"{name}.tif") for name in "ab"]
    with pytest.raises(KeyboardInterrupt):
        predict_scenes(Reader(stop_after=9), sources, tmp_path / "out", Choices(window=64), workers=1)  # type: ignore[arg-type]
    first = (tmp_path / "out" / "a_classes.tif").stat().st_mtime_ns
    engine = Reader()
    maps = predict_scenes(engine, sources, tmp_path / "out", Choices(window=64))  # type: ignore[arg-type]
    assert [item.is_resumed for item in maps] == [True, maps[1].is_resumed] and engine.calls <= 6
    assert (tmp_path / "out" / "a_classes.tif").stat().st_mtime_ns == first
    assert all((read(item.files[0])[..., 0] == read(Path(item.source))[..., 0] % 3).all() for item in maps)
    shutil.copy(sources[0], tmp_path / "out" / "a.tif")
    with pytest.raises(LandsegError, match="the same name"):
        predict_scenes(engine, [sources[0], str(tmp_path / "out" / "a.tif")], tmp_path / "new", Choices())  # type: ignore[arg-type]


def test_what_is_a_scene(tmp_path: Path) -> None:
    make_scene(tmp_path / "a.tif", 8, 8)
    make_scene(tmp_path / "plain.tif", 8, 8, grid=Grid(8, 8))
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "broken.tif").write_bytes(b"II*\0 and nothing more")
    np.save(tmp_path / "x.npy", np.zeros((4, 4)))
    given = {name: is_scene(str(tmp_path / name)) for name in ("a.tif", "plain.tif", "photo.jpg", "broken.tif", "x.npy", "gone.tif", "")}
    assert given == {
        "a.tif": True,
        "plain.tif": False,
        "photo.jpg": False,
        "broken.tif": False,
        "x.npy": False,
        "gone.tif": False,
        "": False,
    }
    assert all(is_scene(name) for name in ("https://host/a.tif", "/vsis3/bucket/a.tif", "mosaic.VRT", "s3://bucket/a.tif"))
    assert [stem_of(name) for name in ("https://host/x/a.b.tif?key=1", "/vsizip//z.zip/c.tif", "农 田.tif")] == ["a.b", "c", "农 田"]
