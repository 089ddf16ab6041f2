"""Reading the operator set out of a model's bytes."""

import pytest
from onnx import helper

from service.opset import is_ort_format, read_opset


@pytest.mark.parametrize("version", [7, 20, 300])
def test_the_version_is_the_one_that_onnx_wrote(graph, version):
    model = graph()
    model.opset_import[0].version = version
    assert read_opset(model.SerializeToString()) == version


def test_other_domains_are_passed_over(graph):
    model = graph()
    standard = model.opset_import.pop()
    model.opset_import.extend([helper.make_opsetid("com.microsoft", 1), standard])
    assert read_opset(model.SerializeToString()) == 17


def test_the_standard_domain_may_be_spelt_out(graph):
    model = graph()
    model.opset_import[0].domain = "ai.onnx"
    assert read_opset(model.SerializeToString()) == 17


def test_fields_of_every_wire_type_are_passed_over(graph):
    before = b"\x61" + 8 * b"\xff" + b"\x65" + 4 * b"\xff" + b"\x68\xff\x01"  # fields 12 and 13, of 8 and 4 bytes and a number
    assert read_opset(before + graph().SerializeToString()) == 17


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x42\x7f", b"\xff" * 12, b"\x42\x01\x80", b"\x08"])
def test_bytes_that_are_no_onnx_have_none(content):
    assert read_opset(content) is None


def test_a_model_cut_off_anywhere_is_read_or_not_but_never_raises(graph):
    content = graph().SerializeToString()
    assert {read_opset(content[:end]) for end in range(0, len(content), 7)} <= {17, None}


def test_a_model_in_the_runtimes_own_format_is_known_by_its_mark(graph):
    assert is_ort_format(b"\x18\x00\x00\x00ORTM\x00")
    assert not is_ort_format(graph().SerializeToString()) and not is_ort_format(b"")
