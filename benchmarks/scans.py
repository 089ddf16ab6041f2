"""What benchmarks.gallery measures with: drawn embeddings, others' exact scans and stores, and calls timed in turn."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np

BLOCK = 4096  # rows drawn at a time: 32 MB at D = 2048
SUBSPACE = 48  # dimensions that the identities' centres lie in
INSIDE, EVERYWHERE = 0.70, 0.118  # variance of an entry about its centre: cosine 1 / 1.818 = 0.55 within an identity
NUM_CAMERAS = 8
WHOLE_UP_TO = 200_000  # entries up to which float32 rows are held too: 1.6 GB at D = 2048
QDRANT_UP_TO = 20_000  # points that its local mode is meant for, by its own warning

Call = Callable[[int], object]  # answers the query of that number, or the batch that begins with it
Turn = list[tuple[float, float]]  # one case in one round: seconds of each call by the clock, and of this process's CPU


class People:
    """Clustered unit embeddings, always the same ones; entry i is of identity i mod num_identities."""

    def __init__(self, num_entries: int, dim: int) -> None:
        rng = np.random.default_rng(0)
        self.num_entries, self.dim = num_entries, dim
        self.num_identities = max(1, min(2000, num_entries // 10), num_entries // 50)
        inside = min(SUBSPACE, dim)
        self._basis = np.linalg.qr(rng.standard_normal((dim, inside)))[0].T.astype(np.float32)
        centres = rng.standard_normal((self.num_identities, inside), dtype=np.float32)
        self._centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)
        self.camids = rng.integers(NUM_CAMERAS, size=num_entries)
        self.pids = np.arange(num_entries) % self.num_identities  # of every entry

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields all entries' embeddings in order, float32 [up to BLOCK, D]."""
        for start in range(0, self.num_entries, BLOCK):
            pids = self.pids[start : start + BLOCK]
            yield self._drawn(pids, np.random.default_rng((1, start)))

    def queries(self, num: int) -> np.ndarray:
        """Other embeddings of the first identities, float32 [num, D]."""
        return self._drawn(np.arange(num) % self.num_identities, np.random.default_rng(2))

    def _drawn(self, pids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        inside = self._centres[pids]
        inside += np.sqrt(INSIDE / inside.shape[1], dtype=np.float32) * rng.standard_normal(inside.shape, dtype=np.float32)
        rows = rng.standard_normal((len(pids), self.dim), dtype=np.float32)
        rows *= np.sqrt(EVERYWHERE / self.dim, dtype=np.float32)
        rows += inside @ self._basis
        rows /= np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, np.newaxis]
        return rows


def true_cosines(people: People, queries: np.ndarray) -> np.ndarray:
    """Every query's cosine with every entry in float32, [Q, n]."""
    return np.concatenate([queries @ block.T for block in people.blocks()], axis=1)


def by_identity(cosines: np.ndarray, num_identities: int) -> np.ndarray:
    """The highest cosine of each identity, [Q, identities], from those of all entries [Q, n]; -inf where it has none."""
    missing = -cosines.shape[1] % num_identities
    padded = np.pad(cosines, ((0, 0), (0, missing)), constant_values=-np.inf)
    return padded.reshape(len(cosines), -1, num_identities).max(axis=1)


def first(cosines: np.ndarray, k: int) -> np.ndarray:
    """Places of the k highest of each row, falling, int64 [Q, k]."""
    places = np.argpartition(cosines, -k, axis=1)[:, -k:]
    order = np.argsort(-np.take_along_axis(cosines, places, axis=1), axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1)


def recall(found: Sequence[Sequence[int]], true: np.ndarray) -> float:
    """The share of the true places [Q, k] that were found."""
    return sum(len(set(a) & set(b)) for a, b in zip(found, true.tolist(), strict=True)) / true.size


def top1(found: Sequence[Sequence[int]], true: np.ndarray) -> float:
    """The share of queries whose first one is the true first."""
    return sum(a[0] == b[0] for a, b in zip(found, true.tolist(), strict=True)) / len(true)


def exact_scans(people: People, queries: np.ndarray, k: int, batch: int) -> dict[str, tuple[Call, Call]]:
    """Bare exact scans over all entries: a call that answers one query, and one that answers a batch."""
    half = faiss.IndexScalarQuantizer(people.dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    flat = faiss.IndexFlatIP(people.dim)
    for block in people.blocks():
        half.add(block)
        if people.num_entries <= WHOLE_UP_TO:
            flat.add(block)
    found = {"faiss SQ fp16": _pair(lambda q: half.search(q, k), queries, batch)}
    if flat.ntotal:
        rows = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * people.dim).reshape(-1, people.dim)
        held = (flat, rows)  # rows are flat's own memory
        found["faiss flat fp32"] = _pair(lambda q: held[0].search(q, k), queries, batch)
        found["numpy fp32 + argpartition"] = _pair(lambda q: first(q @ held[1].T, k), queries, batch)
        try:
            from usearch.index import MetricKind, search
        except ModuleNotFoundError:
            return found
        found["usearch exact fp32"] = _pair(lambda q: search(held[1], q, k, MetricKind.IP, exact=True), queries, batch)
    return found


def _pair(search: Callable[[np.ndarray], object], queries: np.ndarray, batch: int) -> tuple[Call, Call]:
    return (lambda number: search(queries[number : number + 1])), (lambda number: search(queries[:batch]))


def lancedb_scan(people: People, queries: np.ndarray, k: int, folder: Path) -> tuple[Call, Call]:
    """LanceDB without an index, as its first page uses it: one query, and how long a durable add of one row takes."""
    import lancedb
    import pyarrow

    kind = pyarrow.schema([("entry", pyarrow.int64()), ("vector", pyarrow.list_(pyarrow.float32(), people.dim))])

    def rows(start: int, block: np.ndarray) -> Any:
        vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(block.ravel()), people.dim)
        return pyarrow.table([pyarrow.array(range(start, start + len(block))), vectors], schema=kind)

    table = lancedb.connect(folder / "lancedb").create_table("entries", schema=kind)
    for number, block in enumerate(people.blocks()):
        table.add(rows(number * BLOCK, block))
    other = lancedb.connect(folder / "lancedb").create_table("single", schema=kind)
    return (
        lambda number: table.search(queries[number]).distance_type("dot").limit(k).to_list(),
        lambda number: other.add(rows(number, queries[number : number + 1])),
    )


def qdrant_scan(people: People, queries: np.ndarray, k: int, folder: Path) -> tuple[Call, Call]:
    """qdrant-client's local mode: one query (its rows in memory), and how long a durable upsert of one point takes."""
    from qdrant_client import QdrantClient, models

    if people.num_entries > QDRANT_UP_TO:
        raise ValueError(f"its local mode warns beyond {QDRANT_UP_TO} points")
    kind = models.VectorParams(size=people.dim, distance=models.Distance.DOT)
    memory, disk = QdrantClient(":memory:"), QdrantClient(path=str(folder / "qdrant"))
    for client in (memory, disk):
        client.create_collection("entries", vectors_config=kind)
    for number, block in enumerate(people.blocks()):
        ids = list(range(number * BLOCK, number * BLOCK + len(block)))
        memory.upsert("entries", models.Batch(ids=ids, vectors=block.tolist()))
    return (
        lambda number: memory.query_points("entries", query=queries[number].tolist(), limit=k),
        lambda number: disk.upsert("entries", [models.PointStruct(id=number, vector=queries[number].tolist())]),
    )


STORES = {"lancedb": lancedb_scan, "qdrant-client local": qdrant_scan}


def interleaved(cases: Mapping[str, Call], *, rounds: int, calls: int, num: int) -> dict[str, list[Turn]]:
    """Every case `calls` times in each round, the order turning by one; `num` query numbers are taken in turn.

    A round before the first warms up with one call a case.
    """
    taken: dict[str, list[Turn]] = {name: [] for name in cases}
    names = list(cases)
    for call in cases.values():
        call(0)
    for number in range(rounds):
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned:
            taken[name].append([timed(cases[name], (number * calls + place) % num) for place in range(calls)])
    return taken


def timed(call: Call, number: int) -> tuple[float, float]:
    """Seconds of one call by the clock, and of this process's CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    call(number)
    return time.perf_counter() - wall, time.process_time() - cpu


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a call over all rounds; the ratios to the reference are medians of each round's ratio of medians."""

    median_ms: float
    p95_ms: float
    cpu_ms: float
    ratio: float
    cpu_ratio: float

    @classmethod
    def of(cls, turns: Sequence[Turn], reference: Sequence[Turn]) -> "Latency":
        """The figures of a case beside those of the reference in the same rounds."""
        walls, cpus = (np.array([call[kind] for turn in turns for call in turn]) for kind in (0, 1))
        ratios = [
            median(
                median(call[kind] for call in own) / max(median(call[kind] for call in theirs), 1e-9)
                for own, theirs in zip(turns, reference, strict=True)
            )
            for kind in (0, 1)
        ]
        return cls(1e3 * median(walls), 1e3 * float(np.percentile(walls, 95)), 1e3 * median(cpus), *ratios)

    def as_json(self) -> dict[str, float]:
        """The figures, rounded."""
        return {name: round(float(value), 4) for name, value in asdict(self).items()}


def fsync_ms(folder: Path, num: int) -> float:
    """What one durable write of 4 KB to the end of a file costs there: median of `num`, milliseconds."""
    took = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(num):
            begun = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - begun)
    return 1e3 * median(took)
