"""Logits come at the images' own size, whatever the network's stride, the training size and the files' dtype."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landseg.core import allocation
from landseg.core.classes import make_classes
from landseg.core.errors import LandsegError
from landseg.inference.pieces import EDGE, piece_edge
from landseg.network import torch_engine
from landseg.network.build import Normalisation, build
from landseg.network.checkpoint import ModelCard, save_model
from landseg.network.engine import Ensemble, load_engine
from landseg.network.probs import softmax
from landseg.network.sizes import fitted_shape
from landseg.network.torch_engine import TorchEngine, choose_device, fit, pad, to_tensor
from shared.networks import CPU, SMALL, K, card_of, images, network_of


class Stand(torch.nn.Module):
    """Stands for a network that is always right: its logits are the label that lies in the first band. Insists on its stride."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        assert batch.shape[-1] % 32 == batch.shape[-2] % 32 == 0
        return torch.nn.functional.one_hot(batch[:, 0].long(), K).permute(0, 3, 1, 2).float()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70), st.sampled_from(["uint8", "uint16", "int16", "float32", "uint32"]))
def test_a_network_that_is_right_gives_back_exactly_the_labels(count: int, height: int, width: int, dtype: str) -> None:
    labels = np.random.default_rng(height * width).integers(0, K, (count, height, width)).astype(dtype)
    engine = TorchEngine(Stand(), card_of(), CPU)  # type: ignore[arg-type]
    batch = np.repeat(labels[..., None], 3, -1)
    found = engine.preds(batch)
    assert found.dtype == np.uint8 and np.array_equal(found, labels)
    assert engine.logits(batch).shape == (count, K, height, width)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 70), (33, 31), (1, 40), (7, 5)])
@pytest.mark.parametrize("size", [None, 32, 96, 40])
def test_logits_come_at_the_images_size(height: int, width: int, size: int | None) -> None:
    engine = TorchEngine(network_of(card_of()), card_of(size=size), CPU)
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
        TorchEngine(Watch(), card_of(size=size), CPU).logits(images((1, 80, 60, 3)))  # type: ignore[arg-type]
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


def test_missing_values_stay_missing_and_do_not_spread() -> None:
    batch = torch.full((1, 3, 40, 40), 2.0)
    batch[0, 0, 10:20, 10:20] = torch.nan
    batch[0, 2, 3, 3] = torch.inf
    for factor in (0.5, 0.75, 1.25):
        found = fit(batch, factor)[0]
        missing = ~found.isfinite()
        assert torch.allclose(found[~missing], torch.tensor(2.0)), "a gap leaves its neighbours as they are"
        assert int(missing[0].sum()) == pytest.approx(100 * factor**2, rel=0.3) and bool(missing[0, int(15 * factor), int(15 * factor)])
        assert not missing[1].any() and int(missing[2].sum()) <= 4


class Echo(torch.nn.Module):
    """Its logits are the first band; it remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen.append(batch)
        return batch[:, :1].float().repeat(1, K, 1, 1)


@pytest.mark.parametrize("size", [None, 48])
def test_a_scale_is_applied_to_the_images_own_pixels_once(size: int | None) -> None:
    ramp = np.tile(np.arange(128, dtype=np.float32), (128, 1))[None, ..., None].repeat(3, -1)
    stripes = np.tile(np.arange(128) % 2 * 200, (128, 1)).astype(np.uint8)[None, ..., None].repeat(3, -1)
    for scale in (0.75, 1.0, 1.25):
        network = Echo()
        engine = TorchEngine(network, card_of(size=size), CPU)  # type: ignore[arg-type]
        shift = engine.logits(ramp, scale)[0, 0, 8:-8, 8:-8] - ramp[0, 8:-8, 8:-8, 0]
        assert abs(shift.mean()) < 0.02 and np.abs(shift).max() < 0.5, "in pixels"
        edge = round(128 * engine.card.factor * scale)
        engine.logits(stripes, scale)
        view = network.seen[-1][0, 0, :edge, :edge].float()
        assert torch.equal(view, fit(to_tensor(stripes, CPU), engine.card.factor * scale)[0, 0].float()), "of the stripes themselves"
        if edge == 96:  # each pixel is made of two
            assert torch.allclose(view, torch.tensor(100.0))


def test_an_image_with_negative_steps_along_one_pixel_is_taken() -> None:
    engine = TorchEngine(network_of(card_of()), card_of(), CPU)
    batch = images((1, 1, 40, 3))
    assert np.array_equal(engine.preds(batch[:, ::-1]), engine.preds(batch))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int16", "int32", "float64", "float16", "uint32", "bool"])
def test_every_dtype_gives_what_its_numbers_give(dtype: str) -> None:
    engine = TorchEngine(network_of(card_of(4)), card_of(4), CPU)
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
    engine = TorchEngine(network_of(card_of()), card_of(), CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.preds(batch)


def test_a_batch_gives_what_its_tiles_give() -> None:
    engine = TorchEngine(network_of(card_of()), card_of(), CPU)
    batch = images((4, 45, 37, 3))
    together = engine.logits(batch)
    for i in range(4):
        assert np.allclose(engine.logits(batch[i : i + 1])[0], together[i], atol=1e-4)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        save_model(folder / str(seed), network_of(card_of(), seed).state_dict(), card_of())
    return [folder / "0", folder / "1"]


def test_an_ensemble_of_a_model_with_itself_is_the_model(models: list[Path]) -> None:
    batch = images((2, 50, 61, 3))
    single, double = load_engine(models[:1], "cpu", "torch"), load_engine([models[0], models[0]], "cpu", "torch")
    assert isinstance(single, TorchEngine) and isinstance(double, Ensemble)
    logits = single.logits(batch)
    ordered = np.sort(logits, 1)
    is_clear = ordered[:, -1] - ordered[:, -2] > 1e-5
    assert is_clear.mean() > 0.999
    assert np.array_equal(double.preds(batch)[is_clear], single.preds(batch)[is_clear])
    assert np.allclose(softmax(double.logits(batch)), softmax(logits), atol=1e-5)


def test_an_ensemble_averages_probabilities(models: list[Path]) -> None:
    batch = images((1, 40, 40, 3))
    parts = [softmax(load_engine([path], "cpu", "torch").logits(batch)) for path in models]
    both = load_engine(models, "cpu", "torch")
    expected = (parts[0] + parts[1]) / 2
    assert np.allclose(softmax(both.logits(batch)), expected, atol=1e-5)
    assert (both.preds(batch) == expected.argmax(1)).mean() > 0.999 and both.preds(batch).dtype == np.uint8
    assert (parts[0].argmax(1) != parts[1].argmax(1)).any()


def test_models_of_other_sizes_and_networks_make_an_ensemble(models: list[Path], tmp_path: Path) -> None:
    torch.manual_seed(2)
    other = build("fpn", SMALL, 3, K, Normalisation((90.0,) * 3, (40.0,) * 3))
    save_model(
        tmp_path / "other", other.state_dict(), card_of(network="fpn", tile_size=(96, 48), size=144, mean=(90.0,) * 3, std=(40.0,) * 3)
    )
    together = load_engine([models[0], tmp_path / "other"], "cpu", "torch")
    batch = images((2, 50, 61, 3))
    parts = [softmax(load_engine([path], "cpu", "torch").logits(batch)) for path in (models[0], tmp_path / "other")]
    assert np.allclose(softmax(together.logits(batch)), (parts[0] + parts[1]) / 2, atol=1e-5)
    scaled = [softmax(load_engine([path], "cpu", "torch").logits(batch, 0.75)) for path in (models[0], tmp_path / "other")]
    assert np.allclose(softmax(together.logits(batch, 0.75)), (scaled[0] + scaled[1]) / 2, atol=1e-5)
    assert together.card.tile_size == (96, 48) and together.card.factor == pytest.approx(1.5)
    assert load_engine([models[0], models[1]], "cpu", "torch").card == load_engine(models[:1], "cpu", "torch").card


sides = st.integers(16, 1200)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(sides, sides, st.integers(16, 1200)), min_size=2, max_size=4))
def test_an_ensemble_asks_no_more_memory_of_a_network_than_one_of_its_models_would(sizes: list[tuple[int, int, int]]) -> None:
    cards = [card_of(tile_size=(height, width), size=size) for height, width, size in sizes]
    joint = Ensemble([SimpleNamespace(card=one, runtime="none", lanes=1) for one in cards]).card  # type: ignore[misc]
    factor = max(one.factor for one in cards)

    def network_pixels(one: ModelCard) -> float:
        return one.tile_size[0] * one.tile_size[1] * one.factor**2

    # `size` is a whole number, so a factor is off by up to half a pixel; and so is an edge of pieces, a multiple of 32.
    assert joint.factor == pytest.approx(factor, abs=0.51 / max(joint.tile_size))
    assert joint.tile_size[0] * joint.tile_size[1] * factor**2 <= max(map(network_pixels, cards)) * 1.0001 + 1
    edge = piece_edge(joint.tile_size, joint.factor)
    assert (edge - 31) * factor <= max(EDGE * 1.25, *(max(one.tile_size) * one.factor for one in cards))


def test_nothing_is_no_model() -> None:
    with pytest.raises(LandsegError, match="MODEL: nothing is named"):
        load_engine([], "cpu", "torch")


def test_a_strangers_process_keeps_its_own_way_with_memory(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landseg.core.allocation._is_done", False)
    load_engine(models[:1], "cpu", "torch")
    assert not allocation._is_done


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"classes": make_classes(["c0", "c1", "c2", "c3", "other"])}, "class_names"),
        ({"bands": ("red", "green", "blue")}, "bands"),
        ({"dtype": "uint16"}, "dtype"),
    ],
)
def test_models_that_differ_make_no_ensemble(models: list[Path], tmp_path: Path, changes: dict[str, object], found: str) -> None:
    save_model(tmp_path / "other", network_of(card_of()).state_dict(), card_of(**changes))
    with pytest.raises(LandsegError, match=f"its {found} are .* leave one of the models out") as caught:
        load_engine([models[0], tmp_path / "other"], "cpu", "torch")
    assert caught.value.what == str(tmp_path / "other")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "meta", "cpu:3", "cuda:x"])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(LandsegError, match=r"^predict\.device"):
        choose_device(name, "predict.device")


def test_devices_that_are_here() -> None:
    assert choose_device("cpu", "train.device").type == "cpu"
    assert choose_device("auto", "train.device").type in ("cpu", "cuda", "mps")


def test_fewer_bits_move_logits_a_little_and_are_recorded(models: list[Path]) -> None:
    batch = images((2, 64, 96, 3))
    whole, fewer = load_engine(models[:1], "cpu", "torch"), load_engine(models[:1], "cpu", "auto", "bf16")
    assert isinstance(fewer, TorchEngine), "whose layers can compute in fewer bits, on a CPU too"
    assert fewer.runtime == f"{whole.runtime} in bf16", "one prediction is not continued in the other precision"
    wanted, found = whole.logits(batch), fewer.logits(batch)
    assert found.dtype == np.float32 and np.array_equal(found, fewer.logits(batch))
    assert 0 < np.abs(found - wanted).max() < 0.1 * np.ptp(wanted)
    assert (fewer.preds(batch) == whole.preds(batch)).mean() > 0.9
    assert {weights.dtype for weights in fewer._network.parameters()} == {torch.float32}


def test_fewer_bits_that_a_device_or_an_engine_lacks_are_refused(models: list[Path]) -> None:
    for device, engine, precision, words in (
        ("cpu", "onnx", "bf16", r"^predict\.precision=bf16: predict\.engine=onnx, which computes in 32 bits"),
        ("auto", "openvino", "16", r"^predict\.precision=16: predict\.engine=openvino"),
        ("cpu", "auto", "16", r"^predict\.precision: 16 on cpu, .*--set predict\.precision=32"),
    ):
        with pytest.raises(LandsegError, match=words):
            load_engine(models[:1], device, engine, precision)


@pytest.mark.parametrize("precision", ["fp16", "bfloat16", "float16", 16, 32, ""])
def test_a_precision_that_is_none_is_refused_on_any_device(models: list[Path], precision: str) -> None:
    for engine in ("auto", "torch", "onnx"):
        with pytest.raises(LandsegError, match=rf"^predict\.precision: {precision!r}, '32', 'bf16' or '16'"):
            load_engine(models[:1], "auto", engine, precision)
    with pytest.raises(LandsegError, match=r"^predict\.precision"):
        TorchEngine(Stand(), card_of(), torch.device("cuda"), precision)  # type: ignore[arg-type]


@pytest.mark.parametrize("has_units", [True, False])
def test_bf16_that_a_card_only_emulates_is_refused(monkeypatch: pytest.MonkeyPatch, has_units: bool) -> None:
    asked = list[torch.device]()
    monkeypatch.setattr("torch.cuda.device", lambda device: asked.append(device) or nullcontext())
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation or has_units)
    device = torch.device("cuda:1")
    with nullcontext() if has_units else pytest.raises(LandsegError, match=r"bf16 on cuda, 16, or bf16 where it has units for it"):
        torch_engine._require_precision("bf16", device)
    assert asked == [device], "another card may have other units"
    torch_engine._require_precision("16", device)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_logits_beyond_the_range_of_16_bits_are_refused(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    class Large(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return torch.full((len(batch), K, *batch.shape[2:]), value)

    monkeypatch.setattr("landseg.network.torch_engine._require_precision", lambda *_: None)  # as on a GPU
    with pytest.raises(LandsegError, match=r"^predict\.precision=16: logits that are not finite.* or the model's own.*=bf16"):
        TorchEngine(Large(), card_of(), CPU, "16").preds(images((1, 32, 32, 3)))  # type: ignore[arg-type]
    TorchEngine(Large(), card_of(), CPU).preds(images((1, 32, 32, 3)))  # type: ignore[arg-type]
