"""The GPU programme's own networks and loads, as far as a CPU can tell."""

import asyncio
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_steps
from benchmarks.gpu_steps import BATCH_SIZES, HalfPrecision, loaded
from service.ladder import ladder_of


def small():
    """A backbone of one convolution and its pooling, and a neck."""
    torch.manual_seed(0)
    pooled = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return SimpleNamespace(backbone=pooled.eval(), neck=torch.nn.BatchNorm1d(8).eval())


def test_the_half_precision_network_casts_its_weights_once_and_keeps_the_head_in_fp32():
    crops = torch.randint(0, 256, (2, 16, 8, 3), dtype=torch.uint8)
    network, whole = HalfPrecision(small()), small()
    kinds = {name: value.dtype for name, value in network.named_parameters()}
    assert {kind for name, kind in kinds.items() if name.startswith("backbone")} == {torch.float16}
    assert {kind for name, kind in kinds.items() if name.startswith("neck")} == {torch.float32}
    with torch.inference_mode():
        rows = network(crops)
        images = gpu_steps.transforms.normalize(crops)
        wanted = torch.nn.functional.normalize(whole.neck(whole.backbone(images)), dim=1)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, wanted, atol=2e-3, rtol=0)


def test_every_engine_is_measured_at_sizes_that_it_has_captured():
    assert ladder_of(is_gpu=True, batch_max=BATCH_SIZES[-1]) == BATCH_SIZES


@pytest.fixture(name="server")
def server_fixture(monkeypatch):
    """Answers every request of a load with one status."""

    def answer(status):
        async def closed_loop(url, requests, *, clients, num_requests):
            await asyncio.sleep(0)
            good, bad = ([0.01] * num_requests, []) if status == 200 else ([0.01], [status] * (num_requests - 1))
            return gpu_steps.load.Waits(seconds=good, refused=bad, total_s=2.0)

        monkeypatch.setattr(gpu_steps.load, "closed_loop", closed_loop)

    return answer


def test_a_load_tells_crops_a_second(server):
    server(200)
    assert loaded("url", [b""], 16, num_requests=100)["crops_per_s"] == 800


def test_a_load_that_was_refused_is_no_figure(server):
    server(503)
    with pytest.raises(ValueError, match=r"got 99 of 100 requests refused with \{503\}"):
        loaded("url", [b""], 16, num_requests=100)
