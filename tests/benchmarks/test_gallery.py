"""The gallery benchmark: its drawn embeddings, what counts as found, its medians and bars, and a small gallery once."""

import numpy as np
import pytest

from benchmarks import gallery, gallery_cases, scans
from benchmarks.scans import Latency, People


def test_drawn_embeddings_are_the_same_every_time_and_cluster_by_identity():
    people = People(200, 256)
    rows = np.concatenate(list(people.blocks()))
    assert np.array_equal(rows, np.concatenate(list(people.blocks())))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    cosines, is_same = rows @ rows.T, people.pids == people.pids[:, np.newaxis]
    np.fill_diagonal(is_same, False)
    assert 0.45 < cosines[is_same].mean() < 0.65
    assert abs(cosines[people.pids != people.pids[:, np.newaxis]].mean()) < 0.1


def test_an_identity_has_the_cosine_of_its_closest_entry():
    cosines = np.array([[0.1, 0.2, 0.3, 0.9, -np.inf]])
    assert scans.by_identity(cosines, 2).tolist() == [[0.3, 0.9]]
    assert scans.by_identity(cosines[:, :1], 2).tolist() == [[0.1, -np.inf]]


def test_the_first_come_by_falling_cosine():
    assert scans.first(np.array([[0.1, 0.9, 0.5, 0.7]]), 3).tolist() == [[1, 3, 2]]


def test_recall_counts_what_was_found_and_top1_the_first_of_each():
    true = np.array([[1, 2], [3, 4]])
    assert scans.recall([[2, 1], [4, 5]], true) == 0.75
    assert scans.top1([[1, 9], [4, 3]], true) == 0.5


def test_ratios_are_medians_of_those_of_each_round():
    own = [[(0.002, 0.001), (0.004, 0.001)], [(0.09, 0.003)], [(0.04, 0.002)]]
    reference = [[(0.001, 0.001)], [(0.03, 0.001)], [(0.001, 0.001)]]
    found = Latency.of(own, reference)
    assert (found.median_ms, found.cpu_ms) == pytest.approx((22, 1.5))
    assert (found.ratio, found.cpu_ratio) == pytest.approx((3, 2))


def test_cases_take_turns_after_one_call_each_to_warm_up():
    seen = []
    cases = {name: (lambda number, name=name: seen.append(f"{name}{number}")) for name in "ab"}
    turns = scans.interleaved(cases, rounds=2, calls=2, num=3)
    assert seen == ["a0", "b0", "a0", "a1", "b0", "b1", "b2", "b0", "a2", "a0"]
    assert [len(turn) for turn in turns["a"]] == [2, 2]


def test_a_small_gallery_is_filled_opened_and_searched(tmp_path):
    people = People(600, 64)
    table = gallery_cases.enrolled(tmp_path / "gallery", people, rounds=1, calls=2)
    assert all(row["per_s"] > 0 for row in table.values())
    assert gallery_cases.opened(tmp_path / "gallery", "exact")["index"] == "exact"
    assert all(took >= 0 for took in gallery_cases.open_parts(tmp_path / "gallery", "quantised").values())
    queries = people.queries(8)
    with gallery_cases.LocalGallery.reopen(tmp_path / "gallery", index="exact") as opened:
        cases, found = gallery_cases.searches({"exact": opened}, people, queries)
    assert len(cases) == 8  # four filters, by identity and by entry
    assert min(row["recall_at_10"] for row in found.values()) > 0.95  # entries whose cosines differ by less than half precision


@pytest.mark.parametrize(("rate", "is_met"), [(2000.0, True), (1999.0, False)])
def test_bars_are_met_at_their_limit(rate, is_met):
    row = {"ratio": 1.2, "cpu_ratio": 1.21}
    figures = {"enrolled": {"1 a call, 32 threads": {"per_s": rate}}, "single": {"exact entry": row, "exact identity": row}}
    found = {bar["name"]: bar["is_met"] for bar in gallery.bars(20_000, figures)}
    assert found["20000: durable single-row enrolments/s, 32 writers"] is is_met
    assert found["20000: exact by entry / best exact scan, clock"] is True
    assert found["20000: exact by entry / best exact scan, CPU"] is False
