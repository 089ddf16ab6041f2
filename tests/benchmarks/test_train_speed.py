"""The speed figures: what is timed, how it is counted, and one whole table on drawn people."""

import json
from itertools import repeat

import pytest
import torch

from benchmarks import train_speed

CPU = torch.device("cpu")
TINY = "--backbone resnet18 --height 64 --width 32 --ids-per-batch 2 --crops-per-id 2"
ONCE = f"{TINY} --precision fp32 --workers 0 --seconds 0 --rounds 1".split()


def test_the_warm_up_does_not_count():
    asked = []

    def batches():
        for number in repeat(4):
            asked.append(number)
            yield number

    found, num_batches = train_speed.rates(batches(), seconds=0.01, rounds=3, device=CPU)
    assert len(found) == 3
    assert num_batches == len(asked) - train_speed.WARM_UP
    assert min(found) > 0


def test_a_case_that_cannot_run_says_why():
    def make():
        raise RuntimeError("out of memory")

    config = train_speed.strong_baseline()
    case = train_speed.measure(train_speed.Work("network", train_speed.OURS, config, "-", make), seconds=1, rounds=1, device=CPU)
    assert (case.error, case.crops_per_s) == ("out of memory", 0)
    assert train_speed.line(case) == "network, ours, fp32: out of memory"


def test_every_stage_is_timed_in_both_forms(drawn, tmp_path, capsys):
    train_speed.main([*ONCE, "--data", str(drawn), "--json", str(tmp_path / "speed.json")])
    report = json.loads((tmp_path / "speed.json").read_text())
    assert [case["name"] for case in report["cases"]] == [
        "data, ours, device",
        "data, ours, files",
        "data, torchvision + DataLoader, files",
        "network, ours, fp32",
        "whole, ours, fp32, device",
        "whole, ours, fp32, files",
        "whole, torchvision + DataLoader, fp32, files",
    ]
    assert all(case["crops_per_s"] > 0 and case["error"] is None for case in report["cases"])
    assert report["num_crops"] == 16
    printed = capsys.readouterr().out
    assert all(case["name"] in printed for case in report["cases"])


def test_data_that_cannot_train_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="train_speed: .*got no such folder"):
        train_speed.main([*ONCE, "--data", str(tmp_path / "none")])
