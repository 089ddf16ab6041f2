"""POST /gallery: crops and embeddings, labels, duplicates, idempotency."""

import asyncio
import base64
import io
import json
import threading

import numpy as np
import pytest
from PIL import Image

from service import intake
from service.routes import enroll


def files(*contents):
    return [("crops", (f"{index}.png", content, "image/png")) for index, content in enumerate(contents)]


def results_of(answer):
    assert answer.status_code == 201, answer.text
    return answer.json()["results"]


def entry(client, entry_id):
    answer = client.get(f"/gallery/entries/{entry_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def unit_list(*values):
    row = np.array([*values, *[0.0] * (16 - len(values))])
    return (row / np.linalg.norm(row)).tolist()


def test_one_pid_goes_for_all_crops(client, pictures):
    results = results_of(client.post("/gallery", files=files(pictures(1), pictures(2)), data={"pid": "anna"}))
    assert [(result["index"], result["pid"], result["duplicate"]) for result in results] == [
        (0, "anna", False),
        (1, "anna", False),
    ]
    assert len({result["entry_id"] for result in results}) == 2


def test_one_pid_per_crop_goes_to_each(client, pictures):
    results = results_of(client.post("/gallery", files=files(pictures(1), pictures(2)), data={"pid": ["anna", "bert"]}))
    assert [result["pid"] for result in results] == ["anna", "bert"]


def test_labels_are_kept(client, pictures):
    labels = {
        "pid": "anna",
        "camid": "hall",
        "captured_at": "2026-01-31T12:00:00+02:00",
        "attributes": json.dumps({"hat": "red", "n": [1, None]}),
    }
    (result,) = results_of(client.post("/gallery", files=files(pictures(1)), data=labels))
    got = entry(client, result["entry_id"])
    assert got["camid"] == "hall" and got["attributes"] == {"hat": "red", "n": [1, None]}
    assert got["captured_at"] == "2026-01-31T10:00:00+00:00"


def test_json_carries_crops_and_labels(client, pictures):
    body = {
        "crops": [base64.b64encode(pictures(seed)).decode() for seed in (1, 2)],
        "pid": "anna",
        "camid": ["hall", None],
        "attributes": {"hat": "red"},
    }
    first, second = results_of(client.post("/gallery", json=body))
    assert entry(client, first["entry_id"])["camid"] == "hall"
    assert entry(client, second["entry_id"]) | {"attributes": {"hat": "red"}, "camid": None} == entry(client, second["entry_id"])


def test_a_raw_picture_takes_its_labels_from_the_query(client, pictures):
    answer = client.post(
        "/gallery",
        params={"pid": "anna", "camid": "hall", "attributes": '{"hat":"red"}'},
        content=pictures(1),
        headers={"content-type": "image/png"},
    )
    (result,) = results_of(answer)
    got = entry(client, result["entry_id"])
    assert (got["pid"], got["camid"], got["attributes"]) == ("anna", "hall", {"hat": "red"})


def test_npy_takes_one_pid_per_crop_from_the_query(client, drawn):
    buffer = io.BytesIO()
    np.save(buffer, np.stack([np.asarray(drawn(seed)) for seed in (1, 2)]))
    answer = client.post(
        "/gallery",
        params={"pid": ["anna", "bert"]},
        content=buffer.getvalue(),
        headers={"content-type": "application/x-npy"},
    )
    assert [result["pid"] for result in results_of(answer)] == ["anna", "bert"]


def test_equal_bytes_under_the_same_pid_give_the_entry_that_stands(client, pictures):
    (first,) = results_of(client.post("/gallery", files=files(pictures(1)), data={"pid": "anna"}))
    (again,) = results_of(client.post("/gallery", files=files(pictures(1)), data={"pid": "anna"}))
    (other,) = results_of(client.post("/gallery", files=files(pictures(1)), data={"pid": "bert"}))
    assert again == {**first, "duplicate": True}
    assert other["entry_id"] != first["entry_id"] and not other["duplicate"]


def test_a_bad_crop_is_left_out_and_the_others_are_enrolled(client, pictures):
    answer = client.post("/gallery", files=files(pictures(1), b"text", pictures(2)), data={"pid": ["a", "b", "c"]})
    results = results_of(answer)
    assert [result.get("pid") for result in results] == ["a", None, "c"]
    assert results[1]["error"]["code"] == "undecodable_image"
    assert client.get("/gallery/stats").json()["entries"] == 2


def test_when_every_crop_is_bad_nothing_is_enrolled(client):
    answer = client.post("/gallery", files=files(b"text"), data={"pid": "a"})
    assert answer.status_code == 422
    assert client.get("/gallery/stats").json()["entries"] == 0


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({}, "pid: Field required"),
        ({"pid": ""}, "pid: String should have at least 1 character"),
        ({"pid": "x" * 129}, "pid: String should have at most 128 characters"),
        ({"pid": "a\0b"}, "should hold no control characters"),
        ({"pid": ["a", "b", "c"]}, "pid: got 3 values for 2 crops, wanted 1 or 2"),
        ({"pid": "a", "camid": ""}, "camid: String should have at least 1 character"),
        ({"pid": "a", "captured_at": "2026-01-31T12:00:00"}, "should be RFC 3339 with an offset"),
        ({"pid": "a", "captured_at": "1700000000"}, "should be RFC 3339 with an offset"),
        ({"pid": "a", "captured_at": "2026-13-31T12:00:00Z"}, "captured_at: "),
        ({"pid": "a", "attributes": "[1]"}, "got a JSON list, wanted a JSON object"),
        ({"pid": "a", "attributes": "{"}, "no JSON"),
        ({"pid": "a", "colour": "red"}, "got the unknown fields ['colour']"),
    ],
)
def test_wrong_labels_refuse_the_whole_request(client, pictures, labels, words):
    answer = client.post("/gallery", files=files(pictures(1), pictures(2)), data=labels)
    assert answer.status_code == 422 and words in answer.json()["error"]["message"]
    assert client.get("/gallery/stats").json()["entries"] == 0


def test_labels_in_the_query_and_in_the_body_are_refused(client, pictures):
    answer = client.post("/gallery?pid=a", files=files(pictures(1)), data={"pid": "b"})
    assert answer.status_code == 422 and "in the query and in the body" in answer.json()["error"]["message"]


@pytest.mark.parametrize("pid", ["Ünï çødé 人", "a/b/c", "../../etc/passwd", "%2F", "'; DROP TABLE entries; --", " "])
def test_any_printable_pid_is_kept_as_it_is(client, pictures, pid):
    (result,) = results_of(client.post("/gallery", files=files(pictures(1)), data={"pid": pid}))
    assert entry(client, result["entry_id"])["pid"] == pid


@pytest.mark.parametrize("query", ["pid=%ff%fe", "pid=%EF%BF%BD", "pid=a&camid=%ff"])
def test_a_name_of_undecodable_bytes_is_refused(client, pictures, query):
    answer = client.post(f"/gallery?{query}", content=pictures(1), headers={"content-type": "image/png"})
    assert answer.status_code == 422 and "should be valid UTF-8 without U+FFFD" in answer.json()["error"]["message"]


def test_a_replacement_character_in_a_form_is_refused(client, pictures):
    answer = client.post("/gallery", files=files(pictures(1)), data={"pid": "\ufffd"})
    assert answer.status_code == 422 and "pid: " in answer.json()["error"]["message"]


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_beyond_the_years_of_utc_is_refused(client, pictures, time):
    answer = client.post("/gallery", files=files(pictures(1)), data={"pid": "a", "captured_at": time})
    assert answer.status_code == 422 and "captured_at: " in answer.json()["error"]["message"]
    entries = [{"pid": "good", "embedding": unit_list(1.0)}, {"pid": "a", "embedding": unit_list(1.0), "captured_at": time}]
    assert ["error" in result for result in results_of(client.post("/gallery", json={"entries": entries}))] == [False, True]


def nested(depth):
    """Attributes of so many objects and lists within each other, as JSON."""
    return '{"a":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


@pytest.mark.parametrize(
    ("attributes", "status"),
    [
        (nested(16), 201),
        (nested(17), 422),
        (nested(300), 422),
        (nested(1000), 422),
        (json.dumps({"a": "x" * 65_000}), 201),
        (json.dumps({"a": "x" * 65_530}), 422),
    ],
)
def test_attributes_are_of_modest_depth_and_size_in_every_form(client, pictures, attributes, status):
    crop = base64.b64encode(pictures(2)).decode()
    entry = json.dumps({"pid": "a", "embedding": unit_list(1.0)})
    bodies = [
        f'{{"crops": ["{crop}"], "pid": "a", "attributes": {attributes}}}',
        f'{{"entries": [{entry[:-1]}, "attributes": {attributes}}}]}}',
    ]
    answers = [client.post("/gallery", files=files(pictures(1)), data={"pid": "a", "attributes": attributes})]
    answers += [client.post("/gallery", content=body, headers={"content-type": "application/json"}) for body in bodies]
    assert [answer.status_code for answer in answers] == [status] * 3, [answer.text for answer in answers]
    assert client.get("/gallery").status_code == 200


@pytest.mark.parametrize("field", ["pid", "camid", "captured_at"])
def test_a_label_that_is_deep_json_is_refused(client, pictures, field):
    crop = base64.b64encode(pictures(1)).decode()
    body = f'{{"crops": ["{crop}"], "{field}": {nested(1000)}}}'
    answer = client.post("/gallery", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and answer.json()["error"]["code"] == "invalid_request"


def test_embeddings_made_earlier_are_enrolled_bit_for_bit(client, pictures):
    made = client.post("/embed", files=files(pictures(1))).json()["results"][0]["embedding"]
    listed = {"pid": "list", "embedding": made}
    packed = {"pid": "text", "embedding": base64.b64encode(np.array(made, dtype="<f4").tobytes()).decode()}
    results_of(client.post("/gallery", json={"entries": [listed, packed]}))
    results_of(client.post("/gallery", files=files(pictures(1)), data={"pid": "crop"}))
    matches = client.post("/search", files=files(pictures(1))).json()["matches"]
    assert {match["pid"] for match in matches} == {"list", "text", "crop"}
    assert len({match["cosine"] for match in matches}) == 1


def test_every_bad_embedding_fails_alone(client):
    entries = [
        {"pid": "good", "embedding": unit_list(1.0)},
        {"pid": "short", "embedding": [1.0]},
        {"pid": "long", "embedding": unit_list(1.0) * 2},
        {"pid": "zero", "embedding": [0.0] * 16},
        {"pid": "loud", "embedding": [1.0] * 16},
        {"pid": "text", "embedding": ["1"] * 16},
        {"pid": "", "embedding": unit_list(1.0)},
        {"embedding": unit_list(1.0)},
        {"pid": "unknown", "embedding": unit_list(1.0), "name": "x"},
        {"pid": "base64", "embedding": "!!"},
        {"pid": "nan", "embedding": base64.b64encode(np.full(16, np.nan, "<f4").tobytes()).decode()},
        "no entry",
    ]
    results = results_of(client.post("/gallery", json={"entries": entries}))
    assert ["error" in result for result in results] == [False] + [True] * 11
    codes = [result["error"]["code"] for result in results[1:5]]
    assert codes == ["dimension_mismatch", "dimension_mismatch", "not_unit_length", "not_unit_length"]


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"1e999"])
def test_numbers_that_are_no_finite_floats_are_refused(client, value):
    body = b'{"entries": [{"pid": "a", "embedding": [' + b", ".join([value] * 16) + b"]}]}"
    answer = client.post("/gallery", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and "wanted" in answer.json()["error"]["message"]


@pytest.mark.parametrize("entries", [[], "x", {}, [{"pid": "a"}] * 1001])
def test_entries_are_a_list_of_a_thousand_at_most(client, entries):
    answer = client.post("/gallery", json={"entries": entries})
    assert answer.status_code == 422 and "wanted a list of 1 to 1000" in answer.json()["error"]["message"]


def test_a_client_key_makes_an_entry_once(client):
    body = {"entries": [{"pid": "a", "embedding": unit_list(1.0), "client_key": "k1"}]}
    (first,) = results_of(client.post("/gallery", json=body))
    (again,) = results_of(client.post("/gallery", json=body))
    assert again == {**first, "duplicate": True}
    body["entries"][0]["pid"] = "b"
    answer = client.post("/gallery", json=body)
    assert answer.status_code == 409 and answer.json()["error"]["code"] == "duplicate_key"


def test_a_repeated_idempotency_key_gives_the_first_answer_again(client, pictures):
    request = {"files": files(pictures(1), b"text"), "data": {"pid": "a"}, "headers": {"idempotency-key": "k"}}
    first = client.post("/gallery", **request)
    again = client.post("/gallery", **request)
    assert results_of(again) == results_of(first)
    assert "idempotency-replayed" not in first.headers and again.headers["idempotency-replayed"] == "true"
    assert client.get("/gallery/stats").json()["entries"] == 1


def test_an_idempotency_key_with_other_content_is_refused(client, pictures):
    headers = {"idempotency-key": "k"}
    results_of(client.post("/gallery", files=files(pictures(1)), data={"pid": "a"}, headers=headers))
    answer = client.post("/gallery", files=files(pictures(2)), data={"pid": "a"}, headers=headers)
    assert answer.status_code == 409 and answer.json()["error"]["code"] == "duplicate_key"


def test_an_idempotency_key_outlives_an_erasure_without_bringing_anyone_back(client, pictures):
    request = {"files": files(pictures(1)), "data": {"pid": "a"}, "headers": {"idempotency-key": "k"}}
    results_of(client.post("/gallery", **request))
    assert client.delete("/gallery/identities/a").json()["answers"] == 1
    assert client.post("/gallery", **request).status_code == 410
    assert client.get("/gallery/stats").json()["entries"] == 0


@pytest.mark.parametrize("key", ["", "k" * 257])
def test_an_idempotency_key_has_a_sane_length(client, pictures, key):
    answer = client.post("/gallery", files=files(pictures(1)), data={"pid": "a"}, headers={"idempotency-key": key})
    assert answer.status_code == 422 and "wanted 1 to 256" in answer.json()["error"]["message"]


@pytest.mark.parametrize("beside", [{"pid": "a"}, {"crops": ["aa=="]}])
def test_entries_come_alone(client, beside):
    answer = client.post("/gallery", json={"entries": [{"pid": "a", "embedding": [1.0]}], **beside})
    assert answer.status_code == 422 and "got entries and other fields, wanted entries alone" in answer.json()["error"]["message"]


def test_simultaneous_repeats_enroll_once_and_get_one_answer(client, pictures):
    async def all_at_once():
        return await asyncio.gather(
            *(
                client.http.post("/gallery", files=files(pictures(1)), data={"pid": "a"}, headers={"idempotency-key": "k"})
                for _ in range(8)
            )
        )

    answers = client.run(all_at_once())
    assert len({answer.content for answer in answers}) == 1 and results_of(answers[0])[0]["duplicate"] is False
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert client.get("/gallery/stats").json()["entries"] == 1


def test_enrolments_survive_a_restart(serving, settings, pictures):
    first = serving()
    results_of(first.post("/gallery", files=files(pictures(1)), data={"pid": "a"}))
    first.close()
    assert serving().post("/search", files=files(pictures(1))).json()["matches"][0]["pid"] == "a"


def test_the_kept_crop_shows_the_uploaded_picture_without_its_metadata(client, drawn):
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    buffer = io.BytesIO()
    drawn(1).save(buffer, "JPEG", exif=exif, quality=95)
    (result,) = results_of(client.post("/gallery", files=files(buffer.getvalue()), data={"pid": "a"}))
    answer = client.get(f"/gallery/entries/{result['entry_id']}/crop")
    assert answer.headers["content-type"] == "image/jpeg" and b"secret place" not in answer.content
    kept = np.asarray(Image.open(io.BytesIO(answer.content)), dtype=int)
    assert np.abs(kept - np.asarray(drawn(1), dtype=int)).mean() < 12


def test_without_keep_crops_no_picture_is_kept_and_search_works_the_same(serving, pictures):
    client = serving(keep_crops=False)
    (result,) = results_of(client.post("/gallery", files=files(pictures(1)), data={"pid": "a"}))
    answer = client.get(f"/gallery/entries/{result['entry_id']}/crop")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "crop_not_kept"
    assert client.post("/search", files=files(pictures(1))).json()["matches"][0]["pid"] == "a"


def test_a_caller_who_leaves_while_queued_enrolls_nothing(serving, without, pictures):
    entered, leave = threading.Event(), threading.Event()
    leave.set()  # the first forward pass, at start-up, goes straight through

    def before(size):
        entered.set()
        assert leave.wait(timeout=10)

    client = serving(embed=without(before=before))
    entered.clear()
    leave.clear()

    async def start_and_leave():
        form = {"files": files(pictures(1)), "data": {"pid": "a"}}
        task = asyncio.ensure_future(client.http.post("/gallery", **form))
        await asyncio.to_thread(entered.wait, 10)
        task.cancel()
        await asyncio.wait([task])
        leave.set()

    client.run(start_and_leave())
    assert client.get("/gallery/stats").json()["entries"] == 0


def test_nothing_is_enrolled_while_the_disk_is_nearly_full(serving, pictures):
    client = serving(min_free_mb=10**12)
    answer = client.post("/gallery", files=files(pictures(0)), data={"pid": "ann"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "store_full")
    assert client.get("/gallery/stats").json()["entries"] == 0


def test_sent_embeddings_are_read_beside_the_event_loop(client, monkeypatch):
    seen = {}

    def watch(module, name):
        call = getattr(module, name)

        def watched(*args):
            seen[name] = threading.current_thread().name
            return call(*args)

        monkeypatch.setattr(module, name, watched)

    for module, name in ((intake, "read_json"), (enroll, "read_order"), (enroll, "entry_of")):
        watch(module, name)
    results_of(client.post("/gallery", json={"entries": [{"pid": "a", "embedding": unit_list(1.0)}]}))
    assert len(seen) == 3 and all(thread.startswith("helper") for thread in seen.values())


@pytest.mark.parametrize("entries", [[], [{"pid": "b", "a": [1, 2.5, "\u00fc"]}], [{"b": 1, "a": None}, "x", {}]])
def test_entries_hashed_one_by_one_are_named_like_the_whole(entries):
    assert enroll.sha256_of_all(entries) == enroll.sha256_of({"entries": entries})
