"""Which provider is tried, what is said about the ones that were not to be had, and what is refused."""

import logging
import sys

import pytest

from service import providers
from service.errors import ArtefactRefused, SettingRefused
from service.providers import CHOICES, CPU, check_started, preload_cuda, start_best

ON_CPU = ["AzureExecutionProvider", "CPUExecutionProvider"]
ON_GPU = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


class Runtime:
    """A runtime with some providers; counts how often it was told to load CUDA's libraries."""

    def __init__(self, available=ON_CPU):
        self.available, self.preloads, self.says = available, 0, ""

    def get_available_providers(self):
        return self.available

    def preload_dlls(self):
        self.preloads += 1
        sys.stdout.write(self.says)


class Starter:
    """Starts every choice but the broken ones, and remembers what was tried."""

    def __init__(self, *broken):
        self.broken, self.tried = broken, []

    def __call__(self, choice):
        self.tried.append((choice.name, choice.is_graphed))
        if (choice.name, choice.is_graphed) in self.broken:
            raise ArtefactRefused("no memory")
        return "session"


@pytest.fixture(autouse=True)
def no_amx(monkeypatch):
    """A processor without a matrix unit, whatever the tests run on."""
    monkeypatch.setattr(providers, "has_amx", lambda: False)


def start(provider, starter, available, caplog, precision="fp16"):
    """Start with a runtime; returns the choice and the one line that was logged."""
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="service"):
        choice, started = start_best(provider, starter, precision=precision, runtime=Runtime(available))
    assert started == "session"
    (record,) = caplog.records
    return choice, record


def test_auto_takes_the_cpu_where_the_runtime_has_nothing_else_and_says_why(caplog):
    choice, record = start("auto", Starter(), ON_CPU, caplog)
    assert choice == CPU
    assert record.levelno == logging.INFO
    assert record.fields["chosen"] == "cpu"
    assert record.fields["not"].startswith("cuda with CUDA graphs: this onnxruntime is the one for CPUs")
    assert "tensorrt" not in record.fields["not"]


def test_auto_takes_cuda_with_graphs_where_it_starts(caplog):
    starter = Starter()
    choice, record = start("auto", starter, ON_GPU, caplog)
    assert (choice.name, choice.is_graphed) == ("cuda", True)
    assert starter.tried == [("cuda", True)]
    assert record.levelno == logging.INFO
    assert record.fields["not"].startswith("tensorrt: only when asked for")


def test_auto_goes_down_the_list_and_warns_when_what_is_installed_does_not_start(caplog):
    starter = Starter(("cuda", True), ("cuda", False))
    choice, record = start("auto", starter, ON_GPU, caplog)
    assert choice == CPU
    assert starter.tried == [("cuda", True), ("cuda", False), ("cpu", False)]
    assert record.levelno == logging.WARNING
    assert "no memory" in record.fields["not"]


def test_cuda_without_graphs_is_better_than_none_and_warned_about(caplog):
    choice, record = start("cuda", Starter(("cuda", True)), ON_GPU, caplog)
    assert (choice.name, choice.is_graphed) == ("cuda", False)
    assert record.levelno == logging.WARNING


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_was_asked_for_is_never_replaced_by_the_cpu(provider):
    starter = Starter((provider, True), (provider, False))
    with pytest.raises(ArtefactRefused, match="no memory"):
        start_best(provider, starter, precision="fp16", runtime=Runtime(ON_GPU))
    assert {name for name, _ in starter.tried} == {provider}


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_the_runtime_does_not_have_is_refused_untried(provider):
    starter = Starter()
    with pytest.raises(SettingRefused, match=f"REID_PROVIDER={provider}: got a runtime with .*wanted"):
        start_best(provider, starter, precision="int8", runtime=Runtime(ON_CPU))
    assert starter.tried == []


def test_a_session_that_fell_back_by_itself_is_refused():
    graphed, plain = CHOICES["cuda"]
    check_started(graphed, ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(SettingRefused, match="REID_PROVIDER=cuda: wanted CUDAExecutionProvider"):
        check_started(plain, ["CPUExecutionProvider"])


@pytest.mark.parametrize(("provider", "preloads"), [("cpu", 0), ("cuda", 1), ("tensorrt", 1)])
def test_the_libraries_of_cuda_are_loaded_when_a_gpu_is_wanted(provider, preloads, caplog):
    runtime = Runtime()
    preload_cuda(CHOICES[provider][0], runtime)
    assert runtime.preloads == preloads and not caplog.records


def test_what_the_runtime_prints_while_it_loads_them_is_logged(capsys, caplog):
    runtime = Runtime()
    runtime.says = "Failed to load libcublas.so:\n not there"
    preload_cuda(CHOICES["cuda"][0], runtime)
    (record,) = caplog.records
    assert record.fields == {"runtime": "Failed to load libcublas.so: not there"}
    assert capsys.readouterr().out == ""


def test_auto_keeps_an_int8_artefact_on_the_cpu_and_says_what_a_gpu_would_want(caplog):
    starter = Starter()
    choice, record = start("auto", starter, ON_GPU, caplog, precision="int8")
    assert choice == CPU and starter.tried == [("cpu", False)]
    assert record.levelno == logging.WARNING  # a GPU idles
    assert record.fields["not"].startswith("cuda with CUDA graphs: got an int8 artefact")
    assert record.fields["not"].count("--precision fp16") == 1


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_that_was_asked_for_is_given_no_int8_artefact(provider):
    starter = Starter()
    says = f"REID_PROVIDER={provider}: got an int8 artefact.*--precision fp16.*exporter.undo_int8"
    with pytest.raises(SettingRefused, match=says):
        start_best(provider, starter, precision="int8", runtime=Runtime(ON_GPU))
    assert starter.tried == []


def test_a_runtime_that_cannot_preload_is_left_alone():
    preload_cuda(CHOICES["cuda"][0], object())


def test_auto_leaves_openvino_out_and_says_so_where_it_would_be_faster(caplog, monkeypatch):
    assert "openvino" not in start("auto", Starter(), ON_CPU, caplog, precision="int8")[1].fields["not"]
    monkeypatch.setattr(providers, "has_amx", lambda: True)
    choice, record = start("auto", Starter(), ON_CPU, caplog, precision="int8")
    assert choice == CPU and "openvino: only when asked for" in record.fields["not"]
    assert "openvino" not in start("auto", Starter(), ON_CPU, caplog)[1].fields["not"]  # it computes what is not int8 in fp32


def test_openvino_is_taken_where_it_is_asked_for(caplog, monkeypatch):
    monkeypatch.setattr(providers.importlib.util, "find_spec", lambda name: name)
    choice, record = start("openvino", Starter(), ON_CPU, caplog, precision="int8")
    assert (choice.name, choice.engine, choice.is_gpu) == ("openvino", "OpenVINO", False)
    assert record.fields == {"asked": "openvino", "chosen": "openvino"}


def test_openvino_that_is_not_installed_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(providers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingRefused, match=r"REID_PROVIDER=openvino: got no package openvino.* install the extra \[openvino\]"):
        start_best("openvino", Starter(), precision="int8", runtime=Runtime(ON_CPU))
