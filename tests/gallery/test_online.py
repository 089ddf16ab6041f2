"""Re-ranking of a shortlist: its arithmetic, and searches of a gallery beside a slow, obvious reference."""

import threading
from itertools import product
from math import cos, exp, radians

import numpy as np
import pytest

from gallery import rerank as whole_set
from gallery.entry import Filter
from gallery.errors import InvalidRequest
from gallery.local import LocalGallery
from gallery.online import Rerank, overlaps, widen

POOLS = [("entry", "max", 1), ("identity", "max", 1), ("identity", "mean", None), ("identity", "best", 3)]
SMALL = Rerank(k1=5, k2=3, shortlist=30)
WAYS = [SMALL, Rerank(blend=0.5), Rerank(k1=3, k2=1, blend=0, shortlist=12)]
FILTERS = [
    Filter(),
    Filter(camids=frozenset({"c1"})),
    Filter(pids=frozenset({"p1", "p2", "nobody"})),
    Filter(pids=frozenset({"x"})),
]


def unit_rows(rng, num, *, num_ids=8, dim=16, spread=0.8):
    """Unit embeddings around as many centres as there are identities, and whose they are."""
    pids = rng.integers(num_ids, size=num)
    rows = rng.standard_normal((num_ids, dim))[pids] + spread * rng.standard_normal((num, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), pids


def by_definition(rows, *, k1, k2):
    """Jaccard overlap of the first of rows with each other one, by the whole-set definition."""
    prepared = whole_set.prepare(rows[:1], rows[1:], k1=k1, k2=k2, blend=0)
    return 1 - whole_set.distances(prepared, slice(None))[0]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize(
    ("num", "k1", "k2"), [(201, 20, 6), (60, 5, 2), (60, 7, 7), (40, 30, 1), (21, 20, 6), (3, 2, 2), (2, 1, 1)]
)
def test_overlaps_are_those_of_the_whole_set_definition(rng, num, k1, k2):
    rows, _ = unit_rows(rng, num)
    assert overlaps(rows, k1=k1, k2=k2) == pytest.approx(by_definition(rows, k1=k1, k2=k2), abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_ties_and_duplicates_follow_the_whole_set_definition(seed):
    # Four halves: every cosine is exact, most are equal, many rows are the same.
    rows = np.random.default_rng(seed).choice(np.array([-0.5, 0.5], np.float32), (30, 4))
    assert overlaps(rows, k1=8, k2=3) == pytest.approx(by_definition(rows, k1=8, k2=3), abs=1e-6)


def test_rows_that_are_all_the_same_overlap_wholly_or_not_at_all():
    same = np.tile(np.array([0.6, 0.8], np.float32), (30, 1))
    found = overlaps(same, k1=29, k2=1)
    assert found == pytest.approx(np.ones(29), abs=1e-6)


def test_fewer_rows_than_k1_are_all_neighbours(rng):
    rows, _ = unit_rows(rng, 10)
    assert overlaps(rows, k1=20, k2=15) == pytest.approx(by_definition(rows, k1=9, k2=9), abs=1e-6)


def test_the_order_of_the_rows_does_not_matter(rng):
    rows, _ = unit_rows(rng, 100)
    order = 1 + rng.permutation(99)
    again = overlaps(np.concatenate([rows[:1], rows[order]]), k1=20, k2=6)
    assert again == pytest.approx(overlaps(rows, k1=20, k2=6)[order - 1], abs=1e-6)


def test_every_finite_half_keeps_its_value_and_sign_in_float32():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    found = np.full((2, len(halves)), np.nan, np.float32)
    widen(halves, found[1])
    assert np.array_equal(found[1].view(np.int32), halves.astype(np.float32).view(np.int32)) and np.isnan(found[0]).all()


def at_degrees(new, pid, angle):
    return new(pid, embedding=np.array([cos(radians(angle)), cos(radians(90 - angle)), *[0] * 6], np.float32))


def test_a_case_worked_by_hand(gallery, enroll, new):
    # With k1 1 a list is a crop and its closest: query and ann are a pair, bob and cat another. Farthest is cat, at 100 degrees.
    enroll(at_degrees(new, "ann", 10), at_degrees(new, "bob", 90), at_degrees(new, "cat", 100))
    query = np.array([1, *[0] * 7], np.float32)
    scaled = [(1 - cos(radians(angle))) / (1 - cos(radians(100))) for angle in (10, 90, 100)]
    own, other = exp(-scaled[0]), exp(-(1 - cos(radians(10))))  # the farthest of ann is at 90 degrees: sq_dist 2
    overlap = min(1 / (1 + own), other / (1 + other)) + min(own / (1 + own), 1 / (1 + other))
    wanted = [0.3 * scaled[0] + 0.7 * (1 - overlap / (2 - overlap)), 0.3 * scaled[1] + 0.7, 0.3 * scaled[2] + 0.7]
    matches = gallery.search(query, k=3, rerank=Rerank(k1=1, k2=1, shortlist=3)).matches
    assert [match.pid for match in matches] == ["ann", "bob", "cat"]
    assert [match.rerank_distance for match in matches] == pytest.approx(wanted, abs=1e-3)  # half precision


@pytest.fixture
def people(gallery, new, rng):
    """120 entries of 8 identities on 3 cameras: entry_id -> NewEntry with the embedding as it is stored."""
    rows, pids = unit_rows(rng, 120, dim=8)
    rows = rows.astype(np.float16).astype(np.float32)
    made = [
        new(f"p{pid}", embedding=row, camid=f"c{number % 3}") for number, (row, pid) in enumerate(zip(rows, pids, strict=True))
    ]
    gallery.enroll(made, space_id="space-1")
    return dict(enumerate(made, start=1))


def slow_rerank(people, query, where, rerank, num_pooled):
    """[(pid or entry_id, cosine, distance)] of all admitted, unsorted; num_pooled: 0 ranks entries, None takes the mean."""
    ids = [
        i
        for i, one in people.items()
        if (not where.pids or one.pid in where.pids) and (not where.camids or one.camid in where.camids)
    ]
    cosine = {i: float(np.dot(people[i].embedding.astype(float), query.astype(float))) for i in ids}
    listed = sorted(ids, key=lambda i: (-cosine[i], i))[: rerank.shortlist]
    if not listed:
        return []
    k1 = min(rerank.k1, len(listed))
    overlap = by_definition(np.stack([query, *(people[i].embedding for i in listed)]), k1=k1, k2=min(k1, rerank.k2))
    jaccard = dict.fromkeys(ids, 1.0) | {i: 1 - float(share) for i, share in zip(listed, overlap, strict=True)}
    far = 1 - cosine[listed[-1]]
    distance = {i: rerank.blend * (1 - cosine[i]) / far + (1 - rerank.blend) * jaccard[i] for i in ids}
    if num_pooled == 0:
        return [(i, cosine[i], distance[i]) for i in ids]
    found = []
    for pid in {people[i].pid for i in ids}:
        own = [i for i in ids if people[i].pid == pid]
        closest, lowest = sorted(-cosine[i] for i in own)[:num_pooled], sorted(distance[i] for i in own)[:num_pooled]
        found.append((pid, -np.mean(closest), np.mean(lowest)))
    return found


@pytest.mark.parametrize(("group_by", "pool", "best_of"), POOLS)
def test_searches_agree_with_the_slow_reference(gallery, people, rng, group_by, pool, best_of):
    for query, where, rerank in product(unit_rows(rng, 2, dim=8)[0], FILTERS, WAYS):
        slow = slow_rerank(people, query, where, rerank, 0 if group_by == "entry" else best_of)
        expected = {name: (cosine, distance) for name, cosine, distance in slow}
        for k in (1, 4, 1000):
            result = gallery.search(query, k=k, where=where, group_by=group_by, pool=pool, best_of=best_of or 3, rerank=rerank)
            found = [(m.entry_id if group_by == "entry" else m.pid, m.cosine, m.rerank_distance) for m in result.matches]
            assert [one[1:] for one in found] == [pytest.approx(expected[one[0]], abs=1e-5) for one in found]
            assert [one[2] for one in found] == pytest.approx(sorted(one[2] for one in slow)[:k], abs=1e-5)
            assert len({one[0] for one in found}) == len(found)


def plain_and(gallery, query, rerank, **how):
    return gallery.search(query, **how), gallery.search(query, rerank=rerank, **how)


def test_lambda_one_keeps_the_original_order(gallery, people, rng):
    for query, (group_by, pool, best_of) in product(unit_rows(rng, 5, dim=8)[0], POOLS):
        how = {"k": 50, "group_by": group_by, "pool": pool, "best_of": best_of or 3}
        plain, again = plain_and(gallery, query, Rerank(k1=5, k2=3, blend=1, shortlist=25), **how)
        assert [match.entry_id for match in again.matches] == [match.entry_id for match in plain.matches]
        assert again.by_cosine == plain.matches


def test_duplicates_stay_in_the_order_of_their_ids(gallery, enroll, new):
    same = np.array([0.5] * 4 + [0] * 4, np.float32)
    enroll(*[new(f"p{99 - number}", embedding=same) for number in range(60)])
    for rerank in (Rerank(), Rerank(k1=60, k2=1, shortlist=60)):
        result = gallery.search(same, k=60, group_by="entry", rerank=rerank)
        distances = [match.rerank_distance for match in result.matches]
        ids = [match.entry_id for match in result.matches]
        assert list(zip(distances, ids, strict=True)) == sorted(zip(distances, ids, strict=True))
        assert all(0 <= distance <= 1 for distance in distances)


def test_the_order_of_enrolment_does_not_matter(reopen, tmp_path, new, rng):
    rows, pids = unit_rows(rng, 80, dim=8)
    orders = []
    for number, order in enumerate((range(80), rng.permutation(80))):
        with LocalGallery.open(tmp_path / str(number), space_id="space-1", dim=8) as opened:
            opened.enroll([new(f"p{pids[place]}", embedding=rows[place]) for place in order], space_id="space-1")
            orders.append([(m.pid, round(m.rerank_distance, 4)) for m in opened.search(rows[3], k=8, rerank=SMALL).matches])
    assert orders[0] == orders[1]


def test_the_first_identity_is_that_of_the_first_entry(gallery, people, rng):
    for query in unit_rows(rng, 20, dim=8)[0]:
        entry, identity = (gallery.search(query, k=1, group_by=by, rerank=SMALL).matches[0] for by in ("entry", "identity"))
        assert (entry.pid, entry.rerank_distance) == (identity.pid, pytest.approx(identity.rerank_distance))


def test_re_ranking_brings_the_right_identity_forward(reopen, new, rng):
    rows, pids = unit_rows(rng, 420, num_ids=20, dim=32, spread=1.3)
    with reopen(dim=32) as opened:
        opened.enroll([new(f"p{pid}", embedding=row) for row, pid in zip(rows[20:], pids[20:], strict=True)], space_id="space-1")
        right = {}
        for rerank in (None, Rerank(shortlist=100)):
            lists = [opened.search(row, k=10, group_by="entry", rerank=rerank).matches for row in rows[:20]]
            right[rerank] = sum(match.pid == f"p{pid}" for found, pid in zip(lists, pids[:20], strict=True) for match in found)
    assert right[Rerank(shortlist=100)] > 1.05 * right[None]


@pytest.mark.parametrize("num", [0, 1, 2, 5])
def test_tiny_galleries_answer(gallery, enroll, new, unit, num):
    enroll(*[new(f"p{number}") for number in range(num)])
    for group_by, pool, best_of in POOLS:
        result = gallery.search(unit(), k=10, group_by=group_by, pool=pool, best_of=best_of or 3, rerank=Rerank())
        assert len(result.matches) == num == result.entries
        assert all(0 <= match.rerank_distance <= 1 + 1e-6 for match in result.matches)


def test_a_result_says_how_long_re_ranking_took_only_when_there_was_some(gallery, people, unit):
    plain, again = plain_and(gallery, unit(), SMALL, k=3)
    assert plain.rerank_s is None and plain.by_cosine == () and again.rerank_s > 0
    assert (again.entries, again.identities) == (plain.entries, plain.identities)


@pytest.mark.parametrize(
    ("rerank", "message"),
    [
        (Rerank(shortlist=0), "got shortlist 0, wanted 1 to 1000"),
        (Rerank(shortlist=1001), "got shortlist 1001"),
        (Rerank(k1=0), "got k1 0 with shortlist 200, wanted 1 to 100"),
        (Rerank(shortlist=19), "got k1 20 with shortlist 19, wanted 1 to 19; choose a smaller k1"),
        (Rerank(k2=0), "got k2 0"),
        (Rerank(k1=5), "got k2 6 with k1 5, wanted 1 to 5"),
        (Rerank(blend=-0.1), "got lambda -0.1, wanted 0"),
        (Rerank(blend=1.1), "got lambda 1.1"),
        (Rerank(blend=float("nan")), "got lambda nan"),
    ],
)
def test_parameters_that_cannot_be_are_refused(gallery, unit, rerank, message):
    with pytest.raises(InvalidRequest, match=message):
        gallery.search(unit(), k=1, rerank=rerank)


def test_searches_beside_changes_see_one_state(gallery, enroll, new, rng):
    # Every state holds as many entries of "odd" as of "even", side by side; a mixture of two states would not.
    rows, _ = unit_rows(rng, 20, dim=8)
    pairs = [[new("odd", embedding=row), new("even", embedding=row)] for row in rows]
    enroll(*pairs[0])
    is_done = threading.Event()

    def change():
        for pair in pairs * 2:
            ids = [one.entry_id for one in gallery.enroll(pair, space_id="space-1")]
            assert len(ids) == 2
        is_done.set()

    writer = threading.Thread(target=change)
    writer.start()
    while not is_done.is_set():
        odd, even = sorted(gallery.search(rows[0], k=2, rerank=SMALL).matches, key=lambda match: match.pid, reverse=True)
        assert (odd.entries, odd.cosine) == (even.entries, even.cosine)
    writer.join()
    assert gallery.search(rows[0], k=2, rerank=SMALL).entries == 82
