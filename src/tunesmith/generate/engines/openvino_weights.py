"""In what form an exported model holds its weights: as the package stores them, or in eight bits.

A constant that a product or a table look-up reads is replaced by a narrower one and the arithmetic that widens it
again; OpenVINO's kernels read the narrow one. Halves are exact where the package stores halves. Eight bits are
symmetric, one scale for each row (an output of a layer, an entry of the embeddings).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.generate.engines.openvino_import import ov

Form = Literal["float32", "bfloat16", "float16", "int8"]
SMALLEST = 4096
"""Elements of a constant that is worth narrowing."""


def narrow_weights(graph: ov.Model, form: Form) -> int:
    """Narrow the weights of ``graph`` in place; how many constants were."""
    if form == "float32":
        return 0
    made: dict[str, ov.Output] = {}
    for node in graph.get_ordered_ops():
        kind = node.get_type_name()
        if kind not in ("MatMul", "Gather"):
            continue
        port = 1 if kind == "MatMul" else 0
        constant = node.input_value(port).get_node()
        if constant.get_type_name() != "Constant" or constant.get_element_type() != ov.Type.f32:
            continue
        values: NDArray[np.float32] = constant.data
        if values.ndim != 2 or values.size < SMALLEST:
            continue
        if kind == "MatMul" and not node.get_attributes()["transpose_b"]:
            continue
        name = constant.get_friendly_name()
        if name not in made:
            made[name] = _narrow(values, form)
        node.input(port).replace_source_output(made[name])
    graph.validate_nodes_and_infer_types()
    return len(made)


def _narrow(values: NDArray[np.float32], form: Form) -> ov.Output:
    opset = ov.opset13
    if form == "int8":
        scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
        scale[scale == 0] = 1
        small = np.rint(values / scale).astype(np.int8)
        widened = opset.convert(opset.constant(small), "f32")
        return opset.multiply(widened, opset.constant(scale.astype(np.float32))).output(0)
    if form == "float16":
        return opset.convert(opset.constant(values.astype(np.float16)), "f32").output(0)
    halves = (values.view(np.uint32) >> 16).astype(np.uint16)
    tensor = ov.Tensor(halves, ov.Shape(list(values.shape)), ov.Type.bf16)
    # Not shared: the constant outlives the array.
    return opset.convert(ov.op.Constant(tensor, shared_memory=False), "f32").output(0)
