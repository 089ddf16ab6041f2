"""The scan on a GPU, against a CPU index of the same calls in its place: no device is needed, and none is measured."""

from types import SimpleNamespace

import faiss
import numpy as np
import pytest

from gallery import gpu
from gallery.errors import GpuFailed
from gallery.gpu import MOST, GpuPass
from gallery.index import LEAST, Index

NUM, DIM = 4500, 64


class Device:
    """A float32 index on the CPU that refuses what FAISS's GPU index refuses."""

    def __init__(self, dim):
        self._index = faiss.IndexFlatIP(dim)
        self.add, self.reset, self.reconstruct_batch = self._index.add, self._index.reset, self._index.reconstruct_batch
        self.asked = []

    @property
    def ntotal(self):
        return self._index.ntotal

    def search(self, queries, count):
        assert count <= MOST
        self.asked.append(count)
        cosines, positions = self._index.search(queries.astype(np.float16).astype(np.float32), count)
        return cosines, positions


@pytest.fixture
def device(monkeypatch):
    """The device that the next index is made on."""
    made = Device(DIM)
    monkeypatch.setattr(gpu, "device_index", lambda dim: made)
    return made


@pytest.fixture
def rows(unit):
    return unit(NUM, dim=DIM).astype(np.float16)


def assert_closest(index, rows, query, *, least=10):
    every = rows.astype(np.float64) @ query.astype(np.float64)
    for positions, cosines in index.closest(query, least):
        assert np.abs(cosines - every[positions]).max(initial=0) < 2e-6
        assert np.abs(cosines - np.sort(every)[::-1][: len(cosines)]).max(initial=0) < 2e-6
    assert sorted(positions.tolist()) == list(range(len(rows)))


def test_every_list_is_the_whole_top_of_a_slow_ranking(device, rows):
    index = Index(DIM, "gpu")
    index.add(rows)
    assert index.kind == "gpu"
    for place in (3, 4000):
        assert_closest(index, rows, rows[place].astype(np.float32))
    assert set(device.asked) == {LEAST, 4 * LEAST}


def test_equal_rows_prove_nothing_and_are_scanned_on_the_cpu(device, rows):
    index = Index(DIM, "gpu")
    index.add(np.tile(rows[:1], (NUM, 1)))
    found = list(index.closest(rows[0].astype(np.float32), 1))
    assert [len(positions) for positions, _ in found[:3]] == [0, 0, LEAST]
    assert found[-1][0].tolist() == list(range(NUM))


def test_what_was_removed_is_on_the_device_no_more(device, rows):
    index = Index(DIM, "gpu")
    index.add(rows)
    index.remove(np.arange(0, NUM, 2))
    assert device.ntotal == len(index) == NUM // 2
    assert_closest(index, rows[1::2], rows[3].astype(np.float32))


def test_a_filtered_search_asks_the_cpu_alone(device, rows):
    index = Index(DIM, "gpu")
    index.add(rows)
    only = np.arange(7, NUM, 3)
    positions, _ = next(index.closest(rows[10].astype(np.float32), 1, only=only))
    assert positions[0] == 10 and np.isin(positions, only).all() and device.asked == []


def test_more_than_the_device_returns_is_scanned_on_the_cpu(device, rows):
    index = Index(DIM, "gpu")
    index.add(rows)
    assert len(next(index.closest(rows[0].astype(np.float32), MOST + 1))[0]) == MOST + 1
    assert device.asked == []


def test_a_row_that_differs_on_the_device_is_found(device, rows):
    index = Index(DIM, "gpu")
    index.add(rows[:100])
    assert not index.differing(np.arange(100), rows[:100]).any()
    held = device.reconstruct_batch(np.arange(100))
    held[5] *= -1
    device.reset()
    device.add(held)
    assert np.flatnonzero(index.differing(np.arange(100), rows[:100])).tolist() == [5]


def test_without_a_faiss_for_gpus_the_way_out_is_named():
    if hasattr(faiss, "GpuIndexFlatIP"):
        pytest.skip("this FAISS is built for GPUs")
    with pytest.raises(GpuFailed, match=r"got index gpu and a FAISS built for CPUs alone; install the extra \[gpu\]"):
        GpuPass(DIM)


def test_without_a_device_the_way_out_is_named(monkeypatch):
    monkeypatch.setattr(faiss, "GpuIndexFlatIP", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    with pytest.raises(GpuFailed, match="got index gpu and no GPU"):
        GpuPass(DIM)


def test_a_device_holds_half_precision(monkeypatch):
    made = []
    monkeypatch.setattr(faiss, "GpuIndexFlatIP", lambda *args: made.append(args) or "index", raising=False)
    monkeypatch.setattr(faiss, "GpuIndexFlatConfig", SimpleNamespace, raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    assert gpu.device_index(DIM) == "index"
    ((resources, dim, config),) = made
    assert (resources, dim, config.useFloat16) == ("resources", DIM, True)


def test_what_the_device_reports_is_a_named_error(device, rows):
    def fail(queries, count):
        raise RuntimeError("Error in void faiss::gpu::...:\nCUDA error 2 out of memory")

    index = Index(DIM, "gpu")
    index.add(rows)
    device.search = fail
    with pytest.raises(GpuFailed, match=r"the GPU failed \(.* out of memory\); restart"):
        next(index.closest(rows[0].astype(np.float32), 1))
