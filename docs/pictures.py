"""Draw the pictures of the README and the tutorial: ``python docs/pictures.py [DEMO] [CHROMIUM]``. Nothing in them is drawn by hand.

Without arguments it draws the hero and the recovered scenes, from the invented world. DEMO is the folder that ``landseg demo`` wrote: its
test tiles give the strip of image, truth, prediction and error, and its report the picture of the page, for which CHROMIUM, a browser's
command, is needed, as for the page of parcels.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from landseg.core.classes import IGNORE_INDEX, LandClass, paint, palette
from landseg.core.files import write_bytes
from landseg.data import raster, world
from landseg.data.dataset import list_files, open_dataset
from landseg.data.tiles import decode_codes, decode_image, read_bytes
from landseg.scoring.confusion import confusion_matrix, scores
from landseg.splitting.assignment import read_split
from landseg.verbs.parcels import parcels
from landseg.verbs.prepare import prepare
from landseg.verbs.split import split

FOLDER = Path(__file__).parent / "pictures"
PARCELS_SEED = 5
HERO_SEED, HERO_WINDOW = 3, (slice(120, 480), slice(0, 420))
GAP, LINE = 12, 34
WHITE, INK = 255, (52, 48, 44)
MOST_BYTES = 250_000


def hero() -> np.ndarray:
    """An invented village: as the camera sees it, and what lies there."""
    scene = world.make_scene(HERO_SEED, 512, 512)
    image, truth = scene.image[HERO_WINDOW], scene.truth[HERO_WINDOW]
    panels = [_large(image), _large(paint(truth, world.CLASSES), is_map=True)]
    return _stack([_beside(panels), _legend(world.CLASSES, panels[0].shape[1] * 2 + GAP)])


def strip(demo: Path, count: int = 3) -> np.ndarray:
    """Test tiles of the demo: image, truth, prediction, and the prediction's errors. From well to badly mapped, evenly chosen."""
    images, truths, maps = (
        list_files(demo / "journey" / "test" / "images"), list_files(demo / "world" / "truth"), list_files(demo / "journey" / "predictions")
    )  # fmt: skip
    names = [item.name for item in world.CLASSES]
    ranked = []
    for name in sorted(truths):
        truth, preds = decode_codes(read_bytes(truths[name])), decode_codes(read_bytes(maps[name]))
        matrix = confusion_matrix(truth, preds, len(names))
        found = scores(matrix, names).miou
        if found is not None and (matrix.sum(1) > 100).sum() >= 4:  # tiles that show something of most classes
            ranked.append((found, name, truth, preds))
    ranked.sort(key=lambda row: row[:2], reverse=True)
    places = np.linspace(0, len(ranked) - 1, count).round().astype(int)
    rows = [_beside([_caption(text, 256) for text in ("image", "truth", "prediction", "wrong pixels")])]
    for place in places:
        _, name, truth, preds = ranked[place]
        image = decode_image(read_bytes(images[name]))
        wrong = image // 3 + 150  # pale ground, on which errors stand out
        is_wrong = (truth != preds) & (truth != IGNORE_INDEX)
        wrong[is_wrong] = (196, 30, 58)
        panels = [image, paint(truth, world.CLASSES), paint(preds, world.CLASSES), wrong]
        rows.append(_beside([_square(panel, is_map=i > 0) for i, panel in enumerate(panels)]))
    return _stack([*rows, _legend(world.CLASSES, rows[0].shape[1])])


def scenes(count: int = 3, edge: int = 96) -> np.ndarray:
    """Anonymous tiles of a few invented scenes as they come, and what `split --by scene` puts together of them."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        world.write_competition(folder, 21, train_scenes=count, test_scenes=1, height=640, width=640, tile=128, unlabelled_tiles=False)
        prepare([folder / "train_and_label.zip"], folder / "data", classes=",".join(item.name for item in world.CLASSES))
        split(folder / "data", by="scene", val=0.3)
        dataset = open_dataset(folder / "data")
        images = {
            tile.name: cv2.resize(decode_image(read_bytes(tile.image)), (edge, edge), interpolation=cv2.INTER_AREA)
            for tile in dataset.tiles
        }
        placed = [tile for tile in read_split(dataset, "scene").tiles if tile.row]
    per_row = round(len(images) / 5)
    tiles = [np.pad(image, ((0, GAP // 2), (0, GAP // 2), (0, 0)), constant_values=WHITE) for image in images.values()]
    tiles += [np.full_like(tiles[0], WHITE)] * (-len(tiles) % per_row)
    shuffled = np.vstack([np.hstack(tiles[i : i + per_row]) for i in range(0, len(tiles), per_row)])
    mosaics = []
    for scene in sorted({tile.scene for tile in placed}):
        own = [tile for tile in placed if tile.scene == scene]
        if len(own) < 9:
            continue
        rows, cols = (1 + max(int(getattr(tile, side)) for tile in own) for side in ("row", "col"))
        mosaic = np.full((rows * edge, cols * edge, 3), WHITE, np.uint8)
        for tile in own:
            row, col = int(tile.row) * edge, int(tile.col) * edge
            mosaic[row : row + edge, col : col + edge] = images[tile.tile]
        mosaics.append(mosaic)
    together = _beside(mosaics)
    width = together.shape[1]
    shuffled = shuffled[: -GAP // 2, : -GAP // 2]  # the last tile needs no gap
    height = round(shuffled.shape[0] * width / shuffled.shape[1])
    return _stack([cv2.resize(shuffled, (width, height), interpolation=cv2.INTER_AREA), together])


def report_page(demo: Path, browser: str) -> np.ndarray:
    """The head of the demo's report page, as a browser shows it."""
    return _shown(next((demo / "journey" / "run" / "report").glob("report.html")), browser, 1280, 1500)


def parcels_page(browser: str) -> np.ndarray:
    """The page of an invented scene's parcels, as a browser shows it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        scene, names = world.make_scene(PARCELS_SEED, 700, 1000), [item.name for item in world.CLASSES]
        image = raster.write(folder / "valley.tif", scene.image, scene.grid, nodata=0)
        classes = folder / "valley_classes.tif"
        raster.write(classes, scene.truth, scene.grid, nodata=IGNORE_INDEX, palette=palette(world.CLASSES), names=names)
        parcels(classes, folder / "valley.gpkg", min_area_m2=60, smooth=True, scene=image)
        return _shown(folder / "valley.html", browser, 1400, 760)


def _shown(page: Path, browser: str, width: int, height: int) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "page.png"
        quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *quiet, f"--user-data-dir={folder}/profile"]
        size = [f"--window-size={width},{height}", "--virtual-time-budget=20000"]
        subprocess.run([*command, *size, f"--screenshot={shot}", page.resolve().as_uri()], check=True, capture_output=True)
        return decode_image(read_bytes(shot))[:, :, :3]


def save(name: str, picture: np.ndarray) -> None:
    """Write a JPEG or PNG, the JPEG in the best quality that stays below 250 kB."""
    drawn = np.ascontiguousarray(picture[:, :, ::-1])
    if name.endswith(".png"):
        write_bytes(FOLDER / name, bytes(cv2.imencode(".png", drawn, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]))
        return
    for quality in range(94, 40, -2):
        data = bytes(cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1])[1])
        if len(data) < MOST_BYTES:
            break
    write_bytes(FOLDER / name, data)


def _large(picture: np.ndarray, *, is_map: bool = False) -> np.ndarray:
    return cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST if is_map else cv2.INTER_CUBIC)


def _square(picture: np.ndarray, *, is_map: bool = False) -> np.ndarray:
    return cv2.resize(picture, (256, 256), interpolation=cv2.INTER_NEAREST if is_map else cv2.INTER_CUBIC)


def _beside(panels: Sequence[np.ndarray]) -> np.ndarray:
    gap = np.full((panels[0].shape[0], GAP, 3), WHITE, np.uint8)
    return np.hstack([part for panel in panels for part in (gap, panel)][1:])


def _stack(rows: Sequence[np.ndarray]) -> np.ndarray:
    gap = np.full((GAP, rows[0].shape[1], 3), WHITE, np.uint8)
    return np.vstack([part for row in rows for part in (gap, row)][1:])


def _caption(text: str, width: int) -> np.ndarray:
    row = np.full((LINE, width, 3), WHITE, np.uint8)
    cv2.putText(row, text, (0, 25), cv2.FONT_HERSHEY_DUPLEX, 0.7, INK, 1, cv2.LINE_AA)
    return row


def _legend(classes: Sequence[LandClass], width: int) -> np.ndarray:
    row = np.full((LINE, width, 3), WHITE, np.uint8)
    at = 0
    for item in classes:
        cv2.rectangle(row, (at, 8), (at + 26, 28), item.rgb, -1)
        cv2.putText(row, item.name, (at + 36, 25), cv2.FONT_HERSHEY_DUPLEX, 0.7, INK, 1, cv2.LINE_AA)
        at += 36 + cv2.getTextSize(item.name, cv2.FONT_HERSHEY_DUPLEX, 0.7, 1)[0][0] + 34
    return row


if __name__ == "__main__":
    save("hero.jpg", hero())
    save("scenes.jpg", scenes())
    if len(sys.argv) > 1:
        save("strip.jpg", strip(Path(sys.argv[1])))
    if len(sys.argv) > 2:
        save("report.jpg", report_page(Path(sys.argv[1]), sys.argv[2]))
        save("parcels.jpg", parcels_page(sys.argv[2]))
