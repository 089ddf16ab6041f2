"""The steps of the GPU programme for embedding: what each measures, and how. Not run on a GPU.

The matrix unit's rate; torch eager and torch.compile in fp16; the service's embedder on CUDA and on TensorRT (bound buffers,
CUDA graphs), and CUDA in NHWC; the running service.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from benchmarks import load, rounds
from benchmarks.embed import ChannelsLast, embedder_work, facts_of
from benchmarks.end_to_end import running_service
from benchmarks.http import jpegs
from benchmarks.rounds import Figure, Work
from benchmarks.train_speed import wait_for
from exporter.parity import drawn_crops
from service.embedder import Embedder
from service.gpu import BoundRunner, provider_options
from service.manifest import ModelInfo, read_manifest
from service.providers import CHOICES, preload_cuda
from service.session import session_options

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ROUNDS = 5
PER_REQUEST = 16  # crops of a request with decoded crops
COMPILED = "torch.compile fp16, batch "


@dataclass(frozen=True)
class Options:
    """What every step is run with; `rehearse` makes each a tiny one on a CPU."""

    artefact: Path
    checkpoint: Path
    rehearse: bool

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.rehearse else "cuda")

    @property
    def provider(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return (1, 2) if self.rehearse else BATCH_SIZES

    @property
    def least_s(self) -> float:
        return 0.0 if self.rehearse else 1.0

    def measure(self, cases: dict[str, Work]) -> list[Figure]:
        return rounds.measure(cases, rounds=1 if self.rehearse else ROUNDS, least_s=self.least_s)


def steps(options: Options) -> dict[str, Callable[[Options], list[Figure]]]:
    """Returns every step by name, in order."""
    found: dict[str, Callable[[Options], list[Figure]]] = {"matrix": matrix, "torch eager fp16": torch_eager}
    found |= {f"{COMPILED}{size}": compiled(size) for size in options.batch_sizes}
    found["embedder"] = embedder
    if not options.rehearse:
        found |= {"CUDA in NHWC": cuda_nhwc, "TensorRT": tensorrt}
    return found | {"HTTP": http}


def matrix(options: Options) -> list[Figure]:
    """Measures the matrix unit: multiply-adds a second of large square products."""
    side = 256 if options.rehearse else 8192
    kinds = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
    cases = {f"{name} product, torch": product(side, kind, options.device) for name, kind in kinds.items()}
    signed = torch.randint(-127, 128, (side, side), dtype=torch.int8, device=options.device)
    cases["int8 product, torch"] = synchronised(side**3, lambda: torch._int_mm(signed, signed.t()), options.device)
    return options.measure(cases)


def product(side: int, kind: torch.dtype, device: torch.device) -> Work:
    """Returns one square product."""
    square = torch.randn(side, side, device=device).to(kind)
    return synchronised(side**3, lambda: square @ square, device)


def synchronised(done: float, call: Callable[[], object], device: torch.device) -> Work:
    """Returns a call that waits for the device and tells what was done."""

    def work() -> float:
        call()
        wait_for(device)
        return done

    return work


def torch_eager(options: Options) -> list[Figure]:
    """Measures the checkpoint's network as torch runs it, crops already on the device."""
    graph = network(options)
    return options.measure({f"torch eager, batch {size}": forward(graph, options, size) for size in options.batch_sizes})


def compiled(batch_size: int) -> Callable[[Options], list[Figure]]:
    """Returns the step of torch.compile at one batch size: compiling takes up to minutes."""

    def step(options: Options) -> list[Figure]:
        graph = torch.compile(network(options), dynamic=False, mode="max-autotune" if not options.rehearse else "default")
        return options.measure({f"torch.compile, batch {batch_size}": forward(graph, options, batch_size)})

    return step


def network(options: Options) -> torch.nn.Module:
    """Returns the exported network on the device, channels last."""
    return ChannelsLast(options.checkpoint).eval().to(options.device)


def forward(graph: Callable[[torch.Tensor], torch.Tensor], options: Options, batch_size: int) -> Work:
    """Returns one forward pass, under fp16 autocast on a GPU."""
    crops = torch.from_numpy(drawn(options, batch_size)).to(options.device)

    def call() -> None:
        with torch.inference_mode(), torch.autocast(options.device.type, torch.float16, enabled=not options.rehearse):
            graph(crops)

    return synchronised(batch_size, call, options.device)


def drawn(options: Options, num_crops: int) -> np.ndarray:
    """Returns drawn crops of the artefact's size; a few, repeated, since drawing costs more than embedding."""
    size = facts_of(options.artefact)["input"]
    few = drawn_crops(min(num_crops, 8), height=size["height"], width=size["width"])
    return np.ascontiguousarray(np.resize(few, (num_crops, *few.shape[1:])))


def embedder(options: Options, provider: str | None = None) -> list[Figure]:
    """Measures the service's embedder from crops in host memory to embeddings in host memory."""
    opened = Embedder.open(options.artefact, provider=provider or options.provider)
    named = provider or options.provider
    cases = {f"embedder {named}, batch {size}": embedder_work(opened, drawn(options, size)) for size in options.batch_sizes}
    return options.measure(cases)


def tensorrt(options: Options) -> list[Figure]:
    """Measures the embedder on TensorRT; building its engine takes minutes."""
    return embedder(options, "tensorrt")


def cuda_nhwc(options: Options) -> list[Figure]:
    """Measures CUDA with convolutions in NHWC, which the service does not ask for until this says that it should."""
    choice, model = CHOICES["cuda"][0], read_manifest(options.artefact)
    cuda, cpu = provider_options(choice, model, options.batch_sizes)
    preload_cuda(choice)
    path = options.artefact / "model.onnx"
    providers = [(cuda[0], {**cuda[1], "prefer_nhwc": "1"}), cpu]
    session = onnxruntime.InferenceSession(path.read_bytes(), session_options(path, threads=1), providers, enable_fallback=0)
    run = BoundRunner(session, model, ladder=options.batch_sizes)
    return options.measure({f"CUDA in NHWC, batch {size}": bound(run, drawn(options, size)) for size in options.batch_sizes})


def bound(run: BoundRunner, crops: np.ndarray) -> Work:
    """Returns one call of a bound session."""

    def work() -> float:
        run(crops)
        return len(crops)

    return work


def http(options: Options) -> list[Figure]:
    """Measures the running service: decoded crops in requests of several, then JPEG files one by one."""
    model, num = read_manifest(options.artefact), 8 if options.rehearse else 2048
    settings = {"REID_PROVIDER": options.provider, "REID_BATCH_MAX": "64", "REID_QUEUE_MAX": "4096"}
    found = []
    with tempfile.TemporaryDirectory() as name, running_service(options.artefact, Path(name) / "gallery", **settings) as url:
        for case, requests, per_request in http_cases(url, options, model):
            num_requests = max(2, num // per_request)
            waits = load.run(load.closed_loop(url, requests, clients=min(64, num_requests), num_requests=num_requests))
            row = waits.figures(crops_per_request=per_request)
            rate = row["crops_per_s"]
            found.append(Figure(case, rate, rate, rate, row["p50_ms"], rounds=1))
    return found


def http_cases(url: str, options: Options, model: ModelInfo) -> list[tuple[str, list[bytes], int]]:
    """Returns name, requests and crops of a request of every case."""
    buffer = BytesIO()
    np.save(buffer, drawn(options, PER_REQUEST))
    decoded = load.request(url, "/embed?encoding_format=base64", buffer.getvalue(), content_type="application/x-npy")
    files = jpegs(8, height=model.height, width=model.width)
    return [
        (f"HTTP, {PER_REQUEST} decoded crops a request", [decoded], PER_REQUEST),
        ("HTTP, one JPEG a request", load.jpeg_requests(url, files, crops_per_request=1), 1),
    ]
