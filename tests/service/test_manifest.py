"""Reading manifests."""

import json

import pytest

from service.errors import ArtefactRefused, InvalidRequest
from service.manifest import Thresholds, read_manifest

CROPS = {"name": "crops", "height": 32, "width": 16, "dtype": "uint8", "layout": "NHWC", "channels": "RGB"}
SERVED = {"resize": "bilinear", "antialias": True, "height": 32, "width": 16}
CALIBRATED = Thresholds(0.4, 0.02, ((0.0001, 0.6), (0.001, 0.5), (0.1, 0.3)), "drawn")


def test_a_manifest_gives_the_models_facts(artefact, tmp_path):
    model = read_manifest(artefact(tmp_path))
    assert (model.height, model.width, model.dim, model.input_name) == (32, 16, 16, "crops")
    assert model.thresholds == Thresholds(0.9, 0.02, ((0.001, 0.9), (0.1, 0.5)), "drawn")
    assert model.manifest["licence_note"] == "drawn by the tests"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema_version", 2),
        ("model_id", None),
        ("space_id", 5),
        ("embedding_dim", 0),
        ("embedding_dim", True),
        ("embedding_dim", "2048"),
        ("input", CROPS | {"dtype": "float32"}),
        ("input", []),
        ("output", {}),
        ("model_id", "F" * 64),
        ("space_id", "5" * 63),
        ("embedding_dim", 10**9),
        ("input", CROPS | {"height": 0}),
        ("input", CROPS | {"width": 5000}),
        ("preprocessing", SERVED | {"resize": "bicubic"}),
        ("preprocessing", SERVED | {"antialias": False}),
        ("preprocessing", SERVED | {"antialias": 1}),
        ("preprocessing", {"resize": "bilinear", "height": 32, "width": 16}),
        ("preprocessing", SERVED | {"height": 64}),
        ("preprocessing", SERVED | {"width": 32}),
        ("precision", "bf16"),
        ("precision", None),
        ("feature", "f_t"),
        ("thresholds", {"default": 0.5}),
        ("thresholds", {"default": "high", "margin": 0, "far": {}}),
        ("thresholds", {"default": 0.5, "margin": 0, "far": {"0": 0.3}}),
        ("thresholds", {"default": 0.5, "margin": 0, "far": {"nan": 0.3}}),
        ("thresholds", {"default": 1.1, "margin": 0, "far": {}}),
        ("thresholds", {"default": 0.5, "margin": -0.1, "far": {}}),
        ("thresholds", {"default": 0.5, "margin": 0, "far": {"1.5": 0.3}}),
        ("thresholds", {"default": 0.5, "margin": 0, "far": {"0.1": -1.1}}),
        ("thresholds", []),
    ],
)
def test_a_wrong_field_is_refused_with_the_file_and_what_was_wanted(artefact, tmp_path, field, value):
    with pytest.raises(ArtefactRefused, match=r"manifest\.json: .*got .*wanted"):
        read_manifest(artefact(tmp_path, **{field: value}))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 5000])
def test_a_file_that_is_no_manifest_is_refused(artefact, tmp_path, content):
    folder = artefact(tmp_path)
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ArtefactRefused, match=r"manifest\.json: got"):
        read_manifest(folder)


def test_a_missing_manifest_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ArtefactRefused, match="No such file or directory, wanted an artefact folder; .* REID_MODEL"):
        read_manifest(tmp_path)


def test_a_manifest_without_calibration_has_no_thresholds(artefact, tmp_path):
    assert read_manifest(artefact(tmp_path, thresholds=None)).thresholds is None


def test_fields_of_later_versions_are_passed_through(artefact, tmp_path):
    folder = artefact(tmp_path)
    content = json.loads((folder / "manifest.json").read_text()) | {"new": 1}
    (folder / "manifest.json").write_text(json.dumps(content))
    assert read_manifest(folder).manifest["new"] == 1


@pytest.mark.parametrize(("rate", "cosine"), [(0.0001, 0.6), (0.001, 0.5), (0.01, 0.4), (0.1, 0.3)])
def test_a_false_accept_rate_gives_a_threshold_linear_in_its_logarithm(rate, cosine):
    assert CALIBRATED.at_far(rate) == pytest.approx(cosine)


@pytest.mark.parametrize("rate", [0.00009, 0.11])
def test_a_rate_outside_the_calibration_is_refused_with_its_ends(rate):
    with pytest.raises(InvalidRequest, match="wanted a false-accept rate from 0.0001 to 0.1"):
        CALIBRATED.at_far(rate)


def test_a_single_calibrated_rate_is_that_rate_only():
    single = Thresholds(0.5, 0.0, ((0.01, 0.4),), "drawn")
    assert single.at_far(0.01) == 0.4
    with pytest.raises(InvalidRequest):
        single.at_far(0.02)
