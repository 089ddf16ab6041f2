"""Memory at the size where a first pass is made, beside a slow reference, and what it finds out of step."""

import json
from collections import defaultdict

import numpy as np
import pytest

from gallery.entry import Filter
from gallery.errors import EntryNotFound
from gallery.memory import Memory
from gallery.store import Rows

NUM, DIM, PEOPLE = 3000, 64, 120


def take(rows, places):
    """The rows at these places."""
    columns = [
        [column[place] for place in places]
        for column in (rows.entry_ids, rows.pids, rows.camids, rows.captured_us, rows.attributes)
    ]
    return Rows(*columns, rows.embeddings[places])


@pytest.fixture
def rows(unit):
    """NUM entries of PEOPLE identities, one of which has every third entry."""
    people = [0 if number % 3 == 0 else number % PEOPLE for number in range(NUM)]
    embeddings = unit(PEOPLE, dim=DIM)[people] + 0.8 * unit(NUM, dim=DIM)
    return Rows(
        entry_ids=[2 * number + 1 for number in range(NUM)],
        pids=[f"p{person:03}" for person in people],
        camids=[None if number % 5 == 0 else f"c{number % 4}" for number in range(NUM)],
        captured_us=[None if number % 7 == 0 else number for number in range(NUM)],
        attributes=[json.dumps({"track": number // 10, "site": number % 2}) for number in range(NUM)],
        embeddings=(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float16),
    )


@pytest.fixture(params=["exact", "quantised"])
def memory(request, rows):
    made = Memory(DIM, request.param)
    for places in np.array_split(np.arange(NUM), 4):
        made.add(take(rows, places))
    return made


def pooled_cosines(rows, query, best_of):
    by_pid = defaultdict(list)
    for pid, cosine in zip(rows.pids, rows.embeddings.astype(float) @ query.astype(float), strict=True):
        by_pid[pid].append(cosine)
    return {pid: np.mean(sorted(cosines)[::-1][:best_of]) for pid, cosines in by_pid.items()}


@pytest.mark.parametrize("group_by", ["entry", "identity"])
@pytest.mark.parametrize("k", [1, 10, 60, 300])
def test_a_shortlist_begins_with_what_a_plain_search_finds(memory, rows, unit, group_by, k):
    how = {"k": k, "where": Filter(), "group_by": group_by, "pool": "max", "best_of": 1}
    for query in [rows.embeddings[1].astype(np.float32), unit(dim=DIM)]:
        shortlist = memory.shortlist(query, size=200, **how)
        plain = memory.search(query, **how).matches
        assert shortlist.found.entry_ids[: len(plain)] == [match.entry_id for match in plain]
        assert len(shortlist.rows) == 200 and (np.diff(shortlist.cosines) <= 0).all()
        assert shortlist.cosines == pytest.approx(shortlist.rows.astype(float) @ query, abs=1e-5)
        closest = np.sort(rows.embeddings.astype(float) @ query)[-200:]
        assert np.count_nonzero(shortlist.cosines >= closest[0] - 1e-5) >= (200 if memory.index.kind == "exact" else 180)
        if memory.index.kind == "exact":
            assert shortlist.cosines[-1] == pytest.approx(np.sort(rows.embeddings.astype(float) @ query)[-200], abs=1e-5)


@pytest.mark.parametrize(("pool", "best_of"), [("max", 1), ("best", 3), ("best", 40), ("mean", None)])
def test_identities_are_ranked_as_the_slow_reference_ranks_them(memory, rows, unit, pool, best_of):
    for query in [rows.embeddings[0].astype(np.float32), *unit(2, dim=DIM)]:
        expected = sorted(pooled_cosines(rows, query, best_of).items(), key=lambda one: -one[1])
        for k in (1, 10, PEOPLE):
            result = memory.search(query, k=k, where=Filter(), group_by="identity", pool=pool, best_of=best_of or 3)
            assert [match.pid for match in result.matches] == [pid for pid, _ in expected[:k]]
            assert [match.cosine for match in result.matches] == pytest.approx([c for _, c in expected[:k]], abs=2e-6)
            assert (result.entries, result.identities) == (NUM, len(expected))


def test_a_filter_holds_inside_the_scan(memory, rows, unit):
    query = unit(dim=DIM)
    where = Filter(attributes={"site": 1}, exclude_camids=frozenset({"c1"}))
    result = memory.search(query, k=50, where=where, group_by="entry", pool="max", best_of=3)
    allowed = [place for place in range(NUM) if place % 2 == 1 and rows.camids[place] != "c1"]
    cosines = rows.embeddings[allowed].astype(float) @ query.astype(float)
    expected = [rows.entry_ids[allowed[place]] for place in np.argsort(-cosines)[:50]]
    assert [match.entry_id for match in result.matches] == expected
    assert result.entries == len(allowed)


def test_an_embedding_is_given_as_stored(memory, rows):
    assert memory.embedding(rows.entry_ids[7]).tobytes() == rows.embeddings[7].astype(np.float32).tobytes()
    with pytest.raises(EntryNotFound):
        memory.embedding(2)


def test_memory_in_step_has_no_faults_whatever_the_batches(memory, rows):
    memory.remove([rows.entry_ids[place] for place in (0, 999, NUM - 1)])
    memory.rename([rows.entry_ids[5]], "new")
    kept = [place for place in range(NUM) if place not in (0, 999, NUM - 1)]
    rows.pids[5] = "new"
    assert memory.faults(take(rows, places) for places in np.array_split(kept, 7)) == []
    assert Memory(DIM, "exact").faults([]) == []


def test_faults_name_what_differs(memory, rows):
    memory.index.rows()[3] *= np.float16(-1)
    assert memory.faults([rows]) == ["entry 7 differs between the index and the store"]
    assert memory.faults([take(rows, np.arange(NUM - 1))])[1:] == [f"the index holds {NUM} entries, the store {NUM - 1}"]
    fewer = Memory(DIM, "exact")
    fewer.add(take(rows, np.arange(1, NUM)))
    assert fewer.faults([rows]) == [
        "entry 1 differs between the index and the store",
        f"the index holds {NUM - 1} entries, the store {NUM}",
    ]


@pytest.mark.parametrize("column", ["pids", "camids", "captured_us", "attributes"])
def test_faults_say_when_the_columns_differ(memory, rows, column):
    getattr(rows, column)[11] = {"captured_us": 5}.get(column, "{}")
    assert memory.faults([rows]) == ["the pids, camids, times or attributes in memory differ from the store's"]


def test_no_rows_change_nothing(memory, rows):
    memory.add(take(rows, []))
    assert len(memory) == NUM
