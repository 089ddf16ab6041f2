"""The options that a session is opened with, where they hang on the processor."""

import onnxruntime
import pytest

from service.errors import SettingRefused, StartupError
from service.manifest import read_manifest
from service.processor import has_vnni
from service.providers import CHOICES
from service.session import open_runner, session_options

OLD = "processor\t: 0\nflags\t\t: fpu sse4_2 avx2 avx512f\n"


@pytest.mark.parametrize(
    ("text", "is_exact"),
    [
        (OLD + "flags\t\t: fpu avx2 avx512f avx512_vnni\n", False),  # a core that a program may be moved to cannot
        (OLD.replace("avx512f", "avx512_vnni"), True),
        (OLD.replace("avx512f", "avx_vnni"), True),
        (OLD.replace("avx512f", "avx512_vnni_not"), False),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        ("", False),
        (None, False),
    ],
)
def test_weights_stay_signed_only_where_every_core_is_known_to_multiply_them_exactly(tmp_path, text, is_exact):
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    options = session_options(tmp_path / "model.onnx", threads=1, cpuinfo=path)
    assert has_vnni(path) == is_exact
    assert options.get_session_config_entry("session.x64quantprecision") == ("0" if is_exact else "1")


def open_on_a_gpu(artefact):
    """Open an artefact's model as on a GPU, with batches of one and two."""
    path = artefact / "model.onnx"
    return open_runner(path, path.read_bytes(), read_manifest(artefact), CHOICES["cuda"][0], threads=1, ladder=(1, 2))


def test_a_model_that_a_gpus_runtime_does_not_open_is_refused_with_what_to_install(tiny, monkeypatch):
    class Fails:
        def __init__(self, *_, **__):
            raise RuntimeError("libcublas.so:\n cannot open")

    monkeypatch.setattr(onnxruntime, "InferenceSession", Fails)
    with pytest.raises(
        SettingRefused, match="REID_PROVIDER=cuda: got libcublas.so: cannot open, .* install its libraries, or use"
    ):
        open_on_a_gpu(tiny)


def test_a_gpu_without_room_for_its_batches_is_refused_with_what_to_set(tiny, monkeypatch):
    class Full(onnxruntime.InferenceSession):
        def __init__(self, content, options, providers, **more):
            super().__init__(content, options, ["CPUExecutionProvider"], **more)

        def get_providers(self):
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def io_binding(self):
            raise RuntimeError("out of memory")

    monkeypatch.setattr(onnxruntime, "InferenceSession", Full)
    with pytest.raises(StartupError, match=r"batches of \(1, 2\) on cuda, .* set a smaller REID_BATCH_MAX, or use cpu"):
        open_on_a_gpu(tiny)
