"""What is deployed with the service speaks of metrics and settings that exist, and leaves it the time it takes."""

import configparser
import json
import re
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from service.__main__ import DRAIN_EXTRA_S
from service.errors import SettingRefused
from service.manifest import read_manifest
from service.providers import CHOICES, check_choice
from service.server import FILES_KEPT, MOST_CONNECTIONS
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
    labels = {label for metric in telemetry.registry._collector_to_names for label in getattr(metric, "_labelnames", ())}
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


class Probed(BaseHTTPRequestHandler):
    """Answers 200 to /readyz, 503 to anything else."""

    def do_GET(self):
        self.send_response(200 if self.path == self.server.ready_at else 503)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("is_https", [False, True])
@pytest.mark.parametrize(("ready_at", "status"), [("/readyz", 0), ("/nowhere", 1)])
def test_the_container_is_healthy_by_readyz_with_a_certificate_and_without(pair, is_https, ready_at, status):
    _, code, statement = json.loads(
        (ROOT / "Dockerfile").read_text().partition("HEALTHCHECK")[2].partition("CMD ")[2].splitlines()[0]
    )
    with HTTPServer(("127.0.0.1", 0), Probed) as server:
        server.ready_at, server.timeout = ready_at, 20
        environment = {"REID_PORT": str(server.server_port), "REID_TLS_CERT": str(pair["tls_cert"]) if is_https else ""}
        if is_https:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair["tls_cert"], pair["tls_key"])
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        probe = subprocess.run([sys.executable, code, statement], env=environment, capture_output=True, timeout=30, check=False)
        thread.join()
    assert probe.returncode == status, probe.stderr.decode()


def test_what_the_container_writes_is_in_its_volume():
    image = dict(re.findall(r"(REID_\w+)=(\S+)", (ROOT / "Dockerfile").read_text()))
    composed = dict(re.findall(r"(REID_\w+): (\S+)", (ROOT / "docker-compose.yml").read_text()))
    for name in ("REID_GALLERY", "REID_SNAPSHOTS"):
        assert image[name] == composed[name] and image[name].startswith("/data/")
    assert unknown_settings([*image, *composed]) == []


def gpu_service():
    """The lines of docker-compose.yml that are the GPU's service."""
    return (ROOT / "docker-compose.yml").read_text().partition("\n  reid-gpu:\n")[2].partition("\nvolumes:\n")[0]


def test_the_gpus_container_is_given_another_artefact_than_the_bundled_int8_one():
    assert json.loads((ROOT / "service" / "model" / "manifest.json").read_text())["precision"] == "int8"
    assert "REID_PROVIDER: cuda" in gpu_service()
    (model,) = re.findall(r"REID_MODEL: (\S+)", gpu_service())
    (source, target) = re.findall(r"source: (\S+).*\n +target: (\S+)", gpu_service())[0]
    assert (source, target) == ("${REID_ARTEFACT:-./artefact-fp16}", model)
    assert "- gallery:/data" in gpu_service()  # a list of volumes replaces the shared one
    assert (target, "read_only: true" in gpu_service()) == ("/artefact", True)


def test_compose_asks_the_cpus_service_for_nothing_that_the_gpus_needs():
    assert ":?" not in re.sub(r"#.*", "", (ROOT / "docker-compose.yml").read_text())


def test_the_documents_tell_the_one_command_that_makes_what_the_gpus_container_mounts():
    command = "python -m exporter.undo_int8 service/model artefact-fp16"
    for name in ("README.md", "service/model/README.md", "docker-compose.yml"):
        assert command in (ROOT / name).read_text()


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_the_readme_says_that_no_gpu_serves_the_bundled_model_as_it_is(provider):
    bundled = read_manifest(ROOT / "service" / "model")
    with pytest.raises(SettingRefused, match="undo_int8"):
        check_choice(CHOICES[provider][0], CHOICES[provider][0].providers, bundled.precision)
    assert "A GPU is given no int8 file" in (ROOT / "README.md").read_text()


def test_a_file_of_keys_alone_is_enough_for_the_container():
    assert "REID_API_KEYS: ${REID_API_KEYS:-}" in (ROOT / "docker-compose.yml").read_text()
