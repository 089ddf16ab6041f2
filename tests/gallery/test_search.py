"""The whole search against a slow, obvious reference."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import product

import numpy as np
import pytest

from gallery.entry import Filter
from gallery.errors import DimensionMismatch, InvalidRequest, NotUnitLength

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
FILTERS = [
    Filter(),
    Filter(pids=frozenset({"p1", "p2", "nobody"})),
    Filter(camids=frozenset({"c1"})),
    Filter(exclude_camids=frozenset({"c0", "c1"})),
    Filter(since=NOON + timedelta(minutes=20), until=NOON + timedelta(minutes=70)),
    Filter(exclude_entry_ids=frozenset(range(1, 100, 2))),
    Filter(camids=frozenset({"c1", "c2"}), until=NOON + timedelta(minutes=50), exclude_entry_ids=frozenset({7})),
    Filter(camids=frozenset({"nowhere"})),
    Filter(attributes={"site": "s1"}),
    Filter(attributes={"site": "s0", "is_staff": True}, camids=frozenset({"c1"})),
]
POOLS = [("entry", "max", 1), ("identity", "max", 3), ("identity", "mean", 3), ("identity", "best", 3), ("identity", "best", 100)]


@pytest.fixture
def people(gallery, new, unit):
    """100 entries of 12 identities, one of them in half of the entries; cameras and times now and then unknown."""
    centres = unit(12)
    entries = []
    for number in range(100):
        person = 0 if number % 2 else number // 2 % 12
        embedding = centres[person] + np.float32(0.7) * unit()
        entries.append(
            new(
                f"p{person}",
                embedding=(embedding / np.linalg.norm(embedding)).astype(np.float32),
                camid=None if number % 7 == 0 else f"c{number % 3}",
                captured_at=None if number % 11 == 0 else NOON + timedelta(minutes=number),
                attributes={"site": f"s{number % 4}", "is_staff": number % 3 == 0},
            )
        )
    gallery.enroll(entries, space_id="space-1")
    return dict(enumerate(entries, start=1))


def is_admitted(entry_id, entry, where):
    in_time = where.since is None and where.until is None
    if not in_time and entry.captured_at is not None:
        in_time = (where.since is None or where.since <= entry.captured_at) and (
            where.until is None or entry.captured_at < where.until
        )
    return (
        in_time
        and (not where.pids or entry.pid in where.pids)
        and (not where.camids or entry.camid in where.camids)
        and entry.camid not in where.exclude_camids
        and entry_id not in where.exclude_entry_ids
        and where.attributes.items() <= entry.attributes.items()
    )


def slow_search(entries, query, k, where, group_by, pool, best_of):
    """[(entry_id, pid, cosine, entries)] and how many entries and identities were searched."""
    cosines = {
        entry_id: float(np.dot(entry.embedding.astype(np.float16).astype(float), query.astype(float)))
        for entry_id, entry in entries.items()
        if is_admitted(entry_id, entry, where)
    }
    by_identity = defaultdict(list)
    for entry_id in cosines:
        by_identity[entries[entry_id].pid].append(entry_id)
    if group_by == "entry":
        found = [(entry_id, entries[entry_id].pid, cosine, 1) for entry_id, cosine in cosines.items()]
    else:
        found = []
        for pid, ids in by_identity.items():
            falling = sorted((cosines[entry_id] for entry_id in ids), reverse=True)
            counted = falling[: {"max": 1, "mean": None, "best": best_of}[pool]]
            best = max(ids, key=lambda entry_id: cosines[entry_id])
            found.append((best, pid, sum(counted) / len(counted), len(ids)))
    found.sort(key=lambda one: -one[2])
    return found[:k], len(cosines), len(by_identity)


@pytest.mark.parametrize(("group_by", "pool", "best_of"), POOLS)
@pytest.mark.parametrize("where", FILTERS)
def test_search_agrees_with_the_slow_reference(gallery, people, unit, where, group_by, pool, best_of):
    for query, k in product(unit(3), (1, 5, 12, 1000)):
        result = gallery.search(query, k=k, where=where, group_by=group_by, pool=pool, best_of=best_of)
        found, num_entries, num_identities = slow_search(people, query, k, where, group_by, pool, best_of)
        assert [(m.entry_id, m.pid, m.entries) for m in result.matches] == [(one[0], one[1], one[3]) for one in found]
        assert [m.cosine for m in result.matches] == pytest.approx([one[2] for one in found], abs=1e-6)
        assert (result.entries, result.identities) == (num_entries, num_identities)


def test_match_carries_what_was_enrolled(gallery, people):
    for entry_id in (7, 8, 11):
        match = gallery.search(people[entry_id].embedding, k=1, group_by="entry").matches[0]
        entry = people[entry_id]
        assert (match.entry_id, match.pid, match.camid, match.captured_at) == (
            entry_id,
            entry.pid,
            entry.camid,
            entry.captured_at,
        )
        assert match.rerank_distance is None


def test_k_identities_come_back_from_behind_one_with_many_entries(gallery, new, unit):
    query = unit()
    crowd = [new("crowd", embedding=query) for _ in range(300)]
    gallery.enroll([*crowd, *[new(f"p{number}") for number in range(5)]], space_id="space-1")
    assert len({match.pid for match in gallery.search(query, k=5).matches}) == 5


def test_best_looks_behind_a_shortlist_for_the_rest_of_an_identity(gallery, new, unit):
    query, far = unit(), -unit()
    lucky = [new("lucky", embedding=query), *[new("lucky", embedding=far) for _ in range(5)]]
    steady = (0.9 * query + 0.1 * far).astype(np.float32)
    steady /= np.linalg.norm(steady)
    crowd = [new("crowd", embedding=-query) for _ in range(300)]
    gallery.enroll([*lucky, *crowd, *[new("steady", embedding=steady) for _ in range(3)]], space_id="space-1")
    assert [match.pid for match in gallery.search(query, k=3, pool="max").matches] == ["lucky", "steady", "crowd"]
    assert [match.pid for match in gallery.search(query, k=3, pool="best").matches] == ["steady", "lucky", "crowd"]


def test_equal_cosines_are_ordered_by_entry_id_and_by_pid(gallery, new, unit):
    same = unit()
    gallery.enroll([new(f"p{99 - number}", embedding=same) for number in range(90)], space_id="space-1")
    by_entry = gallery.search(same, k=10, group_by="entry").matches
    assert [match.entry_id for match in by_entry] == list(range(1, 11))
    for pool in ("max", "mean", "best"):
        by_identity = gallery.search(same, k=10, pool=pool).matches
        assert [match.pid for match in by_identity] == [f"p{number}" for number in range(10, 20)]


def test_cosine_never_leaves_its_range(gallery, new, unit):
    long = (unit() * 1.0009).astype(np.float32)
    gallery.enroll([new("ann", embedding=long), new("bob", embedding=-long)], space_id="space-1")
    assert [match.cosine for match in gallery.search(long, k=2).matches] == [1.0, -1.0]


def test_empty_gallery_has_no_matches(gallery, unit):
    for pool in ("max", "mean", "best"):
        result = gallery.search(unit(), k=3, pool=pool)
        assert (result.matches, result.entries, result.identities) == ((), 0, 0)


def test_bad_query_is_refused(gallery, unit):
    with pytest.raises(DimensionMismatch):
        gallery.search(unit(dim=9), k=1)
    with pytest.raises(NotUnitLength):
        gallery.search(np.full(8, np.nan, np.float32), k=1)
    with pytest.raises(InvalidRequest):
        gallery.search(unit(), k=0)
    with pytest.raises(InvalidRequest):
        gallery.search(unit(), k=1, where=Filter(since=datetime(2026, 1, 1)))
