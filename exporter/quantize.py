"""int8 by static quantisation, as Q/DQ pairs that the runtime fuses into integer convolutions.

Unsigned activations over the range that calibration saw, because signed ones are slow on x86 (three to four times); signed
weights with a scale per channel; biases that also take back the mean error of the rounded weights (Nagel et al. 2019, section
4.2; we take the means of the inputs from the calibration crops, not from the batch norms). The batch-norm neck magnifies what
is left of a quantisation error, so everything after the pooling stays fp32.

Our own graph over onnxruntime.quantization: without Relu in its list that tool rounds a convolution's output before the ReLU,
and again after it. Half of the steps are then spent on values the ReLU drops, and 48 requantisations remain in a ResNet-50.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from exporter.calibrate import Observed
from exporter.export import copied, rebuilt

QUANTIZED_OPS = frozenset({"Conv", "Add", "MaxPool"})
STEPS = 255  # of uint8
LARGEST_WEIGHT = 127  # of int8, symmetric
LARGEST_BIAS = 2**30  # of int32, with a bit to spare for what the convolution adds


@dataclass(frozen=True)
class Grid:
    """How a tensor's values lie on uint8: value = scale * (integer - zero)."""

    scale: np.float32
    zero: np.uint8


def groups_of(model: ModelProto) -> dict[str, list[NodeProto]]:
    """Returns the nodes to quantise by group, in the order they run: the stem, then each residual block."""
    groups: dict[str, list[NodeProto]] = {}
    name = "stem"
    for node in model.graph.node:
        if node.op_type == "Conv":
            weight = node.input[1].removeprefix("backbone.")  # layer1.0.conv1.weight
            name = ".".join(weight.split(".")[:2]) if weight.startswith("layer") else "stem"
        if node.op_type in QUANTIZED_OPS:
            groups.setdefault(name, []).append(node)
    return groups


def results_of(model: ModelProto) -> dict[str, str]:
    """Returns for each node to quantise, by its output, the tensor it stands for: the ReLU's output where one alone follows."""
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    results = {}
    for node in model.graph.node:
        if node.op_type in QUANTIZED_OPS:
            (output,) = node.output
            following = readers.get(output, [])
            results[output] = following[0].output[0] if [one.op_type for one in following] == ["Relu"] else output
    return results


def tensors_of(model: ModelProto) -> list[str]:
    """Returns every tensor that may be quantised: inputs and results of the nodes of all groups."""
    results, weights = results_of(model), {weight.name for weight in model.graph.initializer}
    found: dict[str, None] = {}
    for node in (node for nodes in groups_of(model).values() for node in nodes):
        found |= dict.fromkeys([*(name for name in node.input if name not in weights), results[node.output[0]]])
    return list(found)


def grid_of(observed: Observed) -> Grid:
    """Returns the grid over a tensor's range, stretched to hold 0 exactly: convolutions pad with it."""
    low, high = min(observed.low, 0.0), max(observed.high, 0.0)
    scale = np.float32(max((high - low) / STEPS, 1e-8))  # a tensor that is always 0 needs some scale
    return Grid(scale, np.uint8(round(-low / scale)))


def grids_of(model: ModelProto, nodes: Collection[NodeProto], observed: dict[str, Observed]) -> dict[str, Grid]:
    """Returns the grid of every tensor that `nodes` read or give; a pooled tensor keeps the grid it was pooled from."""
    results = results_of(model)
    grids: dict[str, Grid] = {}
    for node in nodes:
        for name in node.input:
            if name in observed:
                grids.setdefault(name, grid_of(observed[name]))
        result = results[node.output[0]]
        grids[result] = grids[node.input[0]] if node.op_type == "MaxPool" else grid_of(observed[result])
    return grids


def quantized(model: ModelProto, observed: dict[str, Observed], groups: Collection[str]) -> ModelProto:
    """Returns the fp32 model with the named groups in int8, what they read and give on uint8 grids."""
    nodes = [node for name, nodes in groups_of(model).items() if name in groups for node in nodes]
    grids, chosen = grids_of(model, nodes, observed), {node.name for node in nodes}
    weights = {weight.name: weight for weight in model.graph.initializer}
    rebuilt_nodes: list[NodeProto] = []
    for node in map(copied, model.graph.node):
        given = node.input[0]
        rename(node, [f"{name}_dequantized" if name in grids else name for name in node.input])
        if node.op_type == "Conv" and node.name in chosen:
            kernel, bias = (weights.pop(name) for name in node.input[1:])
            parts = integer_weights(kernel, bias, grids[given], observed[given].mean)
            weights |= {part.name: part for part in parts}
            rebuilt_nodes += [dequantize(name, axis=0) for name in node.input[1:]]
            rename(node, [node.input[0], *(f"{name}_dequantized" for name in node.input[1:])])
        rebuilt_nodes.append(node)
        for name in node.output:
            if name in grids:
                weights |= {part.name: part for part in grid_weights(name, grids[name])}
                rebuilt_nodes += quantize_and_back(name)
    return rebuilt(model, rebuilt_nodes, list(weights.values()))


def dequantized(model: ModelProto) -> ModelProto:
    """Returns the float model behind one that `quantized` gave, under the names it had: nothing is rounded any more.

    What rounding took from the weights stays lost, and the biases stay as they were corrected for it. Raises ValueError for a
    model without rounded weights.
    """
    stored = {weight.name: weight for weight in model.graph.initializer}
    rounded = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    meant: dict[str, str] = {}  # by what a DequantizeLinear gives
    weights: dict[str, TensorProto] = {}
    nodes: list[NodeProto] = []
    for node in map(copied, model.graph.node):
        rename(node, [meant.get(name, name) for name in node.input])
        if node.op_type == "DequantizeLinear":
            (given, *grid), (output,) = node.input, node.output
            meant[output] = rounded.get(given, given.removesuffix("_quantized"))
            if given in stored:
                weights[meant[output]] = float_weight(stored[given], *(stored[name] for name in grid), name=meant[output])
        elif node.op_type != "QuantizeLinear":
            nodes.append(node)
    if not weights:
        raise ValueError("got a model without rounded weights, wanted one that was exported with --precision int8")
    read = {name for node in nodes for name in node.input}
    return rebuilt(model, nodes, [weight for name, weight in (stored | weights).items() if name in read])


def float_weight(integers: TensorProto, scales: TensorProto, zeros: TensorProto, *, name: str) -> TensorProto:
    """Returns the float32 values of integers with a scale and a zero point for each row."""
    values, scale, zero = (numpy_helper.to_array(one).astype(np.float64) for one in (integers, scales, zeros))
    rows = (-1, *[1] * (values.ndim - 1))
    return numpy_helper.from_array(((values - zero.reshape(rows)) * scale.reshape(rows)).astype(np.float32), name)


def rename(node: NodeProto, inputs: Sequence[str]) -> None:
    """Gives a node other inputs."""
    del node.input[:]
    node.input.extend(inputs)


def integer_weights(kernel: TensorProto, bias: TensorProto, grid: Grid, input_mean: np.ndarray) -> Iterator[TensorProto]:
    """Yields the integers, scales and zero points of a convolution's kernel [O, C, h, w] and bias [O].

    `input_mean` is the mean of each input channel: the error that rounding leaves in the mean output goes into the bias. The mean
    is taken as if the padding held it too.
    """
    values, offsets = numpy_helper.to_array(kernel), numpy_helper.to_array(bias).astype(np.float64)
    largest = np.abs(values).max(axis=(1, 2, 3)) / LARGEST_WEIGHT
    # Of a channel of almost no weight the bias must fit as well.
    scales = np.maximum(np.maximum(largest, np.abs(offsets) / (grid.scale * LARGEST_BIAS)), 1e-12).astype(np.float32)
    apart = scales[:, None, None, None]
    integers = np.clip(np.round(values / apart), -LARGEST_WEIGHT, LARGEST_WEIGHT)
    offsets -= (integers * apart - values).sum(axis=(2, 3)) @ input_mean
    bias_scales = grid.scale * scales
    yield from named(kernel.name, integers.astype(np.int8), scales)
    yield from named(bias.name, np.round(offsets / bias_scales).astype(np.int32), bias_scales)


def grid_weights(name: str, grid: Grid) -> Iterator[TensorProto]:
    """Yields scale and zero point of an activation."""
    yield numpy_helper.from_array(np.asarray(grid.scale), f"{name}_scale")
    yield numpy_helper.from_array(np.asarray(grid.zero), f"{name}_zero")


def named(name: str, integers: np.ndarray, scales: np.ndarray) -> Iterator[TensorProto]:
    """Yields integers with a scale and a zero point for each row."""
    yield numpy_helper.from_array(integers, f"{name}_quantized")
    yield numpy_helper.from_array(scales, f"{name}_scale")
    yield numpy_helper.from_array(np.zeros(len(scales), integers.dtype), f"{name}_zero")


def dequantize(name: str, axis: int | None = None) -> NodeProto:
    """Returns the node from a tensor's integers to its values; `axis` has the scales of a weight."""
    inputs = [f"{name}_quantized", f"{name}_scale", f"{name}_zero"]
    return onnx.helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantized"], name=f"dequantize_{name}", axis=axis)


def quantize_and_back(name: str) -> list[NodeProto]:
    """Returns the two nodes from a tensor to its rounded values."""
    inputs = [name, f"{name}_scale", f"{name}_zero"]
    return [onnx.helper.make_node("QuantizeLinear", inputs, [f"{name}_quantized"], name=f"quantize_{name}"), dequantize(name)]
