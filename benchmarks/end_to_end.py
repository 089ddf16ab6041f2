"""The whole way on drawn people, with nothing downloaded: train, export, serve, enroll, search.

python -m benchmarks.end_to_end        # or: make demo
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from benchmarks.http_rank1 import over_http
from training.dataset import Sample, read_dataset


def step(*command: str) -> float:
    """Runs one of the project's commands, shows it, and returns its seconds."""
    print(f"\n$ python -m {' '.join(command)}", flush=True)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", *command], check=True)
    return round(time.perf_counter() - started, 1)


@contextmanager
def running_service(artefact: Path, gallery: Path, **more: str) -> Iterator[str]:
    """Starts the service on a free port, yields its address once it is ready, and ends it with SIGTERM; `more` are settings."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "REID_MODEL": str(artefact),
        "REID_GALLERY": str(gallery),
        "REID_PORT": str(port),
        "REID_LOG_LEVEL": "warning",
    } | more
    print(f"\n$ {' '.join(f'{name}={value}' for name, value in settings.items())} python -m service", flush=True)
    process = subprocess.Popen([sys.executable, "-m", "service"], env=os.environ | settings)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(url: str, process: subprocess.Popen[bytes], *, limit_s: float = 60) -> None:
    """Returns when /readyz answers 200; raises when the process has ended or the limit has passed."""
    started = time.perf_counter()
    while process.poll() is None and time.perf_counter() - started < limit_s:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the service was not ready within {limit_s:.0f} s (exit status {process.poll()})")


def chance(gallery: list[Sample], query: list[Sample]) -> float:
    """Returns the expected rank-1 of a random ranking: the share of correct entries among those of other cameras."""
    shares = []
    for sample in query:
        others = [entry.pid == sample.pid for entry in gallery if entry.camid != sample.camid]
        shares.append(np.mean(others))
    return float(np.mean(shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, artefact = folder / "run", folder / "artefact"
        train_s = step("training.run", "--synthetic", "--epochs", str(args.epochs), "--out", str(run))
        export_s = step("exporter.run", str(run), str(artefact))
        data = read_dataset(run / "data")
        gallery, query = list(data.gallery), list(data.query)
        with running_service(artefact, folder / "gallery") as url, httpx.Client(base_url=url, timeout=60) as client:
            rank1 = float(np.mean(over_http(client, gallery, query)))
    figures = {
        "rank1_http": round(rank1, 4),
        "chance": round(chance(gallery, query), 4),
        "enrolled": len(gallery),
        "searched": len(query),
        "train_s": train_s,
        "export_s": export_s,
        "total_s": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
