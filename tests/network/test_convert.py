"""A converted network gives what torch's gives, at every size and batch; one that does not is refused, and says which check failed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor, nn

from landseg.core.errors import LandsegError
from landseg.core.settings import NETWORKS
from landseg.inference.tta import augmented
from landseg.network import convert as room
from landseg.network.build import Network, build
from landseg.network.card import ModelCard
from landseg.network.convert import EQUAL, TOLERANCE, convert, prove, tiles
from landseg.network.engine import Ensemble
from landseg.network.lanes import LaneEngine, Run
from landseg.network.onnx_engine import onnx_run, open_onnx
from landseg.network.openvino_engine import open_openvino, require_openvino
from landseg.network.probs import softmax
from landseg.network.torch_engine import TorchEngine
from shared.networks import CPU, K, card_of, images, network_of


def fpn(count: int = 3, **changes: object) -> ModelCard:
    return card_of(count, **{"network": "fpn", **changes})


class Converted(SimpleNamespace):
    network: Network
    data: bytes
    any_size: bytes


@pytest.fixture(scope="module")
def made() -> Converted:
    """One small network, and both of its conversions: they take seconds, so all tests share them."""
    network = network_of(fpn())
    return Converted(network=network, data=convert(network, fpn(), is_decoded=True), any_size=convert(network, fpn(), is_decoded=False))


def require_alike(engine: LaneEngine, other: TorchEngine, batch: np.ndarray, scale: float = 1.0) -> None:
    found, wanted = engine.logits(batch, scale), other.logits(batch, scale)
    assert found.shape == wanted.shape and found.dtype == np.float32
    assert np.abs(found - wanted).max() <= TOLERANCE
    if scale == 1:
        preds = engine.preds(batch)
        assert preds.dtype == np.uint8 and np.array_equal(preds, found.argmax(1)) and (preds == other.preds(batch)).mean() >= EQUAL


@pytest.mark.parametrize(("height", "width"), [(64, 96), (50, 71), (33, 31), (1, 40), (7, 5)])
@pytest.mark.parametrize("size", [None, 40, 96])
def test_it_gives_what_torch_gives(made: Converted, height: int, width: int, size: int | None) -> None:
    facts = fpn(size=size)
    other = TorchEngine(made.network, facts, CPU)
    for source, is_decoded in ((made.data, True), (made.any_size, False)):
        engine = open_onnx(source, facts, is_decoded=is_decoded, lanes=2)
        for scale in (1.0, 0.75, 1.25):
            require_alike(engine, other, images((2, height, width, 3)), scale)


def test_an_augmented_one_and_an_ensemble_with_torch_do_too(made: Converted) -> None:
    batch = images((2, 45, 70, 3))
    one, other = open_onnx(made.data, fpn(), is_decoded=True), TorchEngine(made.network, fpn(), CPU)
    for tta in ("d4", "scales"):
        assert np.abs(softmax(augmented(one, tta).logits(batch)) - softmax(augmented(other, tta).logits(batch))).max() < 1e-4
    both = Ensemble([one, other])
    assert np.abs(softmax(both.logits(batch)) - softmax(other.logits(batch))).max() < 1e-4
    assert both.lanes == 1 and both.runtime == f"{one.runtime}, {other.runtime}"


def test_an_images_bits_depend_on_no_batch_and_no_lanes(made: Converted) -> None:
    batch = images((7, 96, 64, 3))
    wanted = np.concatenate([open_onnx(made.data, fpn(), is_decoded=True, lanes=1).logits(batch[i : i + 1]) for i in range(7)])
    for lanes in (1, 2, 5):
        engine = open_onnx(made.data, fpn(), is_decoded=True, lanes=lanes)
        assert np.array_equal(engine.logits(batch), wanted) and np.array_equal(engine.logits(batch[::-1])[::-1], wanted)


def test_bits_depend_on_no_memory_that_is_short(made: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = images((5, 64, 64, 3))
    wanted = open_onnx(made.data, fpn(), is_decoded=True, lanes=3).logits(batch)
    at_once, most = 0, 0

    def counted(run: Run) -> Run:
        def count(values: np.ndarray) -> np.ndarray:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            found = run(values)
            at_once -= 1
            return found

        return count

    monkeypatch.setattr("landseg.network.lanes.memory", lambda: SimpleNamespace(free=1000))
    engine = LaneEngine(counted(onnx_run(made.data)), fpn(), "counted", lanes=3)
    assert np.array_equal(engine.logits(batch), wanted) and most == 1


def test_twelve_bands_of_floating_numbers_with_gaps() -> None:
    facts = fpn(12, dtype="float32", scaling=((0.0, 3000.0),) * 12, mean=(0.3,) * 12, std=(0.2,) * 12)
    network = network_of(facts)
    engine = open_onnx(convert(network, facts, is_decoded=True), facts, is_decoded=True)
    batch = images((2, 61, 40, 12)).astype(np.float32) * 10
    batch[0, 10:30, 5:9, 3] = np.nan
    batch[1, 0, 0] = np.inf
    require_alike(engine, TorchEngine(network, facts, CPU), batch)
    assert np.isfinite(engine.logits(batch)).all()


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float64"])
def test_other_types_travel_as_float32(made: Converted, dtype: str) -> None:
    batch = images((1, 40, 33, 3))
    engine = open_onnx(made.data, fpn(), is_decoded=True)
    assert np.array_equal(engine.logits(batch.astype(dtype)), engine.logits(batch))


def test_the_network_is_left_as_it_was(made: Converted) -> None:
    facts = fpn(network="upernet")
    network = network_of(facts)
    before = [type(module) for module in network.modules()]
    convert(network, facts, is_decoded=True)
    assert [type(module) for module in network.modules()] == before and not network.training


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 7), st.integers(1, 7))
def test_adaptive_pooling_is_torchs(height: int, width: int, rows: int, cols: int) -> None:
    values = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(room._AdaptivePool(rows, cols)(values), nn.AdaptiveAvgPool2d((rows, cols))(values), atol=1e-5)


def changed(run: Run, change: Callable[[np.ndarray], np.ndarray], at: int) -> Run:
    """A run whose results are changed from its call number `at` on, counted from 0."""
    calls = iter(range(99))
    return lambda values: change(run(values)) if next(calls) >= at else run(values)


def flipped(logits: np.ndarray) -> np.ndarray:
    """Every logit is nearly what it was, and of one pixel in a thousand the two highest have changed places."""
    found = np.zeros_like(logits)
    found[:, 1] = 1e-5
    found[:, 2, ::10, ::100] = 2e-5
    return found


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda logits: logits + 2 * TOLERANCE, r"logits of .* differ by 0\.002\d* from torch's, 0\.001 at most"),
        (lambda logits: np.where(logits == logits.max(), np.nan, logits), "differ by nan"),
        (lambda logits: logits[:, :-1], "logits of shape .* as torch's"),
    ],
)
def test_another_result_is_refused_at_either_size(made: Converted, change: Callable[..., np.ndarray], words: str, at: int) -> None:
    run = onnx_run(made.data)
    prove(made.network, fpn(), run, "fpn", is_decoded=True)
    with pytest.raises(LandsegError, match=f"^fpn, converted: .*{words}") as caught:
        prove(made.network, fpn(), changed(run, change, at), "fpn", is_decoded=True)
    assert ("1 × 256" in caught.value.found) == (at == 0) and ("3 × 128" in caught.value.found) == (at == 1)


def test_other_classes_are_refused_though_logits_are_near() -> None:
    class Even(nn.Module):
        """Its logits are nearly equal, the second class a little ahead."""

        def forward(self, values: Tensor) -> Tensor:
            return torch.tensor([0.0, 1e-5, 0.0, 0.0, 0.0])[None, :, None, None].expand(len(values), K, *values.shape[2:])

    even = Network(Even(), fpn().normalisation)
    with pytest.raises(LandsegError, match=r"fpn, converted: 99\.8\d*% of the classes of .* are torch's, 99\.99% at least"):
        prove(even, fpn(), lambda values: flipped(np.zeros((len(values), K, *values.shape[1:3]), np.float32)), "fpn", is_decoded=True)


def test_one_that_fails_at_another_size_is_refused(made: Converted) -> None:
    run = onnx_run(made.data)
    words = r"it fails on 1 × 256 × 224 pixels: .* failed on an array of 1 × 256 × 224 × 2 \(.*, a network for any size and batch"
    with pytest.raises(LandsegError, match=words):
        prove(made.network, fpn(), lambda values: run(values[..., :2].copy()), "fpn", is_decoded=True)


class Unknown(nn.Module):
    """A body with an operator that ONNX has not."""

    def forward(self, values: Tensor) -> Tensor:
        return torch.special.bessel_j0(values).sum(1, keepdim=True).expand(-1, K, -1, -1)


def test_an_operator_that_cannot_be_converted_is_named_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LandsegError, match=r"fpn with .*torch cannot convert it to ONNX .*bessel_j0.*predict\.engine=torch") as caught:
        convert(Network(Unknown(), fpn().normalisation), fpn(), is_decoded=True)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""
    assert logging.getLogger("torch.onnx").level != logging.CRITICAL


def test_a_process_without_standard_output_converts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it where it is closed, and in programs with windows
    with room._silence():
        pass


def test_what_the_runtime_lacks_or_cannot_read_is_refused() -> None:
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, None)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Dream", ["image"], ["logits"], domain="ours")], "g", [value], [logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ours", 1)])
    late = onnx.ModelProto.FromString(model.SerializeToString())
    late.opset_import[0].version = 99
    for data in (model.SerializeToString(), late.SerializeToString(), b"", b"no network"):
        with pytest.raises(LandsegError, match=r"ONNX Runtime \S+ cannot run it .*predict\.engine=torch"):
            onnx_run(data)


UNCONVERTED = {("dpt", "vit_small_patch16_224")}
"""Pairs that run on torch everywhere; the known limits say so, with the upstream issue."""


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["mobilenetv3_large_100", "mit_b0", "convnext_tiny", "vit_small_patch16_224"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_is_converted_or_stands_in_the_known_limits(network: str, encoder: str) -> None:
    facts = fpn(network=network, encoder=encoder)
    torch.manual_seed(0)
    try:
        built = build(network, encoder, 3, K, facts.normalisation).eval()
    except LandsegError:
        return  # a pair that no model can be of: `test_networks` looks after these
    if (network, encoder) in UNCONVERTED:
        page = (Path(__file__).parents[2] / "docs" / "known-limits.md").read_text(encoding="utf-8")
        assert "Vision transformers (`dpt` with a `vit`) run on PyTorch everywhere" in page
        with pytest.raises(LandsegError, match="torch cannot convert it to ONNX"):
            convert(built, facts, is_decoded=True)
        return
    for is_decoded in (True, False):
        assert convert(built, facts, is_decoded=is_decoded)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiles_of_the_proof_look_like_the_models_images(dtype: str) -> None:
    facts = fpn(4, dtype=dtype, scaling=((100.0, 200.0),) * 4, mean=(0.5,) * 4, std=(0.2,) * 4)
    found = tiles(facts, 3, 96, 64)
    assert found.shape == (3, 96, 64, 4) and found.dtype == dtype and np.array_equal(found, tiles(facts, 3, 96, 64), equal_nan=True)
    assert np.isnan(found).any() == (dtype == "float32")
    assert 130 < np.nanmean(found) < 170 and 10 < np.nanstd(found) < 40
    neighbours = np.corrcoef(found[0, 10:-1, :, 1].ravel(), found[0, 11:, :, 1].ravel())[0, 1]
    assert neighbours > 0.6, "a tile is no noise"
    assert not np.array_equal(found[0], found[1], equal_nan=True)


def test_openvino_gives_the_same(made: Converted) -> None:
    pytest.importorskip("openvino")
    batch = images((3, 50, 71, 3))
    for source, is_decoded in ((made.data, True), (made.any_size, False)):
        engine = open_openvino(source, fpn(), is_decoded=is_decoded, lanes=2)
        assert engine.runtime.startswith("OpenVINO 20")
        require_alike(engine, TorchEngine(made.network, fpn(), CPU), batch)
    with pytest.raises(LandsegError, match=r"OpenVINO .* cannot run it"):
        open_openvino(b"no network", fpn(), is_decoded=True)


def test_openvino_compiles_for_each_lane_once_whatever_threads_come_and_go(made: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("openvino")
    times, compile_model = [], openvino.Core.compile_model

    def counted(*arguments: object) -> object:
        times.append(1)
        return compile_model(*arguments)

    monkeypatch.setattr(openvino.Core, "compile_model", counted)
    engine = open_openvino(made.data, fpn(), is_decoded=True, lanes=2)
    batch = images((1, 64, 64, 3))
    wanted = engine.logits(batch)
    for _ in range(3):  # as each large tile and each scene has them
        with ThreadPoolExecutor(2) as pool:
            assert all(np.array_equal(found, wanted) for found in pool.map(engine.logits, [batch] * 4))
    assert len(times) <= 2


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (None, "OpenVINO is not installed, the extra openvino"),
        (SimpleNamespace(__version__="2023.3.0-13775", Core=1), r"OpenVINO 2023\.3\.0-13775, 2024\.4 or later"),
        (ModuleType("openvino"), "OpenVINO 0, 2024.4 or later"),
    ],
)
def test_an_openvino_that_is_not_there_or_too_old_names_the_extra(monkeypatch: pytest.MonkeyPatch, module: object, words: str) -> None:
    monkeypatch.setitem(sys.modules, "openvino", module)  # type: ignore[arg-type]
    with pytest.raises(LandsegError, match=rf"^predict\.engine=openvino: {words}; pip install -U landseg\[openvino\]"):
        require_openvino()
