"""The online re-ranking benchmark: what it measures beside the gallery, and a small gallery once."""

import numpy as np
import pytest

from benchmarks import rerank, rerank_online
from gallery import rerank as whole_set


@pytest.fixture(scope="module")
def features():
    return rerank.draw(400, 32)


def test_a_shortlist_of_the_whole_gallery_is_the_definition_too(features):
    everything = np.arange(len(features.gallery))
    prepared = whole_set.prepare(features.query[:1], features.gallery, blend=0)
    found = rerank_online.shortlist_overlaps(features, 0, everything)
    assert found == pytest.approx(1 - whole_set.distances(prepared, slice(None))[0], abs=1e-5)


def test_entries_behind_the_shortlist_keep_their_order(features):
    cosines = features.gallery @ features.query[0]
    distances = rerank_online.online_distances(0, cosines, lambda number, listed: np.linspace(0, 1, len(listed)), 50)
    order, plain = np.argsort(distances, kind="stable"), np.argsort(-cosines, kind="stable")
    assert set(order[:50]) == set(plain[:50]) and order[50:].tolist() == plain[50:].tolist()


def test_every_way_to_rank_is_scored(features):
    found = {name: mean_ap for name, _, mean_ap in rerank_online.accuracies(features, every=8)}
    assert list(found)[:2] == ["cosine", "whole set"] and len(found) == 8
    assert all(mean_ap > found["cosine"] for name, mean_ap in found.items() if name != "cosine")
    assert found["cached 500"] == pytest.approx(found["shortlist 500"], abs=0.02)  # all of the gallery, beside a few queries


def test_a_small_gallery_is_searched_with_and_without():
    table = rerank_online.latencies(600, 32, rounds=1, calls=2)
    assert table["entry plain"]["added_median_ms"] == 0 and set(table) == {
        f"{group} {size}" for group in ("identity", "entry") for size in ("plain", 100, 200, 500)
    }
