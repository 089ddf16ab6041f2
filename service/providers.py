"""REID_PROVIDER -> what computes: which execution providers are tried, in which order, and why a better one was not taken."""

import contextlib
import importlib.util
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import onnxruntime

from service.errors import SettingRefused, StartupError
from service.processor import has_amx

T = TypeVar("T")

log = logging.getLogger("service")


@dataclass(frozen=True)
class Choice:
    """One way to run the model: execution providers, best first, and whether every batch size is replayed as a CUDA graph."""

    name: str
    providers: tuple[str, ...]
    is_graphed: bool = False

    @property
    def is_gpu(self) -> bool:
        """Whether a GPU is to compute."""
        return self.providers != ON_CPU

    @property
    def engine(self) -> str:
        """What computes, for people."""
        return "OpenVINO" if self.name == "openvino" else self.providers[0]


ON_CPU = ("CPUExecutionProvider",)
CPU = Choice("cpu", ON_CPU)
OPENVINO = Choice("openvino", ON_CPU)  # the runtime checks the file, OpenVINO runs it
CUDA = ("CUDAExecutionProvider", "CPUExecutionProvider")
TENSORRT = ("TensorrtExecutionProvider", *CUDA)
CUDA_CHOICES = (Choice("cuda", CUDA, is_graphed=True), Choice("cuda", CUDA))
CHOICES = {
    "cpu": (CPU,),
    "openvino": (OPENVINO,),
    "cuda": CUDA_CHOICES,
    "tensorrt": (Choice("tensorrt", TENSORRT),),  # it captures one graph whatever its id, and the ladder needs one a size
    "auto": (*CUDA_CHOICES, CPU),
}
FOR_CPUS = {"CPUExecutionProvider", "AzureExecutionProvider"}  # what the package for CPUs has
NOT_INSTALLED = "this onnxruntime is the one for CPUs; for a GPU install onnxruntime-gpu instead"


def start_best(provider: str, start: Callable[[Choice], T], *, precision: str, runtime: Any = onnxruntime) -> tuple[Choice, T]:
    """Start the first choice that can be started, and log in one line which it is and why no better one.

    Args:
        provider: auto, cpu, openvino, cuda or tensorrt.
        start: makes a choice run, or raises StartupError.
        precision: of the artefact; no GPU is given an int8 one.

    Raises:
        StartupError: of the last choice, when none can be started.
    """
    available = runtime.get_available_providers()
    *better, last = CHOICES[provider]
    level, refusals = logging.INFO, dict[str, Choice]()
    for choice in better:
        try:
            check_choice(choice, available, precision)
            started = start(choice)
        except StartupError as error:
            reason = str(error).removeprefix(f"REID_PROVIDER={choice.name}: ")
            if choice.providers[0] in available:
                level = logging.WARNING  # what is installed should have worked
            elif provider == "auto" and set(available) <= FOR_CPUS:  # nobody has asked for it
                reason = NOT_INSTALLED
            refusals.setdefault(reason, choice)
        else:
            break
    else:
        choice = last
        check_choice(choice, available, precision)
        started = start(choice)
    why = [f"{described(refused)}: {reason}" for reason, refused in refusals.items()]
    if provider == "auto" and TENSORRT[0] in available:
        why.append("tensorrt: only when asked for, as it builds its engines at every start, for minutes")
    if provider == "auto" and choice is CPU and precision == "int8" and has_amx():
        why.append("openvino: only when asked for; it uses this processor's matrix unit (AMX), which onnxruntime does not")
    fields = {"asked": provider, "chosen": described(choice)} | ({"not": "; ".join(why)} if why else {})
    log.log(level, "provider", extra={"fields": fields})
    return choice, started


def described(choice: Choice) -> str:
    """Name a choice as the log does."""
    return f"{choice.name} with CUDA graphs" if choice.is_graphed else choice.name


def check_choice(choice: Choice, available: Sequence[str], precision: str) -> None:
    """Refuse a provider that the installed runtime does not have at all, and a GPU for an int8 artefact.

    On CUDA the runtime has no integer convolutions: it computes them in fp32, what is left of the integers on the CPU, and
    captures no graph. TensorRT wants grids without a zero point. Either would be slower than what the file was made for.
    """
    if choice is OPENVINO and importlib.util.find_spec("openvino") is None:
        raise SettingRefused(
            "REID_PROVIDER=openvino: got no package openvino, wanted it beside onnxruntime; install the extra [openvino], "
            "or use cpu"
        )
    if choice.providers[0] not in available:
        raise SettingRefused(
            f"REID_PROVIDER={choice.name}: got a runtime with {list(available)}, wanted {choice.providers[0]}; "
            "install onnxruntime-gpu instead of onnxruntime, or use cpu"
        )
    if choice.is_gpu and precision == "int8":
        raise SettingRefused(
            f"REID_PROVIDER={choice.name}: got an int8 artefact, which is made for CPUs, wanted fp16 or fp32; export its "
            "checkpoint with --precision fp16, or make fp16 of this one with python -m exporter.undo_int8 (its galleries stay), "
            "and set REID_MODEL, or use cpu"
        )


def check_started(choice: Choice, got: Sequence[str]) -> None:
    """Refuse a session that the runtime quietly opened on a lesser provider, which it does without raising."""
    if got[0] != choice.providers[0]:
        raise SettingRefused(
            f"REID_PROVIDER={choice.name}: wanted {choice.providers[0]}, got {list(got)}; install its libraries or use cpu"
        )


def preload_cuda(choice: Choice, runtime: Any = onnxruntime) -> None:
    """Load the CUDA libraries that came as Python packages; the runtime looks for them nowhere else but in the system."""
    if not choice.is_gpu or not hasattr(runtime, "preload_dlls"):
        return
    with contextlib.redirect_stdout(io.StringIO()) as said:  # it prints what it could not load
        runtime.preload_dlls()
    if text := " ".join(said.getvalue().split()):
        log.warning("loading the libraries of CUDA", extra={"fields": {"runtime": text[:600]}})
