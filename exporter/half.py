"""fp16 for GPUs: the convolutions in half precision; the pixels before them and everything from the pooling on stay fp32.

Our own forty lines over onnxruntime.transformers.float16: told to leave a chain of nodes in fp32, that tool still rounds to
half precision between each two of them, so that the neck would magnify what the pooling lost.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from exporter import calibrate
from exporter.calibrate import Observed
from exporter.export import copied, rebuilt, save

LARGEST = float(np.finfo(np.float16).max)  # 65504
MOST = LARGEST / 2  # of an activation: crops that nobody looked at have as much room again
BODY_OPS = frozenset({"Conv", "Relu", "MaxPool", "Add"})  # the ResNet between the pixels' scaling and the pooling


@dataclass(frozen=True)
class Room:
    """The largest activation of the part in half precision, over so many crops, where it is, and the most that was allowed."""

    largest: float
    tensor: str
    most: float
    num_crops: int

    def description(self) -> dict[str, Any]:
        """Returns what the manifest says of it."""
        scheme = "convolutions in half precision, fp32 before them and from the pooling on"
        return {"scheme": scheme, "largest_activation": asdict(self)}


def check_room(model: ModelProto, crops: np.ndarray) -> Room:
    """Runs the fp32 model over crops uint8 [N, H, W, 3] and looks at every sum of the part that is to be in half precision.

    A CPU computes an fp16 file in fp32, so that the comparison with torch cannot see an overflow: a GPU would give infinity.
    Raises ValueError naming the tensor that comes within a factor of two of it.
    """
    sums = {node.output[0]: node for node in model.graph.node if node.op_type in ("Conv", "Add")}
    found = {name: reach(observed) for name, observed in calibrate.observe(model, list(sums), crops).items()}
    tensor = max(found, key=lambda name: found[name])
    node, largest = sums[tensor], found[tensor]
    if largest > MOST:
        place = f"{tensor}, {node.op_type} of {node.input[1]}"
        raise ValueError(
            f"fp16: got an activation of {largest:g} in {place}, wanted at most {MOST:g}, half of what half precision "
            "holds; export fp32 or int8"
        )
    return Room(round(largest, 4), tensor, MOST, len(crops))


def reach(observed: Observed) -> float:
    """Returns the largest magnitude of a tensor; infinity where one is not finite."""
    largest = max(-observed.low, observed.high)
    return largest if np.isfinite(largest) else float("inf")


def write_fp16(fp32_path: Path, fp16_path: Path, crops: np.ndarray) -> Room:
    """Converts an exported fp32 file; input and output keep their types.

    Raises ValueError for weights out of range, and for activations out of range on the crops uint8 [N, H, W, 3].
    """
    model = onnx.load(str(fp32_path))
    room = check_room(model, crops)
    body = [node for node in model.graph.node if node.op_type in BODY_OPS]
    read = {name for node in body for name in node.input}
    made = {name for node in body for name in node.output}
    weights = [halved(weight) if weight.name in read else weight for weight in model.graph.initializer]
    entering = read - made - {weight.name for weight in weights}
    save(rebuilt(model, list(with_casts(model, entering, made)), weights), fp16_path)
    return room


def halved(weight: TensorProto) -> TensorProto:
    """Returns a weight in half precision."""
    values = numpy_helper.to_array(weight)
    largest = float(np.abs(values).max(initial=0))
    if not largest <= LARGEST:
        raise ValueError(f"fp16: got a weight of {largest:g} in {weight.name}, wanted at most {LARGEST:g}; export fp32")
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
