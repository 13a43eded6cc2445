"""The invented landscape: the same bytes for a seed, truth that agrees with itself, and files that agree with the scenes."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core.errors import LandsegError
from landseg.data import raster, world
from landseg.data.render import SEASONS, Look, cast_shadow
from landseg.data.world import CLASSES, Scene, competition_scenes, make_scene, write_competition, write_scenes, write_tiles


def arrays(scene: Scene) -> list[np.ndarray]:
    return [scene.image, scene.label, scene.truth, scene.parcels, scene.valid]


def scene_with_border() -> Scene:
    return next(scene for scene in (make_scene(seed, 96, 80) for seed in range(60)) if not scene.valid.all())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_seed_gives_the_same_bytes_and_another_seed_another_land() -> None:
    first, again, other = make_scene(7, 128, 160), make_scene(7, 128, 160), make_scene(8, 128, 160)
    assert [a.tobytes() for a in arrays(first)] == [a.tobytes() for a in arrays(again)]
    assert (first.truth != other.truth).mean() > 0.2
    assert (first.image != other.image).mean() > 0.8


def test_a_large_scene_has_every_class_and_gaps_in_its_label() -> None:
    scene = make_scene(3)
    share = np.bincount(scene.truth.ravel(), minlength=5) / scene.truth.size
    assert len(share) == len(CLASSES) == 5
    assert (share > 0.005).all()
    assert share.max() < 0.85
    unlabelled = (scene.label == 255) & scene.valid
    assert 0.02 < unlabelled.mean() < 0.08


@given(seed=st.integers(0, 10_000), height=st.integers(16, 150), width=st.integers(16, 150))
@settings(max_examples=25, deadline=None)
def test_every_scene_agrees_with_itself(seed: int, height: int, width: int) -> None:
    scene = make_scene(seed, height, width)
    assert scene.image.shape == (height, width, 3) and scene.image.dtype == np.uint8
    assert scene.label.dtype == scene.truth.dtype == np.uint8 and scene.parcels.dtype == np.int32
    assert scene.truth.max() < 5
    assert (scene.label[scene.label != 255] == scene.truth[scene.label != 255]).all()
    assert (scene.label[~scene.valid] == 255).all()
    assert (scene.image[~scene.valid] == 0).all()
    assert (scene.image[scene.valid] > 0).all(), "black must mean nodata"
    classes_of = {int(p): np.unique(scene.truth[scene.parcels == p]) for p in np.unique(scene.parcels) if p}
    assert all(len(found) == 1 for found in classes_of.values()), "a parcel has one class"
    assert (scene.parcels[np.isin(scene.truth, (0, 2, 4))] > 0).all(), "buildings, woods and waters are parcels"
    assert (scene.parcels[scene.truth == 3] == 0).all(), "roads are none"


def test_every_wood_and_water_is_one_piece() -> None:
    scene = make_scene(5, 200, 200)
    for code in (2, 4):
        pieces, _ = cv2.connectedComponents((scene.truth == code).astype(np.uint8), connectivity=4)
        assert len(np.unique(scene.parcels[scene.truth == code])) == pieces - 1


def test_some_scenes_lack_a_border_and_most_do_not() -> None:
    scenes = [make_scene(seed, 32, 32) for seed in range(40)]
    lacking = [scene for scene in scenes if not scene.valid.all()]
    assert 3 <= len(lacking) <= 20
    assert all(0.3 < scene.valid.mean() < 1 for scene in lacking)


def test_scenes_lie_at_two_metres_in_one_zone_and_do_not_overlap() -> None:
    grids = [make_scene(seed, 48, 64).grid for seed in (*range(6), 31, 32, 33, 12_799)]
    boxes = []
    for grid in grids:
        assert grid.crs is not None and grid.crs.to_epsg() == 32650
        assert (grid.transform.a, grid.transform.e) == (2.0, -2.0)
        left, top = grid.transform @ (0, 0)
        # The largest scene at this place, not this one: any sizes must do.
        right, bottom = left + 2 * world.LARGEST, top - 2 * world.LARGEST
        assert left > 166_000 and right < 834_000 and bottom >= 0 and top < 9_300_000, "within UTM zone 50 north"
        boxes.append((left, bottom, right, top))
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_the_look_changes_the_picture_and_not_the_land() -> None:
    looks = [Look(season=season) for season in SEASONS] + [Look(haze=0.4), Look(sun_azimuth_deg=230, sun_elevation_deg=25)]
    scenes = [make_scene(11, 96, 96, look=look) for look in looks]
    for i, scene in enumerate(scenes[1:], 1):
        assert (scene.truth == scenes[0].truth).all() and (scene.parcels == scenes[0].parcels).all()
        for before in scenes[:i]:
            assert np.abs(scene.image.astype(int) - before.image).mean() > 3
    assert scenes[4].image.std() < scenes[1].image.std(), "haze takes contrast"


def test_colour_alone_does_not_tell_the_classes() -> None:
    train, test = [[make_scene(seed, 256, 256) for seed in seeds] for seeds in (range(20, 26), range(40, 43))]
    votes = np.zeros((4096, 5))
    for scene in train:
        np.add.at(votes, (colour_of(scene), scene.truth[scene.valid]), 1)
    right = np.concatenate([votes.argmax(1)[colour_of(scene)] == scene.truth[scene.valid] for scene in test])
    assert 0.35 < right.mean() < 0.85


def colour_of(scene: Scene) -> np.ndarray:
    red, green, blue = np.moveaxis(scene.image[scene.valid].astype(np.int64) >> 4, 1, 0)
    return np.asarray(red * 256 + green * 16 + blue)


def test_a_shadow_lies_away_from_the_sun_and_is_as_long_as_the_sun_is_low() -> None:
    tops = np.zeros((60, 60), np.uint8)
    tops[28:32, 28:32] = 50  # ten metres
    south = np.array([0.0, 1.0])  # towards the sun, y downwards
    high, low = cast_shadow(tops, south, 60.0), cast_shadow(tops, south, 30.0)
    assert high[26:28, 29:31].min() > 100 and high[:24].max() == 0 and high[33:].max() == 0
    assert (high > 60).sum() < (low > 60).sum()
    reach = 28 - np.flatnonzero(low[:, 30] > 60).min()
    assert abs(reach - 10 / np.tan(np.radians(30)) / 2) <= 1.5


@pytest.mark.parametrize(("seed", "height", "width"), [(-1, 64, 64), (1, 8, 64), (1, 64, world.LARGEST + 1)])
def test_what_cannot_be_invented_is_refused(seed: int, height: int, width: int) -> None:
    with pytest.raises(LandsegError):
        make_scene(seed, height, width)


def test_scenes_on_disk_carry_place_palette_and_names(tmp_path: Path) -> None:
    paths = write_scenes(tmp_path / "a", 2, 3, 64, 96)
    assert [path.name for path in paths] == ["scene_000.tif", "scene_001.tif", "scene_002.tif"]
    corners = set()
    for path in paths:
        image, grid, valid = raster.read(path)
        label, label_grid, labelled = raster.read(path.with_name(f"{path.stem}_label.tif"))
        assert image.shape == (64, 96, 3) and label.shape == (64, 96, 1)
        assert grid == label_grid and grid.crs is not None and grid.crs.to_epsg() == 32650 and grid.transform.a == 2
        assert (labelled == (label[:, :, 0] != 255)).all() and not (labelled & ~valid).any()
        corners.add((grid.transform.c, grid.transform.f))
    assert len(corners) == 3
    write_scenes(tmp_path / "b", 2, 3, 64, 96)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_competition_is_anonymous_and_puts_together_again(tmp_path: Path) -> None:
    made = write_competition(tmp_path / "a", 4, train_scenes=2, test_scenes=1, height=150, width=128, tile=32)
    with (made.truth / "tiles.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    places = {row["tile"]: (row["scene"], int(row["row"]), int(row["col"])) for row in rows}
    assert len(places) == len(rows) == 3 * 16 + 16, "an unlabelled scene is added"
    scenes = {scene.name: (part, scene) for part, scene in competition_scenes(4, train_scenes=2, test_scenes=1, height=150, width=128)}
    with zipfile.ZipFile(made.train_zip) as train, zipfile.ZipFile(made.test_zip) as test:
        assert train.namelist() == sorted(train.namelist())
        assert {info.date_time for info in train.infolist() + test.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        images = {
            Path(name).stem: train.read(name) for name in train.namelist() if name.startswith("img_train/T") and name.endswith(".jpg")
        }
        labels = {
            Path(name).stem: train.read(name) for name in train.namelist() if name.startswith("lab_train/T") and name.endswith(".png")
        }
        assert images.keys() == labels.keys() == {f"T{i:06d}" for i in range(1, 49)} and len(train.namelist()) == 96
        tests = {Path(name).stem: test.read(name) for name in test.namelist()}
        assert set(test.namelist()) == {f"img_test/{i}.jpg" for i in range(1, 17)}
    truths = {path.stem: path.read_bytes() for path in made.truth.glob("*.png")}
    assert truths.keys() == tests.keys()
    whole = {name: np.full((128, 128), 77, np.uint8) for name in scenes}
    for stem, data in (labels | truths).items():
        name, row, col = places[stem]
        whole[name][row : row + 32, col : col + 32] = decoded(data)
        image = decoded((images | tests)[stem])
        original = scenes[name][1].image[row : row + 32, col : col + 32, ::-1]
        assert image.shape == (32, 32, 3) and np.abs(image.astype(int) - original).mean() < 14, "the picture of that place, but for JPEG"
    for name, (part, scene) in scenes.items():
        expected = scene.label if part == "train" else np.where(scene.valid, scene.truth, 255)
        assert (whole[name] == expected[:128]).all()
    assert [name for name, (_, scene) in scenes.items() if (scene.label == 255).all()] == ["train_002"]
    order = [places[f"T{i:06d}"] for i in range(1, 49)]
    assert order != sorted(order), "the numbers do not give the places away"
    write_competition(tmp_path / "b", 4, train_scenes=2, test_scenes=1, height=150, width=128, tile=32)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_tile_larger_than_its_scene_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LandsegError, match="tile: 128 pixels"):
        write_competition(tmp_path, 1, height=64, width=64, tile=128)


@pytest.mark.parametrize(
    ("bands", "dtype", "suffix"),
    [
        (3, "uint8", ".png"),
        (1, "uint8", ".png"),
        (3, "uint16", ".png"),
        (4, "uint8", ".npy"),
        (5, "uint16", ".npy"),
        (3, "float32", ".npy"),
        (2, "float32", ".npy"),
    ],
)
def test_tiles_of_any_bands_and_depth(tmp_path: Path, bands: int, dtype: str, suffix: str) -> None:
    folder = write_tiles(tmp_path, 1, 18, tile=24, bands=bands, dtype=dtype)
    images, labels = sorted((folder / "images").iterdir()), sorted((folder / "labels").iterdir())
    assert [path.name for path in images] == [f"tile_{i:04d}{suffix}" for i in range(18)]
    assert [path.stem for path in labels] == [path.stem for path in images]
    pixels = [np.load(path) if suffix == ".npy" else decoded(path.read_bytes()) for path in images]
    assert {array.dtype for array in pixels} == {np.dtype(dtype)}
    assert {array.shape for array in pixels} == {(24, 24) if bands == 1 else (24, 24, bands)}
    assert max(float(array.max()) for array in pixels) <= {"uint8": 255, "uint16": 4095, "float32": 1.0}[dtype]
    ids = np.unique([decoded(path.read_bytes()) for path in labels])
    assert set(ids.tolist()) <= {0, 1, 2, 3, 4, 255} and len(ids) >= 4


def test_near_infrared_shines_on_plants_and_sinks_in_water(tmp_path: Path) -> None:
    folder = write_tiles(tmp_path, 3, 32, bands=4)
    names = sorted(path.stem for path in (folder / "images").iterdir())
    infrared = np.stack([np.load(folder / "images" / f"{name}.npy")[:, :, 3] for name in names])
    labels = np.stack([decoded((folder / "labels" / f"{name}.png").read_bytes()) for name in names])
    assert infrared[labels == 2].mean() > 1.1 * infrared[labels == 3].mean()
    assert infrared[labels == 4].mean() < 0.35 * infrared[labels == 2].mean()


def test_tiles_of_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LandsegError):
        write_tiles(tmp_path, 1, 1, dtype="float64")


def test_a_border_without_data_is_missing_in_the_raster_too(tmp_path: Path) -> None:
    scene = scene_with_border()
    path = raster.write(tmp_path / "scene.tif", scene.image, scene.grid, nodata=0)
    _, _, valid = raster.read(path)
    assert (valid == scene.valid).all()


def decoded(data: bytes) -> np.ndarray:
    assert data[:2] in (b"\xff\xd8", b"\x89P")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image)
