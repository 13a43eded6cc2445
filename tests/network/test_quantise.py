"""Between its first and its last convolution a network computes in 8 bits, and gives nearly the same."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from landseg.core.errors import LandsegError
from landseg.network import quantise
from landseg.network.quantise import has_vnni, quantised

BANDS, CLASSES, WIDE = 2, 3, 8


def network(convolutions: int = 4) -> bytes:
    """Normalisation of 16-bit pixels, then 3 × 3 convolutions with ReLU, as the tracing exporter would write it."""
    random = np.random.default_rng(0)
    constants = {"mean": np.full((1, BANDS, 1, 1), 8000, np.float32), "std": np.full((1, BANDS, 1, 1), 3000, np.float32)}
    nodes = [helper.make_node("Sub", ["image", "mean"], ["centred"]), helper.make_node("Div", ["centred", "std"], ["v0"])]
    for i in range(convolutions):
        last = i == convolutions - 1
        shape = (CLASSES if last else WIDE, WIDE if i else BANDS, 3, 3)
        constants[f"w{i}"] = random.normal(0, 1.4 / np.sqrt(9 * shape[1]), shape).astype(np.float32)
        nodes.append(helper.make_node("Conv", [f"v{i}", f"w{i}"], ["logits" if last else f"c{i}"], pads=[1, 1, 1, 1]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"c{i}"], [f"v{i + 1}"]))
    graph = helper.make_graph(
        nodes,
        "by hand",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", BANDS, "height", "width"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES, "height", "width"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString())


def pixels(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(8000, 3000, (1, BANDS, height, width)).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    batches = [pixels(1, 64, 64), pixels(2, 32, 96)]  # of two shapes
    return quantised(network(), batches, tmp_path_factory.mktemp("scratch"))


def run(data: bytes, images: np.ndarray) -> np.ndarray:
    from landseg.network.onnx_engine import onnx_run

    return onnx_run(data)(images)


def test_it_gives_nearly_the_same_at_any_size(made: bytes) -> None:
    for image in (pixels(3, 64, 64), pixels(4, 45, 83)):
        plain, quick = run(network(), image), run(made, image)
        assert plain.shape == quick.shape and quick.dtype == np.float32
        assert 0 < np.abs(plain - quick).max() < 0.25 * plain.std(), "it differs, by little"
        assert (plain.argmax(1) == quick.argmax(1)).mean() > 0.97


def test_images_are_in_memory_one_at_a_time(made: bytes, tmp_path: Path) -> None:
    alive, most = set[int](), 0

    def drawn() -> Iterator[np.ndarray]:
        nonlocal most
        for seed, height, width in ((1, 64, 64), (2, 32, 96), *((i, 64, 64) for i in range(3, 9))):
            image = pixels(seed, height, width)
            alive.add(seed)
            weakref.finalize(image, alive.discard, seed)
            most = max(most, len(alive))
            yield image

    quantised(network(), drawn(), tmp_path)
    assert most <= 3, "the one that is drawn, the one before in the generator's hand, and the one that is computed"


def test_one_odd_image_does_not_widen_the_range_of_all(tmp_path: Path) -> None:
    odd = pixels(9, 64, 64) * 30
    made, image = quantised(network(), [pixels(i, 64, 64) for i in range(20)] + [odd], tmp_path), pixels(30, 64, 64)
    assert (run(network(), image).argmax(1) == run(made, image).argmax(1)).mean() > 0.93


def test_what_is_between_computes_in_8_bits_and_the_ends_in_float32(made: bytes) -> None:
    model = onnx.load_model_from_string(made)
    makers = {output: node for node in model.graph.node for output in node.output}
    constants = {item.name: item for item in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 4
    for node in convolutions[:-1]:
        assert [makers[name].op_type for name in node.input[:2]] == ["DequantizeLinear", "DequantizeLinear"]
        weights = numpy_helper.to_array(constants[makers[node.input[1]].input[0]])
        assert weights.dtype == np.int8 and np.abs(weights.astype(int)).max() <= 64, "7 bits: sums of more overflow on older CPUs"
        scales = numpy_helper.to_array(constants[makers[node.input[1]].input[1]])
        assert len(scales) == WIDE and len(set(scales)) == WIDE, "each channel has its own"
    assert convolutions[-1].input[1] in constants, "the head's weights are float32"
    first = makers[makers[convolutions[0].input[0]].input[0]]
    assert first.op_type == "QuantizeLinear" and makers[first.input[0]].op_type == "Div", "pixels are normalised in float32"
    assert list(makers["centred"].input) == ["image", "mean"]


def resizing() -> bytes:
    """Three convolutions; before the last, maps are made as large as they are, a size that is computed in float32 from their own.

    Encoders that fill up as TensorFlow does, and decoders, have such sums of sizes.
    """
    model = onnx.load_model_from_string(network(3))
    graph = model.graph
    graph.initializer.extend(numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("two", 2), ("half", 0.5)))
    made = [
        helper.make_node("Shape", ["v2"], ["planes"], end=2),
        helper.make_node("Shape", ["v2"], ["edges"], start=2),
        helper.make_node("Cast", ["edges"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["numbers", "two"], ["doubled"]),
        helper.make_node("Mul", ["doubled", "half"], ["halved"]),
        helper.make_node("Cast", ["halved"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Concat", ["planes", "whole"], ["size"], axis=0),
        helper.make_node("Resize", ["v2", "", "", "size"], ["same"], mode="nearest"),
    ]
    *before, last = graph.node
    last.input[0] = "same"
    nodes = [*before, *made, last]
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def test_sizes_are_not_rounded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plain = resizing()
    made = quantised(plain, [pixels(1, 32, 32)], tmp_path)
    assert capfd.readouterr().out == "", "stdout is for results"
    for height, width in ((32, 32), (16, 23), (97, 301)):
        image = pixels(2, height, width)
        found = run(made, image)
        assert found.shape == (1, CLASSES, height, width)
        assert (found.argmax(1) == run(plain, image).argmax(1)).mean() > 0.9


def test_a_network_that_onnx_runtime_does_not_take_is_one_line(tmp_path: Path) -> None:
    odd = onnx.load_model_from_string(network())
    odd.graph.node[3].op_type = "Frobnicate"
    with pytest.raises(LandsegError, match=r"cannot quantise it .*Frobnicate"):
        quantised(odd.SerializeToString(), [pixels(1, 32, 32)], tmp_path)


def test_a_network_without_a_middle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LandsegError, match="fewer than two convolutions"):
        quantised(network(1), [pixels(1, 32, 32)], tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512_vnni\n", True),
        ("flags : fpu avx2 avx_vnni\nflags : fpu\n", True),
        ("processor : 0\nflags\t\t: fpu avx2 avx512f vnni_of_another_name\n", False),
        ("Features : fp asimd asimddp\n", True),
        ("Features : fp asimd\n", False),
        ("nothing to see\n", None),
        (None, None),
    ],
)
def test_what_the_cpu_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, expected: bool | None) -> None:
    place = tmp_path / "cpuinfo"
    if text is not None:
        place.write_text(text)
    monkeypatch.setattr(quantise, "_CPUINFO", place)
    assert has_vnni() is expected
