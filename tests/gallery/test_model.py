"""Random operations on a gallery beside a dict that should hold the same."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gallery.entry import Filter, NewEntry
from gallery.errors import EntryNotFound, IdentityExists, IdentityNotFound, InvalidRequest
from gallery.local import LocalGallery

DIM = 4
PIDS = st.sampled_from(["ann", "bob", "é", "a\0b", "x" * 128]) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3
)
CAMIDS = st.none() | st.sampled_from(["north", "south"])
HASHES = st.none() | st.integers(0, 3).map(lambda number: f"{number:064x}")


@st.composite
def new_entries(draw):
    seed = draw(st.integers(0, 2**32 - 1))
    row = np.random.default_rng(seed).normal(size=DIM)
    return NewEntry(
        draw(PIDS),
        (row / np.linalg.norm(row)).astype(np.float32),
        "model-1",
        camid=draw(CAMIDS),
        content_hash=draw(HASHES),
        crop_jpeg=draw(st.none() | st.binary(max_size=20)),
    )


def halved(embedding):
    """The embedding as the store keeps it, float32 again."""
    return embedding.astype(np.float16).astype(np.float32)


class GalleryBesideDict(RuleBasedStateMachine):
    @initialize()
    def open(self):
        self.folder = tempfile.TemporaryDirectory()
        self.gallery = LocalGallery.open(Path(self.folder.name), space_id="space-1", dim=DIM)
        self.entries = {}
        self.last_id = 0

    @rule(batch=st.lists(new_entries(), max_size=6))
    def enroll(self, batch):
        results = self.gallery.enroll(batch, space_id="space-1")
        assert len(results) == len(batch)
        for new, result in zip(batch, results, strict=True):
            standing = [
                entry_id
                for entry_id, entry in self.entries.items()
                if new.content_hash is not None and (entry.pid, entry.content_hash) == (new.pid, new.content_hash)
            ]
            if standing:
                assert (result.entry_id, result.duplicate) == (standing[0], True)
            else:
                self.last_id += 1
                assert (result.entry_id, result.duplicate) == (self.last_id, False)
                self.entries[self.last_id] = new

    @precondition(lambda self: self.entries)
    @rule(choice=st.randoms(use_true_random=False))
    def delete_entry(self, choice):
        entry_id = choice.choice(sorted(self.entries))
        self.gallery.delete_entry(entry_id)
        del self.entries[entry_id]
        with pytest.raises(EntryNotFound):
            self.gallery.delete_entry(entry_id)

    @rule(pid=PIDS)
    def delete_identity(self, pid):
        gone = [entry_id for entry_id, entry in self.entries.items() if entry.pid == pid]
        if not gone:
            with pytest.raises(IdentityNotFound):
                self.gallery.delete_identity(pid)
            return
        receipt = self.gallery.delete_identity(pid)
        crops = sum(self.entries[entry_id].crop_jpeg is not None for entry_id in gone)
        assert (receipt.entries, receipt.vectors, receipt.crops) == (len(gone), len(gone), crops)
        for entry_id in gone:
            del self.entries[entry_id]

    @rule(pid=PIDS, new_pid=PIDS, merge=st.booleans())
    def rename(self, pid, new_pid, merge):
        by_pid = {name: {i: e for i, e in self.entries.items() if e.pid == name} for name in (pid, new_pid)}
        refusal = (
            (pid == new_pid and InvalidRequest)
            or (not by_pid[pid] and IdentityNotFound)
            or (by_pid[new_pid] and not merge and IdentityExists)
        )
        if refusal:
            with pytest.raises(refusal):
                self.gallery.rename(pid, new_pid, merge=merge)
            return
        hashes = {entry.content_hash for entry in by_pid[new_pid].values()} - {None}
        dropped = [i for i, entry in by_pid[pid].items() if entry.content_hash in hashes]
        renamed = self.gallery.rename(pid, new_pid, merge=merge)
        assert (renamed.moved, renamed.dropped) == (len(by_pid[pid]) - len(dropped), len(dropped))
        self.entries |= {i: replace(entry, pid=new_pid) for i, entry in by_pid[pid].items()}
        for entry_id in dropped:
            del self.entries[entry_id]

    @rule()
    def reopen(self):
        self.gallery.close()
        self.gallery = LocalGallery.reopen(Path(self.folder.name))

    @rule(new=new_entries(), k=st.integers(1, 4), exclude=st.booleans())
    def search(self, new, k, exclude):
        where = Filter(exclude_camids=frozenset({"north"}) if exclude else frozenset())
        admitted = {i: e for i, e in self.entries.items() if not (exclude and e.camid == "north")}
        result = self.gallery.search(new.embedding, k=k, where=where)
        best = {}
        for entry in admitted.values():
            cosine = float(halved(entry.embedding) @ new.embedding)
            best[entry.pid] = max(cosine, best.get(entry.pid, -2))
        expected = sorted(best.values(), reverse=True)[:k]
        assert [match.cosine for match in result.matches] == pytest.approx(expected, abs=1e-6)
        assert (result.entries, result.identities) == (len(admitted), len(best))

    @invariant()
    def both_hold_the_same(self):
        listed = self.gallery.entries(limit=1000).items
        assert [entry.entry_id for entry in listed] == sorted(self.entries, reverse=True)
        for entry in listed:
            new = self.entries[entry.entry_id]
            assert (entry.pid, entry.camid, entry.has_crop) == (new.pid, new.camid, new.crop_jpeg is not None)
            assert self.gallery.crop(entry.entry_id) == new.crop_jpeg
            assert self.gallery.embedding(entry.entry_id).tobytes() == halved(new.embedding).tobytes()
        pids = sorted({entry.pid for entry in self.entries.values()})
        assert [identity.pid for identity in self.gallery.identities(limit=1000).items] == pids

    def teardown(self):
        if hasattr(self, "gallery"):
            assert self.gallery.faults() == []
            self.gallery.close()
            self.folder.cleanup()


TestGalleryBesideDict = GalleryBesideDict.TestCase
TestGalleryBesideDict.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
