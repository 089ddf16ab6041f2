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
from service.ladder import ladder_of
from service.manifest import ModelInfo, read_manifest
from service.providers import CHOICES, preload_cuda
from service.session import session_options
from training import transforms

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ROUNDS = 5
PER_REQUEST = 16  # crops of a request with decoded crops
FIRST_CROPS = 2048  # of a load, to see how many more fill its time
HTTP_S = 20.0  # of a load: at thousands of crops a second the first ones alone are over before the clients have begun
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
    def batch_max(self) -> int:
        return self.batch_sizes[-1]

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
    """Returns the exported network on the device, channels last, and but for a rehearsal in half precision."""
    graph = ChannelsLast(options.checkpoint).eval().to(options.device)
    return graph if options.rehearse else HalfPrecision(graph)


class HalfPrecision(torch.nn.Module):
    """A network as the fp16 artefact has it: weights cast once, not by autocast at every call; pixels and head in fp32."""

    def __init__(self, graph: ChannelsLast) -> None:
        super().__init__()
        self.backbone, self.neck = graph.backbone.half(), graph.neck

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        f_i = self.neck(self.backbone(transforms.normalize(crops).half()).float())
        return torch.nn.functional.normalize(f_i, dim=1)


def forward(graph: Callable[[torch.Tensor], torch.Tensor], options: Options, batch_size: int) -> Work:
    """Returns one forward pass."""
    crops = torch.from_numpy(drawn(options, batch_size)).to(options.device)

    def call() -> None:
        with torch.inference_mode():
            graph(crops)

    return synchronised(batch_size, call, options.device)


def drawn(options: Options, num_crops: int) -> np.ndarray:
    """Returns drawn crops of the artefact's size; a few, repeated, since drawing costs more than embedding."""
    size = facts_of(options.artefact)["input"]
    few = drawn_crops(min(num_crops, 8), height=size["height"], width=size["width"])
    return np.ascontiguousarray(np.resize(few, (num_crops, *few.shape[1:])))


def embedder(options: Options, provider: str | None = None) -> list[Figure]:
    """Measures the service's embedder from crops in host memory to embeddings in host memory, every size captured."""
    opened = Embedder.open(options.artefact, provider=provider or options.provider, batch_max=options.batch_max)
    named = provider or options.provider
    cases = {f"embedder {named}, batch {size}": embedder_work(opened, drawn(options, size)) for size in options.batch_sizes}
    return options.measure(cases)


def tensorrt(options: Options) -> list[Figure]:
    """Measures the embedder on TensorRT; building its engine takes minutes."""
    return embedder(options, "tensorrt")


def cuda_nhwc(options: Options) -> list[Figure]:
    """Measures CUDA with convolutions in NHWC, which the service does not ask for until this says that it should."""
    choice, model = CHOICES["cuda"][0], read_manifest(options.artefact)
    ladder = ladder_of(is_gpu=True, batch_max=options.batch_max)
    cuda, cpu = provider_options(choice, model, ladder)
    preload_cuda(choice)
    path = options.artefact / "model.onnx"
    providers = [(cuda[0], {**cuda[1], "prefer_nhwc": "1"}), cpu]
    session = onnxruntime.InferenceSession(path.read_bytes(), session_options(path, threads=1), providers, enable_fallback=0)
    run = BoundRunner(session, model, ladder=ladder)
    return options.measure({f"CUDA in NHWC, batch {size}": bound(run, drawn(options, size)) for size in options.batch_sizes})


def bound(run: BoundRunner, crops: np.ndarray) -> Work:
    """Returns one call of a bound session."""

    def work() -> float:
        run(crops)
        return len(crops)

    return work


def http(options: Options) -> list[Figure]:
    """Measures the running service: decoded crops in requests of several, then JPEG files one by one, each for HTTP_S."""
    model, num = read_manifest(options.artefact), 8 if options.rehearse else FIRST_CROPS
    settings = {"REID_PROVIDER": options.provider, "REID_BATCH_MAX": str(options.batch_max), "REID_QUEUE_MAX": "4096"}
    found = []
    with tempfile.TemporaryDirectory() as name, running_service(options.artefact, Path(name) / "gallery", **settings) as url:
        for case, requests, per_request in http_cases(url, options, model):
            first = max(2, num // per_request)
            row = loaded(url, requests, per_request, num_requests=first)
            if not options.rehearse:
                row = loaded(url, requests, per_request, num_requests=max(first, int(HTTP_S * row["crops_per_s"] / per_request)))
            rate = row["crops_per_s"]
            found.append(Figure(case, rate, rate, rate, row["p50_ms"], rounds=1))
    return found


def loaded(url: str, requests: list[bytes], per_request: int, *, num_requests: int) -> dict[str, float]:
    """Returns the figures of so many requests from up to 64 clients. Raises ValueError when one was refused."""
    waits = load.run(load.closed_loop(url, requests, clients=min(64, num_requests), num_requests=num_requests))
    row = waits.figures(crops_per_request=per_request)
    if row["refused"]:
        raise ValueError(f"got {len(waits.refused)} of {num_requests} requests refused with {set(waits.refused)}, wanted none")
    return row


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
