"""The table and the acceptance bands."""

from pathlib import Path

import pytest

from benchmarks import programme, verdicts
from benchmarks.programme import Options

PLAN = programme.steps(Options(Path("Market-1501"), Path("ssl.safetensors"), None, Path("work")))


def state_of(scores, reranked=(0.955, 0.94)):
    """The state of a programme whose strong baseline reached `scores`, (rank-1, mAP) by seed."""
    again = {"rank1": reranked[0], "mAP": reranked[1], "mINP": 0.8}
    figures = [{"rank1": rank1, "mAP": mean, "mINP": 0.6, "intra_inter": 0.58, "rerank": again} for rank1, mean in scores]
    names = [f"strong_baseline_seed{seed} f_i cosine" for seed in range(len(scores))]
    return {"steps": {name: {"status": "done", "figures": one} for name, one in zip(names, figures, strict=True)}}


def line_of(report, begin):
    [found] = [line for line in report.splitlines() if line.startswith(begin)]
    return found


@pytest.mark.parametrize(
    ("score", "outcome"),
    [((0.939, 0.853), "passes"), ((0.9389, 0.9), "fails"), ((0.95, 0.8529), "fails")],
    ids=["at the band", "rank-1 below", "mAP below"],
)
def test_a_run_must_reach_both_figures_of_the_band(score, outcome):
    report = verdicts.report(PLAN, state_of([score]))
    assert line_of(report, "strong_baseline_seed0: ").endswith(outcome)


@pytest.mark.parametrize(("again", "outcome"), [((0.95, 0.939), "passes"), ((0.95, 0.938), "fails")])
def test_re_ranked_lists_have_a_band_of_their_own(again, outcome):
    report = verdicts.report(PLAN, state_of([(0.95, 0.87)], reranked=again))
    assert f": {outcome}, mINP 80.0" in line_of(report, "strong_baseline_seed0 re-ranked")


def test_parity_is_the_mean_of_three_seeds():
    low, high = (0.938, 0.854), (0.946, 0.860)
    assert "2 of 3 seeds are tested" in line_of(verdicts.report(PLAN, state_of([low, high])), "parity from ssl.safetensors")
    report = verdicts.report(PLAN, state_of([low, high, high]))
    assert line_of(report, "parity").endswith("94.33 / 85.80, wanted 94.2 / 85.7: passes")


def test_ours_stands_beside_the_papers_with_the_difference():
    line = line_of(verdicts.report(PLAN, state_of([(0.94, 0.85)])), "table5_fi_beta_0_0005")
    wanted = "table5_fi_beta_0_0005 0 ssl.safetensors 94.0 / 85.0 60.0 94.5 / 85.9 -0.5 / -0.9 0.580, 0.589"
    assert " ".join(line.split()) == wanted


def test_nothing_measured_is_said():
    assert verdicts.report(PLAN, {"steps": {}}) == "nothing has been measured yet"
