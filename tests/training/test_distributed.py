"""Two processes with half a batch each learn what one process with the whole batch learns (gloo, CPU)."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training import distributed

WORKER = Path(__file__).with_name("gloo_worker.py")
ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(out, neck, *, rank, world, port):
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    env = os.environ | {name: str(value) for name, value in group.items()} | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(WORKER), str(out), neck], env=env, stderr=subprocess.PIPE, text=True)


def saved_by(tmp_path, neck, world):
    out, port = tmp_path / f"{neck}-{world}.pt", free_port()
    processes = [start(out, neck, rank=rank, world=world, port=port) for rank in range(world)]
    for process in processes:
        errors = process.communicate(timeout=240)[1]
        assert process.returncode == 0, errors
    return torch.load(out, weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("neck", ["bnneck"])
def test_two_processes_give_the_gradients_of_one(tmp_path, neck):
    alone, together = saved_by(tmp_path, neck, 1), saved_by(tmp_path, neck, 2)
    assert alone["grads"].keys() == together["grads"].keys()
    for name, wanted in alone["grads"].items():
        error = torch.linalg.vector_norm(together["grads"][name] - wanted) / torch.linalg.vector_norm(wanted).clamp(min=1e-6)
        assert error < 1e-3, f"{name}: {error:.2e} off"  # fp32: sums in another order, through 18 layers
    for name, wanted in alone["statistics"].items():
        assert torch.allclose(together["statistics"][name], wanted, rtol=1e-4, atol=1e-5), name
    assert torch.allclose(together["centers"], alone["centers"], atol=1e-4)
    assert torch.allclose(together["scalars"], alone["scalars"], rtol=1e-4)


def test_one_process_keeps_its_rows_and_its_model():
    rows, model = torch.ones(4, 2, requires_grad=True), torch.nn.BatchNorm1d(2)
    assert (distributed.world_size(), distributed.rank(), distributed.own_part(8)) == (1, 0, slice(0, 8))
    assert distributed.gather(rows) is rows
    assert distributed.spread(model, torch.device("cpu")) is model
    assert distributed.any_rank(True, torch.device("cpu"))
    assert not distributed.any_rank(False, torch.device("cpu"))
