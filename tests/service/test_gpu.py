"""The GPU path on a pretended runtime: what is bound, captured, copied and cut. Not run on a GPU."""

import ctypes
import threading

import numpy as np
import pytest

from service.gpu import WARM_UP, BoundRunner, lock_pages, provider_options
from service.manifest import ModelInfo
from service.providers import CHOICES

LADDER = (1, 2, 4, 8)
CROPS = np.random.default_rng(5).integers(0, 256, size=(20, 4, 2, 3), dtype=np.uint8)


def model(precision="fp16"):
    names = {"input_name": "crops", "output_name": "embeddings"}
    return ModelInfo("f" * 64, "5" * 64, 3, 4, 2, thresholds=None, manifest={"precision": precision}, **names)


class Value:
    """A buffer on the pretended device; its address never changes."""

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape, kind, device):
        value = cls()
        value.memory, value.device = np.zeros(shape, kind), device
        return value

    def update_inplace(self, pixels):
        assert pixels.shape == self.memory.shape and pixels.dtype == self.memory.dtype
        self.memory[:] = pixels

    def numpy(self):
        return self.memory.copy()


class Options:
    """Run options."""

    def __init__(self):
        self.entries = {}

    def add_run_config_entry(self, name, value):
        self.entries[name] = value


class Binding:
    """What is bound under which name."""

    def __init__(self):
        self.values = {}

    def bind_ortvalue_input(self, name, value):
        assert name not in self.values
        self.values[name] = value

    bind_ortvalue_output = bind_ortvalue_input


class Session:
    """Embeds a crop as its mean colour, from bound buffers alone; remembers every run."""

    def __init__(self):
        self.runs = []

    def io_binding(self):
        return Binding()

    def run_with_iobinding(self, binding, options):
        source, target = binding.values["crops"], binding.values["embeddings"]
        self.runs.append((len(source.memory), options.entries["gpu_graph_id"], id(binding), threading.current_thread().name))
        target.memory[:] = source.memory.mean(axis=(1, 2))


class Runtime:
    """The names that the runner takes from onnxruntime."""

    OrtValue, RunOptions = Value, Options


@pytest.fixture(name="session")
def session_fixture():
    return Session()


@pytest.fixture(name="run")
def run_fixture(session):
    return BoundRunner(session, model(), ladder=LADDER, runtime=Runtime, pin=lambda buffer: "")


def test_every_size_is_warmed_up_at_start_largest_first(run, session):
    assert [size for size, *_ in session.runs] == [size for size in (8, 4, 2, 1) for _ in range(WARM_UP)]


def test_a_size_always_runs_on_the_same_buffers_under_its_own_graph_id(run, session):
    for count in (1, 3, 8, 20):
        run(CROPS[:count])
    by_size = {size: {(graph, binding) for one, graph, binding, _ in session.runs if one == size} for size in LADDER}
    assert all(len(pairs) == 1 for pairs in by_size.values())
    assert {graph for pairs in by_size.values() for graph, _ in pairs} == {"1", "2", "4", "8"}


def test_everything_happens_in_one_thread_whoever_calls(run, session):
    callers = [threading.Thread(target=run, args=(CROPS[:2],)) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len({thread for *_, thread in session.runs}) == 1


@pytest.mark.parametrize("count", range(1, 21))
def test_a_batch_of_any_size_gives_every_crop_its_own_row(run, count):
    run(np.full_like(CROPS, 255))  # what is left of an earlier batch must not show
    rows = run(CROPS[:count])
    assert rows.shape == (count, 3)
    assert np.allclose(rows, CROPS[:count].mean(axis=(1, 2)))


def test_the_rows_of_a_batch_outlive_the_next(run):
    first = run(CROPS[:8])
    kept = first.copy()
    run(CROPS[8:16])
    assert np.array_equal(first, kept)


def test_pixels_cross_as_bytes(run):
    assert {rung.source.memory.dtype for rung in run._rungs.values()} == {np.dtype(np.uint8)}
    assert {rung.source.device for rung in run._rungs.values()} == {"cuda"}


def test_a_failed_warm_up_is_the_callers():
    class Broken(Session):
        def run_with_iobinding(self, binding, options):
            raise RuntimeError("capture failed")

    with pytest.raises(RuntimeError, match="capture failed"):
        BoundRunner(Broken(), model(), ladder=LADDER, runtime=Runtime, pin=lambda buffer: "")


def test_cuda_is_asked_for_graphs_and_exact_float32():
    (name, options), (cpu, _) = provider_options(CHOICES["cuda"][0], model(), LADDER)
    assert (name, cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert (options["enable_cuda_graph"], options["use_tf32"]) == ("1", "0")
    assert dict(provider_options(CHOICES["cuda"][1], model(), LADDER)[:1])[name]["enable_cuda_graph"] == "0"


@pytest.mark.parametrize(("precision", "half"), [("fp16", "1"), ("fp32", "0")])
def test_tensorrt_builds_one_engine_for_the_ladder_in_the_artefacts_precision(precision, half):
    (name, options), (_, cuda), _ = provider_options(CHOICES["tensorrt"][0], model(precision), LADDER)
    assert name == "TensorrtExecutionProvider"
    assert options["trt_profile_min_shapes"] == "crops:1x4x2x3"
    assert options["trt_profile_max_shapes"] == "crops:8x4x2x3"
    assert options["trt_fp16_enable"] == half
    assert "trt_cuda_graph_enable" not in options and cuda["enable_cuda_graph"] == "0"


class Library:
    """A CUDA library that answers with a status."""

    def __init__(self, status):
        self.status, self.locked = status, []

    def cudaHostRegister(self, address, size, flags):  # noqa: N802  CUDA's name
        self.locked.append((address.value, size.value))
        return self.status


@pytest.mark.parametrize(("status", "why"), [(0, ""), (2, "cudaHostRegister of libcudart.so.13 gave status 2 for 64 bytes")])
def test_pages_are_locked_where_the_library_can(status, why):
    library, buffer = Library(status), np.zeros(64, np.uint8)
    assert lock_pages(buffer, lambda name: library) == why
    assert library.locked == [(buffer.ctypes.data, 64)]


def test_without_the_library_pages_stay_as_they_are():
    def load(name):
        raise OSError(name)

    for loads in (load, lambda name: ctypes.CDLL(f"no-{name}")):
        assert lock_pages(np.zeros(64, np.uint8), loads) == "none of libcudart.so.13, libcudart.so.12 can be loaded"


def test_a_runner_says_when_it_has_no_pinned_memory_and_runs_all_the_same(session, caplog):
    run = BoundRunner(session, model(), ladder=LADDER, runtime=Runtime, pin=lambda buffer: "status 2")
    (record,) = caplog.records
    assert (record.levelname, record.fields) == ("WARNING", {"got": "status 2"})
    assert np.allclose(run(CROPS[:3]), CROPS[:3].mean(axis=(1, 2)))
