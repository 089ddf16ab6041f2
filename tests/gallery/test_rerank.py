from math import cos, exp, radians
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gallery.rerank import distances, prepare

GOLDEN = Path(__file__).parents[1] / "golden" / "rerank.npz"  # made by make_rerank_golden


def dense_rerank(query, gallery, *, k1, k2, blend):
    """k-reciprocal re-ranking as it is defined: N x N matrices, sets and loops. float32 [Q, G]."""
    both = np.concatenate([query, gallery])
    num = len(both)
    sq_dist = np.maximum(2 - 2 * both @ both.T, 0)
    scaled = sq_dist / np.where(sq_dist.max(axis=1) > 0, sq_dist.max(axis=1), 1)[:, np.newaxis]
    np.fill_diagonal(scaled, 0)
    order = np.argsort(np.where(np.eye(num), -1, sq_dist), axis=1, kind="stable")

    def reciprocal(length):
        lists = [set(row[:length].tolist()) for row in order]
        return [{other for other in lists[crop] if crop in lists[other]} for crop in range(num)]

    cores, halves = reciprocal(k1 + 1), reciprocal(int(np.around(k1 / 2)) + 1)
    weights = np.zeros((num, num), np.float32)
    for crop, core in enumerate(cores):
        members = set(core)
        for half in (halves[other] for other in core):
            if len(core & half) > 2 / 3 * len(half):
                members |= half
        weights[crop, list(members)] = np.exp(-scaled[crop, list(members)])
        weights[crop] /= weights[crop].sum()
    weights = np.array([weights[order[crop, :k2]].mean(axis=0) for crop in range(num)])
    jaccard = np.array([1 - np.minimum(row, weights).sum(axis=1) / np.maximum(row, weights).sum(axis=1) for row in weights])
    return (blend * scaled + (1 - blend) * jaccard)[: len(query), len(query) :]


def clustered(rng, num, *, num_ids=12, spread=0.15, dim=32):
    """Unit embeddings around as many centres as there are identities: float32 [num, dim]."""
    centres = np.random.default_rng(99).standard_normal((num_ids, dim))
    embeddings = centres[rng.integers(num_ids, size=num)] + spread * dim**0.5 * rng.standard_normal((num, dim))
    return (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)


def rerank(query, gallery, **parameters):
    return distances(prepare(query, gallery, **parameters), slice(None))


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize(
    ("num_query", "num_gallery", "k1", "k2", "blend"),
    [
        (20, 180, 20, 6, 0.3),
        (20, 180, 5, 2, 0.3),  # half of 5 rounds to 2
        (20, 120, 7, 7, 0.5),  # half of 7 rounds to 4
        (20, 120, 30, 1, 0),
        (3, 2, 4, 3, 0.3),  # every crop is everyone's neighbour
        (1, 40, 20, 6, 0.3),
        (40, 1, 20, 6, 0.3),
        (1, 1, 1, 1, 0.3),
    ],
)
@pytest.mark.parametrize("tile_bytes", [1, 4000, 2**20])
def test_distances_are_those_of_the_dense_definition(rng, monkeypatch, num_query, num_gallery, k1, k2, blend, tile_bytes):
    monkeypatch.setattr("gallery.lists.TILE_BYTES", tile_bytes)
    query, gallery = clustered(rng, num_query), clustered(rng, num_gallery)
    wanted = dense_rerank(query, gallery, k1=k1, k2=k2, blend=blend)
    for block_bytes in (1, 20_000, 2**26):
        found = rerank(query, gallery, k1=k1, k2=k2, blend=blend, block_bytes=block_bytes)
        assert found.dtype == np.float32
        assert np.abs(found - wanted).max() < 1e-5
        in_found_order = np.take_along_axis(wanted, np.argsort(found, axis=1), axis=1)
        assert (np.diff(in_found_order, axis=1) > -1e-6).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 40), st.data())
def test_ties_and_duplicates_follow_the_dense_definition(seed, num_query, num_gallery, data):
    # Unit embeddings of four halves: every cosine is exact, most of them are equal, and many crops are the same.
    corners = np.random.default_rng(seed).choice(np.array([-0.5, 0.5], np.float32), (num_query + num_gallery, 4))
    k1 = data.draw(st.integers(1, min(25, len(corners) - 1)))
    parameters = {"k1": k1, "k2": data.draw(st.integers(1, k1)), "blend": 0.3}
    query, gallery = corners[:num_query], corners[num_query:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gallery.lists.TILE_BYTES", data.draw(st.sampled_from([1, 300, 2**20])))
        found = rerank(query, gallery, **parameters, block_bytes=data.draw(st.sampled_from([1, 500, 2**26])))
    assert np.abs(found - dense_rerank(query, gallery, **parameters)).max() < 1e-5


def test_the_golden_distances_are_found_again():
    with np.load(GOLDEN) as golden:
        found = rerank(golden["query"], golden["gallery"], k1=golden["k1"].item(), k2=golden["k2"].item(), blend=0.3)
        assert np.abs(found - golden["distances"]).max() < 1e-6
        assert (np.argsort(found, axis=1) == np.argsort(golden["distances"], axis=1)).all()


def test_a_case_worked_by_hand():
    # With k1 1 a list is a crop and its closest. Query and first gallery crop are each other's closest, the others a pair too.
    query, gallery = ([[cos(radians(a)), cos(radians(90 - a))] for a in angles] for angles in ([0], [10, 90, 100]))
    scaled = [(1 - cos(radians(angle))) / (1 - cos(radians(100))) for angle in (10, 90, 100)]
    own, other = exp(-scaled[0]), exp(-(1 - cos(radians(10))))  # the gallery crop's farthest is at 90 degrees: sq_dist 2
    overlap = min(1 / (1 + own), other / (1 + other)) + min(own / (1 + own), 1 / (1 + other))
    jaccard = [1 - overlap / (2 - overlap), 1, 1]
    wanted = [0.3 * original + 0.7 * share for original, share in zip(scaled, jaccard, strict=True)]
    found = rerank(np.array(query, np.float32), np.array(gallery, np.float32), k1=1, k2=1, blend=0.3)
    assert found[0].tolist() == pytest.approx(wanted, abs=1e-6)


def test_blend_one_is_the_original_order(rng):
    query, gallery = clustered(rng, 10), clustered(rng, 90)
    found = rerank(query, gallery, k1=5, k2=3, blend=1)
    assert np.argsort(found, axis=1).tolist() == np.argsort(-query @ gallery.T, axis=1).tolist()


def test_the_order_of_the_gallery_does_not_matter(rng):
    query, gallery = clustered(rng, 15), clustered(rng, 150)
    order = rng.permutation(len(gallery))
    assert rerank(query, gallery[order]) == pytest.approx(rerank(query, gallery)[:, order], abs=1e-5)


def test_a_run_of_queries_gets_the_rows_of_the_whole(rng):
    prepared = prepare(clustered(rng, 15), clustered(rng, 100))
    whole = distances(prepared, slice(None))
    assert distances(prepared, slice(4, 9)) == pytest.approx(whole[4:9], abs=1e-6)
    assert distances(prepared, slice(12, 99)).shape == (3, 100)
    assert distances(prepared, slice(15, 20)).shape == (0, 100)


def test_cosines_that_are_too_many_to_keep_are_computed_again(rng, monkeypatch):
    query, gallery = clustered(rng, 15), clustered(rng, 100)
    kept = prepare(query, gallery)
    monkeypatch.setattr("gallery.rerank.KEPT_BYTES", 4 * 15 * 100 - 1)
    again = prepare(query, gallery)
    assert again.cosines is None and kept.cosines == pytest.approx(query @ gallery.T, abs=1e-6)
    assert distances(again, slice(3, 9)) == pytest.approx(distances(kept, slice(3, 9)), abs=1e-6)


def test_reranking_brings_the_right_identity_forward(rng):
    pids = np.repeat(np.arange(20), 20)
    embeddings = np.random.default_rng(1).standard_normal((20, 32))[pids] + 1.3 * rng.standard_normal((400, 32))
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    query, gallery, query_pids, gallery_pids = embeddings[::10], embeddings[1::2], pids[::10], pids[1::2]

    def share_right(distance):
        closest = np.argsort(distance, axis=1)[:, :10]
        return (gallery_pids[closest] == query_pids[:, np.newaxis]).mean()

    assert share_right(rerank(query, gallery)) > share_right(-query @ gallery.T) + 0.05


def test_crops_that_are_all_the_same_get_finite_distances():
    same = np.tile(np.array([0.6, 0.8], np.float32), (30, 1))
    found = rerank(same[:4], same[4:], k1=8, k2=3)
    assert ((found > -1e-6) & (found < 1 + 1e-6)).all()


def test_other_number_types_are_taken_and_arguments_left_alone(rng):
    query, gallery = clustered(rng, 5), clustered(rng, 60)
    wide = query.astype(np.float64), np.asfortranarray(gallery)
    copies = [embeddings.copy() for embeddings in wide]
    assert rerank(*wide) == pytest.approx(rerank(query, gallery), abs=1e-6)
    assert all(np.array_equal(one, copy) for one, copy in zip(wide, copies, strict=True))


def test_a_set_is_re_ranked_against_itself(rng):
    crops = clustered(rng, 60)
    found = rerank(crops, crops, k1=8, k2=3)  # one array, not two that are equal
    assert found.argmin(axis=1).tolist() == list(range(60))


def test_progress_reports_every_crop(rng):
    done = []
    prepare(clustered(rng, 10), clustered(rng, 50), progress=done.append)
    assert sum(done) == 60


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"k1": 24}, "got k1 24 for 24 crops in all, wanted 1 to 23"),
        ({"k1": 0}, "got k1 0"),
        ({"k1": 5}, "got k2 6 with k1 5, wanted 1 to 5"),
        ({"k2": 0}, "got k2 0"),
        ({"blend": -0.1}, "got blend -0.1, wanted 0"),
        ({"blend": 1.1}, "got blend 1.1"),
        ({"blend": float("nan")}, "got blend nan"),
    ],
)
def test_parameters_that_cannot_be_are_refused(rng, parameters, message):
    with pytest.raises(ValueError, match=message):
        prepare(clustered(rng, 4), clustered(rng, 20), **parameters)


def test_the_largest_k1_of_a_tiny_gallery_works(rng):
    assert rerank(clustered(rng, 1), clustered(rng, 2), k1=2, k2=2).shape == (1, 2)


@pytest.mark.parametrize(
    ("query_shape", "gallery_shape", "message"),
    [
        ((3, 8), (30, 9), r"got query \[3, 8\] and gallery \[30, 9\], wanted \[Q, D\] and \[G, D\]"),
        ((8,), (30, 8), r"got query \[8\]"),
        ((0, 8), (30, 8), "wanted one crop or more in each"),
        ((3, 8), (0, 8), "wanted one crop or more in each"),
    ],
)
def test_sets_that_do_not_fit_are_refused(query_shape, gallery_shape, message):
    with pytest.raises(ValueError, match=message):
        prepare(np.ones(query_shape, np.float32), np.ones(gallery_shape, np.float32))


@pytest.mark.parametrize(("value", "length"), [(np.nan, "nan"), (np.inf, "inf"), (2, "2")])
def test_embeddings_that_are_not_finite_or_not_of_unit_length_are_refused(rng, value, length):
    gallery = clustered(rng, 30)
    gallery[17] = 0
    gallery[17, 0] = value
    with pytest.raises(ValueError, match=f"got gallery embedding 17 of length {length}, wanted 1"):
        prepare(clustered(rng, 3), gallery)
