"""GET /search and POST /search: ranking, filters, decisions."""

import base64
import json

import numpy as np
import pytest

DAY = "2026-01-0{}T00:00:00Z"
HALF = 5e-4  # entries are kept in half precision


def files(*contents):
    return [("crops", (f"{index}.png", content, "image/png")) for index, content in enumerate(contents)]


def row(*values, dim=16):
    """A unit row that begins with `values`."""
    wide = np.array([*values, *[0.0] * (dim - len(values))])
    return (wide / np.linalg.norm(wide)).astype(np.float32)


def at(cosine):
    """A unit row with the given cosine to row(1)."""
    return row(cosine, np.sqrt(1 - cosine**2))


def text_of(vector, width="<f4"):
    return base64.urlsafe_b64encode(np.asarray(vector, dtype=width).tobytes()).decode().rstrip("=")


def enroll(client, *entries):
    body = {"entries": [{"pid": pid, "embedding": vector.tolist(), **labels} for pid, vector, labels in entries]}
    answer = client.post("/gallery", json=body)
    assert answer.status_code == 201, answer.text
    return [result["entry_id"] for result in answer.json()["results"]]


def ask(client, vector=None, **parameters):
    answer = client.get("/search", params={"embedding": text_of(row(1) if vector is None else vector), **parameters})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(name="peopled")
def peopled_fixture(client):
    """Three identities at cosines 0.99, 0.95 (twice, and 0.1 once) and 0.2 of row(1)."""
    enroll(
        client,
        ("anna", at(0.99), {"camid": "hall", "captured_at": DAY.format(1), "attributes": {"site": "north", "n": 1}}),
        ("bert", at(0.95), {"camid": "door", "captured_at": DAY.format(2)}),
        ("bert", at(0.10), {"camid": "hall", "captured_at": DAY.format(3)}),
        ("cleo", at(0.20), {"attributes": {"site": "north", "n": "1", "staff": True}}),
    )
    return client


def test_identities_are_ranked_by_falling_cosine(peopled):
    answer = ask(peopled)
    assert [(match["rank"], match["pid"], match["entries"]) for match in answer["matches"]] == [
        (1, "anna", 1),
        (2, "bert", 2),
        (3, "cleo", 1),
    ]
    assert [match["cosine"] for match in answer["matches"]] == pytest.approx([0.99, 0.95, 0.2], abs=HALF)
    assert answer["searched"] == {"entries": 4, "identities": 3}


def test_an_answer_names_the_closest_entry_and_the_times_taken(peopled):
    answer = ask(peopled, k=1)
    (match,) = answer["matches"]
    assert (match["camid"], match["captured_at"], match["rerank_distance"]) == ("hall", "2026-01-01T00:00:00+00:00", None)
    assert answer["took_ms"]["search"] > 0 and answer["took_ms"]["embed"] is None and answer["took_ms"]["rerank"] is None


def test_grouping_by_entry_ranks_every_entry(peopled):
    matches = ask(peopled, group_by="entry")["matches"]
    assert [match["pid"] for match in matches] == ["anna", "bert", "cleo", "bert"]


def test_pooling_by_mean_averages_an_identitys_entries(peopled):
    cosines = {match["pid"]: match["cosine"] for match in ask(peopled, pool="mean")["matches"]}
    assert cosines["bert"] == pytest.approx((0.95 + 0.10) / 2, abs=HALF)


def test_pooling_by_the_best_averages_so_many_of_an_identitys_entries(peopled):
    enroll(peopled, ("bert", at(0.85), {}))
    for best_of, expected in ((1, 0.95), (2, 0.9), (100, (0.95 + 0.85 + 0.10) / 3)):
        cosines = {match["pid"]: match["cosine"] for match in ask(peopled, pool="best", best_of=best_of)["matches"]}
        assert cosines["bert"] == pytest.approx(expected, abs=HALF) and cosines["anna"] == pytest.approx(0.99, abs=HALF)
    assert ask(peopled, pool="best")["matches"] == ask(peopled, pool="best", best_of=3)["matches"]


def test_a_crop_is_searched_among_the_attributes_asked_for(client, pictures):
    labels = {"pid": ["ann", "bob"], "attributes": ['{"site":"north"}', '{"site":"south"}']}
    client.post("/gallery", files=files(pictures(1), pictures(2)), data=labels)
    query = {"attributes": '{"site":"south"}', "pool": "best", "best_of": 2}
    answer = client.post("/search", params=query, files=files(pictures(1))).json()
    assert [match["pid"] for match in answer["matches"]] == ["bob"] and answer["searched"]["entries"] == 1


@pytest.mark.parametrize(
    ("parameters", "pids"),
    [
        ({"k": 2}, ["anna", "bert"]),
        ({"camid": "hall"}, ["anna", "bert"]),
        ({"camid": "door"}, ["bert"]),
        ({"camid": ["hall", "door"]}, ["anna", "bert"]),
        ({"exclude_camid": "hall"}, ["bert", "cleo"]),
        ({"exclude_camid": ["hall", "door"]}, ["cleo"]),
        ({"pid": "cleo"}, ["cleo"]),
        ({"pid": ["cleo", "anna"]}, ["anna", "cleo"]),
        ({"pid": "nobody"}, []),
        ({"since": DAY.format(2)}, ["bert"]),
        ({"until": DAY.format(2)}, ["anna"]),
        ({"since": DAY.format(1), "until": DAY.format(3)}, ["anna", "bert"]),
        ({"attributes": '{"site":"north"}'}, ["anna", "cleo"]),
        ({"attributes": '{"site":"north","n":1.0}'}, ["anna"]),
        ({"attributes": '{"staff":true}'}, ["cleo"]),
        ({"attributes": '{"staff":1}'}, []),
        ({"attributes": "{}"}, ["anna", "bert", "cleo"]),
    ],
)
def test_filters_admit_only_what_they_name(peopled, parameters, pids):
    assert [match["pid"] for match in ask(peopled, **parameters)["matches"]] == pids


def test_an_enrolled_entry_is_searched_without_itself(peopled):
    (twin,) = enroll(peopled, ("dora", at(0.98), {}))
    answer = peopled.get("/search", params={"entry_id": twin}).json()
    assert "dora" not in [match["pid"] for match in answer["matches"]]
    assert answer["searched"]["entries"] == 4


def test_float16_queries_find_the_same(peopled):
    half = text_of(at(0.9), "<f2")
    matches = peopled.get("/search", params={"embedding": half}).json()["matches"]
    assert [match["pid"] for match in matches] == [match["pid"] for match in ask(peopled, at(0.9))["matches"]]


def test_padded_and_plain_base64_are_taken_too(peopled):
    padded = base64.b64encode(row(1).tobytes()).decode()
    assert peopled.get("/search", params={"embedding": padded}).json()["matches"] == ask(peopled)["matches"]


def test_a_crop_finds_its_own_entry_with_cosine_one(client, pictures):
    client.post("/gallery", files=files(*map(pictures, range(8))), data={"pid": [f"p{seed}" for seed in range(8)]})
    answer = client.post("/search?k=3", files=files(pictures(5))).json()
    assert answer["matches"][0]["pid"] == "p5" and answer["matches"][0]["cosine"] == pytest.approx(1, abs=HALF)
    assert len(answer["matches"]) == 3 and answer["took_ms"]["embed"] > 0 and answer["decision"] == "match"


def test_several_crops_are_pooled_to_their_mean(client, pictures):
    made = client.post("/embed", files=files(pictures(1), pictures(2))).json()["results"]
    mean = np.mean([result["embedding"] for result in made], axis=0)
    enroll(client, ("target", at(0.5), {}))
    pooled = client.post("/search", files=files(pictures(1), pictures(2))).json()
    assert pooled["matches"][0]["cosine"] == pytest.approx(float(mean @ at(0.5) / np.linalg.norm(mean)), abs=HALF)


def test_a_bad_crop_of_a_tracklet_is_reported_and_left_out(client, pictures):
    enroll(client, ("target", at(0.5), {}))
    alone = client.post("/search", files=files(pictures(1))).json()
    with_bad = client.post("/search", files=files(pictures(1), b"text")).json()
    assert with_bad["matches"] == alone["matches"] and alone["rejected"] == []
    assert [item["index"] for item in with_bad["rejected"]] == [1]


def test_a_tracklet_of_bad_crops_is_refused(client):
    answer = client.post("/search", files=files(b"text", b"more"))
    assert answer.status_code == 422 and "all 2 failed" in answer.json()["error"]["message"]


def test_an_empty_gallery_answers_unknown(client):
    answer = ask(client)
    assert (answer["decision"], answer["matches"]) == ("unknown", [])
    assert answer["searched"] == {"entries": 0, "identities": 0}


@pytest.mark.parametrize(
    ("parameters", "decision", "threshold"),
    [
        ({}, "match", 0.9),
        ({"threshold": 0.995}, "unknown", 0.995),
        ({"threshold": -1}, "match", -1),
        ({"far": 0.1}, "match", 0.5),
        ({"far": 0.01}, "match", 0.7),
        ({"far": 0.001}, "match", 0.9),
        ({"pid": "cleo"}, "unknown", 0.9),
    ],
)
def test_the_decision_obeys_the_threshold(peopled, parameters, decision, threshold):
    answer = ask(peopled, **parameters)
    assert answer["decision"] == decision and answer["threshold"] == pytest.approx(threshold)


@pytest.mark.parametrize("parameters", [{}, {"k": 1}, {"group_by": "entry"}, {"group_by": "entry", "k": 1}])
def test_two_identities_over_the_threshold_within_the_margin_are_ambiguous(peopled, parameters):
    enroll(peopled, ("anna", at(0.985), {}), ("dora", at(0.98), {}))
    assert ask(peopled, **parameters)["decision"] == "ambiguous"
    assert len(ask(peopled, k=1)["matches"]) == 1


def test_two_entries_of_one_identity_are_not_ambiguous(peopled):
    enroll(peopled, ("anna", at(0.985), {}))
    assert ask(peopled, group_by="entry")["decision"] == "match"


def test_without_calibration_and_threshold_nothing_is_believed(serving, without):
    client = serving(embed=without(thresholds=None))
    enroll(client, ("anna", row(1, dim=8), {}))
    answer = ask(client, row(1, dim=8))
    assert (answer["decision"], answer["threshold"]) == ("unknown", None)
    assert ask(client, row(1, dim=8), threshold=0.5)["decision"] == "match"


def test_without_calibration_a_rate_is_refused(serving, without):
    client = serving(embed=without(thresholds=None))
    answer = client.get("/search", params={"embedding": text_of(row(1, dim=8)), "far": 0.01})
    assert answer.status_code == 422 and "no calibration" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "wanted one"),
        ({"entry_id": 1, "embedding": text_of(row(1))}, "wanted one"),
        ({"embedding": "%%"}, "no base64"),
        ({"embedding": ""}, "got 0 bytes, wanted 64"),
        ({"embedding": text_of(np.ones(15))}, "got 60 bytes, wanted 64 (16 float32 values) or 32 (float16)"),
        ({"embedding": text_of(np.full(16, np.nan))}, "NaN"),
        ({"embedding": text_of(np.full(16, np.inf))}, "NaN, infinite"),
        ({"embedding": text_of(np.zeros(16))}, "got length 0, wanted 1"),
        ({"embedding": text_of(np.ones(16))}, "got length 4, wanted 1 within 0.001"),
        ({"embedding": text_of(np.full(16, 1e-42))}, "wanted 1"),
        ({"entry_id": 1, "k": 0}, "k: "),
        ({"entry_id": 1, "k": 1001}, "k: "),
        ({"entry_id": "x"}, "entry_id: "),
        ({"entry_id": 2**63}, "entry_id: "),
        ({"entry_id": 1, "threshold": 1.1}, "threshold: "),
        ({"entry_id": 1, "threshold": "nan"}, "threshold: "),
        ({"entry_id": 1, "group_by": "camera"}, "group_by: "),
        ({"entry_id": 1, "since": "yesterday"}, "since: "),
        ({"entry_id": 1, "reranked": "true"}, "reranked: got an unknown query parameter"),
        ({"entry_id": 1, "blend": 0.3}, "blend: got an unknown query parameter, wanted k, "),
        ({"entry_id": 1, "rerank": "perhaps"}, "rerank: "),
        ({"entry_id": 1, "k1": 21}, "k1: Value error, goes with rerank=true"),
        ({"entry_id": 1, "rerank": "false", "lambda": 0.4}, "lambda: Value error, goes with rerank=true"),
        ({"entry_id": 1, "shortlist": 50}, "shortlist: Value error, goes with rerank=true"),
        ({"entry_id": 1, "rerank": "true", "k1": 0}, "k1: "),
        ({"entry_id": 1, "rerank": "true", "k2": 0}, "k2: "),
        ({"entry_id": 1, "rerank": "true", "lambda": 1.1}, "lambda: "),
        ({"entry_id": 1, "rerank": "true", "lambda": "nan"}, "lambda: "),
        ({"entry_id": 1, "rerank": "true", "lambda": [0.1, 0.2]}, "lambda: got 2 values, wanted one"),
        ({"entry_id": 1, "rerank": "true", "shortlist": 1001}, "shortlist: "),
        ({"entry_id": 1, "k": [1, 2]}, "k: got 2 values, wanted one"),
        ({"entry_id": 1, "pool": "median"}, "pool: "),
        ({"entry_id": 1, "pool": "best", "best_of": 0}, "best_of: "),
        ({"entry_id": 1, "pool": "best", "best_of": 101}, "best_of: "),
        ({"entry_id": 1, "best_of": 4}, "best_of: Value error, goes with pool=best, not pool=max"),
        ({"entry_id": 1, "attributes": "site=north"}, "attributes: Value error, should be a JSON object"),
        ({"entry_id": 1, "attributes": '{"site":NaN}'}, "attributes: Value error, should be a JSON object"),
        ({"entry_id": 1, "attributes": '["north"]'}, "attributes: Value error, should be a JSON object"),
        ({"entry_id": 1, "attributes": '{"site":null}'}, "'site' is none of them"),
        ({"entry_id": 1, "attributes": '{"site":["north"]}'}, "strings, numbers and booleans alone"),
        ({"entry_id": 1, "attributes": json.dumps(dict.fromkeys(map(str, range(33)), 1))}, "at most 32 attributes, not 33"),
        ({"entry_id": 1, "attributes": ["{}", "{}"]}, "attributes: got 2 values, wanted one"),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_was_wanted(client, parameters, words):
    answer = client.get("/search", params=parameters)
    assert answer.status_code == 422 and words in answer.json()["error"]["message"]


@pytest.mark.parametrize("query", ["far=0.5", "far=0.0001", "far=0.01&threshold=0.5", "far=0"])
def test_a_rate_that_means_nothing_is_refused_before_any_decoding(client, query):
    answer = client.post(f"/search?{query}", files=files(b"no picture at all"))
    assert answer.status_code == 422 and "far" in answer.json()["error"]["message"]


RERANKED = {"rerank": "true", "k1": 2, "k2": 1, "lambda": 0}  # Jaccard alone, of crops in each other's lists of two


@pytest.fixture(name="crossed")
def crossed_fixture(client):
    """Anna at 0.96 of row(1), but closer to cleo and dan than to that; bert at 0.95, who has nobody closer."""
    up, down = np.sqrt(1 - 0.96**2), -np.sqrt(1 - 0.95**2)
    people = {"anna": (0.96, up), "bert": (0.95, down), "cleo": (0.94, up, 0.15), "dan": (0.94, up, -0.15)}
    enroll(client, *[(pid, row(*values), {}) for pid, values in people.items()])
    return client


def test_re_ranked_matches_come_by_rising_distance_and_keep_their_cosines(crossed):
    for parameters in ({}, {"pool": "mean"}, {"pool": "best", "best_of": 2}, {"group_by": "entry"}):
        plain, again = ask(crossed, **parameters), ask(crossed, **parameters, **RERANKED)
        assert [(match["rank"], match["pid"]) for match in again["matches"][:2]] == [(1, "bert"), (2, "anna")]
        assert {m["pid"]: m["cosine"] for m in again["matches"]} == {m["pid"]: m["cosine"] for m in plain["matches"]}
        assert plain["matches"][0]["pid"] == "anna" and again["searched"] == plain["searched"]
        assert again["matches"][0]["rerank_distance"] < 0.5 < again["matches"][1]["rerank_distance"]
        assert again["took_ms"]["rerank"] > 0


@pytest.mark.parametrize(
    ("threshold", "decision"),
    [
        (0.90, "ambiguous"),  # anna has the higher cosine and may be believed too
        (0.955, "unknown"),  # anna is over the threshold, but bert is shown
        (0.99, "unknown"),
    ],
)
def test_the_decision_speaks_of_the_first_match_shown(crossed, threshold, decision):
    for how in ({}, {"group_by": "entry"}, {"k": 1}):
        answer = ask(crossed, threshold=threshold, **how, **RERANKED)
        assert answer["matches"][0]["pid"] == "bert" and answer["decision"] == decision


def test_a_re_ranked_first_match_that_is_the_closest_by_far_is_a_match(peopled):
    assert ask(peopled, **RERANKED)["decision"] == "match"


def test_re_ranking_obeys_filters_and_leaves_the_queried_entry_out(crossed):
    answer = crossed.get("/search", params={"entry_id": 1, "pid": ["anna", "bert"], "rerank": "true"}).json()
    assert [match["pid"] for match in answer["matches"]] == ["bert"] and answer["searched"]["entries"] == 1


def test_an_empty_gallery_is_re_ranked_too(client):
    answer = ask(client, rerank="true")
    assert (answer["decision"], answer["matches"]) == ("unknown", []) and answer["took_ms"]["rerank"] is not None


def test_several_crops_are_re_ranked_as_one_query(client, pictures):
    client.post("/gallery", files=files(*map(pictures, range(8))), data={"pid": [f"p{seed}" for seed in range(8)]})
    answer = client.post("/search?rerank=true&lambda=1", files=files(pictures(5), pictures(5))).json()
    assert answer["matches"][0]["pid"] == "p5" and answer["took_ms"]["rerank"] > 0
    distances = [match["rerank_distance"] for match in answer["matches"]]
    assert len(distances) == 8 and distances == sorted(distances)


@pytest.mark.parametrize(
    ("query", "words"),
    [("k1=5", "got k2 6 with k1 5, wanted 1 to 5"), ("shortlist=10", "got k1 20 with shortlist 10, wanted 1 to 10")],
)
def test_a_re_ranking_that_makes_no_sense_is_refused_before_any_decoding(client, query, words):
    answer = client.post(f"/search?rerank=true&{query}", files=files(b"no picture at all"))
    assert answer.status_code == 422 and words in answer.json()["error"]["message"]


def test_an_entry_that_is_not_there_is_not_found(client):
    answer = client.get("/search?entry_id=12")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "entry_not_found"


def test_calls_that_wait_for_the_disk_do_not_hold_searches_up(peopled):
    parts = peopled.app.state.parts
    with parts.gallery._using_store:  # an erasure that rewrites the file
        waiting = [parts.gallery_threads.submit(parts.gallery.stats) for _ in range(2 * parts.gallery_threads._max_workers)]
        assert ask(peopled)["matches"] and peopled.get("/search?entry_id=1").status_code == 200
        assert not any(one.done() for one in waiting)
    assert all(one.result(timeout=10).entries == 4 for one in waiting)


@pytest.mark.parametrize("method", ["get", "post"])
def test_the_documentation_explains_the_newer_parameters(client, method):
    parameters = client.get("/openapi.json").json()["paths"]["/search"][method]["parameters"]
    descriptions = {one["name"]: one.get("description", "") for one in parameters}
    for name in ("pool", "best_of", "attributes", "rerank", "k1", "k2", "lambda", "shortlist"):
        assert len(descriptions[name]) > 50


@pytest.mark.parametrize("index", ["exact", "quantised"])
def test_the_index_can_be_chosen_by_a_setting(serving, index):
    assert serving(index=index).get("/gallery/stats").json()["index_type"] == index


@pytest.mark.parametrize("method", ["get", "post"])
def test_the_documentation_says_that_the_rate_is_of_comparisons(client, method):
    parameters = client.get("/openapi.json").json()["paths"]["/search"][method]["parameters"]
    (description,) = [one["description"] for one in parameters if one["name"] == "far"]
    assert "share of comparisons of two different people" in description
