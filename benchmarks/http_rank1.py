"""Does the running service answer as its model does? Rank-1 over HTTP beside rank-1 computed offline from the same ONNX file.

    make serve                                       # in another terminal, on an empty gallery
    python -m benchmarks.http_rank1 --data Market-1501

Enrolls identities of the test gallery from a few crops each, then searches every other crop of theirs; entries of the searched
crop's own camera are excluded, as the benchmark's protocol does. Everything enrolled is deleted again at the end.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from tqdm import tqdm

from training.dataset import Sample, read_dataset
from training.evaluate import artefact_embedder, embed_samples

PREFIX = "rank1-"  # of every pid this script enrolls


def choose(samples: list[Sample], *, num_ids: int, per_id: int) -> tuple[list[Sample], list[Sample]]:
    """Returns (to enroll, to search): `per_id` crops of each of the first identities from as many cameras as there are, and
    the identities' other crops that an enrolled crop of another camera could answer."""
    by_pid: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.pid > 0:
            by_pid[sample.pid].append(sample)
    enrolled, searched = [], []
    for pid in [pid for pid, crops in sorted(by_pid.items()) if len(crops) > per_id and len({c.camid for c in crops}) > 1][
        :num_ids
    ]:
        by_camera: dict[int, list[Sample]] = defaultdict(list)
        for crop in by_pid[pid]:
            by_camera[crop.camid].append(crop)
        turns = [
            crop for turn in range(max(map(len, by_camera.values()))) for c in by_camera.values() for crop in c[turn : turn + 1]
        ]
        enrolled += turns[:per_id]
        cameras = {crop.camid for crop in turns[:per_id]}
        searched += [crop for crop in turns[per_id:] if cameras - {crop.camid}]
    return enrolled, searched


def post(
    client: httpx.Client, url: str, sample: Sample, params: dict[str, str] | None = None, form: dict[str, str] | None = None
) -> dict:
    """Sends one crop and returns the JSON answer; raises with the service's message on any error."""
    file = {"crops": (sample.path.name, sample.path.read_bytes(), "image/jpeg")}
    answer = client.post(url, files=file, data=form, params=params)
    if answer.is_error:
        raise RuntimeError(f"{url} with {sample.path.name}: {answer.status_code} {answer.text}")
    return answer.json()


def over_http(client: httpx.Client, enrolled: list[Sample], searched: list[Sample]) -> list[bool]:
    """Enrolls, searches with 8 requests at a time, and returns whether each first match was right."""

    def enroll(sample: Sample) -> dict:
        return post(client, "/gallery", sample, form={"pid": f"{PREFIX}{sample.pid}", "camid": str(sample.camid)})

    def search(sample: Sample) -> bool:
        answer = post(client, "/search", sample, params={"k": "1", "exclude_camid": str(sample.camid)})
        return answer["matches"][0]["pid"] == f"{PREFIX}{sample.pid}"

    with ThreadPoolExecutor(8) as pool:
        list(tqdm(pool.map(enroll, enrolled), total=len(enrolled), desc="enroll", disable=None))
        return list(tqdm(pool.map(search, searched), total=len(searched), desc="search", disable=None))


def offline(artefact: Path, enrolled: list[Sample], searched: list[Sample]) -> list[bool]:
    """Returns the same from the ONNX file alone: embed one by one, matrix product, the camera rule."""
    embed, manifest = artefact_embedder(artefact)
    size = {"height": manifest["input"]["height"], "width": manifest["input"]["width"], "batch_size": 1}
    gallery = embed_samples(embed, enrolled, name="offline gallery", **size)
    cosine = embed_samples(embed, searched, name="offline query", **size) @ gallery.T
    pids, camids = (np.array([getattr(sample, name) for sample in enrolled]) for name in ("pid", "camid"))
    return [
        bool(pids[np.where(camids == s.camid, -np.inf, row).argmax()] == s.pid) for s, row in zip(searched, cosine, strict=True)
    ]


def erase(client: httpx.Client, samples: list[Sample]) -> None:
    """Deletes every identity that `over_http` enrolled."""
    for pid in sorted({sample.pid for sample in samples}):
        client.delete(f"/gallery/identities/{PREFIX}{pid}")


def disagreements(online: list[bool], truth: list[bool]) -> Iterator[int]:
    """Yields the places where both answers differ."""
    return (index for index, (left, right) in enumerate(zip(online, truth, strict=True)) if left != right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Market-1501-layout folder")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the running service")
    parser.add_argument("--artefact", type=Path, default=Path("service/model"), help="artefact folder the service runs")
    parser.add_argument("--num-ids", type=int, default=48)
    parser.add_argument("--per-id", type=int, default=3, help="crops enrolled of each identity")
    parser.add_argument("--key", default="", help="API key, where the service wants one")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    enrolled, searched = choose(list(read_dataset(args.data).gallery), num_ids=args.num_ids, per_id=args.per_id)
    headers = {"Authorization": f"Bearer {args.key}"} if args.key else {}
    with httpx.Client(base_url=args.url, headers=headers, timeout=60) as client:
        if entries := client.get("/gallery/stats").raise_for_status().json()["entries"]:
            sys.exit(f"{args.url}: got a gallery of {entries} entries, wanted an empty one: others would answer too")
        try:
            online = over_http(client, enrolled, searched)
        finally:
            erase(client, enrolled)
    truth = offline(args.artefact, enrolled, searched)
    figures = {
        "identities": len({sample.pid for sample in enrolled}),
        "enrolled": len(enrolled),
        "searched": len(searched),
        "rank1_http": round(float(np.mean(online)), 6),
        "rank1_offline": round(float(np.mean(truth)), 6),
        "disagreements": len(list(disagreements(online, truth))),
    }
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(0 if figures["disagreements"] == 0 else "the service and the ONNX file disagree")


if __name__ == "__main__":
    main()
