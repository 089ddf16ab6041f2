"""What int8 is calibrated on: real crops, and what each tensor of the network holds while it sees them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from exporter.export import rebuilt
from exporter.graph import INPUT, OUTPUT
from training import dataset, transforms
from training.evaluate import runtime_session
from training.progress import progress

NUM_CROPS = 256  # whose ranges are taken; of a ResNet-50 trained on Market-1501 they cost 0.07 points of mAP
NUM_HELD = 64  # kept apart from them, to see what int8 does to crops that it was not calibrated on
LEAST_CROPS = 42  # that the comparison with torch needs for its batches
BATCH_SIZE = 8
SEED = 0


@dataclass(frozen=True)
class CalibrationSet:
    """Crops uint8 [N, H, W, 3] of a training list: those to calibrate on, and those held apart."""

    name: str
    crops: np.ndarray
    held: np.ndarray

    def all(self) -> np.ndarray:
        """Returns every crop, those held apart first."""
        return np.concatenate([self.held, self.crops])

    def description(self) -> dict[str, Any]:
        """Returns what the manifest says of it."""
        return {"data": f"training list of {self.name}", "num_crops": len(self.crops), "num_held": len(self.held), "seed": SEED}


@dataclass(frozen=True)
class Observed:
    """One tensor over all calibration crops: its lowest and highest value, and the mean of each channel, float64 [C]."""

    low: float
    high: float
    mean: np.ndarray


def draw(folder: Path, *, height: int, width: int, cameras: bool = True) -> CalibrationSet:
    """Draws crops evenly from a dataset's training list; of a short list a fifth is held apart."""
    data = dataset.read_dataset(folder, cameras=cameras)
    chosen = np.random.default_rng(SEED).permutation(len(data.train))[: NUM_CROPS + NUM_HELD]
    if len(chosen) < LEAST_CROPS:
        raise ValueError(
            f"{folder}: got {len(chosen)} training crops, wanted {LEAST_CROPS} or more, better {NUM_CROPS + NUM_HELD}"
        )
    crops = np.stack([transforms.load_crop(data.train[index].path, height=height, width=width) for index in chosen])
    num_held = max(1, len(crops) * NUM_HELD // (NUM_CROPS + NUM_HELD))
    return CalibrationSet(data.train_name, crops[:-num_held], crops[-num_held:])


def run_batches(model: ModelProto, outputs: Sequence[str], crops: np.ndarray) -> Iterator[list[np.ndarray]]:
    """Yields the outputs of a model batch by batch."""
    session = runtime_session(model.SerializeToString())
    for start in range(0, len(crops), BATCH_SIZE):
        yield session.run(list(outputs), {INPUT: crops[start : start + BATCH_SIZE]})


def embed(model: ModelProto, crops: np.ndarray) -> np.ndarray:
    """Returns float32 [N, D]: the embeddings that a model gives."""
    return np.concatenate([rows for (rows,) in run_batches(model, [OUTPUT], crops)])


def observe(model: ModelProto, tensors: Sequence[str], crops: np.ndarray) -> dict[str, Observed]:
    """Runs the fp32 model over crops and returns what each of `tensors` [N, C, H, W] held.

    The extremes, not percentiles or the least squared error: on held crops of Market-1501 those clip what single crops need
    (worst cosine 0.95 to 0.96 where the extremes keep 0.997), and their mean is no better.
    """
    places = np.array([0, 2, 3])
    nodes = list(model.graph.node)
    for name in tensors:
        nodes.append(onnx.helper.make_node("ReduceMin", [name], [f"{name}/low"], keepdims=0))
        nodes.append(onnx.helper.make_node("ReduceMax", [name], [f"{name}/high"], keepdims=0))
        nodes.append(onnx.helper.make_node("ReduceMean", [name, "calibrate/places"], [f"{name}/mean"], keepdims=0))
    weights = [*model.graph.initializer, numpy_helper.from_array(places, "calibrate/places")]
    watched = rebuilt(model, nodes, weights)
    outputs = [f"{name}/{what}" for name in tensors for what in ("low", "high", "mean")]
    watched.graph.output.extend(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs)
    batches: list[list[np.ndarray]] = []
    sizes: list[int] = []
    with progress(len(crops), name="calibrate", unit="crop") as bar:
        for found in run_batches(watched, outputs, crops):
            batches.append(found)
            sizes.append(min(BATCH_SIZE, len(crops) - sum(sizes)))
            bar.update(sizes[-1])
    return {name: merged([found[3 * i : 3 * i + 3] for found in batches], sizes) for i, name in enumerate(tensors)}


def merged(parts: Sequence[Sequence[np.ndarray]], sizes: Sequence[int]) -> Observed:
    """Joins (low, high, mean) of one tensor in batches of those sizes."""
    lows, highs, means = zip(*parts, strict=True)
    return Observed(float(np.min(lows)), float(np.max(highs)), np.average(np.array(means, np.float64), axis=0, weights=sizes))
