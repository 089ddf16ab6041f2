"""Every call of the contract, against the real application."""

from datetime import UTC, datetime

import numpy as np
import pytest

from service.client import Conflict, NotFound, ReidError, Rejected, Unauthorised

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def unit(*rows):
    wide = np.array([[*row, *[0.0] * (16 - len(row))] for row in rows])
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


def test_model_says_which_model_answers(reid):
    model = reid.model()
    assert (model.dim, model.architecture, model.provider) == (16, "tiny", "CPUExecutionProvider")
    assert model.manifest["metrics"] == {"mAP": 0.5} and len(model.model_id) == 64 and model.space_id == "5" * 64


def test_a_match_says_all_that_the_contract_says(reid, pictures):
    reid.enroll(pictures(1), pid="anna", camid="hall", captured_at=NOON)
    answer = reid.search(pictures(1))
    (match,) = answer.matches
    assert (match.rank, match.pid, match.camid, match.captured_at, match.entries) == (1, "anna", "hall", NOON, 1)
    assert match.cosine == pytest.approx(1, abs=5e-4) and match.rerank_distance is None
    assert (answer.decision, answer.threshold, answer.searched.entries) == ("match", 0.9, 1)
    assert answer.took_ms.search > 0 and answer.took_ms.rerank is None and answer.model_id == reid.model().model_id


def test_several_crops_of_one_person_are_one_query_and_bad_ones_are_named(reid, pictures):
    reid.enroll([pictures(1), pictures(2)], pid="anna")
    answer = reid.search([pictures(1), b"nothing", pictures(2)])
    assert answer.matches[0].pid == "anna"
    assert [(item.index, item.code) for item in answer.rejected] == [(1, "undecodable_image")]


def test_a_search_by_embedding_finds_what_the_crop_finds(reid, pictures):
    reid.enroll(pictures(1), pid="anna")
    row = reid.embed(pictures(1)).embeddings[0]
    for query in (row, row.astype(np.float16), row.astype(np.float64)):
        assert reid.search(embedding=query).matches[0].cosine == pytest.approx(1, abs=2e-3)


def test_a_search_by_entry_leaves_that_entry_out(reid, pictures):
    enrolled = reid.enroll([pictures(1), pictures(2)], pid=["anna", "bert"])
    answer = reid.search(entry_id=enrolled.results[0].entry_id)
    assert [match.pid for match in answer.matches] == ["bert"]


def test_the_parameters_of_a_search_reach_the_service(reid):
    labels = {"pid": ["anna", "bert", "bert"], "camid": ["hall", "door", "hall"]}
    attributes = [{"site": "north"}, None, {"site": "south"}]
    reid.enroll(embeddings=unit((1, 0), (1, 0.1), (1, 0.2)), captured_at=NOON, attributes=attributes, **labels)
    query = unit((1, 0))[0]

    def found(**options):
        return [match.pid for match in reid.search(embedding=query, **options).matches]

    assert found(k=1) == ["anna"] and found(group_by="entry") == ["anna", "bert", "bert"]
    assert found(pid=["bert"]) == found(pid="bert") == ["bert"]
    assert found(camid="door") == ["bert"] and found(exclude_camid=["hall", "door"]) == []
    assert found(attributes={"site": "north"}) == ["anna"]
    assert found(since=NOON) == ["anna", "bert"] and found(until=NOON) == []
    assert reid.search(embedding=query, far=0.1).threshold == 0.5
    assert reid.search(embedding=query, threshold=0.75, pool="best", best_of=2).threshold == 0.75


def test_a_wrong_parameter_is_refused_with_the_services_words(reid):
    with pytest.raises(Rejected, match="k: Input should be less than or equal to 1000") as caught:
        reid.search(embedding=unit((1,))[0], k=1001)
    assert (caught.value.code, caught.value.status) == ("invalid_request", 422) and caught.value.request_id


@pytest.mark.parametrize("query", [{}, {"crops": b"1", "entry_id": 1}, {"crops": []}])
def test_a_search_wants_one_kind_of_query(reid, query):
    with pytest.raises(ValueError, match="got (none|no)"):
        reid.search(**query)


def test_a_time_without_an_offset_is_refused(reid, pictures):
    with pytest.raises(ValueError, match="without an offset"):
        reid.enroll(pictures(1), pid="anna", captured_at=datetime(2026, 1, 31))


def test_entries_and_identities_are_listed_to_the_last_page(over):
    reid, _ = over()
    rows = unit(*((1, number / 1000) for number in range(1001)))
    reid.enroll(embeddings=rows, pid=[f"p{number:04}" for number in range(1001)])
    assert [one.pid for one in reid.identities()] == [f"p{number:04}" for number in range(1001)]
    assert len({entry.entry_id for entry in reid.entries()}) == 1001
    assert [one.pid for one in reid.identities(prefix="p100")] == ["p1000"]


def test_an_entry_says_what_was_enrolled(reid, pictures):
    (result,) = reid.enroll(pictures(1), pid="anna", camid="hall", captured_at=NOON, attributes={"hat": "red"}).results
    entry = reid.entry(result.entry_id)
    assert (entry.pid, entry.camid, entry.captured_at, entry.attributes) == ("anna", "hall", NOON, {"hat": "red"})
    assert entry.has_crop and entry.enrolled_at.utcoffset() is not None
    assert list(reid.entries(pid="anna", camid="hall", since=NOON)) == [entry]
    assert list(reid.entries(until=NOON)) == []


def test_an_identity_says_where_and_when_it_was_seen(reid, pictures):
    reid.enroll([pictures(1), pictures(2)], pid="anna", camid=["hall", "door"], captured_at=NOON)
    identity = reid.identity("anna")
    assert (identity.pid, identity.entries, identity.camids) == ("anna", 2, ("door", "hall"))
    assert identity.first_seen == identity.last_seen == NOON


def test_renaming_onto_another_identity_wants_merge(reid, pictures):
    reid.enroll([pictures(1), pictures(2)], pid=["anna", "bert"])
    with pytest.raises(Conflict):
        reid.rename("bert", "anna")
    renamed = reid.rename("bert", "anna", merge=True)
    assert (renamed.identity.pid, renamed.identity.entries, renamed.moved, renamed.dropped) == ("anna", 2, 1, 0)


def test_any_pid_can_be_read_renamed_and_erased(reid, pictures):
    reid.enroll(pictures(1), pid="bystander")
    for pid in ("..", "../stats", "/", "a?b#c%2F ä"):
        reid.enroll(pictures(2), pid=pid)
        assert reid.identity(pid).pid == pid
        assert reid.rename(pid, f"{pid}!").moved == 1
        assert reid.delete_identity(f"{pid}!").entries == 1
    assert [one.pid for one in reid.identities()] == ["bystander"]


def test_an_erasure_gives_a_receipt(reid, pictures):
    reid.enroll([pictures(1), pictures(2)], pid="anna")
    receipt = reid.delete_identity("anna")
    assert (receipt.pid, receipt.entries, receipt.vectors, receipt.crops) == ("anna", 2, 2, 2)
    with pytest.raises(NotFound, match="anna"):
        reid.identity("anna")


def test_a_deleted_entry_is_gone(reid, pictures):
    (result,) = reid.enroll(pictures(1), pid="anna").results
    assert reid.delete_entry(result.entry_id) is None
    with pytest.raises(NotFound) as caught:
        reid.entry(result.entry_id)
    assert (caught.value.code, caught.value.status) == ("entry_not_found", 404)


def test_a_stored_crop_comes_back_as_jpeg(reid, pictures):
    (result,) = reid.enroll(pictures(1), pid="anna").results
    assert reid.crop(result.entry_id).startswith(b"\xff\xd8\xff")


def test_a_crop_that_was_not_kept_is_not_found(over, pictures):
    reid, _ = over(keep_crops=False)
    (result,) = reid.enroll(pictures(1), pid="anna").results
    with pytest.raises(NotFound) as caught:
        reid.crop(result.entry_id)
    assert caught.value.code == "crop_not_kept"


def test_stats_count(reid, pictures):
    reid.enroll([pictures(1), pictures(2)], pid=["anna", "bert"], camid=["hall", None])
    stats = reid.stats()
    assert (stats.entries, stats.identities, stats.cameras, stats.dim) == (2, 2, 1, 16)


def test_a_key_opens_what_is_locked(over, settings):
    keys = {"api_keys": type(settings.api_keys)("right"), "gallery": settings.gallery.with_name("locked")}
    reid, _ = over(key="right", **keys)
    assert reid.stats().entries == 0


def test_without_a_key_nothing_is_answered(over, settings):
    reid, _ = over(api_keys=type(settings.api_keys)("right"))
    with pytest.raises(Unauthorised, match="no API key"):
        reid.stats()


def test_a_read_only_key_cannot_enroll(over, settings, pictures):
    reid, _ = over(key="reads", read_only_keys=type(settings.api_keys)("reads"))
    with pytest.raises(Unauthorised) as caught:
        reid.enroll(pictures(1), pid="anna")
    assert caught.value.status == 403


def test_the_models_failure_is_told_with_its_code(over, without, pictures):
    def break_down(size):
        raise RuntimeError("no memory")

    reid, _ = over(embed=without(before=break_down))
    with pytest.raises(ReidError) as caught:
        reid.embed(pictures(1))
    assert (caught.value.code, caught.value.status) == ("inference_failed", 500)
