"""Big jobs: cut into requests, halved where one is too large, and no crop fails another."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.client import AllFailed, Conflict, Rejected


def test_bytes_files_images_and_arrays_embed_alike(reid, pictures, drawn, tmp_path):
    path = tmp_path / "crop.png"
    path.write_bytes(pictures(1))
    array = np.asarray(drawn(1))
    rows = reid.embed([pictures(1), path, str(path), drawn(1), array]).embeddings
    assert rows.dtype == np.float32 and rows.shape == (5, 16)
    assert (rows == rows[0]).all()


def test_one_crop_need_not_be_in_a_list(reid, pictures, drawn):
    array = np.asarray(drawn(1))
    wanted = reid.embed([pictures(1)]).embeddings
    for crop in (pictures(1), array, array[None], drawn(1)):
        assert (reid.embed(crop).embeddings == wanted).all()


def test_an_image_is_sent_upright_and_in_a_mode_that_files_have(reid, drawn):
    upright = drawn(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    upright.rotate(90, expand=True).save(buffer, "PNG", exif=exif)
    sideways = Image.open(io.BytesIO(buffer.getvalue()))
    grey = upright.convert("L")
    rows = reid.embed([upright, sideways, buffer.getvalue(), grey, grey.convert("RGB"), grey.convert("CMYK")]).embeddings
    assert (rows[1:3] == rows[0]).all() and (rows[4:] == rows[3]).all()


@pytest.mark.parametrize("crop", [7, np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), [np.zeros((4, 4, 4), np.uint8)], [None]])
def test_what_is_no_crop_is_refused_before_anything_is_sent(reid, crop):
    with pytest.raises(TypeError):
        reid.embed(crop)


def test_no_crops_are_refused(reid):
    with pytest.raises(ValueError, match="got no crops"):
        reid.embed([])


def test_a_bad_crop_leaves_the_others_alone(reid, pictures, tmp_path):
    answer = reid.embed([pictures(1), b"nothing", b"", tmp_path / "missing.jpg", pictures(2)])
    assert [(error.index, error.code) for error in answer.errors] == [
        (1, "undecodable_image"),
        (2, "undecodable_image"),
        (3, "unreadable_file"),
    ]
    assert np.isnan(answer.embeddings).all(axis=1).tolist() == [False, True, True, True, False]
    assert (answer.embeddings[[0, 4]] == reid.embed([pictures(1), pictures(2)]).embeddings).all()


def test_a_request_of_bad_crops_alone_fails_no_other(over, pictures):
    reid, wire = over(per_request=2)
    answer = reid.embed([b"nothing", b"neither", pictures(1), b"", b""])
    assert len(wire.seen) == 2 and [error.index for error in answer.errors] == [0, 1, 3, 4]
    assert not np.isnan(answer.embeddings[2]).any()


def test_when_every_crop_fails_the_error_holds_every_reason(over):
    reid, _ = over(per_request=1)
    with pytest.raises(AllFailed, match="all 2 failed; the first: ") as caught:
        reid.embed([b"nothing", b"neither"])
    assert [(item.index, item.code) for item in caught.value.items] == [(0, "undecodable_image"), (1, "undecodable_image")]
    with pytest.raises(AllFailed, match="^got 7 bytes"):
        reid.enroll(b"nothing", pid="anna")


def test_a_big_job_is_cut_and_keeps_its_order(over, pictures):
    reid, wire = over(per_request=2)
    crops = [pictures(seed) for seed in range(5)]
    told = []
    rows = reid.embed(crops, progress=lambda done, total: told.append((done, total))).embeddings
    assert len(wire.seen) == 3 and sorted(told)[-1] == (5, 5) and len(told) == 3
    assert np.abs(rows - np.concatenate([reid.embed(crop).embeddings for crop in crops])).max() < 1e-6


def test_a_request_of_many_bytes_is_cut(over, drawn):
    reid, wire = over()
    frames = [np.zeros((1000, 1500, 3), np.uint8) for _ in range(4)]
    assert reid.embed(frames).embeddings.shape == (4, 16)
    assert len(wire.seen) == 2


def test_a_request_that_the_service_finds_too_large_is_halved(over, pictures):
    reid, _ = over(max_crops=3)
    crops = [pictures(seed) for seed in range(8)]
    alone = np.concatenate([reid.embed(crop).embeddings for crop in crops])
    assert np.abs(reid.embed(crops).embeddings - alone).max() < 1e-6


def test_a_crop_that_is_too_large_by_itself_fails_alone(over, pictures):
    reid, _ = over(max_body_mb=0.02)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    answer = reid.embed([pictures(1), noise, pictures(2)])
    assert [(error.index, error.code) for error in answer.errors] == [(1, "body_too_large")]


def test_labels_are_one_for_all_or_one_for_each(reid, pictures):
    results = reid.enroll(
        [pictures(1), pictures(2), pictures(3)],
        pid=["anna", "bert", "cleo"],
        camid="hall",
        attributes=[{"n": 1}, {"n": 2}, {"n": 3}],
    ).results
    entries = [reid.entry(result.entry_id) for result in results]
    assert [(entry.pid, entry.camid, entry.attributes) for entry in entries] == [
        ("anna", "hall", {"n": 1}),
        ("bert", "hall", {"n": 2}),
        ("cleo", "hall", {"n": 3}),
    ]


def test_labels_may_be_missing_for_some(reid, pictures):
    results = reid.enroll([pictures(1), pictures(2)], pid="anna", camid=[None, "hall"]).results
    assert [reid.entry(result.entry_id).camid for result in results] == [None, "hall"]
    assert [result.duplicate for result in reid.enroll([pictures(1), pictures(2)], pid="anna").results] == [True, True]


@pytest.mark.parametrize(
    "given",
    [
        {"crops": [b"1", b"2"], "pid": ["anna"]},
        {"crops": [b"1"], "pid": "anna", "client_keys": ["1"]},
        {"pid": "anna"},
        {"crops": b"1", "embeddings": np.eye(2), "pid": "anna"},
        {"embeddings": np.eye(2)[0], "pid": "anna"},
        {"embeddings": np.eye(2, dtype=int), "pid": "anna"},
        {"embeddings": np.empty((0, 16)), "pid": "anna"},
    ],
)
def test_an_enrolment_that_contradicts_itself_is_refused(reid, given):
    with pytest.raises(ValueError, match="wanted"):
        reid.enroll(**given)
    assert reid.stats().entries == 0


def test_a_label_that_the_service_refuses_is_told(reid, pictures):
    with pytest.raises(Rejected, match="pid"):
        reid.enroll(pictures(1), pid="x" * 129)


def test_embeddings_are_enrolled_under_the_callers_own_names(reid, pictures):
    rows = reid.embed([pictures(1), pictures(2)]).embeddings
    first = reid.enroll(embeddings=rows, pid=["anna", "bert"], client_keys=["one", "two"]).results
    again = reid.enroll(embeddings=rows, pid=["anna", "bert"], client_keys=["one", "two"]).results
    assert [result.entry_id for result in first] == [result.entry_id for result in again]
    assert [result.duplicate for result in again] == [True, True]


def test_the_row_of_a_failed_crop_cannot_be_enrolled(reid, pictures):
    rows = reid.embed([pictures(1), b"nothing"]).embeddings
    answer = reid.enroll(embeddings=rows, pid="anna")
    assert [error.code for error in answer.errors] == ["not_unit_length"] and len(answer.results) == 1


def test_the_same_key_gives_the_first_answers_again(over, pictures):
    reid, wire = over(per_request=2)
    crops = [pictures(seed) for seed in range(3)]
    first = reid.enroll(crops, pid="anna", idempotency_key="monday")
    again = reid.enroll(crops, pid="anna", idempotency_key="monday")
    assert first == again and not any(result.duplicate for result in again.results)
    assert [request.headers["idempotency-key"] for request in wire.seen] == ["monday:0-1", "monday:2-2"] * 2


def test_a_key_that_stands_for_something_else_is_a_conflict(reid, pictures):
    reid.enroll(pictures(1), pid="anna", idempotency_key="monday")
    with pytest.raises(Conflict):
        reid.enroll(pictures(2), pid="anna", idempotency_key="monday")


def test_enrolling_again_without_a_key_finds_duplicates(over, pictures):
    reid, wire = over()
    reid.enroll(pictures(1), pid="anna")
    assert reid.enroll(pictures(1), pid="anna").results[0].duplicate
    keys = {request.headers["idempotency-key"] for request in wire.seen}
    assert len(keys) == 2


def test_bytes_and_files_go_out_as_they_are(over, pictures, tmp_path: Path):
    reid, wire = over()
    path = tmp_path / "crop.jpg"
    path.write_bytes(pictures(1, form="JPEG"))
    reid.embed([pictures(2), path])
    body = b"".join(wire.seen[0].stream)
    assert pictures(2) in body and path.read_bytes() in body


def test_crops_that_only_some_labels_fit_go_as_json(over, pictures):
    reid, wire = over()
    reid.enroll([pictures(1), pictures(2)], pid="anna", attributes=[None, {"hat": "red"}])
    assert json.loads(b"".join(wire.seen[0].stream))["attributes"] == [None, {"hat": "red"}]
