"""The GPU programme for embedding: its steps, its state, and one step rehearsed for real. Not run on a GPU."""

import json

import pytest

from benchmarks import embed_gpu
from benchmarks.ledger import Ended


@pytest.fixture(name="artefact")
def artefact_fixture(tmp_path):
    folder = tmp_path / "artefact"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"model_id": "a" * 64, "precision": "fp16"}))
    return folder


class Pretender:
    """Writes a figure for every step in ten seconds; steps whose name holds one of `broken` fail."""

    def __init__(self):
        self.now, self.taken, self.broken = 0.0, [], set()

    def clock(self):
        return self.now

    def run(self, command, log, seconds):
        step, told = command[command.index("--step") + 1], command[command.index("--json") + 1]
        self.taken.append(step)
        self.now += 10
        if any(word in step for word in self.broken):
            return Ended(1, "out of memory")
        figure = {"name": f"{step} product" if step == "matrix" else step, "per_s": 5e9, "rounds": 1}
        with open(told, "w") as file:
            json.dump([figure], file)
        return Ended(0, "")


@pytest.fixture(name="pretender")
def pretender_fixture():
    return Pretender()


@pytest.fixture(name="call")
def call_fixture(artefact, tmp_path, pretender, capsys):
    def call(*flags):
        files = ["--artefact", artefact, "--checkpoint", "run", "--work", tmp_path / "work", "--state", tmp_path / "state.json"]
        embed_gpu.main([str(one) for one in (*files, *flags)], run=pretender.run, clock=pretender.clock)
        return capsys.readouterr().out

    return call


def state(tmp_path):
    return json.loads((tmp_path / "state.json").read_text())["steps"]


def test_a_call_takes_the_steps_that_fit_and_the_next_goes_on(call, pretender, tmp_path):
    call("--minutes", 2)  # 110 seconds without the margin: a step of ten is begun while 90 are left
    assert pretender.taken == ["matrix", "torch eager fp16", "torch.compile fp16, batch 1"]
    call("--minutes", 9)
    assert len(pretender.taken) == len(set(pretender.taken)) == len(state(tmp_path))
    assert {"embedder", "CUDA in NHWC", "TensorRT", "HTTP"} <= set(pretender.taken)


def test_a_step_that_fails_twice_is_left_behind_and_told(call, pretender, tmp_path):
    pretender.broken = {"TensorRT"}
    call()
    assert state(tmp_path)["TensorRT"]["status"] == "failed"
    printed = call()
    assert state(tmp_path)["TensorRT"]["status"] == "skipped"
    assert "TensorRT: skipped, exit status 1\nout of memory" in printed
    call()
    assert pretender.taken.count("TensorRT") == 2


def test_only_named_steps_are_taken(call, pretender):
    call("--only", "matrix", "HTTP")
    assert pretender.taken == ["matrix", "HTTP"]


def test_figures_and_machine_are_kept_and_printed(call, tmp_path):
    printed = call("--only", "matrix", "embedder")
    entry = state(tmp_path)["embedder"]
    assert entry["machine"]["torch"] and entry["versions"]["numpy"]
    assert "G MAC/s" in printed and "crops/s" in printed


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": {}}'])
def test_a_state_that_is_none_is_refused(call, tmp_path, content):
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(SystemExit, match="no state of this programme"):
        call()


def test_a_state_of_another_artefact_is_refused(call, artefact):
    call("--only", "matrix")
    (artefact / "manifest.json").write_text(json.dumps({"model_id": "b" * 64, "precision": "fp16"}))
    with pytest.raises(SystemExit, match="was begun with"):
        call()


def test_the_first_step_runs_here_when_rehearsed(artefact, tmp_path):
    told = tmp_path / "told.json"
    embed_gpu.main(["--artefact", str(artefact), "--checkpoint", "run", "--rehearse", "--step", "matrix", "--json", str(told)])
    names = [one["name"] for one in json.loads(told.read_text()) if not one["error"]]
    assert {"fp32 product, torch", "bf16 product, torch"} <= set(names)


def test_a_step_that_is_not_known_is_refused(artefact, tmp_path):
    with pytest.raises(SystemExit, match="wanted one of matrix"):
        embed_gpu.main(["--artefact", str(artefact), "--checkpoint", "run", "--step", "speed", "--json", str(tmp_path / "x")])
