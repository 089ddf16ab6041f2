"""What is deployed with the service speaks of metrics and settings that exist, and leaves it the time it takes."""

import configparser
import json
import re
from pathlib import Path

import pytest

from service.__main__ import DRAIN_EXTRA_S
from service.doors import FILES_KEPT, MOST_CONNECTIONS
from service.settings import Settings, unknown_settings
from service.telemetry import Telemetry

ROOT = Path(__file__).parents[2]
BOARD = json.loads((ROOT / "deploy" / "grafana.json").read_text())
QUERIES = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
DEFAULTS = Settings(_env_file=None)


def exported():
    """Every time series that /metrics has, and its metric."""
    names = {}
    for family in Telemetry().registry.collect():
        for suffix in SUFFIXES[family.type]:
            names[family.name + suffix] = family.name
    return names


def asked():
    """Every time series that the dashboard asks for."""
    queries = [*QUERIES, *(str(one.get("query")) for one in BOARD["templating"]["list"])]
    return set(re.findall(r"\b(?:reid|process)_[a-z_]+\b", " ".join(queries)))


def test_the_dashboard_asks_for_metrics_that_exist():
    assert asked() - exported().keys() == set()


def test_the_dashboard_shows_every_metric_of_the_service():
    names = exported()
    shown = {names[name] for name in asked()}
    assert {name for name in names.values() if name.startswith("reid_")} - shown == set()


def test_the_dashboard_groups_by_labels_that_exist():
    telemetry = Telemetry()
    labels = {label for metric in vars(telemetry).values() for label in getattr(metric, "_labelnames", ())}
    grouped = {name.strip() for group in re.findall(r"by \(([^)]*)\)", " ".join(QUERIES)) for name in group.split(",")}
    assert grouped <= labels | {"le", "instance"}  # the last is Prometheus' own


def unit():
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read_string((ROOT / "deploy" / "bnneck-reid.service").read_text())
    return parser["Service"]


def test_the_unit_sets_what_is_a_setting():
    names = [pair.partition("=")[0] for pair in unit()["Environment"].split()]
    assert "REID_GALLERY" in names and unknown_settings(names) == []


@pytest.mark.parametrize(
    ("limit", "longest"),
    [("TimeoutStopSec", DEFAULTS.deadline_s + DRAIN_EXTRA_S), ("WatchdogSec", DEFAULTS.deadline_s)],
)
def test_the_unit_leaves_the_service_its_time(limit, longest):
    assert float(unit()[limit]) > longest


def test_the_unit_lets_the_service_open_all_its_connections():
    assert int(unit()["LimitNOFILE"]) == MOST_CONNECTIONS + FILES_KEPT


def test_the_container_is_given_the_time_to_drain():
    grace = re.search(r"stop_grace_period: (\d+)s", (ROOT / "docker-compose.yml").read_text())
    assert float(grace.group(1)) > DEFAULTS.deadline_s + DRAIN_EXTRA_S


def test_the_container_is_healthy_by_readyz():
    assert "/readyz" in (ROOT / "Dockerfile").read_text().partition("HEALTHCHECK")[2]
