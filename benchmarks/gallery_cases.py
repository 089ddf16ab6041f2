"""What benchmarks.gallery does to the gallery: enrols, opens, searches, beside what scans.py brings of others."""

import multiprocessing
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import scans
from benchmarks.scans import Call, Latency, People
from gallery.columns import Columns
from gallery.entry import Filter, NewEntry
from gallery.index import Index, IndexChoice
from gallery.local import LocalGallery
from gallery.store import Store

K = 10
BATCH = 64
SPACE = "5" * 64
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)  # one entry a second from here
WRITERS = 32
LOADING = 256  # entries a call when the gallery is filled
Table = dict[str, dict[str, Any]]


def new_entries(people: People) -> Iterator[NewEntry]:
    """Yields all entries, as a service would enroll them without crops."""
    number = 0
    for block in people.blocks():
        for embedding in block:
            pid, camid = f"person-{people.pids[number]:06d}", f"camera-{people.camids[number]}"
            seen = BEGUN + timedelta(seconds=number)
            yield NewEntry(pid, embedding, "benchmark", camid, seen, content_hash=f"{number:064x}")
            number += 1


def enrolled(folder: Path, people: People, *, rounds: int, calls: int) -> Table:
    """Fills a gallery, its last entries in rounds of one, 32 and 256 a call and by 32 threads; durable entries a second."""
    sizes = {"1 a call": (1, calls, 1), "32 a call": (32, max(1, calls // 8), 1), "256 a call": (256, max(1, calls // 32), 1)}
    sizes[f"1 a call, {WRITERS} threads"] = (1, calls, WRITERS)
    entries = new_entries(people)
    in_rounds = rounds * sum(size * num * writers for size, num, writers in sizes.values())
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sizes}
    with LocalGallery.open(folder, space_id=SPACE, dim=people.dim) as gallery:
        while rest := list(islice(entries, min(LOADING, max(0, people.num_entries - in_rounds - gallery.stats().entries)))):
            gallery.enroll(rest, space_id=SPACE)
        for _ in range(rounds):
            for name, (size, num, writers) in sizes.items():
                shares = [[list(islice(entries, size)) for _ in range(num)] for _ in range(writers)]
                taken[name].append(enroll_all(gallery, shares))
        assert gallery.stats().entries == people.num_entries, "This is a bug: the rounds take more than there is."
    return {
        name: {
            "per_s": median(size * num * writers / wall for wall, _ in taken[name]),
            "cpu_ms_per_call": 1e3 * median(cpu for _, cpu in taken[name]) / (num * writers),
        }
        for name, (size, num, writers) in sizes.items()
    }


def enroll_all(gallery: LocalGallery, shares: Sequence[Sequence[Sequence[NewEntry]]]) -> tuple[float, float]:
    """Each thread enrolls its share, call by call; seconds from the first call to the last answer, and of CPU."""
    start = threading.Barrier(len(shares) + 1)

    def work(share: Sequence[Sequence[NewEntry]]) -> None:
        start.wait()
        for entries in share:
            gallery.enroll(entries, space_id=SPACE)

    threads = [threading.Thread(target=work, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    start.wait()
    wall, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.join()
    return time.perf_counter() - wall, time.process_time() - cpu


def opened(folder: Path, choice: IndexChoice) -> dict[str, Any]:
    """Opens a gallery in this process, which has done nothing else; seconds and resident memory."""
    before = resident_mib()
    wall, cpu = time.perf_counter(), time.process_time()
    with LocalGallery.reopen(folder, index=choice) as gallery:
        took, cpu_took = time.perf_counter() - wall, time.process_time() - cpu
        stats = gallery.stats()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
        figures = {"open_s": took, "open_cpu_s": cpu_took, "before_mib": before, "resident_mib": resident_mib(), "peak_mib": peak}
        return {**figures, "file_mib": stats.bytes / 2**20, "index": stats.index_type}


def open_parts(folder: Path, choice: IndexChoice) -> dict[str, float]:
    """What opening consists of, each part done alone; CPU seconds."""
    took = {"open file": 0.0, "check tables": 0.0, "read rows and checksums": 0.0, "index": 0.0, "columns": 0.0}

    def counted(name: str, work: Callable[[], Any]) -> Any:
        begun = time.process_time()
        answer = work()
        took[name] += time.process_time() - begun
        return answer

    store = counted("open file", lambda: Store.open(folder))
    index, columns, batches = Index(store.space.dim, choice), Columns(), store.rows()
    counted("check tables", store.check_entries)
    while (rows := counted("read rows and checksums", lambda: next(batches, None))) is not None:
        counted("index", lambda rows=rows: index.add(rows.embeddings))
        counted("columns", lambda rows=rows: columns.add(rows))
    store.close()
    return took


def resident_mib() -> float:
    """Memory of this process that is in RAM now, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def apart(work: Callable[..., Any], *arguments: object) -> Any:
    """Does it in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def opening(folder: Path, *, rounds: int) -> Table:
    """Opening with the index that auto chooses and an exact one: medians over fresh processes, and the parts."""
    table: Table = {}
    for choice in ("auto", "exact"):
        taken = [apart(opened, folder, choice) for _ in range(rounds)]
        table[choice] = {name: median(one[name] for one in taken) for name in taken[0] if name != "index"}
        table[choice] |= {"index": taken[0]["index"], "parts_cpu_s": apart(open_parts, folder, choice)}
    return table


def filters(people: People) -> dict[str, tuple[Callable[[int], Filter], Callable[[int], np.ndarray]]]:
    """Every filter, given a query's number, and which entries it admits, bool [n]."""
    num = people.num_entries
    since, until = BEGUN + timedelta(seconds=num // 4), BEGUN + timedelta(seconds=num // 2)
    order = np.arange(num)
    return {
        "": (lambda query: Filter(), lambda query: np.ones(num, np.bool_)),
        "camera in": (lambda query: Filter(camids=frozenset({"camera-3"})), lambda query: people.camids == 3),
        "time range": (lambda query: Filter(since=since, until=until), lambda query: (order >= num // 4) & (order < num // 2)),
        "not own camera": (
            lambda query: Filter(exclude_camids=frozenset({f"camera-{query % scans.NUM_CAMERAS}"})),
            lambda query: people.camids != query % scans.NUM_CAMERAS,
        ),
    }


def searches(galleries: dict[str, LocalGallery], people: People, queries: np.ndarray) -> tuple[dict[str, Call], Table]:
    """The gallery's cases by name, and the recall of each against exact float32."""
    cosines = scans.true_cosines(people, queries)
    cases: dict[str, Call] = {}
    recalls: Table = {}
    for kind, (where, admits) in filters(people).items():
        admitted = np.where(np.stack([admits(query) for query in range(len(queries))]), cosines, -np.inf)
        for group in ("identity", "entry"):
            true = scans.first(scans.by_identity(admitted, people.num_identities) if group == "identity" else admitted, K)
            for index, gallery in galleries.items():
                name = " ".join(filter(None, (index, group, kind)))

                def call(query: int, gallery=gallery, where=where, group=group) -> list[int]:
                    found = gallery.search(queries[query], k=K, where=where(query), group_by=group)
                    return [
                        int(one.pid[7:]) if group == "identity" else round((one.captured_at - BEGUN).total_seconds())
                        for one in found.matches
                    ]

                cases[name] = call
                found = [call(query) for query in range(len(queries))]
                recalls[name] = {"recall_at_10": scans.recall(found, true), "top1": scans.top1(found, true)}
    return cases, recalls


def searching(folder: Path, people: People, *, rounds: int, calls: int, num_queries: int) -> tuple[Table, Table, Table]:
    """Single queries, batches, and single durable rows of other stores."""
    queries = people.queries(num_queries)
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder, copy)
    bare = scans.exact_scans(people, queries, K, BATCH)
    others, missing, stores = other_stores(people, queries, folder.parent)
    with LocalGallery.reopen(folder, index="exact") as exact, LocalGallery.reopen(copy, index="quantised") as quantised:
        ours, recalls = searches({"exact": exact, "quantised": quantised}, people, queries)
        ones = ours | {name: pair[0] for name, pair in bare.items()} | others
        turns = scans.interleaved(ones, rounds=rounds, calls=calls, num=num_queries)
        best = min(bare, key=lambda name: median(call[0] for turn in turns[name] for call in turn))
        single = {name: Latency.of(turns[name], turns[best]).as_json() | recalls.get(name, {}) for name in ones}
        single[best]["best"] = True
        batched: dict[str, Call] = {name: pair[1] for name, pair in bare.items()}
        for name in (name for name in ours if "identity" in name):
            batched[name] = lambda number, call=ours[name]: [call(query % num_queries) for query in range(BATCH)]
        turns = scans.interleaved(batched, rounds=max(1, rounds // 2), calls=1, num=1)
        best = min(bare, key=lambda name: median(call[0] for turn in turns[name] for call in turn))
        batches = {name: Latency.of(turns[name], turns[best]).as_json() for name in batched}
    shutil.rmtree(copy)
    return single | missing, batches, stores


def other_stores(people: People, queries: np.ndarray, folder: Path) -> tuple[dict[str, Call], Table, Table]:
    """Those that are there: how they search, why the rest do not take part, and their durable single rows."""
    cases: dict[str, Call] = {}
    missing: Table = {} if find_spec("usearch") else {"usearch exact fp32": {"error": "not installed"}}
    singles: Table = {}
    for name, build in scans.STORES.items():
        try:
            cases[name], single = build(people, queries, K, folder)
        except ModuleNotFoundError:
            missing[name] = {"error": "not installed"}
        except Exception as error:
            missing[name] = {"error": " ".join(str(error).split())[:100]}
        else:
            walls = [scans.timed(single, number)[0] for number in range(min(30, len(queries)))]
            singles[name] = {"per_s": 1 / median(walls)}
    return cases, missing, singles
