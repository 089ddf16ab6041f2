"""The online re-ranking benchmark: what it measures beside the gallery, and a small gallery once."""

import numpy as np
import pytest

from benchmarks import rerank, rerank_online
from gallery import rerank as whole_set
from gallery.neighbours import find_neighbours


@pytest.fixture(scope="module")
def features():
    return rerank.draw(400, 32)


def test_cached_lists_give_the_definition_for_one_query_and_the_whole_gallery(features):
    lists = find_neighbours(features.gallery[:1], features.gallery[1:], k=21)
    everything = np.arange(len(features.gallery))
    for number in (0, 7, 30):
        prepared = whole_set.prepare(features.query[number : number + 1], features.gallery, blend=0)
        wanted = 1 - whole_set.distances(prepared, slice(None))[0]
        cosines = features.gallery @ features.query[number]
        found = rerank_online.cached_overlaps(features, lists, number, cosines, everything)
        assert found == pytest.approx(wanted, abs=1e-5)
        some = everything[::5]
        assert rerank_online.cached_overlaps(features, lists, number, cosines, some) == pytest.approx(wanted[::5], abs=1e-5)


def test_a_shortlist_of_the_whole_gallery_is_the_definition_too(features):
    everything = np.arange(len(features.gallery))
    prepared = whole_set.prepare(features.query[:1], features.gallery, blend=0)
    found = rerank_online.shortlist_overlaps(features, 0, everything)
    assert found == pytest.approx(1 - whole_set.distances(prepared, slice(None))[0], abs=1e-5)


def test_entries_behind_the_shortlist_keep_their_order(features):
    cosines = features.gallery @ features.query[0]
    distances = rerank_online.online_distances(0, cosines, lambda number, cosines, listed: np.linspace(0, 1, len(listed)), 50)
    order, plain = np.argsort(distances, kind="stable"), np.argsort(-cosines, kind="stable")
    assert set(order[:50]) == set(plain[:50]) and order[50:].tolist() == plain[50:].tolist()


def test_every_way_to_rank_is_scored(features):
    found = {name: mean_ap for name, _, mean_ap in rerank_online.accuracies(features, every=2, with_cached=True)}
    assert list(found)[:2] == ["cosine", "whole set"] and len(found) == 8
    assert all(mean_ap > found["cosine"] for name, mean_ap in found.items() if name != "cosine")


def test_a_small_gallery_is_searched_with_and_without():
    table = rerank_online.latencies(600, 32, rounds=1, calls=2)
    assert table["entry plain"]["added_median_ms"] == 0 and set(table) == {
        f"{group} {size}" for group in ("identity", "entry") for size in ("plain", 100, 200, 500)
    }
