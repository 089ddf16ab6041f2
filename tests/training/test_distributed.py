"""Two processes with half a batch each learn what one process with the whole batch learns (gloo, CPU)."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training import distributed
from training.checkpoint import load

WORKER = Path(__file__).with_name("gloo_worker.py")
ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(command, *, rank, world, port):
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    env = os.environ | {name: str(value) for name, value in group.items()} | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, command)], env=env, **pipes)


def run_together(command, *, world):
    """Runs a command as `world` processes; returns what each printed."""
    port = free_port()
    processes = [start(command, rank=rank, world=world, port=port) for rank in range(world)]
    ended = [process.communicate(timeout=300) for process in processes]
    for process, (_, errors) in zip(processes, ended, strict=True):
        assert process.returncode == 0, errors
    return [printed for printed, _ in ended]


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(tmp_path):
    for world in (1, 2):
        run_together([WORKER, tmp_path / f"{world}.pt"], world=world)
    one, two = (torch.load(tmp_path / f"{world}.pt", weights_only=True) for world in (1, 2))
    for case in ("bnneck-fp32", "bnneck3-fp32"):
        alone, together = one[case], two[case]
        assert alone["grads"].keys() == together["grads"].keys()
        for name, wanted in alone["grads"].items():
            error = torch.linalg.vector_norm(together["grads"][name] - wanted) / torch.linalg.vector_norm(wanted).clamp(min=1e-6)
            assert error < 1e-3, f"{case} {name}: {error:.2e} off"  # sums in another order, through 18 layers
        for name, wanted in alone["statistics"].items():
            assert torch.allclose(together["statistics"][name], wanted, rtol=1e-4, atol=1e-5), f"{case} {name}"
        assert torch.allclose(together["centers"], alone["centers"], atol=1e-4)
        assert torch.allclose(together["scalars"], alone["scalars"], rtol=1e-4)
    in_bf16 = "bnneck-bf16"  # its gradients round to other values with every order of sums; losses still agree
    assert torch.allclose(two[in_bf16]["scalars"][:3], one[in_bf16]["scalars"][:3], rtol=0.05)


@pytest.mark.slow
def test_a_run_of_two_processes_is_saved_and_told_once(tmp_path, flags):
    command = ["-m", "training.run", *flags(tmp_path / "run", "--epochs", 1)]
    first, second = run_together(command, world=2)
    assert '{"epoch": 1' in first
    assert second == ""
    assert load(tmp_path / "run")[1].epoch == 1
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2  # the epoch and its evaluation


def test_one_process_keeps_its_rows_and_its_model():
    rows, model = torch.ones(4, 2, requires_grad=True), torch.nn.BatchNorm1d(2)
    assert (distributed.world_size(), distributed.rank(), distributed.own_part(8)) == (1, 0, slice(0, 8))
    assert distributed.gather(rows) is rows
    assert distributed.spread(model, torch.device("cpu")) is model
    assert distributed.any_rank(True, torch.device("cpu"))
    assert not distributed.any_rank(False, torch.device("cpu"))
