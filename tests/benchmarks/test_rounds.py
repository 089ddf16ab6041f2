"""Interleaved rounds: the order of the cases, medians, ratios of the same round, cases that cannot run."""

import json
import time

import pytest

from benchmarks import rounds


def test_every_case_has_a_warm_up_and_its_turns_in_turning_order():
    seen = []
    cases = {name: (lambda name=name: seen.append(name) or 1) for name in "abc"}
    rounds.measure(cases, rounds=2, least_s=0)
    assert "".join(seen) == "abc" + "bca" + "cab"


def test_what_is_done_is_counted_by_the_clock():
    def work():
        time.sleep(0.01)
        return 4

    (figure,) = rounds.measure({"four": work}, rounds=3, least_s=0.02)
    assert 0 < figure.per_s <= 400 and figure.slowest <= figure.per_s <= figure.fastest
    assert figure.ms >= 10
    assert (figure.ratio, figure.rounds) == (None, 3)


def test_ratios_are_medians_of_those_of_each_round():
    turn = rounds.Turn
    taken = {"fast": [turn(10, 4, 1), turn(90, 6, 1), turn(40, 8, 1)], "slow": [turn(1, 2, 1), turn(30, 2, 1), turn(20, 2, 1)]}
    figure = rounds.figure("fast", taken, {}, "slow")
    assert (figure.per_s, figure.ratio, figure.cpu_ratio) == (40, 3, 3)


@pytest.mark.parametrize(("error", "told"), [(ModuleNotFoundError("x"), "not installed"), (RuntimeError("no\n room"), "no room")])
def test_a_case_that_cannot_run_says_why_and_disturbs_no_other(error, told):
    def broken():
        raise error

    bad, good = rounds.measure({"bad": broken, "good": lambda: 1.0}, rounds=1, least_s=0, reference="bad")
    assert told in bad.error and told in rounds.table([bad, good])
    assert good.rounds == 1 and good.ratio is None


def test_a_report_names_machine_commit_and_versions(tmp_path):
    figures = {"one": rounds.measure({"case": lambda: 1.0}, rounds=1, least_s=0)}
    rounds.write(tmp_path / "report.json", rounds.report(figures, threads=2))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["machine"]["commit"] and report["versions"]["onnxruntime"]
    assert report["settings"] == {"threads": 2}
    assert report["figures"]["one"][0]["name"] == "case"
