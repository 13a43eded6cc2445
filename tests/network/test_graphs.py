"""Networks made by hand: the one for QGIS gives the same classes of pixels divided by 255, and keys are read back from the file."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from landseg.network.graphs import for_qgis, set_keys

BANDS, CLASSES, WIDE = 2, 3, 8


def network(seed: int = 0, *, names: tuple[str, str] = ("image", "logits")) -> onnx.ModelProto:
    """Normalisation, three convolutions: (N, 2, H, W) → (N, 3, H, W), logits often negative."""
    random = np.random.default_rng(seed)
    first, last = names
    constants = {
        "mean": np.array([100, 50], np.float32).reshape(1, 2, 1, 1),
        "std": np.array([40, 20], np.float32).reshape(1, 2, 1, 1),
        "w0": random.normal(0, 0.4, (WIDE, BANDS, 3, 3)).astype(np.float32),
        "w1": random.normal(0, 0.2, (WIDE, WIDE, 3, 3)).astype(np.float32),
        "w2": random.normal(0, 0.5, (CLASSES, WIDE, 1, 1)).astype(np.float32),
        "b2": np.array([-3, -3.5, -2.5], np.float32),
    }
    nodes = [
        helper.make_node("Sub", [first, "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "w0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], [last]),
    ]
    graph = helper.make_graph(
        nodes,
        "by hand",
        [helper.make_tensor_value_info(first, TensorProto.FLOAT, ["batch", BANDS, "height", "width"])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["batch", CLASSES, "height", "width"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto | bytes, images: np.ndarray) -> np.ndarray:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])


def pixels(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (count, BANDS, height, width)).astype(np.float32)


def test_the_one_for_qgis_is_a_square_with_probabilities() -> None:
    plain, image = network(), pixels(1, 64, 64)
    made = for_qgis(plain, 64)
    onnx.checker.check_model(made, full_check=True)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape) == ("image", [1, BANDS, 64, 64]), "the plugin takes a square of fixed size from here"
    assert (given.name, given.shape) == ("probabilities", [1, CLASSES, 64, 64])
    logits, probabilities = run(plain, image), run(made, image / 255)
    wanted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(probabilities, wanted, atol=1e-5)


def test_the_plugin_would_take_negative_logits_for_class_0() -> None:
    """Why probabilities: the plugin sets what is below its threshold, 0 at least, to 0 and takes the highest."""
    plain, image = network(), pixels(1, 64, 64)
    logits = run(plain, image)
    probabilities = run(for_qgis(plain, 64), image / 255)
    wanted = logits.argmax(1)
    assert (logits.max(1) < 0).mean() > 0.02, "the case occurs"
    assert (np.where(logits < 0, 0, logits).argmax(1) != wanted).any()
    assert (np.where(probabilities < 0, 0, probabilities).argmax(1) == wanted).all()


def test_the_network_itself_is_left_as_it_was_whatever_its_names() -> None:
    plain = network(names=("pixels", "scores"))
    before = plain.SerializeToString()
    made = for_qgis(plain, 32)
    assert plain.SerializeToString() == before
    assert [made.graph.input[0].name, made.graph.output[0].name] == ["image", "probabilities"]


def test_keys_stand_in_the_file_in_place_of_others() -> None:
    model = network()
    helper.set_model_props(model, {"old": "1"})
    set_keys(model, {"class_names": '{"0": "建筑"}', "x": "2"})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {"class_names": '{"0": "建筑"}', "x": "2"}
