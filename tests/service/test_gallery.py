"""Listings, single entries, identities, erasure, numbers."""

import pytest


def enroll(client, pictures, *labels):
    """Enroll one drawn crop per (pid, camid, captured_at), oldest first."""
    ids = []
    for seed, (pid, camid, captured_at) in enumerate(labels):
        given = {"pid": pid, "camid": camid, "captured_at": captured_at}
        data = {name: value for name, value in given.items() if value}
        answer = client.post("/gallery", files={"crops": pictures(seed)}, data=data)
        ids.append(answer.json()["results"][0]["entry_id"])
    return ids


@pytest.fixture(name="ids")
def ids_fixture(client, pictures):
    return enroll(
        client,
        pictures,
        ("anna", "hall", "2026-01-01T00:00:00Z"),
        ("anna", "door", "2026-01-02T00:00:00Z"),
        ("bert", "hall", None),
        ("b/ert", None, None),
    )


def listed(client, query=""):
    answer = client.get(f"/gallery{query}")
    assert answer.status_code == 200, answer.text
    return [entry["entry_id"] for entry in answer.json()["entries"]]


def test_entries_are_listed_newest_first(client, ids):
    assert listed(client) == ids[::-1]


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ("?pid=anna", [1, 0]),
        ("?camid=hall", [2, 0]),
        ("?pid=anna&camid=hall", [0]),
        ("?since=2026-01-02T00:00:00Z", [1]),
        ("?until=2026-01-02T00:00:00Z", [0]),
        ("?pid=nobody", []),
    ],
)
def test_entries_are_filtered(client, ids, query, places):
    assert listed(client, query) == [ids[place] for place in places]


def test_pages_join_to_the_whole_listing(client, ids):
    seen, cursor = [], None
    while True:
        page = client.get("/gallery", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        seen += [entry["entry_id"] for entry in page["entries"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]


@pytest.mark.parametrize("query", ["?limit=0", "?limit=1001", "?cursor=nonsense", "?since=now", "?sort=pid"])
def test_a_wrong_listing_parameter_is_refused(client, query):
    assert client.get(f"/gallery{query}").status_code == 422


def test_an_entry_shows_everything_but_its_embedding(client, ids):
    entry = client.get(f"/gallery/entries/{ids[0]}").json()
    assert set(entry) == {
        "entry_id",
        "pid",
        "camid",
        "captured_at",
        "enrolled_at",
        "attributes",
        "model_id",
        "has_crop",
    }
    assert entry["has_crop"] is True and entry["model_id"] == client.get("/model").json()["model_id"]


def test_identities_are_listed_with_counts_and_cameras(client, ids):
    identities = client.get("/gallery/identities").json()["identities"]
    assert [(one["pid"], one["entries"], one["camids"]) for one in identities] == [
        ("anna", 2, ["door", "hall"]),
        ("b/ert", 1, []),
        ("bert", 1, ["hall"]),
    ]
    assert identities[0]["first_seen"] == "2026-01-01T00:00:00+00:00"
    assert identities[0]["last_seen"] == "2026-01-02T00:00:00+00:00"


def test_identities_are_filtered_by_prefix(client, ids):
    identities = client.get("/gallery/identities?prefix=b").json()["identities"]
    assert [one["pid"] for one in identities] == ["b/ert", "bert"]


@pytest.mark.parametrize("path", ["b/ert", "b%2Fert"])
def test_an_identity_with_a_slash_is_found(client, ids, path):
    answer = client.get(f"/gallery/identities/{path}").json()
    assert answer["identity"]["pid"] == "b/ert"
    assert [entry["entry_id"] for entry in answer["entries"]] == [ids[3]]


def test_a_deleted_entry_is_gone_everywhere(client, ids, pictures):
    assert client.delete(f"/gallery/entries/{ids[0]}").json() == {"entry_id": ids[0], "deleted": True}
    assert client.get(f"/gallery/entries/{ids[0]}").status_code == 404
    assert client.get(f"/gallery/entries/{ids[0]}/crop").status_code == 404
    assert ids[0] not in listed(client)
    matches = client.post("/search?group_by=entry", files={"crops": pictures(0)}).json()["matches"]
    assert ids[0] not in [match["entry_id"] for match in matches]


def test_an_erased_identity_leaves_a_receipt_and_nothing_else(client, ids, pictures):
    receipt = client.delete("/gallery/identities/anna").json()
    assert receipt == {"pid": "anna", "entries": 2, "vectors": 2, "crops": 2, "answers": 0}
    assert client.get("/gallery/identities/anna").status_code == 404
    assert client.get("/gallery/stats").json()["entries"] == 2
    matches = client.post("/search", files={"crops": pictures(0)}).json()["matches"]
    assert "anna" not in [match["pid"] for match in matches]


def rename(client, old, **body):
    return client.request("PATCH", f"/gallery/identities/{old}", json=body)


def test_an_identity_is_renamed(client, ids, pictures):
    answer = rename(client, "b/ert", pid="b/zoë").json()
    assert (answer["identity"]["pid"], answer["identity"]["entries"]) == ("b/zoë", 1)
    assert (answer["moved"], answer["dropped"]) == (1, 0)
    assert client.get("/gallery/identities/b/ert").status_code == 404
    matches = client.post("/search", files={"crops": pictures(3)}).json()["matches"]
    assert matches[0]["pid"] == "b/zoë"


def test_renaming_onto_an_identity_needs_merge(client, ids):
    refused = rename(client, "bert", pid="anna")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "identity_exists")
    answer = rename(client, "bert", pid="anna", merge=True).json()
    assert (answer["identity"]["entries"], answer["identity"]["camids"]) == (3, ["door", "hall"])


def test_a_crop_of_both_is_kept_once_in_a_merge(client, ids, pictures):
    client.post("/gallery", files={"crops": pictures(0)}, data={"pid": "bert"})
    assert rename(client, "anna", pid="bert", merge=True).json() | {"identity": None} == {
        "identity": None,
        "moved": 1,
        "dropped": 1,
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}", "pid: Field required"),
        (b'{"pid": "bert"}', "which the identity bears already"),
        (b'{"pid": ""}', "pid: "),
        (rb'{"pid": "a\u0000"}', "control characters"),
        (b'{"pid": "x", "merge": "yes"}', "merge: "),
        (b'{"pid": "x", "name": "y"}', "name: "),
        (b"[]", "wanted a JSON object"),
        (b"", "no JSON"),
    ],
)
def test_a_senseless_renaming_is_refused(client, ids, body, message):
    answer = client.request("PATCH", "/gallery/identities/bert", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and message in answer.json()["error"]["message"]


def test_a_renaming_is_json(client, ids):
    answer = client.request("PATCH", "/gallery/identities/bert", data={"pid": "x"})
    assert answer.status_code == 415 and "application/json" in answer.json()["error"]["message"]


def test_numbers_agree_with_what_was_enrolled(client, ids):
    stats = client.get("/gallery/stats").json()
    assert (stats["entries"], stats["identities"], stats["cameras"], stats["dim"]) == (4, 3, 2, 16)
    assert stats["space_id"] == "5" * 64 and stats["bytes"] > 0 and stats["index_type"]


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/gallery/entries/99", "entry_not_found"),
        ("DELETE", "/gallery/entries/99", "entry_not_found"),
        ("GET", "/gallery/entries/99/crop", "entry_not_found"),
        ("GET", "/gallery/identities/nobody", "identity_not_found"),
        ("DELETE", "/gallery/identities/nobody", "identity_not_found"),
        ("GET", "/nowhere", "not_found"),
        ("GET", "/gallery/", "not_found"),
    ],
)
def test_what_is_not_there_is_not_found(client, method, path, code):
    answer = client.request(method, path)
    assert answer.status_code == 404 and answer.json()["error"]["code"] == code


@pytest.mark.parametrize("path", ["/gallery/entries/0", "/gallery/entries/x", f"/gallery/entries/{2**63}"])
def test_an_id_that_is_none_is_refused(client, path):
    answer = client.get(path)
    assert answer.status_code == 422 and answer.json()["error"]["message"].startswith("entry_id: ")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/gallery", "GET, POST"),
        ("/search", "GET, POST"),
        ("/gallery/identities/a/b", "GET, PATCH, DELETE"),
        ("/gallery/entries/1", "GET, DELETE"),
        ("/embed", "POST"),
        ("/docs", "GET, HEAD"),
    ],
)
def test_a_method_that_is_not_offered_is_refused_with_those_that_are(client, path, allowed):
    answer = client.request("PUT", path)
    assert answer.status_code == 405 and answer.json()["error"]["code"] == "method_not_allowed"
    assert answer.headers["allow"] == allowed
