"""One call to the ONNX exporter: names, dynamic batch, opset, all in one file; and how a changed graph and a folder are saved."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto
from torch.export import Dim

from exporter.graph import INPUT, OUTPUT, EmbeddingGraph

OPSET = 20  # newest that every runtime we target reads
MODEL, REFERENCE = "model.onnx", "fp32.onnx"  # of an artefact's folder; the second only while it is made


def write_onnx(graph: EmbeddingGraph, path: Path, *, height: int, width: int) -> None:
    """Writes the graph as one self-contained ONNX file with a dynamic batch, and checks that it is well formed."""
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        graph.eval(),
        (example,),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes={"crops": {0: Dim("batch")}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # only the older exporter returns None
    program.save(str(path), external_data=False)
    model = onnx.load(str(path))
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]  # stack traces with the paths of whoever exported
    save(model, path)


def save(model: ModelProto, path: Path) -> None:
    """Writes a model as one file and checks that it is well formed, types and shapes included."""
    onnx.save(model, str(path))
    onnx.checker.check_model(str(path), full_check=True)


def rebuilt(model: ModelProto, nodes: Sequence[NodeProto], weights: Sequence[TensorProto]) -> ModelProto:
    """Returns the model with other nodes, in the order they run, and other weights; inputs and outputs stay."""
    graph = onnx.helper.make_graph(nodes, model.graph.name, model.graph.input, model.graph.output, weights)
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def copied(node: NodeProto) -> NodeProto:
    """Returns a node that may be changed without changing its model."""
    again = NodeProto()
    again.CopyFrom(node)
    return again


def make_folder(out: Path, fill: Callable[[Path], None]) -> None:
    """Makes the folder `out`, filled, whole or not at all; raises ValueError where there is one."""
    if out.exists():
        raise ValueError(f"{out} exists already; name a new folder or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        (Path(folder) / "artefact").mkdir()
        fill(Path(folder) / "artefact")
        (Path(folder) / "artefact").rename(out)
