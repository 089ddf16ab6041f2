"""How fast does the service's embedder run, beside the same network in torch and OpenVINO, and what could the machine do?

    python -m benchmarks.embed --artefact service/model --artefact ARTEFACT_FP32 --checkpoint RUN
    python -m benchmarks.embed --artefact service/model --quick

Rates are crops per second from decoded crops to embeddings; the ratios are to the fp32 artefact in our embedder, in the same
round, by the clock and by CPU time. Artefacts run as the service runs them. torch, torch.compile: the checkpoint's own network.
torchreid: its published OSNet through its FeatureExtractor, preparation of every crop included, as its users run it. OpenVINO and
torchreid are optional.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import peak, rounds
from benchmarks.rounds import Figure, Work
from exporter.graph import EmbeddingGraph
from exporter.parity import drawn_crops
from service.embedder import Embedder, granted_cores
from service.errors import ServiceError
from training import checkpoint, transforms

OSNET = "torchreid FeatureExtractor, osnet_x1_0"


def embedder_work(embedder: Embedder, crops: np.ndarray) -> Work:
    """Returns one call of our embedder."""

    def work() -> float:
        embedder.embed(crops)
        return len(crops)

    return work


def opened_work(open_it: Callable[[], Embedder], crops: np.ndarray) -> Work:
    """Returns one call of an embedder that is opened now."""
    return embedder_work(open_it(), crops)


def torch_work(graph: Callable[[torch.Tensor], torch.Tensor], crops: np.ndarray) -> Work:
    """Returns one call of a torch network."""
    batch = torch.from_numpy(crops)

    def work() -> float:
        with torch.inference_mode():
            graph(batch)
        return len(crops)

    return work


def lazily(make: Callable[[], Work]) -> Work:
    """Returns a call that is made ready by its first use: what cannot be made becomes that case's error, and no other's."""
    made: list[Work] = []

    def work() -> float:
        if not made:
            made.append(make())
        return made[0]()

    return work


class ChannelsLast(torch.nn.Module):
    """The exported network with weights and activations in channels-last order."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        model, _ = checkpoint.load(run)
        self.backbone = model.backbone.to(memory_format=torch.channels_last)
        self.neck = model.neck

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        f_i = self.neck(self.backbone(transforms.normalize(crops)))  # normalised crops are channels last already
        return torch.nn.functional.normalize(f_i, dim=1)


def torch_cases(run: Path, crops: np.ndarray, *, with_compile: bool) -> dict[str, Work]:
    """Returns the checkpoint's network as torch runs it."""
    graph = EmbeddingGraph(checkpoint.load(run)[0]).eval()
    cases = {
        "torch eager fp32": torch_work(graph, crops),
        "torch eager fp32, channels last": torch_work(ChannelsLast(run).eval(), crops),
    }
    if with_compile:
        cases["torch.compile fp32"] = lazily(lambda: torch_work(torch.compile(graph, dynamic=False), crops))
    return cases


def openvino_cases(artefact: Path, crops: np.ndarray, *, precision: str, threads: int) -> dict[str, Work]:
    """Returns an artefact on OpenVINO: an fp32 file in fp32 and in bf16, another as it is."""
    hints = ("f32", "bf16") if precision == "fp32" else ("f32",)
    return {
        f"OpenVINO {precision if hint == 'f32' else hint}, {artefact.name}": lazily(
            partial(openvino_work, artefact, crops, hint=hint, threads=threads)
        )
        for hint in hints
    }


def openvino_work(artefact: Path, crops: np.ndarray, *, hint: str, threads: int) -> Work:
    """Returns one call of a model that OpenVINO has compiled for this batch size."""
    import openvino  # type: ignore[import-not-found]  # optional: its rows say "not installed"

    core = openvino.Core()
    model = core.read_model(str(artefact / "model.onnx"))
    model.reshape(list(crops.shape))
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def work() -> float:
        request.infer([crops])
        return len(crops)

    return work


def torchreid_work(crops: np.ndarray, weights: str) -> Work:
    """Returns one call of torchreid's extractor; without a file of weights it downloads its own."""
    try:
        from torchreid.reid.utils import FeatureExtractor  # type: ignore[import-not-found]  # optional; as PyPI has it
    except ModuleNotFoundError:
        from torchreid.utils import FeatureExtractor  # type: ignore[import-not-found]  # as its repository has it

    extract = FeatureExtractor(model_name="osnet_x1_0", model_path=weights, device="cpu", verbose=False)
    listed = list(crops)

    def work() -> float:
        extract(listed)
        return len(crops)

    return work


def facts_of(artefact: Path) -> dict[str, Any]:
    """Returns an artefact's manifest."""
    try:
        found: dict[str, Any] = json.loads((artefact / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"--artefact: got {artefact} ({error}), wanted a folder with model.onnx and manifest.json") from error
    return found


def cases_of(args: argparse.Namespace, batch_size: int) -> dict[str, Work]:
    """Returns every case at one batch size, artefacts first."""
    cases: dict[str, Work] = {}
    others: dict[str, Work] = {}
    for artefact in args.artefact:
        facts = facts_of(artefact)
        crops = drawn_crops(batch_size, height=facts["input"]["height"], width=facts["input"]["width"])
        embedder = Embedder.open(artefact, provider="cpu", threads=args.threads)
        cases[case_name(artefact, facts)] = embedder_work(embedder, crops)
        on_openvino = partial(Embedder.open, artefact, provider="openvino", threads=args.threads)
        others[f"{case_name(artefact, facts)}, on OpenVINO"] = lazily(partial(opened_work, on_openvino, crops))
        others |= openvino_cases(artefact, crops, precision=facts["precision"], threads=args.threads)
    if args.checkpoint:
        config = checkpoint.load_facts(args.checkpoint).config
        crops = drawn_crops(batch_size, height=config.height, width=config.width)
        others |= torch_cases(args.checkpoint, crops, with_compile=args.compile)
    return (
        cases
        | others
        | {OSNET: lazily(partial(torchreid_work, drawn_crops(batch_size, height=256, width=128), args.osnet_weights))}
    )


def case_name(artefact: Path, facts: dict[str, Any]) -> str:
    """Returns how an artefact is called in the tables."""
    return f"ours, {facts['precision']}, {artefact.name}"


def reference_of(artefacts: Sequence[Path]) -> str:
    """Returns the case that ratios are to: the first fp32 artefact, else the first of all."""
    named = [(facts_of(artefact)["precision"], case_name(artefact, facts_of(artefact))) for artefact in artefacts]
    return next((name for precision, name in named if precision == "fp32"), named[0][1])


def against_peak(figures: Sequence[Figure], peaks: Sequence[Figure], artefacts: Sequence[Path]) -> list[dict[str, Any]]:
    """Returns for every artefact what it asks of the machine, what it gets, and the best that was reached in its precision."""
    found = []
    for artefact in artefacts:
        facts = facts_of(artefact)
        kind = "int8" if facts["precision"] == "int8" else "fp32"
        best = max((one for one in peaks if one.name.startswith(kind)), key=lambda one: one.per_s)
        mine = next(one for one in figures if one.name == case_name(artefact, facts))
        macs = peak.count_macs(artefact / "model.onnx")
        reached = {"macs_per_crop": macs, "macs_per_s": macs * mine.per_s, "peak_macs_per_s": best.per_s, "peak_is": best.name}
        found.append({"artefact": artefact.name, **reached, "fraction": macs * mine.per_s / best.per_s if best.per_s else None})
    return found


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--artefact", type=Path, action="append", metavar="DIR", help="exported model, repeatable (the bundled one)"
    )
    parser.add_argument("--checkpoint", type=Path, metavar="RUN", help="run folder: the same network in torch")
    parser.add_argument("--osnet-weights", default="", metavar="FILE", help="of torchreid's OSNet, where it cannot download them")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16], metavar="N", help="(1 2 4 8 16)")
    parser.add_argument("--threads", type=int, default=granted_cores(), metavar="N", help="of every runtime (every granted core)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="interleaved rounds, of which medians are told (7)")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="X", help="least time of a case in a round (0.5)")
    parser.add_argument(
        "--no-compile", dest="compile", action="store_false", help="leave out torch.compile: a minute a batch size"
    )
    parser.add_argument(
        "--quick", action="store_true", help="batches of 1 and 8, 3 short rounds, no torch.compile, a small matrix unit"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args(argv)
    if args.quick:
        args.batch_sizes, args.rounds, args.seconds, args.compile = [1, 8], 3, 0.0, False
    if min(*args.batch_sizes, args.rounds, args.threads) < 1:
        parser.error("got a batch size, rounds or threads below 1")
    args.artefact = args.artefact or [Path("service/model")]
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    try:
        tables = measure_all(args)
    except (ValueError, OSError, ServiceError) as error:
        sys.exit(f"embed: {error}")
    shares = against_peak(tables[f"batch {args.batch_sizes[-1]}"], tables["matrix unit"], args.artefact)
    for one in shares:
        reached, best = one["macs_per_s"] / 1e9, one["peak_macs_per_s"] / 1e9
        print(
            f"{one['artefact']}: {one['macs_per_crop'] / 1e9:.3f} G multiply-adds a crop, {reached:.0f} G a second, "
            f"{100 * (one['fraction'] or 0):.0f} % of the {best:.0f} G that {one['peak_is']} reaches"
        )
    settings = {"threads": args.threads, "rounds": args.rounds, "seconds": args.seconds}
    rounds.write(args.json, rounds.report(tables, **settings) | {"against_peak": shares})


def measure_all(args: argparse.Namespace) -> dict[str, list[Figure]]:
    """Measures and prints one table for each batch size; the matrix unit's rates are measured in the rounds of the last."""
    tables = {}
    reference = reference_of(args.artefact)
    size = peak.SMALL if args.quick else peak.FULL
    peaks = peak.fp32_peaks(threads=args.threads, size=size) | peak.int8_peaks(threads=args.threads, size=size)
    for batch_size in args.batch_sizes:
        cases, is_last = cases_of(args, batch_size), batch_size == args.batch_sizes[-1]
        both = {**cases, **(peaks if is_last else {})}
        figures = rounds.measure(both, rounds=args.rounds, least_s=args.seconds, reference=reference)
        tables[f"batch {batch_size}"] = [one for one in figures if one.name in cases]
        print(f"\nbatch {batch_size}, {args.threads} threads\n{rounds.table(tables[f'batch {batch_size}'])}", flush=True)
        if is_last:
            tables["matrix unit"] = [replace(one, ratio=None, cpu_ratio=None) for one in figures if one.name in peaks]
            print(f"\nmatrix unit, in the same rounds\n{rounds.table(tables['matrix unit'], unit='G MAC/s', scale=1e9)}")
    return tables


if __name__ == "__main__":
    main()
