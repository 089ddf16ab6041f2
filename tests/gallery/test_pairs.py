"""Counting pairs: against loops that look at every pair, one by one."""

import numpy as np
import pytest

from gallery import pairs
from gallery.pairs import COARSE, FINE, WIDTH, People, people_of, tally


def drawn(seed: int, *, with_cameras: bool = True) -> People:
    rng = np.random.default_rng(seed)
    pids = rng.permutation(np.repeat(["cy", "al", "bo", "di", "ed"], [3, 1, 4, 2, 5]))
    cameras = rng.integers(0, 3, len(pids)) if with_cameras else None
    return people_of(rng.normal(size=(len(pids), 6)) * 3, pids, cameras)


def fine_bin(cosine: float) -> int:
    return min(FINE - 1, max(0, int((np.float32(cosine) + np.float32(1)) * np.float32(FINE / 2))))


def slowly(people: People, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every figure of a Tally by looking at each pair."""
    num, num_ids, num_cameras = len(people.embeddings), len(people), people.num_cameras
    cosines = people.embeddings @ people.embeddings.T
    found = {name: np.zeros(FINE, np.int64) for name in ("genuine", "impostor")}
    found |= {name: np.zeros((len(weights), COARSE)) for name in ("genuine_of", "impostor_of")}
    found |= {f"{kind}_by_camera": np.zeros((num_cameras, num_cameras, COARSE), np.int64) for kind in ("genuine", "impostor")}
    best = np.full((num, num_ids), -np.inf)
    for a in range(num):
        for b in range(num):
            ids = people.identities[[a, b]]
            cameras = None if people.cameras is None else np.sort(people.cameras[[a, b]])
            kind = "genuine" if ids[0] == ids[1] else "impostor"
            if a == b or (kind == "genuine" and cameras is not None and cameras[0] == cameras[1]):
                continue
            best[a, ids[1]] = max(best[a, ids[1]], cosines[a, b])
            if a < b:
                place = fine_bin(cosines[a, b])
                found[kind][place] += 1
                product = weights[:, ids[0]] if kind == "genuine" else weights[:, ids[0]] * weights[:, ids[1]]
                found[f"{kind}_of"][:, place // WIDTH] += product
                if cameras is not None:
                    found[f"{kind}_by_camera"][cameras[0], cameras[1], place // WIDTH] += 1
    others = np.zeros((num, COARSE), np.int32)
    closest = np.zeros(COARSE, np.int64)
    wrong = np.full(num, -np.inf)
    for a in range(num):
        for identity in set(range(num_ids)) - {people.identities[a]}:
            others[a, fine_bin(best[a, identity]) // WIDTH] += 1
            wrong[a] = max(wrong[a], best[a, identity])
    for one in range(num_ids):
        for other in range(one + 1, num_ids):
            highest = best[people.identities == one, other].max()
            closest[fine_bin(highest) // WIDTH] += 1
    right = best[np.arange(num), people.identities]
    return {**found, "others": others, "closest_of_two": closest, "wrong": wrong, "right": right}


@pytest.mark.parametrize(("seed", "with_cameras", "block_bytes"), [(0, True, 2**25), (1, True, 200), (2, False, 400)])
def test_a_tally_is_what_a_look_at_every_pair_finds(monkeypatch, seed, with_cameras, block_bytes):
    monkeypatch.setattr(pairs, "BLOCK_BYTES", block_bytes)
    people = drawn(seed, with_cameras=with_cameras)
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(people))).astype(float)
    found, wanted = vars(tally(people, weights)), slowly(people, weights)
    for name, counts in wanted.items():
        np.testing.assert_allclose(found[name], counts, rtol=1e-6, err_msg=name)


def test_people_are_sorted_by_identity_with_their_own_cameras_and_unit_rows():
    rows = np.array([[0, 2], [3, 0], [0, 4]], np.float16)
    people = people_of(rows, np.array(["b", "a", "b"]), np.array(["east", "west", "west"]))
    assert people.identities.tolist() == [0, 1, 1]
    assert people.starts.tolist() == [0, 1, 3]
    assert people.cameras is not None
    assert people.cameras.tolist() == [1, 0, 1]
    assert people.embeddings.tolist() == [[1, 0], [0, 1], [0, 1]]


def test_more_cameras_than_a_table_holds_are_not_counted_by_pairs():
    people = people_of(np.eye(50), np.arange(50) // 2, np.arange(50))
    found = tally(people, np.ones((1, 25)))
    assert found.impostor_by_camera.size == 0
    assert found.genuine.sum() == 25


def test_progress_tells_of_every_pair_of_crops():
    told: list[int] = []
    people = drawn(3)
    tally(people, np.ones((1, 5)), progress=told.append)
    num = len(people.embeddings)
    assert len(told) == 5
    assert sum(told) == num * (num - 1) // 2
