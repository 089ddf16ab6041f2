"""A search's answer in words, as an aligned table, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import orjson

from service.client.answers import Match, SearchAnswer

HEADER = ("rank", "pid", "cosine", "entry", "camid", "captured_at", "entries")


def in_words(answer: SearchAnswer) -> str:
    """Say what was decided, and from which cosines."""
    if not answer.matches:
        return "unknown: no entry was searched; enroll some, or ask with fewer filters"
    first = answer.matches[0]
    if answer.threshold is None:
        return f"{answer.decision}: {first.pid} is first with cosine {first.cosine:.3f}; the model has no threshold, give one"
    beside = f"{first.pid} is first with cosine {first.cosine:.3f}, the threshold is {answer.threshold:.3f}"
    if answer.decision == "ambiguous":
        return f"ambiguous: {beside}, and another identity is too close to tell them apart"
    return f"{answer.decision}: {beside}"


def table(matches: Sequence[Match]) -> str:
    """Align the matches in columns; the re-ranking's distance has one where there is any."""
    is_reranked = any(match.rerank_distance is not None for match in matches)
    header = (*HEADER[:3], "distance", *HEADER[3:]) if is_reranked else HEADER
    rows = [header, *(cells(match, is_reranked) for match in matches)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def cells(match: Match, is_reranked: bool) -> tuple[str, ...]:
    """Write one match."""
    distance = "-" if match.rerank_distance is None else f"{match.rerank_distance:.3f}"
    return (
        str(match.rank),
        match.pid,
        f"{match.cosine:.3f}",
        *((distance,) if is_reranked else ()),
        str(match.entry_id),
        match.camid or "-",
        match.captured_at.isoformat() if match.captured_at else "-",
        str(match.entries),
    )


def plain(answer: Any) -> dict[str, Any]:
    """Turn an answer into what JSON can say."""
    content: dict[str, Any] = orjson.loads(orjson.dumps(asdict(answer)))
    return content
