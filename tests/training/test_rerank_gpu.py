from functools import partial

import numpy as np
import pytest
import torch

from gallery import rerank
from training.rerank_gpu import find_neighbours, finder

on_cpu = partial(find_neighbours, device="cpu")


def unit_rows(num, *, dim=24, num_ids=12, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.random.default_rng(99).standard_normal((num_ids, dim))[rng.integers(num_ids, size=num)] + rng.standard_normal(
        (num, dim)
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("block_bytes", [1, 20_000, 2**26])
def test_re_ranked_distances_are_those_of_the_gallerys_own_neighbours(block_bytes):
    query, gallery = unit_rows(20), unit_rows(150, seed=1)
    own, ours = (rerank.prepare(query, gallery, block_bytes=block_bytes, **find) for find in ({}, {"find": on_cpu}))
    assert ours.cosines == pytest.approx(query @ gallery.T, abs=1e-6)
    assert rerank.distances(ours, slice(None)) == pytest.approx(rerank.distances(own, slice(None)), abs=1e-5)


def test_a_crop_leads_its_own_list_and_equal_ones_rise_by_number():
    same = np.tile(np.array([0.5, 0.5, 0.5, 0.5], np.float32), (6, 1))
    found = on_cpu(same[:2], same[2:], k=6, block_bytes=2**20)
    assert found.index[4].tolist() == [4, 0, 1, 2, 3, 5]
    assert found.farthest.tolist() == [0] * 6


def test_every_crop_is_reported_and_tf32_left_as_it_was():
    done = []
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        on_cpu(unit_rows(10), unit_rows(50, seed=1), k=3, block_bytes=4000, progress=done.append)
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert sum(done) == 60 and len(done) > 3


def test_only_a_gpu_takes_the_place_of_the_gallerys_own():
    assert finder("cpu") is None and finder(torch.device("cpu")) is None
    assert finder("cuda:1").keywords == {"device": "cuda:1"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_what_the_cpu_finds():
    query, gallery = unit_rows(50), unit_rows(2000, seed=1)
    found, wanted = (find_neighbours(query, gallery, k=21, block_bytes=2**22, device=device) for device in ("cuda", "cpu"))
    assert found.cosine[:, 1:] == pytest.approx(wanted.cosine[:, 1:], abs=1e-5)
