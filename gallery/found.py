"""What a search found, copied out of memory: matches are made of it for the few that are shown."""

from __future__ import annotations

from dataclasses import dataclass

from gallery.columns import NO_TIME
from gallery.entry import Match
from gallery.times import from_microseconds


@dataclass(frozen=True)
class Found:
    """M entries or identities in order, column by column, and how many the filter admitted to the search."""

    entry_ids: list[int]
    pids: list[str]
    camids: list[str | None]
    captured_us: list[int]  # NO_TIME where unknown
    cosines: list[float]
    counts: list[int]  # entries of each that were admitted
    entries: int
    identities: int

    def __len__(self) -> int:
        return len(self.entry_ids)

    def match(self, place: int, *, rerank_distance: float | None = None) -> Match:
        """The match at that place."""
        captured_us = self.captured_us[place]
        return Match(
            entry_id=self.entry_ids[place],
            pid=self.pids[place],
            camid=self.camids[place],
            captured_at=None if captured_us == NO_TIME else from_microseconds(captured_us),
            cosine=min(1.0, max(-1.0, self.cosines[place])),  # lengths are 1 only to a tolerance
            rerank_distance=rerank_distance,
            entries=self.counts[place],
        )
