"""Any number of bands, any type of number and any mixture of sizes make the whole journey."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landseg.core.errors import LandsegError
from landseg.data.dataset import DatasetInfo, open_dataset, write_info
from landseg.data.statistics import band_ranges
from landseg.data.world import CLASSES, write_tiles
from landseg.model import load_model
from landseg.splitting.assignment import Placed, Split, write_split
from landseg.verbs.evaluate import evaluate
from landseg.verbs.predict import predict
from landseg.verbs.train import train

SHORT = [
    "train.epochs=1",
    "train.batch=4",
    "train.device=cpu",
    "predict.device=cpu",
    "model.network=unet",
    "model.encoder=mobilenetv3_small_050",
]


def data_set(folder: Path, images: list[np.ndarray], labels: list[np.ndarray], val: int) -> Path:
    """A dataset folder as `prepare` and `split` make it; the last `val` tiles validate."""
    for kind, arrays in (("images", images), ("labels", labels)):
        (folder / kind).mkdir(parents=True)
        for i, pixels in enumerate(arrays):
            np.save(folder / kind / f"{i:02}.npy", pixels)
    files = sorted((folder / "images").iterdir())
    bands = images[0].shape[2]
    names = ("red", "green", "blue") if bands == 3 else tuple(f"band {i + 1}" for i in range(bands))
    write_info(folder, DatasetInfo(name="data", classes=CLASSES, bands=names, scaling=band_ranges(files)))
    parts = ["train"] * (len(files) - val) + ["val"] * val
    placed = [Placed(path.stem, part, path.stem) for path, part in zip(files, parts, strict=True)]
    write_split(open_dataset(folder), Split("random", tuple(placed)))
    return folder


def invented(folder: Path, count: int, tile: int, bands: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images of values 0..1 and their labels."""
    write_tiles(folder, 5, count, tile, max(bands, 4), "float32")
    images = [np.load(path)[..., :bands] for path in sorted((folder / "images").iterdir())]
    return images, [np.array(Image.open(path)) for path in sorted((folder / "labels").iterdir())]


def as_type(image: np.ndarray, dtype: str, seed: int) -> np.ndarray:
    """Values as sensors and programs give them: counts, temperatures below zero, fractions with gaps."""
    if dtype == "uint8":
        return np.round(image * 255).astype(np.uint8)
    if dtype == "int16":
        cold = np.round(image * 6000 - 1500).astype(np.int16)
        cold[:5] = -9999
        return cold
    if dtype.startswith("float"):
        gappy = image.astype(dtype)
        gappy[np.random.default_rng(seed).random(image.shape) < 0.05] = np.nan
        gappy[0, :9] = np.inf
        return gappy
    return np.round(image * 50_000).astype(dtype)


@pytest.mark.parametrize(
    ("bands", "dtype"),
    [(1, "uint8"), (3, "uint8"), (3, "uint16"), (4, "int16"), (8, "float32"), (224, "uint16"), (2, "float64"), (1, "int32")],
)
def test_a_journey_in_any_bands_and_type(tmp_path: Path, bands: int, dtype: str) -> None:
    images, labels = invented(tmp_path / "invented", 8, 48, bands)
    images = [as_type(image, dtype, i) for i, image in enumerate(images)]
    data = data_set(tmp_path / "data", images, labels, 3)
    info = open_dataset(data).info
    assert (info.scaling is None) == (dtype == "uint8")
    done = train(data, tmp_path / "run", recipe="tiny", settings=SHORT)
    assert done.steps == 2 and np.isfinite(done.miou)
    scored = evaluate(tmp_path / "run", data, settings=SHORT)
    assert scored.scores.miou == pytest.approx(done.miou, abs=1e-6)
    assert scored.scores.pixels == sum(int((label != 255).sum()) for label in labels[-3:])
    predicted = predict(tmp_path / "run", data, tmp_path / "out", overlay=True, probabilities=True, settings=SHORT)
    assert (predicted.files, predicted.pixels) == (8, 8 * 48 * 48)
    model = load_model(tmp_path / "run", "cpu")
    assert model.card.scaling == info.scaling and model.card.dtype == dtype
    for i, image in enumerate(images):
        ids = np.array(Image.open(tmp_path / "out" / f"{i:02}.png"))
        assert np.array_equal(ids, model.predict(image))
        assert np.isfinite(model.probabilities(image)).all()
    if info.scaling is not None and dtype != "float64":
        clipped = np.clip(images[0], *np.array(info.scaling).T.astype(images[0].dtype))
        assert np.array_equal(model.predict(np.where(np.isfinite(images[0]), clipped, images[0])), model.predict(images[0]))


SHAPES = [(40, 60)] * 3 + [(64, 64)] * 3 + [(200, 130)] * 2 + [(700, 500)] + [(40, 60), (200, 130), (1300, 900)]


def test_a_journey_of_tiles_of_many_sizes(tmp_path: Path) -> None:
    ((image, *_), (label, *_)) = invented(tmp_path / "invented", 1, 256, 3)
    image, label = np.tile(as_type(image, "uint8", 0), (6, 4, 1)), np.tile(label, (6, 4))
    images = [image[i : i + height, :width] for i, (height, width) in enumerate(SHAPES)]
    labels = [label[i : i + height, :width] for i, (height, width) in enumerate(SHAPES)]
    data = data_set(tmp_path / "data", images, labels, 3)
    settings = [*SHORT, "train.crop=128", "train.batch=15"]
    done = train(data, tmp_path / "run", recipe="tiny", settings=settings)
    assert done.steps == 2, "one of each small tile, 1 of 200 × 130, 21 of 700 × 500 make 29 crops"
    scored = evaluate(tmp_path / "run", data, settings=SHORT)
    assert scored.scores.miou == pytest.approx(done.miou, abs=1e-6)
    assert scored.scores.pixels == sum(int((label != 255).sum()) for label in labels[-3:])
    assert json.loads((tmp_path / "run" / "model" / "model.json").read_text(encoding="utf-8"))["tile_size"] == [128, 128]
    # One at a time, as load_model has them: in a batch the sums run in another order, and an untrained network has many near ties.
    one = [*SHORT, "predict.batch=1"]
    predicted = predict(tmp_path / "run", data, tmp_path / "out", overlay=True, probabilities=True, settings=one)
    assert predicted.pixels == sum(height * width for height, width in SHAPES)
    model = load_model(tmp_path / "run", "cpu")
    for i in (0, 7, 11):
        ids = np.array(Image.open(tmp_path / "out" / f"{i:02}.png"))
        assert ids.shape == SHAPES[i] and np.array_equal(ids, model.predict(images[i]))
        assert np.load(tmp_path / "out" / f"{i:02}.npy").argmax(0).shape == SHAPES[i]
    with pytest.raises(LandsegError, match="choose the bands"):
        model.predict(np.zeros((0, 5, 3), np.uint8))


def test_scaled_data_begun_is_gone_on_with_alike_and_another_scaling_is_refused(tmp_path: Path) -> None:
    images, labels = invented(tmp_path / "invented", 6, 32, 4)
    data = data_set(tmp_path / "data", [as_type(image, "uint16", 0) for image in images], labels, 2)
    train(data, tmp_path / "run", recipe="tiny", settings=SHORT)
    assert train(data, tmp_path / "run", resume=True).steps == 1
    info = open_dataset(data).info
    write_info(data, info.model_copy(update={"scaling": ((0.0, 9.0),) * 4}))
    with pytest.raises(LandsegError, match="begun on other tiles"):
        train(data, tmp_path / "run", resume=True)


@pytest.mark.parametrize("scaling", [((0.0, 1.0),) * 3, ((1.0, 0.0),) * 4, ((0.0, float("inf")),) * 4, ((1e9, 1e9 + 1),) * 4])
def test_a_scaling_that_cannot_be_meant_is_refused(tmp_path: Path, scaling: tuple[tuple[float, float], ...]) -> None:
    images, labels = invented(tmp_path / "invented", 2, 32, 4)
    data = data_set(tmp_path / "data", images, labels, 1)
    text = (data / "dataset.yaml").read_text(encoding="utf-8")
    pairs = ", ".join(f"[{low}, {high}]".replace("inf", ".inf") for low, high in scaling)
    lines = [f"scaling: [{pairs}]" if line.startswith("scaling:") else line for line in text.splitlines()]
    (data / "dataset.yaml").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(LandsegError, match="scaling"):
        train(data, tmp_path / "run", recipe="tiny", settings=SHORT)
    assert not (tmp_path / "run").exists()
