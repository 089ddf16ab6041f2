"""What the machine could do: the best rate of its matrix unit that any library here reaches, and what a model asks of it.

Nothing here is a theoretical figure: a peak is measured, in the same rounds as the models, by the largest products and
convolutions that numpy, torch and ONNX Runtime offer. So a fraction of it is one of what software reaches, not of the chip.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from benchmarks.rounds import Work


@dataclass(frozen=True)
class Size:
    """How large the products are: the side of square matrices, the activations of a 3 x 3 convolution that keeps its channels."""

    side: int
    activations: tuple[int, int, int, int]

    @property
    def product_macs(self) -> int:
        return self.side**3

    @property
    def conv_macs(self) -> int:
        return prod(self.activations) * self.activations[1] * 9

    @property
    def weights(self) -> tuple[int, int, int, int]:
        return (self.activations[1], self.activations[1], 3, 3)


FULL = Size(1536, (8, 256, 24, 24))  # 3.6 and 2.7 G multiply-adds; the convolution is one of a ResNet-50's middle
SMALL = Size(384, (1, 128, 24, 24))  # to see that it runs


def count_macs(path: Path) -> int:
    """Returns a model's multiply-adds for one crop: its convolutions and matrix products, whatever their precision."""
    model = onnx.load(str(path))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [one.dim_value for one in value.type.tensor_type.shape.dim] for value in (*graph.value_info, *graph.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return sum(node_macs(node, shapes) for node in graph.node)


def node_macs(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    """Returns a node's multiply-adds; raises KeyError when the shape of its weights or output is not known."""
    if node.op_type == "Conv":  # every output element is a sum over the weights of its channel
        return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type in ("Gemm", "MatMul"):
        return prod(shapes[node.output[0]]) * (prod(shapes[node.input[1]]) // shapes[node.output[0]][-1])
    return 0


def fp32_peaks(*, threads: int, size: Size = FULL) -> dict[str, Work]:
    """Returns what may come nearest to the fp32 peak; each call returns its multiply-adds."""
    ones = np.random.default_rng(0).normal(size=(size.side, size.side)).astype(np.float32)
    tensor = torch.from_numpy(ones)
    return {
        "fp32 product, numpy": counted(size.product_macs, lambda: ones @ ones),
        "fp32 product, torch": counted(size.product_macs, lambda: tensor @ tensor),
        "fp32 3x3 convolution, ONNX Runtime": convolution(onnx_conv(size), size, np.float32, threads=threads),
        "fp32 3x3 convolution, torch": torch_convolution(size),
    }


def int8_peaks(*, threads: int, size: Size = FULL) -> dict[str, Work]:
    """Returns what may come nearest to the int8 peak; each call returns its multiply-adds."""
    rng = np.random.default_rng(0)
    signed = torch.from_numpy(rng.integers(-127, 128, (size.side, size.side), dtype=np.int8))
    return {
        "int8 product, torch": counted(size.product_macs, lambda: torch._int_mm(signed, signed)),
        "int8 product, ONNX Runtime": integer_product(size, threads=threads),
        "int8 3x3 convolution, ONNX Runtime": convolution(onnx_qconv(size), size, np.uint8, threads=threads),
    }


def counted(macs: int, call: Callable[[], object]) -> Work:
    """Returns a call that tells its multiply-adds."""

    def work() -> float:
        call()
        return macs

    return work


def torch_convolution(size: Size) -> Work:
    """Returns torch's convolution, channels last."""
    weights = torch.randn(*size.weights).to(memory_format=torch.channels_last)
    activations = torch.randn(*size.activations).to(memory_format=torch.channels_last)
    return counted(size.conv_macs, lambda: torch.nn.functional.conv2d(activations, weights, padding=1))


def convolution(model: onnx.ModelProto, size: Size, kind: type, *, threads: int) -> Work:
    """Returns a one-node model's call on ones."""
    session = open_session(model, threads=threads)
    feed: dict[str, np.ndarray] = {"x": np.ones(size.activations, dtype=kind)}
    return counted(size.conv_macs, lambda: session.run(None, feed))


def integer_product(size: Size, *, threads: int) -> Work:
    """Returns ONNX Runtime's uint8 by int8 product, its right side known beforehand as a model's weights are."""
    square = (size.side, size.side)
    weights = numpy_helper.from_array(np.ones(square, np.int8), "w")
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    session = open_session(one_node(node, [weights], (TensorProto.UINT8, TensorProto.INT32), square), threads=threads)
    feed = {"x": np.ones(square, np.uint8)}
    return counted(size.product_macs, lambda: session.run(None, feed))


def onnx_conv(size: Size) -> onnx.ModelProto:
    """Returns one fp32 convolution."""
    weights = numpy_helper.from_array(np.ones(size.weights, np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    return one_node(node, [weights], (TensorProto.FLOAT, TensorProto.FLOAT), size.activations)


def onnx_qconv(size: Size) -> onnx.ModelProto:
    """Returns one convolution of unsigned activations and signed weights, as the exporter writes them."""
    scale, unsigned, signed = np.float32(0.01), np.uint8(0), np.int8(0)
    constants = {"s": scale, "u": unsigned, "i": signed, "w": np.ones(size.weights, np.int8)}
    node = helper.make_node("QLinearConv", ["x", "s", "u", "w", "s", "i", "s", "u"], ["y"], pads=[1, 1, 1, 1])
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    return one_node(node, tensors, (TensorProto.UINT8, TensorProto.UINT8), size.activations)


def one_node(
    node: onnx.NodeProto, tensors: list[onnx.TensorProto], kinds: tuple[int, int], shape: tuple[int, ...]
) -> onnx.ModelProto:
    """Returns a model of one node from x to y, both of one shape."""
    source, target = (helper.make_tensor_value_info(name, kind, shape) for name, kind in zip("xy", kinds, strict=True))
    graph = helper.make_graph([node], "one", [source], [target], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def open_session(model: onnx.ModelProto, *, threads: int) -> onnxruntime.InferenceSession:
    """Returns a session of a model in memory."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
