"""POST /embed: every way in, every way out."""

import asyncio
import base64
import io

import numpy as np
import pytest

from service.crops import decode, resize
from service.embedder import Embedder, RowsNotFinite


def rows_of(answer):
    assert answer.status_code == 200, answer.text
    return np.array([result["embedding"] for result in answer.json()["results"]], dtype=np.float32)


def files(*contents):
    return [("crops", (f"{index}.png", content, "image/png")) for index, content in enumerate(contents)]


@pytest.fixture(name="expected")
def expected_fixture(tiny, pictures):
    """What the artefact gives, computed without the service."""
    embedder = Embedder.open(tiny, threads=1)

    def expected(*seeds):
        pixels = [resize(decode(pictures(seed), max_pixels=10**6), height=32, width=16) for seed in seeds]
        return embedder.embed(np.stack(pixels))

    return expected


def test_a_raw_picture_gives_its_embedding(client, pictures, expected):
    answer = client.post("/embed", content=pictures(1), headers={"content-type": "image/png"})
    assert np.allclose(rows_of(answer), expected(1), atol=1e-6)
    assert answer.json()["dim"] == 16
    assert answer.headers["x-model-id"] == answer.json()["model_id"]


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "BMP"])
def test_every_picture_type_is_taken_raw(client, pictures, form):
    content = pictures(1, form=form)
    assert rows_of(client.post("/embed", content=content, headers={"content-type": f"image/{form.lower()}"})).shape == (
        1,
        16,
    )


def test_a_form_gives_one_result_per_file_in_order(client, pictures, expected):
    answer = client.post("/embed", files=files(pictures(1), pictures(2), pictures(3)))
    assert [result["index"] for result in answer.json()["results"]] == [0, 1, 2]
    assert np.allclose(rows_of(answer), expected(1, 2, 3), atol=1e-6)


def test_json_carries_crops_in_base64(client, pictures, expected):
    crops = [base64.b64encode(pictures(seed)).decode() for seed in (4, 5)]
    assert np.allclose(rows_of(client.post("/embed", json={"crops": crops})), expected(4, 5), atol=1e-6)


def test_npy_carries_pixels(client, pictures, drawn, expected):
    buffer = io.BytesIO()
    np.save(buffer, np.stack([np.asarray(drawn(seed)) for seed in (6, 7)]))
    answer = client.post("/embed", content=buffer.getvalue(), headers={"content-type": "application/x-npy"})
    assert np.allclose(rows_of(answer), expected(6, 7), atol=1e-6)


def test_base64_holds_the_floats_of_the_list(client, pictures):
    listed = rows_of(client.post("/embed", files=files(pictures(1))))
    text = client.post("/embed?encoding_format=base64", files=files(pictures(1))).json()["results"][0]["embedding"]
    assert np.array_equal(np.frombuffer(base64.b64decode(text), dtype="<f4"), listed[0])


def test_npy_carries_one_crop_too(client, drawn, expected):
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(drawn(1))[None])
    answer = client.post("/embed", content=buffer.getvalue(), headers={"content-type": "application/x-npy"})
    assert np.allclose(rows_of(answer), expected(1), atol=1e-6)


def test_npy_out_holds_the_floats_of_the_list(client, pictures):
    sent = files(pictures(1), pictures(2))
    answer = client.post("/embed", files=sent, headers={"accept": "application/x-npy"})
    rows = np.load(io.BytesIO(answer.content), allow_pickle=False)
    assert answer.headers["content-type"] == "application/x-npy" and rows.dtype == np.float32
    assert np.array_equal(rows, rows_of(client.post("/embed", files=sent)))


@pytest.mark.parametrize(
    ("accept", "is_npy"),
    [
        ("application/x-npy", True),
        ("Application/X-NPY; q=0.5", True),
        ("application/json, application/x-npy", True),
        ("application/x-npy;q=0.5, application/json;q=0.4, */*;q=0.1", True),
        ("application/x-npy;q=0.5, application/json", False),
        ("application/json, application/x-npy;q=0", False),
        ("application/x-npy;q=0.0", False),
        ("application/x-npyz", False),
        ("application/x-npy;q=often", True),
        ("*/*", False),
        ("", False),
    ],
)
def test_npy_is_answered_to_who_prefers_it_to_json(client, pictures, accept, is_npy):
    answer = client.post("/embed", files=files(pictures(1)), headers={"accept": accept})
    assert answer.headers["content-type"] == ("application/x-npy" if is_npy else "application/json")


def test_a_bad_crop_fails_alone(client, pictures, expected):
    answer = client.post("/embed", files=files(pictures(1), b"text", pictures(2)))
    results = answer.json()["results"]
    assert answer.status_code == 200
    assert results[1] == {"index": 1, "error": {"code": "undecodable_image", "message": results[1]["error"]["message"]}}
    assert np.allclose([results[0]["embedding"], results[2]["embedding"]], expected(1, 2), atol=1e-6)


def test_when_every_crop_fails_so_does_the_request(client):
    answer = client.post("/embed", files=files(b"text", b""))
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "undecodable_image"
    assert [result["index"] for result in answer.json()["results"]] == [0, 1]


def test_npy_out_is_all_or_nothing(client, pictures):
    answer = client.post("/embed", files=files(pictures(1), b"text"), headers={"accept": "application/x-npy"})
    assert answer.status_code == 422 and "crops [1] failed" in answer.json()["error"]["message"]
    assert answer.headers["x-model-id"] == client.get("/model").json()["model_id"]


def test_text_that_is_no_base64_fails_its_crop_alone(client, pictures):
    crops = ["not base64!", base64.b64encode(pictures(1)).decode(), 5]
    results = client.post("/embed", json={"crops": crops}).json()["results"]
    assert ["error" in result for result in results] == [True, False, True]


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "got content type 'text/plain', wanted"),
        ({"content": b"x"}, 415, "got content type 'none'"),
        ({"content": b"", "headers": {"content-type": "image/jpeg"}}, 422, "got an empty body, wanted a crop"),
        ({"content": b"", "headers": {"content-type": "application/json"}}, 422, "no JSON"),
        ({"content": b'{"crops": [NaN]}', "headers": {"content-type": "application/json"}}, 422, "no JSON"),
        ({"content": b"[" * 9999, "headers": {"content-type": "application/json"}}, 422, "no JSON"),
        ({"json": []}, 422, "got a JSON list, wanted a JSON object"),
        ({"json": {}}, 422, "got no crops"),
        ({"json": {"crops": "abc"}}, 422, "crops: got str, wanted a list"),
        ({"json": {"crops": ["aa=="], "pid": "x"}}, 422, "got the fields ['pid']"),
        ({"files": {"picture": b"x"}}, 422, "got a file in the field 'picture'"),
        ({"data": {"crops": "x"}, "files": {"crops": b"x"}}, 422, "got text in the field 'crops'"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 422, "broken form"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 422, "broken form"),
        ({"content": b"x", "headers": {"content-type": "application/x-npy"}}, 422, "broken .npy header"),
    ],
)
def test_a_body_that_is_no_crop_is_refused_and_the_next_good_one_works(client, pictures, request_, status, words):
    answer = client.post("/embed", **request_)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]
    assert client.post("/embed", files=files(pictures(1))).status_code == 200


@pytest.mark.parametrize("query", ["rerank=true", "encoding_format=xml", "encoding_format=float&encoding_format=base64"])
def test_an_unknown_or_doubled_parameter_is_refused(client, pictures, query):
    answer = client.post(f"/embed?{query}", files=files(pictures(1)))
    assert answer.status_code == 422 and query.split("=")[0] in answer.json()["error"]["message"]


def test_sixty_four_callers_at_once_each_get_their_own(client, pictures, expected):
    async def all_at_once():
        kind = {"content-type": "image/png"}
        return await asyncio.gather(*(client.http.post("/embed", content=pictures(seed), headers=kind) for seed in range(64)))

    got = np.concatenate([rows_of(answer) for answer in client.run(all_at_once())])
    assert np.abs(got - expected(*range(64))).max() < 1e-5


def test_a_crop_alone_and_among_thirty_two_gives_the_same_embedding(client, pictures):
    together = rows_of(client.post("/embed", files=files(*(pictures(seed) for seed in range(32)))))
    alone = rows_of(client.post("/embed", files=files(pictures(17))))
    assert np.abs(together[17] - alone[0]).max() < 1e-5


def test_a_crop_that_the_model_fails_on_fails_alone_and_the_service_stays_ready(serving, fake, pictures, drawn):
    class FailsOnWhite(fake):
        def embed(self, crops):
            rows, white = super().embed(crops), crops.reshape(len(crops), -1).min(axis=1) == 255
            rows[white] = np.nan
            if white.any():
                raise RowsNotFinite(rows)
            return rows

    buffer = io.BytesIO()
    drawn(1).point(lambda value: 255).save(buffer, "PNG")
    client = serving(embed=FailsOnWhite())
    first, bad, last = client.post("/embed", files=files(pictures(1), buffer.getvalue(), pictures(2))).json()["results"]
    assert "embedding" in first and "embedding" in last and bad["error"]["code"] == "inference_failed"
    assert client.get("/readyz").status_code == 200
    text = client.get("/metrics").text
    assert 'reid_crops_total{outcome="embedded"} 2.0' in text and 'reid_crops_total{outcome="refused"} 1.0' in text
    alone = client.post("/embed", files=files(buffer.getvalue()))
    beside_text = client.post("/embed", files=files(buffer.getvalue(), b"text"))
    assert [answer.status_code for answer in (alone, beside_text)] == [500, 500]
