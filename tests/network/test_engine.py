"""Logits come at the images' own size, whatever the network's stride, the training size and the files' dtype."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.network.build import Network, Normalisation, build
from landseg.network.checkpoint import ModelCard, save_model
from landseg.network.engine import Ensemble, TorchEngine, choose_device, fit, fitted_shape, load_engine, pad, softmax, to_tensor

torch.set_num_threads(1)

SMALL = "mobilenetv3_small_050"
CPU = torch.device("cpu")
K = 5


def card(count: int = 3, **changes: object) -> ModelCard:
    facts = {
        "landseg_version": "0", "network": "unet", "encoder": SMALL, "bands": tuple(f"b{i}" for i in range(count)), "dtype": "uint8",
        "mean": (100.0,) * count, "std": (50.0,) * count, "classes": make_classes([f"c{i}" for i in range(K)]), "tile_size": (64, 64),
    }  # fmt: skip
    return ModelCard.model_validate({**facts, **changes})


def make(bands: int = 3, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    network = build("unet", SMALL, bands, K, Normalisation((100.0,) * bands, (50.0,) * bands)).eval()
    with torch.no_grad():
        network.body.segmentation_head[0].weight.normal_(0, 1)  # a new head hardly tells pixels apart
    return network


def images(shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.random(shape, np.float32) * 255 if dtype == "float32" else rng.integers(0, 255, shape).astype(dtype)


class Stand(torch.nn.Module):
    """Stands for a network that is always right: its logits are the label that lies in the first band. Insists on its stride."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        assert batch.shape[-1] % 32 == batch.shape[-2] % 32 == 0
        return torch.nn.functional.one_hot(batch[:, 0].long(), K).permute(0, 3, 1, 2).float()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70), st.sampled_from(["uint8", "uint16", "int16", "float32", "uint32"]))
def test_a_network_that_is_right_gives_back_exactly_the_labels(count: int, height: int, width: int, dtype: str) -> None:
    labels = np.random.default_rng(height * width).integers(0, K, (count, height, width)).astype(dtype)
    engine = TorchEngine(Stand(), card(), CPU)  # type: ignore[arg-type]
    batch = np.repeat(labels[..., None], 3, -1)
    found = engine.preds(batch)
    assert found.dtype == np.uint8 and np.array_equal(found, labels)
    assert engine.logits(batch).shape == (count, K, height, width)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 70), (33, 31), (1, 40), (7, 5)])
@pytest.mark.parametrize("size", [None, 32, 96, 40])
def test_logits_come_at_the_images_size(height: int, width: int, size: int | None) -> None:
    engine = TorchEngine(make(), card(size=size), CPU)
    batch = images((2, height, width, 3))
    found = engine.logits(batch)
    assert found.shape == (2, K, height, width) and found.dtype == np.float32 and np.isfinite(found).all()
    assert np.array_equal(engine.preds(batch), found.argmax(1))


def test_the_training_size_is_what_the_network_sees() -> None:
    seen = []

    class Watch(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(batch.shape[-2:]))
            return batch[:, :1].repeat(1, K, 1, 1)

    for size, shape in ((None, (96, 64)), (32, (64, 32)), (64, (96, 64)), (200, (256, 192))):
        # Trained on 64 × 64: what makes 64 pixels 32 makes 80 pixels 40, filled up to 64.
        TorchEngine(Watch(), card(size=size), CPU).logits(images((1, 80, 60, 3)))  # type: ignore[arg-type]
        assert seen.pop() == shape


def test_a_tile_of_one_grey_is_the_same_at_every_size() -> None:
    batch = torch.full((1, 3, 50, 40), 77, dtype=torch.uint8)
    for factor in (0.1, 16 / 50, 49 / 50, 1.0, 51 / 50, 128 / 50):
        assert torch.allclose(fit(batch, factor).float(), torch.tensor(77.0))
        assert tuple(fit(batch, factor).shape[-2:]) == fitted_shape(50, 40, factor)
    assert fit(batch, 1.0) is batch
    padded = pad(batch)
    assert padded.shape == (1, 3, 64, 64) and (padded == 77).all()
    assert fitted_shape(10, 4000, 100 / 4000) == (1, 100)


def test_halving_averages() -> None:
    batch = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(fit(batch, 0.5), torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]]))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int16", "int32", "float64", "float16", "uint32", "bool"])
def test_every_dtype_gives_what_its_numbers_give(dtype: str) -> None:
    engine = TorchEngine(make(4), card(4), CPU)
    batch = images((2, 40, 33, 4)) // 2
    if dtype == "bool":
        batch = batch % 2
    expected = engine.logits(batch.astype(np.float32))
    assert np.allclose(engine.logits(batch.astype(dtype)), expected, atol=1e-4)


def test_large_numbers_of_16_bits_keep_their_value() -> None:
    values = np.array([0, 255, 256, 32767, 32768, 65535], np.uint16).reshape(1, 1, 6, 1)
    assert to_tensor(values, CPU).flatten().tolist() == values.flatten().tolist()


def test_read_only_arrays_are_taken_without_a_warning() -> None:
    batch = images((1, 32, 32, 3))
    batch.flags.writeable = False
    engine = TorchEngine(make(), card(), CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.preds(batch)


def test_a_batch_gives_what_its_tiles_give() -> None:
    engine = TorchEngine(make(), card(), CPU)
    batch = images((4, 45, 37, 3))
    together = engine.logits(batch)
    for i in range(4):
        assert np.allclose(engine.logits(batch[i : i + 1])[0], together[i], atol=1e-4)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        save_model(folder / str(seed), make(seed=seed).state_dict(), card())
    return [folder / "0", folder / "1"]


def test_an_ensemble_of_a_model_with_itself_is_the_model(models: list[Path]) -> None:
    batch = images((2, 50, 61, 3))
    single, double = load_engine(models[:1], "cpu"), load_engine([models[0], models[0]], "cpu")
    assert isinstance(single, TorchEngine) and isinstance(double, Ensemble)
    logits = single.logits(batch)
    ordered = np.sort(logits, 1)
    is_clear = ordered[:, -1] - ordered[:, -2] > 1e-5
    assert is_clear.mean() > 0.999
    assert np.array_equal(double.preds(batch)[is_clear], single.preds(batch)[is_clear])
    assert np.allclose(softmax(double.logits(batch)), softmax(logits), atol=1e-5)


def test_an_ensemble_averages_probabilities(models: list[Path]) -> None:
    batch = images((1, 40, 40, 3))
    parts = [softmax(load_engine([path], "cpu").logits(batch)) for path in models]
    both = load_engine(models, "cpu")
    expected = (parts[0] + parts[1]) / 2
    assert np.allclose(softmax(both.logits(batch)), expected, atol=1e-5)
    assert (both.preds(batch) == expected.argmax(1)).mean() > 0.999 and both.preds(batch).dtype == np.uint8
    assert (parts[0].argmax(1) != parts[1].argmax(1)).any()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"classes": make_classes(["c0", "c1", "c2", "c3", "other"])}, "class_names"),
        ({"bands": ("red", "green", "blue")}, "bands"),
        ({"dtype": "uint16"}, "dtype"),
    ],
)
def test_models_that_differ_make_no_ensemble(models: list[Path], tmp_path: Path, changes: dict[str, object], found: str) -> None:
    save_model(tmp_path / "other", make().state_dict(), card(**changes))
    with pytest.raises(LandsegError, match=f"its {found} are .* leave one of the models out") as caught:
        load_engine([models[0], tmp_path / "other"], "cpu")
    assert caught.value.what == str(tmp_path / "other")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "meta", "cpu:3", "cuda:x"])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(LandsegError, match=r"^predict\.device"):
        choose_device(name, "predict.device")


def test_devices_that_are_here() -> None:
    assert choose_device("cpu", "train.device").type == "cpu"
    assert choose_device("auto", "train.device").type in ("cpu", "cuda", "mps")


def test_softmax_bears_large_logits() -> None:
    found = softmax(np.array([[1e4, 0.0, -1e4], [3.0, 3.0, 3.0]], np.float32).reshape(2, 3, 1, 1))
    assert found.dtype == np.float32 and np.allclose(found.reshape(2, 3), [[1, 0, 0], [1 / 3] * 3])
