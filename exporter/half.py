"""fp16 for GPUs: the convolutions in half precision; the pixels before them and everything from the pooling on stay fp32.

Our own forty lines over onnxruntime.transformers.float16: told to leave a chain of nodes in fp32, that tool still rounds to
half precision between each two of them, so that the neck would magnify what the pooling lost.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from exporter.export import copied, rebuilt, save

BODY_OPS = frozenset({"Conv", "Relu", "MaxPool", "Add"})  # the ResNet between the pixels' scaling and the pooling


def write_fp16(fp32_path: Path, fp16_path: Path) -> None:
    """Converts an exported fp32 file; input and output keep their types. Raises ValueError for weights out of range."""
    model = onnx.load(str(fp32_path))
    body = [node for node in model.graph.node if node.op_type in BODY_OPS]
    read = {name for node in body for name in node.input}
    made = {name for node in body for name in node.output}
    weights = [halved(weight) if weight.name in read else weight for weight in model.graph.initializer]
    entering = read - made - {weight.name for weight in weights}
    save(rebuilt(model, list(with_casts(model, entering, made)), weights), fp16_path)


def halved(weight: TensorProto) -> TensorProto:
    """Returns a weight in half precision."""
    values = numpy_helper.to_array(weight)
    largest = float(np.abs(values).max(initial=0))
    if largest > float(np.finfo(np.float16).max):
        raise ValueError(f"fp16: got a weight of {largest:g} in {weight.name}, wanted at most 65504; export fp32")
    return numpy_helper.from_array(values.astype(np.float16), weight.name)


def with_casts(model: ModelProto, entering: set[str], made: set[str]) -> Iterator[NodeProto]:
    """Yields the nodes in order, each tensor that enters the body (`entering`) or is `made` in it and leaves it cast once."""
    cast: set[str] = set()
    for node in map(copied, model.graph.node):
        is_body = node.op_type in BODY_OPS
        kind, suffix = (TensorProto.FLOAT16, "_fp16") if is_body else (TensorProto.FLOAT, "_fp32")
        for place, name in enumerate(node.input):
            if name not in (entering if is_body else made):
                continue
            node.input[place] = name + suffix
            if name + suffix not in cast:
                cast.add(name + suffix)
                yield onnx.helper.make_node("Cast", [name], [name + suffix], name=f"cast_{name}", to=kind)
        yield node
