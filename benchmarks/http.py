"""What does HTTP cost, and does batching pay? The bare runtime beside the service, with and without batches, in the same run.

    python -m benchmarks.http --artefact service/model

Closed loop: each of C clients sends one drawn crop to POST /embed (base64 answer) and waits for it. The machine is shared with
the clients; rounds are interleaved, medians and ratios are what to read.
"""

import argparse
import json
import platform
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from benchmarks.end_to_end import running_service
from exporter.parity import drawn_crops, runtime_embedder

CONCURRENCY = (1, 8, 32)


def jpegs(count: int) -> list[bytes]:
    """Returns drawn crops as JPEG files, 64 x 128."""
    files = []
    for crop in drawn_crops(count, height=128, width=64):
        buffer = BytesIO()
        Image.fromarray(crop).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def bare(artefact: Path, *, batch_size: int, num_crops: int) -> dict[str, float]:
    """Times the ONNX file alone: crops per second and median milliseconds of a call."""
    size = json.loads((artefact / "manifest.json").read_text())["input"]
    embed = runtime_embedder(artefact / "model.onnx")
    crops = drawn_crops(batch_size, height=size["height"], width=size["width"])
    embed(crops)
    calls = []
    for _ in range(max(3, num_crops // batch_size)):
        started = time.perf_counter()
        embed(crops)
        calls.append(time.perf_counter() - started)
    median_s = statistics.median(calls)
    return {"crops_per_s": batch_size / median_s, "p50_ms": 1000 * median_s}


def load(url: str, files: list[bytes], *, concurrency: int, num_crops: int) -> dict[str, float]:
    """Sends `num_crops` requests from `concurrency` clients: crops per second, median and 95th percentile in milliseconds."""
    with httpx.Client(base_url=url, timeout=120, limits=httpx.Limits(max_connections=concurrency)) as client:

        def send(content: bytes) -> float:
            started = time.perf_counter()
            headers = {"Content-Type": "image/jpeg"}
            client.post("/embed?encoding_format=base64", content=content, headers=headers).raise_for_status()
            return time.perf_counter() - started

        with ThreadPoolExecutor(concurrency) as pool:
            list(pool.map(send, files[:concurrency]))
            started = time.perf_counter()
            waits = list(pool.map(send, islice(cycle(files), num_crops)))
            total_s = time.perf_counter() - started
    p50, p95 = np.percentile(waits, (50, 95)) * 1000
    return {"crops_per_s": num_crops / total_s, "p50_ms": float(p50), "p95_ms": float(p95)}


def measure(artefact: Path, *, num_crops: int, rounds: int) -> dict[str, dict[str, float]]:
    """Runs every case once a round and returns each figure's median over the rounds."""
    files = jpegs(64)
    seen: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        for number in range(rounds):
            for batch_size in (1, 8, 16):
                figures = bare(artefact, batch_size=batch_size, num_crops=num_crops)
                seen.setdefault(f"runtime alone, batch {batch_size}", []).append(figures)
            for batch_max in (1, 16):
                gallery = Path(name) / f"{number}-{batch_max}"
                with running_service(artefact, gallery, REID_BATCH_MAX=str(batch_max)) as url:
                    for concurrency in CONCURRENCY:
                        figures = load(url, files, concurrency=concurrency, num_crops=num_crops)
                        seen.setdefault(f"HTTP, batches up to {batch_max}, {concurrency} clients", []).append(figures)
    return {case: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for case, rows in seen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artefact", type=Path, default=Path("service/model"))
    parser.add_argument("--num-crops", type=int, default=128, help="crops of each case and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    table = measure(args.artefact, num_crops=args.num_crops, rounds=args.rounds)
    for case, row in table.items():
        tail = f"  p95 {row['p95_ms']:7.1f} ms" if "p95_ms" in row else ""
        print(f"{case:38}{row['crops_per_s']:8.1f} crops/s  p50 {row['p50_ms']:7.1f} ms{tail}")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    if args.json:
        report = {"machine": platform.processor() or platform.machine(), "commit": commit, "cases": table}
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
