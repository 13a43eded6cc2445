"""A synthetic landscape with exact truth: scenes, and the files that hold them. It decides neither what lies where nor how it looks.

`terrain` lays a scene out, `render` paints it; here it gets a place on earth, gaps in its labels, missing borders, and file formats. The
same seed gives the same bytes. Land cover is complete: gardens and grass count as farmland, single trees and hedges as forest, sealed
yards as road.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from affine import Affine
from rasterio.crs import CRS

from landseg.core.classes import IGNORE_INDEX, palette
from landseg.core.errors import LandsegError
from landseg.core.files import replacing, write_bytes, write_text
from landseg.core.grid import Grid, Window
from landseg.data import raster
from landseg.data.render import PIXEL_M, Look, render
from landseg.data.spoil import spoil
from landseg.data.terrain import CLASSES, FOREST, WATER, lay_out
from landseg.data.tiles import encode_image

__all__ = [
    "CLASSES", "Competition", "Look", "Scene", "check_drawn", "competition_scenes", "generator", "make_scene", "place_on_earth", "spoil",
    "write_competition", "write_scenes", "write_tiles",
]  # fmt: skip

SMALLEST, LARGEST = 16, 10_240  # pixels; scenes stand LARGEST apart, so that no two overlap
_EPSG = 32650  # UTM 50 north: eastern China
_ACROSS, _DOWN = 32, 400  # places for scenes within the zone
_FIRST = 16 + 225 * _ACROSS  # the first of them: in the middle of the zone, at 40 degrees north
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time a zip can hold; a real one would change the bytes


@dataclass(frozen=True)
class Scene:
    """An invented scene.

    `image` (H, W, 3) uint8, black where invalid and nowhere else; `label` (H, W) uint8, what an annotator left us: 255 where unlabelled or
    nodata; `truth` (H, W) uint8, the class of every pixel; `parcels` (H, W) int32, the id of the field, building, wood or water that a
    pixel belongs to, 0 for roads and berms (a field that a river cuts in two stays one parcel); `valid` (H, W) bool.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    truth: np.ndarray
    parcels: np.ndarray
    valid: np.ndarray
    grid: Grid


@dataclass(frozen=True)
class Competition:
    """Where the two zips of a competition lie, and the folder that only its judges have."""

    train_zip: Path
    test_zip: Path
    truth: Path


def make_scene(seed: int, height: int = 1024, width: int = 1024, *, look: Look | None = None) -> Scene:
    """Invent a scene at 2 m.

    Args:
        seed: Not negative; the same one gives the same scene, another one another scene elsewhere on earth (12,800 places).
        height: Pixels, 16..10240. Small scenes hold a landscape drawn together, so that they still show several classes.
        width: Pixels, 16..10240.
        look: How it was seen; None lets the seed choose. The land is the same for every look.

    Returns:
        The scene, in EPSG:32650. One scene in four lacks a border.

    Raises:
        LandsegError: `seed` or size out of range.
    """
    return _invent(f"scene_{seed:03d}", (seed,), seed, height, width, look)


def write_scenes(folder: Path, seed: int, count: int, height: int = 1024, width: int = 1024) -> list[Path]:
    """Write scenes as GeoTIFFs: ``scene_000.tif`` (nodata 0) and ``scene_000_label.tif`` (nodata 255, palette) and so on.

    Args:
        folder: Created when it is not there.
        seed: Chooses all of them.
        count: How many scenes.
        height: Pixels of each.
        width: Pixels of each.

    Returns:
        The image paths, in order.

    Raises:
        LandsegError: `seed` or size out of range, or the folder cannot be written.
    """
    paths = []
    for i in range(count):
        scene = _invent(f"scene_{i:03d}", (seed, i), seed * 1000 + i, height, width, None)
        paths.append(raster.write(folder / f"{scene.name}.tif", scene.image, scene.grid, nodata=0))
        names = [item.name for item in CLASSES]
        label = folder / f"{scene.name}_label.tif"
        raster.write(label, scene.label, scene.grid, nodata=IGNORE_INDEX, palette=palette(CLASSES), names=names)
    return paths


def competition_scenes(
    seed: int, *, train_scenes: int = 12, test_scenes: int = 3, height: int = 512, width: int = 512, unlabelled_tiles: bool = True
) -> Iterator[tuple[str, Scene]]:
    """The scenes that `write_competition` cuts, each with its part ("train" or "test"), in order.

    With `unlabelled_tiles` one more train scene follows the `train_scenes` whose label is the ignore index throughout.
    """
    total = train_scenes + unlabelled_tiles
    for i in range(total + test_scenes):
        part, number = ("train", i) if i < total else ("test", i - total)
        scene = _invent(f"{part}_{number:03d}", (seed, 1, i), seed * 1000 + i, height, width, None)
        if unlabelled_tiles and i == train_scenes:
            scene.label[...] = IGNORE_INDEX
        yield part, scene


def write_competition(
    folder: Path, seed: int, *, train_scenes: int = 12, test_scenes: int = 3, height: int = 512, width: int = 512, tile: int = 128,
    quality: int = 90, unlabelled_tiles: bool = True,
) -> Competition:  # fmt: skip
    """Write a competition in its own form: anonymous tiles in shuffled order, and the truth apart.

    ``train_and_label.zip`` holds ``img_train/T000001.jpg`` and ``lab_train/T000001.png``, ``img_test.zip`` holds ``img_test/1.jpg``, from
    other scenes. ``truth/`` holds the exact labels of the test tiles (``1.png``; 255 only where the scene has no data) and ``tiles.csv``
    (tile, scene, row, col; the upper left pixel within the scene) for the tiles of both zips.

    Args:
        folder: Created when it is not there.
        seed: Chooses everything.
        train_scenes: Labelled scenes in the train zip.
        test_scenes: Scenes in the test zip.
        height: Pixels of each scene; what does not fill a tile is left out.
        width: Pixels of each scene.
        tile: Edge length of the tiles in pixels.
        quality: Of the JPEGs, 1..100.
        unlabelled_tiles: Add one scene's worth of train tiles whose label is 255 throughout.

    Returns:
        Where things lie.

    Raises:
        LandsegError: A size is out of range, or the folder cannot be written.
    """
    if not 1 <= tile <= min(height, width):
        needed = f"1 to {min(height, width)}, the size of the scenes"
        raise LandsegError("tile", f"{tile} pixels", needed, "choose smaller tiles or larger scenes")
    cut: dict[str, list[tuple[str, Window, bytes, bytes]]] = {"train": [], "test": []}
    scenes = competition_scenes(
        seed, train_scenes=train_scenes, test_scenes=test_scenes, height=height, width=width, unlabelled_tiles=unlabelled_tiles
    )
    for part, scene in scenes:
        labels = scene.label if part == "train" else np.where(scene.valid, scene.truth, IGNORE_INDEX).astype(np.uint8)
        for row in range(0, height - tile + 1, tile):
            for col in range(0, width - tile + 1, tile):
                window = Window(row, col, tile, tile)
                picture = encode_image(scene.image[window.slices], ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])
                cut[part].append((scene.name, window, picture, encode_image(labels[window.slices])))
    truth, rows = folder / "truth", ["tile,scene,row,col"]
    zips: dict[str, list[tuple[str, bytes]]] = {"train": [], "test": []}
    for k, (part, tiles) in enumerate(cut.items()):
        order = generator((seed, 2, k)).permutation(len(tiles))
        for number, chosen in enumerate(order, 1):
            name, window, picture, label = tiles[chosen]
            stem = f"T{number:06d}" if part == "train" else str(number)
            zips[part].append((f"img_{part}/{stem}.jpg", picture))
            if part == "train":
                zips[part].append((f"lab_train/{stem}.png", label))
            else:
                write_bytes(truth / f"{stem}.png", label)
            rows.append(f"{stem},{name},{window.row},{window.col}")
    write_text(truth / "tiles.csv", "\n".join(rows) + "\n")
    result = Competition(folder / "train_and_label.zip", folder / "img_test.zip", truth)
    _zip(result.train_zip, zips["train"])
    _zip(result.test_zip, zips["test"])
    return result


def write_tiles(folder: Path, seed: int, count: int, tile: int = 64, bands: int = 3, dtype: str = "uint8") -> Path:
    """Write a folder pair for tests: ``images/tile_0000.png`` (or ``.npy``) and ``labels/tile_0000.png`` and so on.

    Args:
        folder: Created when it is not there.
        seed: Chooses everything.
        count: How many tiles.
        tile: Edge length in pixels.
        bands: 1 is grey, 2 red and near infrared, 3 red, green, blue, 4 with near infrared, more with bands further out.
        dtype: uint8, uint16 (twelve bits used) or float32 (0..1). One or three bands of whole numbers are PNG, all else ``.npy`` (H, W, C).

    Returns:
        `folder`.

    Raises:
        LandsegError: `bands`, `dtype` or a size is not as above, or the folder cannot be written.
    """
    if bands < 1 or dtype not in ("uint8", "uint16", "float32"):
        raise LandsegError("write_tiles", f"{bands} bands of {dtype}", "1 or more of uint8, uint16 or float32", "choose one of these")
    per_side = 4
    edge = max(per_side * tile, SMALLEST)
    for i in range(math.ceil(count / per_side**2)):
        scene = _invent("tiles", (seed, 3, i), seed * 1000 + i, edge, edge, None)
        image = _as_dtype(_with_bands(scene, bands), dtype, generator((seed, 4, i)))
        order = generator((seed, 5, i)).permutation(per_side**2)
        for j, place in enumerate(order[: count - i * per_side**2]):
            stem = f"tile_{i * per_side**2 + j:04d}"
            slices = Window(int(place) // per_side * tile, int(place) % per_side * tile, tile, tile).slices
            if bands in (1, 3) and dtype != "float32":
                write_bytes(folder / "images" / f"{stem}.png", encode_image(image[slices]))
            else:
                with replacing(folder / "images" / f"{stem}.npy") as partial, partial.open("wb") as stream:
                    np.save(stream, image[slices], allow_pickle=False)
            write_bytes(folder / "labels" / f"{stem}.png", encode_image(scene.label[slices]))
    return folder


def _invent(name: str, entropy: tuple[int, ...], place: int, height: int, width: int, look: Look | None) -> Scene:
    check_drawn(min(entropy), height, width)
    terrain = lay_out(generator((*entropy, 10)), height, width)
    image = render(terrain, look or Look.draw(generator((*entropy, 11))), generator((*entropy, 12)))
    rng = generator((*entropy, 13))
    valid = _swath(rng, height, width)
    image[~valid] = 0
    label = np.where(valid & ~_skipped(rng, height, width), terrain.truth, IGNORE_INDEX).astype(np.uint8)
    return Scene(name, image, label, terrain.truth, terrain.parcels, valid, place_on_earth(place, height, width))


def check_drawn(seed: int, height: int, width: int) -> None:
    """Refuse what cannot be invented.

    Raises:
        LandsegError: `seed` or size out of range.
    """
    if seed < 0:
        raise LandsegError("seed", str(seed), "a whole number that is not negative", "choose another seed")
    if not (SMALLEST <= height <= LARGEST and SMALLEST <= width <= LARGEST):
        raise LandsegError("scene", f"{height} × {width} pixels", f"{SMALLEST} to {LARGEST} each way", "choose another size")


def place_on_earth(number: int, height: int, width: int) -> Grid:
    """The grid of an invented scene: two of other numbers, below 12,800, share no ground."""
    pitch = LARGEST * PIXEL_M
    row, col = divmod((number + _FIRST) % (_ACROSS * _DOWN), _ACROSS)
    return Grid(height, width, Affine(PIXEL_M, 0, 172_000 + col * pitch, 0, -PIXEL_M, 9_000_000 - row * pitch), CRS.from_epsg(_EPSG))


def generator(entropy: tuple[int, ...]) -> np.random.Generator:
    """What draws by these numbers, always the same."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def _swath(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Valid pixels: all, or in one scene of four those on the near side of a slanted edge of the satellite's swath."""
    has_edge, angle, share = rng.random() < 0.25, rng.uniform(0, 2 * np.pi), rng.uniform(0.55, 0.85)
    if not has_edge:
        return np.ones((height, width), bool)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return np.asarray(x * math.cos(angle) + y * math.sin(angle) < share * (abs(math.cos(angle)) + abs(math.sin(angle))))


def _skipped(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Pixels that the annotator left out, about 4 %: rough quadrangles."""
    skipped = np.zeros((height, width), np.uint8)
    wanted = rng.uniform(0.025, 0.055) * height * width
    while cv2.countNonZero(skipped) < wanted:
        size = math.sqrt(height * width) * rng.uniform(0.025, 0.07)
        angles = np.sort(rng.uniform(0, 2 * np.pi) + np.arange(5) * 2 * np.pi / 5 + rng.uniform(-0.5, 0.5, 5))
        middle = rng.uniform(0, 1, 2) * [width, height]
        corners = middle + size * rng.uniform(0.7, 1.4, (5, 1)) * np.stack([np.cos(angles), np.sin(angles)], 1)
        cv2.fillPoly(skipped, [np.round(corners).astype(np.int32)], 1)
    return skipped.astype(bool)


def _with_bands(scene: Scene, bands: int) -> np.ndarray:
    """(H, W, bands) float32, 0..1: the picture's own bands and, beyond them, ones that plants, water and soil set apart."""
    colours = scene.image.astype(np.float32) / 255
    if bands == 1:
        return np.asarray((colours @ np.array([0.299, 0.587, 0.114], np.float32))[:, :, None])
    if bands == 3:
        return colours
    light = colours.mean(2)
    green = np.clip(4 * (colours[:, :, 1] - light) + 0.5 * (scene.truth == FOREST), 0, 1)
    dry = np.where(scene.truth == WATER, 0.08, 1.0).astype(np.float32)
    infrared = np.clip(light * dry * (0.7 + 1.8 * green), 0, 1) * scene.valid
    if bands == 2:
        return np.stack([colours[:, :, 0], infrared], 2).astype(np.float32)
    planes = [*np.moveaxis(colours, 2, 0), infrared]
    planes += [np.clip(light * dry * (1.15 - 0.6 * green * (k + 1) / bands), 0, 1) * scene.valid for k in range(bands - 4)]
    return np.stack(planes, 2).astype(np.float32)


def _as_dtype(image: np.ndarray, dtype: str, rng: np.random.Generator) -> np.ndarray:
    if dtype == "float32":
        return image
    if dtype == "uint8":
        return np.round(image * 255).astype(np.uint8)
    fine = rng.integers(0, 16, image.shape, dtype=np.uint16)  # an 8-bit picture leaves the last four bits empty
    return np.asarray(np.where(image > 0, np.round(image * 255).astype(np.uint16) * 16 + fine, 0), np.uint16)


def _zip(path: Path, entries: list[tuple[str, bytes]]) -> None:
    """Write a zip without compression (its entries are compressed already), the names sorted: the same entries give the same bytes."""
    with replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, data in sorted(entries):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
