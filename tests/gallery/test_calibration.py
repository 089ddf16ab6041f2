"""A calibration's figures: against counting by hand, and what they say of too few people."""

import json
from itertools import combinations

import numpy as np
import pytest

from gallery import calibration
from gallery.bootstrap import draw_weights
from gallery.calibration import Figures, check, document, measure, stranger_curves, threshold_at
from gallery.pairs import FINE, People, Tally, people_of, tally


def drawn(num: int, *, crops: int = 4, dim: int = 12, with_cameras: bool = True, seed: int = 0) -> People:
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.normal(size=(num, dim)), crops, axis=0) + 0.4 * rng.normal(size=(num * crops, dim))
    return people_of(rows, np.repeat(np.arange(num), crops), np.tile(np.arange(crops), num) if with_cameras else None)


def counted(people: People) -> Tally:
    return tally(people, draw_weights(len(people), replicates=50))


@pytest.fixture(scope="module")
def people() -> People:
    return drawn(60)


@pytest.fixture(scope="module")
def found(people: People) -> Tally:
    return counted(people)


@pytest.fixture(scope="module")
def figures(people: People, found: Tally) -> Figures:
    return measure(found, people, camera_names=["a", "b", "c", "d"])


def cosines_of(people: People) -> tuple[np.ndarray, np.ndarray]:
    """Cosines [N, N] and whether two crops show one person."""
    return people.embeddings @ people.embeddings.T, people.identities[:, None] == people.identities


def test_at_most_the_asked_share_of_impostors_reaches_a_threshold_and_more_a_bin_below(people, figures):
    cosines, is_same = cosines_of(people)
    impostors = cosines[~is_same]
    assert [rate.far for rate in figures.rates] == [1e-1, 1e-2, 1e-3, 1e-4]
    for rate in figures.rates:
        assert np.mean(impostors >= rate.threshold) <= rate.far + 1e-9
        assert np.mean(impostors >= rate.threshold - 2e-4) > rate.far
    assert figures.threshold == figures.rates[2].threshold
    assert figures.default_far == 0.001


def test_shares_of_genuine_pairs_and_of_searches_are_those_counted_by_hand(people, figures):
    cosines, is_same = cosines_of(people)
    np.fill_diagonal(is_same, False)
    genuine = cosines[is_same]
    right = np.where(is_same, cosines, -1).max(axis=1)
    wrong = np.where(is_same | np.eye(len(cosines), dtype=bool), -1, cosines).max(axis=1)
    for rate in figures.rates:
        assert rate.tar == pytest.approx(np.mean(genuine >= rate.threshold), abs=2e-3)
        assert rate.dir == pytest.approx(np.mean((right > wrong) & (right >= rate.threshold)), abs=1e-6)
        assert rate.strangers["59"] == pytest.approx(np.mean(wrong >= rate.threshold), abs=0.02)  # bins are 0.005 wide
    gap = (wrong - right)[wrong > right]
    assert figures.margin == pytest.approx(np.median(gap), abs=1e-4)


def test_a_strangers_chance_is_the_mean_over_every_gallery_of_so_many(monkeypatch):
    monkeypatch.setattr(calibration, "SIZES", (2,))
    people = drawn(6, crops=2)
    found = counted(people)
    curve = stranger_curves(found, 6)["2"]
    cosines, _ = cosines_of(people)
    place = 240  # cosine 0.2
    accepted = []
    for crop, own in enumerate(people.identities):
        others = [one for one in range(6) if one != own]
        best = {one: cosines[crop, people.identities == one].max() for one in others}
        accepted += [max(best[a], best[b]) >= 0.2 for a, b in combinations(others, 2)]
    assert 0 < np.mean(accepted) < 1
    assert curve[place] == pytest.approx(np.mean(accepted))


def test_strangers_are_accepted_more_often_by_larger_galleries(figures):
    for rate in figures.rates:
        assert list(rate.strangers) == ["10", "59"]
        assert rate.far <= rate.strangers["10"] <= rate.strangers["59"] <= 1


def test_intervals_lie_around_their_figures(figures):
    for rate in figures.rates[:3]:
        assert rate.threshold_interval[0] < rate.threshold < rate.threshold_interval[1]
        assert rate.far_interval[0] < rate.far < rate.far_interval[1]
        assert rate.tar_interval[0] <= rate.tar <= rate.tar_interval[1]


def test_open_set_rates_are_met_by_the_crops_of_strangers(found, figures):
    assert list(figures.open_set) == ["0.1", "0.01"]  # 240 crops
    for rate, held in figures.open_set.items():
        assert np.mean(found.wrong >= held["threshold"]) <= float(rate)
        assert 0 <= held["dir"] <= 1


def test_the_histogram_and_the_camera_pairs_hold_every_pair(figures):
    assert sum(figures.histogram["genuine"]) == figures.genuine_pairs == 60 * 6
    assert sum(figures.histogram["impostor"]) == figures.impostor_pairs == 60 * 59 // 2 * 16
    assert sum(pair.impostor_pairs for pair in figures.cameras) == figures.impostor_pairs
    assert sum(pair.genuine_pairs for pair in figures.cameras) == figures.genuine_pairs
    twice = [pair for pair in figures.cameras if pair.cameras[0] == pair.cameras[1]]
    assert [pair.tar for pair in twice] == [None] * 4
    accepted = sum((pair.far or 0) * pair.impostor_pairs for pair in figures.cameras)
    assert accepted / figures.impostor_pairs == pytest.approx(0.001, rel=0.05)


def test_the_roc_passes_through_the_rates(figures):
    far, tar = np.array(figures.roc["far"]), figures.roc["tar"]
    for rate in figures.rates[:3]:
        after = int(np.searchsorted(far, rate.far))
        assert tar[after - 1] <= rate.tar <= tar[after]
    assert tar == sorted(tar)


def test_too_few_people_are_told_rate_by_rate():
    few = drawn(6, crops=2, with_cameras=False)
    warnings = " / ".join(measure(counted(few), few).warnings)
    assert "0.01, 0.001, 0.0001: not measurable with 60 pairs of two people" in warnings
    assert "0.1 (" in warnings
    assert "fewer than 30" in warnings
    assert "without cameras" in warnings


def test_without_pairs_enough_the_default_is_what_no_impostor_reached():
    few = drawn(6, crops=2)
    found = counted(few)
    figures = measure(found, few, camera_names=["a", "b"])
    cosines, is_same = cosines_of(few)
    assert figures.default_far is None
    assert figures.threshold == pytest.approx(cosines[~is_same].max(), abs=1.1e-4)
    assert figures.threshold > cosines[~is_same].max()


@pytest.mark.parametrize("people", [drawn(4), people_of(np.eye(6), np.arange(6), None), drawn(9, crops=1)])
def test_people_that_nothing_can_be_learnt_from_are_refused(people):
    with pytest.raises(ValueError, match=r"got \d identities, \d of them .*, wanted at least 5 and 2; give more people"):
        check(people)


def test_a_document_is_json_and_tied_to_its_model(figures):
    content = json.loads(json.dumps(document(figures, model_id="m", source="drawn people", created_at="2026-01-01T00:00:00Z")))
    assert (content["schema_version"], content["model_id"], content["source"]) == (1, "m", "drawn people")
    assert content["rates"][2]["threshold"] == content["threshold"]
    assert content["cameras"][0]["cameras"] == list(figures.cameras[0].cameras)


def test_a_threshold_beyond_every_pair_is_the_last_bins_end():
    counts = np.zeros(FINE, np.int64)
    counts[-1] = 5
    assert threshold_at(counts, 0) == 1.0
