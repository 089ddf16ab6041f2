"""The measurement behind the session's options: every option opens, batches are cut as told, memory is read."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks import session_options


@pytest.fixture(name="artefact")
def artefact_fixture(tmp_path):
    crops = helper.make_tensor_value_info("crops", TensorProto.UINT8, ["n", 32, 16, 3])
    rows = helper.make_tensor_value_info("floats", TensorProto.FLOAT, ["n", 32, 16, 3])
    graph = helper.make_graph([helper.make_node("Cast", ["crops"], ["floats"], to=TensorProto.FLOAT)], "one", [crops], [rows])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "model.onnx")
    return tmp_path


def test_every_option_is_one_that_the_runtime_takes_and_is_timed(artefact, capsys):
    told = artefact / "told.json"
    flags = f"--artefact {artefact} --threads 1 --batch-sizes 1 4 --rounds 1 --seconds 0 --json {told}"
    session_options.main(flags.split())
    report = json.loads(told.read_text())
    assert list(report["figures"]) == ["batch 1", "batch 4", "4 crops"]
    for table in report["figures"].values():
        assert all(one["error"] is None and one["ratio"] > 0 for one in table)
    assert "the service's, again" in capsys.readouterr().out


def test_a_batch_is_cut_as_told():
    class Session:
        seen = []

        def get_inputs(self):
            return [type("Node", (), {"name": "crops"})]

        def run(self, names, feed):
            self.seen.append(feed["crops"].tolist())

    work = session_options.pass_over(Session(), np.arange(6), [4, 1, 1])
    assert work() == 6
    assert Session.seen == [[0, 1, 2, 3], [4], [5]]


@pytest.mark.parametrize("ladder", session_options.LADDERS.values())
def test_memory_is_read_before_and_along_the_batches(artefact, ladder):
    found = session_options.grow(artefact, ladder=ladder, most=5, num_batches=20)
    assert len(found) == 1 + session_options.READINGS
    assert min(found) > 1
