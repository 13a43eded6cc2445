"""`predict` with a real network on scenes: the same bytes whatever the batch, the cores, the kills and the part; and what it reports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from rasterio.crs import CRS

from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.core.grid import Grid
from landseg.data import raster, world
from landseg.inference import scenes
from landseg.network.build import Normalisation, build
from landseg.network.checkpoint import ModelCard, save_model
from landseg.network.engine import Engine
from landseg.network.lanes import LaneEngine
from landseg.network.torch_engine import TorchEngine
from landseg.verbs.predict import models_first, predict

SMALL = "mobilenetv3_small_050"
NORMALISATION = Normalisation((110.0,) * 3, (45.0,) * 3)
PLACE = Affine(0.5, 0, 400_000, 0, -0.5, 5_500_000)
HEIGHT, WIDTH = 150, 260


@pytest.fixture(scope="module", autouse=True)
def no_sheets() -> Iterator[None]:
    """Pictures take longer than all else, and have their own test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "draw_sheet", lambda path, picture, *_: path.write_bytes(picture.tobytes()))
        yield


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return world.make_scene(3, HEIGHT, WIDTH).image


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, image: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("scene") / "field.tif"
    return raster.write(path, image, Grid(HEIGHT, WIDTH, PLACE, CRS.from_epsg(32633)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, image: np.ndarray) -> Path:
    """An untrained network whose classes are made alike frequent, so that its map has borders everywhere."""
    torch.manual_seed(0)
    network = build("unet", SMALL, 3, 4, NORMALISATION, (32, 16, 16, 8, 8))
    classes = make_classes(["building", "farmland", "forest", "other"])
    card = ModelCard.model_validate({
        "landseg_version": "0", "network": "unet", "encoder": SMALL, "decoder_channels": (32, 16, 16, 8, 8), "dtype": "uint8",
        "bands": ("red", "green", "blue"), "mean": NORMALISATION.mean, "std": NORMALISATION.std, "classes": classes, "tile_size": (64, 64),
    })  # fmt: skip
    logits = TorchEngine(network, card, torch.device("cpu")).logits(image[None, :128, :256])[0]
    head = network.body.segmentation_head[0]
    with torch.no_grad():
        spread = torch.from_numpy(logits.std((1, 2)))
        head.bias -= torch.from_numpy(logits.mean((1, 2)))
        head.weight /= spread[:, None, None, None]
        head.bias /= spread
    folder = tmp_path_factory.mktemp("model") / "run" / "model"
    save_model(folder, network.state_dict(), card)
    return folder.parent


SETTINGS = ("predict.window=96", "predict.device=cpu")


def maps(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module", params=["onnx", "torch"])
def settings(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What holds of bytes holds on either engine."""
    return (*SETTINGS, f"predict.engine={request.param}")


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory, model: Path, scene: Path, settings: tuple[str, ...]) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("wanted")
    predict(model, scene, folder / "out", confidence=True, settings=settings)
    ids = raster.read(folder / "out" / "field_classes.tif")[0]
    assert len(np.unique(ids)) == 4, "a map that a difference would show in"
    return maps(folder / "out")


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (3, 2), (8, 1)])
def test_bytes_depend_on_no_batch_and_no_number_of_cores(
    tmp_path: Path,
    model: Path,
    scene: Path,
    wanted: dict[str, bytes],
    settings: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    threads: int,
) -> None:
    for room in ("inference.scene", "network.lanes"):
        monkeypatch.setattr(f"landseg.{room}.cores", lambda: threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        predict(model, scene, tmp_path / "out", confidence=True, settings=(*settings, f"predict.batch={batch}"))
        assert torch.get_num_threads() == threads, "what the user has set is set again"
    finally:
        torch.set_num_threads(before)
    assert maps(tmp_path / "out") == wanted


@pytest.mark.parametrize("kill_at", [1, 4, 7])
def test_a_kill_changes_no_byte(
    tmp_path: Path,
    model: Path,
    scene: Path,
    wanted: dict[str, bytes],
    settings: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    kill_at: int,
) -> None:
    calls = 0
    engine: Any = TorchEngine if "predict.engine=torch" in settings else LaneEngine
    plain = engine.logits

    def killed(self: Engine, images: np.ndarray, scale: float = 1.0) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == kill_at:
            raise KeyboardInterrupt
        return plain(self, images, scale)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "logits", killed)
        with pytest.raises(KeyboardInterrupt):
            predict(model, scene, tmp_path / "out", confidence=True, settings=settings)
    predict(model, scene, tmp_path / "out", confidence=True, settings=settings)
    assert maps(tmp_path / "out") == wanted


@pytest.mark.parametrize(("row", "col", "height", "width"), [(0, 0, 1, 1), (60, 100, 31, 57), (149, 0, 1, 260), (20, 259, 130, 1)])
def test_a_part_is_the_crop_of_the_whole(
    tmp_path: Path,
    model: Path,
    scene: Path,
    wanted: dict[str, bytes],
    settings: tuple[str, ...],
    row: int,
    col: int,
    height: int,
    width: int,
) -> None:
    left, top = PLACE @ (col, row)
    bounds = (left, top - height / 2, left + width / 2, top)
    done = predict(model, scene, tmp_path / "part", bounds=bounds, confidence=True, settings=settings)
    assert done.pixels == height * width
    for name in ("field_classes.tif", "field_confidence.tif"):
        (tmp_path / name).write_bytes(wanted[name])
        whole, part = raster.read(tmp_path / name)[0], raster.read(tmp_path / "part" / name)[0]
        assert (part == whole[row : row + height, col : col + width]).all()


@pytest.mark.parametrize("tta", ["d4", "scales"])
def test_augmentation_and_ensembles_go_with_scenes(tmp_path: Path, model: Path, scene: Path, tta: str) -> None:
    settings = ("predict.window=160", "predict.device=cpu")
    found = []
    for out, models in (("one", model), ("two", [model, model])):
        done = predict(models, str(scene), tmp_path / out, tta=tta, confidence=True, settings=settings)
        found.append(raster.read(done.scenes[0].files[1])[0].astype(int))
    assert (found[0] != 255).all() and abs(found[0] - found[1]).max() <= 1, "twice the same model says what it says alone"


def test_what_it_reports(tmp_path: Path, model: Path, scene: Path) -> None:
    done = predict(model, scene, tmp_path / "out", settings=SETTINGS)
    document = json.loads(json.dumps(done.as_json()))
    assert (document["files"], document["pixels"]) == (1, HEIGHT * WIDTH) and document["seconds"] > 0
    table = document["scenes"][0]["classes"]
    assert sum(line["pixels"] for line in table) == HEIGHT * WIDTH
    assert sum(line["area_ha"] for line in table) == pytest.approx(HEIGHT * WIDTH * 0.25 / 1e4 / 0.9996**2, rel=5e-3)
    assert all(Path(path).is_file() for path in document["scenes"][0]["files"])
    text = done.as_text()
    assert "field_classes.tif: 0.0 Mpx" in text and "farmland" in text and " ha" in text and "no data" not in text


def test_several_scenes_and_paths_of_gdal(
    tmp_path: Path, model: Path, scene: Path, wanted: dict[str, bytes], settings: tuple[str, ...]
) -> None:
    names = [str(scene), f"/vsisubfile/0_{scene.stat().st_size},{scene}"]
    models, inputs = models_first([str(model), *names])
    assert models == [model] and inputs == [scene, names[1]], "no slash is lost"
    done = predict(model, [scene], tmp_path / "a", confidence=True, settings=settings)
    again = predict(model, [names[1]], tmp_path / "b", confidence=True, settings=settings)
    assert [item.files[0].name for item in (*done.scenes, *again.scenes)] == ["field_classes.tif"] * 2
    assert maps(tmp_path / "a") == maps(tmp_path / "b") == wanted
    assert models_first([str(model), "https://host/a.tif"])[1] == ["https://host/a.tif"]


def test_wrong_arguments_are_one_line(tmp_path: Path, model: Path, scene: Path, image: np.ndarray) -> None:
    (tmp_path / "tiles").mkdir()
    np.save(tmp_path / "tiles" / "a.npy", image)
    for inputs, options, words in [
        ([scene, tmp_path / "tiles"], {}, "it is no scene, but"),
        ([scene, tmp_path / "gone.tif"], {}, "it is not there, but"),
        (tmp_path / "tiles", {"bounds": (0, 0, 1, 1)}, r"--bounds: .*tiles holds tiles, a scene: .*one by one"),
        (tmp_path / "tiles", {"confidence": True}, "--confidence: .*tiles holds tiles"),
        (tmp_path / "gone.tif", {"confidence": True}, r"gone\.tif: it is not there"),
        (tmp_path / "tiles", {"settings": ["predict.bands=[red,green,blue]"]}, "red, and the inputs are tiles"),
        (scene, {"bounds": (1.0, 2.0)}, "four: left bottom right top"),
        (scene, {"settings": ["predict.overlap=0.9"]}, "predict.overlap"),
        (scene, {"tta": "d8"}, "one of none, d4, scales"),
        ("/vsicurl/http://localhost:1/a.tif", {}, "it cannot be read"),
    ]:
        with pytest.raises(LandsegError, match=words) as caught:
            predict(model, inputs, tmp_path / "out", **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
