"""The options that a session is opened with, where they hang on the processor."""

import pytest

from service.session import has_vnni, session_options

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
