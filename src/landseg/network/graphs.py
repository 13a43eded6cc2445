"""Changes to a network's ONNX graph: a form for QGIS, and keys inside the file. It runs and proves nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from landseg.network.metadata import INPUT, PROBABILITIES

_OWN = "landseg/"
"""What begins the names of nodes and values that are added here, so that they meet no other's."""


def for_qgis(model: ModelProto, edge: int) -> ModelProto:
    """The same network as QGIS's plugin Deepness takes one: a square of fixed size, pixels divided by 255, probabilities.

    The plugin shows a network one tile of the size that its input names, sets what is below a threshold to 0 and takes the
    highest, so that negative logits would all be class 0. Source: the plugin's page "Model classes and requirements".

    Args:
        model: One input and one output (N, C, H, W), opset 13 or later. It is not changed.
        edge: Height and width that the made one takes, one image at a time.

    Returns:
        A network from `INPUT` to `PROBABILITIES`.
    """
    made, inner_input, inner_output = _renamed(model)
    graph = made.graph
    first = helper.make_node("Mul", [INPUT, f"{_OWN}white"], [inner_input], f"{_OWN}Mul")
    last = helper.make_node("Softmax", [inner_output], [PROBABILITIES], f"{_OWN}Softmax", axis=1)
    nodes = [first, *graph.node, last]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(numpy_helper.from_array(np.array(255, np.float32), f"{_OWN}white"))
    for ends, name in ((graph.input, INPUT), (graph.output, PROBABILITIES)):
        planes = ends[0].type.tensor_type.shape.dim[1].dim_value
        ends[0].CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, planes, edge, edge]))
    return made


def set_keys(model: ModelProto, keys: Mapping[str, str]) -> None:
    """Write keys into the file's metadata, in place of what stood there."""
    del model.metadata_props[:]
    helper.set_model_props(model, dict(keys))


def _renamed(model: ModelProto) -> tuple[ModelProto, str, str]:
    """A copy whose input and output have other names, with these. What was noted of the shapes inside, free ones, goes."""
    made = ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    names = {graph.input[0].name: f"{_OWN}input", graph.output[0].name: f"{_OWN}output"}
    for node in graph.node:
        for values in (node.input, node.output):
            for place, name in enumerate(values):
                values[place] = names.get(name, name)
    del graph.value_info[:]
    first, last = names.values()
    return made, first, last
