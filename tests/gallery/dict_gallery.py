"""A gallery as a dict of entries, slow and obvious, to hold beside a real one."""

from collections import defaultdict
from dataclasses import replace

import numpy as np

from gallery.errors import DuplicateKey, IdentityExists, IdentityNotFound, InvalidRequest


def halved(embedding):
    """The embedding as the store keeps it, float32 again."""
    return embedding.astype(np.float16).astype(np.float32)


def is_admitted(entry_id, entry, where):
    """Whether the filter admits the entry."""
    in_time = where.since is None and where.until is None
    if not in_time and entry.captured_at is not None:
        in_time = (where.since is None or where.since <= entry.captured_at) and (
            where.until is None or entry.captured_at < where.until
        )
    return (
        in_time
        and (not where.pids or entry.pid in where.pids)
        and (not where.camids or entry.camid in where.camids)
        and entry.camid not in where.exclude_camids
        and entry_id not in where.exclude_entry_ids
        and all(_bears(entry.attributes, name, value) for name, value in where.attributes.items())
    )


def _bears(attributes, name, value):
    held = attributes.get(name)
    return held == value and isinstance(held, bool) == isinstance(value, bool)


class DictGallery:
    """entry_id -> NewEntry; every method answers as LocalGallery's should, or raises what that raises."""

    def __init__(self, enrolled_at):
        self.entries = {}
        self.last_id = 0
        self.enrolled_at = enrolled_at

    def enroll(self, batch):
        """[(entry_id, duplicate)]; raises DuplicateKey and changes nothing."""
        entries, last_id, made = dict(self.entries), self.last_id, []
        for entry_id, new in enumerate(batch, start=last_id + 1):  # a repetition leaves its id out
            standing = _standing(entries, new)
            if standing is None:
                last_id = entry_id
                entries[entry_id] = new
            made.append((entry_id if standing is None else standing, standing is not None))
        self.entries, self.last_id = entries, last_id
        return made

    def ids_of(self, pid):
        return [entry_id for entry_id, entry in self.entries.items() if entry.pid == pid]

    def remove(self, entry_ids):
        """Takes the entries out; returns how many identities lost their last one, and how many crops went."""
        gone = [self.entries.pop(entry_id) for entry_id in entry_ids]
        lost = {entry.pid for entry in gone} - {entry.pid for entry in self.entries.values()}
        return len(lost), sum(entry.crop_jpeg is not None for entry in gone)

    def rename(self, pid, new_pid, merge):
        """How many moved and how many were dropped; raises what a renaming may raise."""
        moved, there = self.ids_of(pid), self.ids_of(new_pid)
        if pid == new_pid:
            raise InvalidRequest
        if not moved:
            raise IdentityNotFound
        if there and not merge:
            raise IdentityExists
        hashes = {self.entries[entry_id].content_hash for entry_id in there} - {None}
        dropped = [entry_id for entry_id in moved if self.entries[entry_id].content_hash in hashes]
        self.remove(dropped)
        for entry_id in set(moved) - set(dropped):
            self.entries[entry_id] = replace(self.entries[entry_id], pid=new_pid)
        return len(moved) - len(dropped), len(dropped)

    def older_than(self, before):
        return [entry_id for entry_id, entry in self.entries.items() if (entry.captured_at or self.enrolled_at) < before]

    def search(self, query, where, group_by, pool, best_of):
        """{entry_id or pid: (cosine, entries)} of all that the filter admits."""
        cosines = defaultdict(list)
        for entry_id, entry in self.entries.items():
            if is_admitted(entry_id, entry, where):
                name = entry_id if group_by == "entry" else entry.pid
                cosines[name].append(float(halved(entry.embedding).astype(float) @ query.astype(float)))
        counted = {"max": 1, "mean": None, "best": best_of}[pool]
        return {name: (min(1.0, np.mean(sorted(given)[::-1][:counted])), len(given)) for name, given in cosines.items()}


def _standing(entries, new):
    """The id of the entry that a new one repeats; raises DuplicateKey."""
    for entry_id, entry in entries.items():
        if new.client_key is not None and entry.client_key == new.client_key:
            is_same_crop = new.content_hash is not None and new.content_hash == entry.content_hash
            is_same = is_same_crop or np.array_equal(halved(new.embedding), halved(entry.embedding))
            if entry.pid == new.pid and is_same:
                return entry_id
            raise DuplicateKey
    for entry_id, entry in entries.items():
        if new.content_hash is not None and (entry.pid, entry.content_hash) == (new.pid, new.content_hash):
            return entry_id
    return None
