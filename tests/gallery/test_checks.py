from datetime import datetime

import numpy as np
import pytest

from gallery.checks import check_embedding, check_entry, check_search, check_space
from gallery.errors import DimensionMismatch, InvalidRequest, ModelMismatch, NotUnitLength


def test_sound_entry_passes(new):
    check_entry(new(camid="c", client_key="k", content_hash="0" * 64, attributes={"bag": [1, None, {"a": "é"}]}), 8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pid": ""}, "pid of 0 characters, wanted 1 to 128"),
        ({"pid": "x" * 129}, "pid of 129 characters"),
        ({"pid": "\ud800"}, "lone surrogates"),
        ({"camid": ""}, "camid of 0"),
        ({"client_key": "x" * 257}, "client_key of 257"),
        ({"model_id": ""}, "model_id of 0"),
        ({"captured_at": datetime(2026, 1, 1)}, "offset"),
        ({"content_hash": "0" * 63}, "64 lower-case hex digits"),
        ({"content_hash": "0" * 64 + "\n"}, "64 lower-case hex digits"),
        ({"attributes": {"x": float("nan")}}, "no JSON object"),
        ({"attributes": {"x": object()}}, "no JSON object"),
        ({"attributes": {1: 2}}, "string keys"),
        ({"attributes": {"x": (1, 2)}}, "no tuples"),
        ({"attributes": {True: 1}}, "string keys"),
        ({"attributes": {"x": "\ud800"}}, "no JSON object"),
        ({"attributes": {"x": 2**63}}, "an integer of 19 digits needs more than 64 bits"),
        ({"attributes": {"x": [10**5000]}}, "no JSON object"),
        ({"crop_jpeg": "text"}, "crop_jpeg of type str, wanted bytes"),
    ],
)
def test_entry_with_a_bad_field_is_refused(new, fields, message):
    with pytest.raises(InvalidRequest, match=message):
        check_entry(new(**fields), 8)


@pytest.mark.parametrize("factor", [0, 0.99, 1.01, np.nan, np.inf])
def test_embedding_that_is_not_of_unit_length_is_refused(unit, factor):
    with np.errstate(invalid="ignore"):
        embedding = unit() * np.float32(factor)
    with pytest.raises(NotUnitLength, match="wanted 1"):
        check_embedding(embedding, 8)


def test_one_bad_number_among_good_ones_is_refused(unit):
    embedding = unit()
    embedding[3] = np.nan
    with pytest.raises(NotUnitLength, match="length nan"):
        check_embedding(embedding, 8)


def test_half_precision_rounding_is_tolerated(unit):
    check_embedding(unit().astype(np.float16).astype(np.float32), 8)


def test_embedding_of_another_shape_is_refused(unit):
    for embedding in (unit(dim=9), unit(1), np.float32(1)):
        with pytest.raises(DimensionMismatch, match=r"wanted \[8\]"):
            check_embedding(embedding, 8)


def test_embedding_of_another_type_is_refused(unit):
    with pytest.raises(InvalidRequest, match="got an embedding of float64, wanted float32"):
        check_embedding(unit().astype(np.float64), 8)


def test_other_space_is_refused_with_both_names():
    with pytest.raises(ModelMismatch, match=r"'space-2'.*'space-1'"):
        check_space("space-2", "space-1")


@pytest.mark.parametrize(
    "arguments",
    [(0, "identity", "max", 3), (1, "pid", "max", 3), (1, "entry", "sum", 3), (1, "entry", "best", 0), (1, "entry", "best", 101)],
)
def test_senseless_search_is_refused(arguments):
    with pytest.raises(InvalidRequest, match="got .* wanted"):
        check_search(*arguments)
