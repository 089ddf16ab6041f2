"""A search as one HTML file: query, ranked crops, cosines beside the threshold. No script, nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from service.client.answers import Match, SearchAnswer
from service.client.tables import in_words

MAGIC = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"RIFF": "webp", b"BM": "bmp"}

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 1.5rem; }
ol, .query { display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none; }
li { width: 9.5rem; padding: .5rem; border: 3px solid #8888; border-radius: 8px; font-size: .85rem; overflow-wrap: anywhere; }
li.right { border-color: #1c7f4b; }
li.wrong { border-color: #b3261e; }
img, .none { display: block; width: 100%; height: 16rem; object-fit: contain; background: #8882; }
.query img { width: auto; max-width: 9.5rem; }
.bar { position: relative; height: .6rem; margin: .4rem 0; background: #8883; }
.bar b { position: absolute; inset: 0 auto 0 0; background: #2f6fde; }
.bar i { position: absolute; top: -.2rem; bottom: -.2rem; border-left: 2px solid currentColor; }
"""

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
<h1>{title}</h1>
<p>{words}</p>
<div class="query">{query}</div>
<ol>
{matches}
</ol>
<p>Model {model}; {entries} entries of {identities} identities searched. Bars are cosines, the line is the threshold.</p>
</html>
"""


def page(
    answer: SearchAnswer, *, query: Sequence[bytes], crops: Mapping[int, bytes], truth: str | None, title: str = "Who is this?"
) -> str:
    """Draw the answer.

    Args:
        query: the pictures that were searched with.
        crops: the stored crops by entry_id; a match without one says so.
        truth: who the query is, where that is known: frames become green and red.
    """
    return PAGE.format(
        title=escape(title),
        style=STYLE,
        words=escape(in_words(answer)),
        query="".join(picture(content, "query") for content in query),
        matches="\n".join(item(match, crops.get(match.entry_id), answer.threshold, truth) for match in answer.matches),
        model=escape(answer.model_id[:12]),
        entries=answer.searched.entries,
        identities=answer.searched.identities,
    )


def item(match: Match, crop: bytes | None, threshold: float | None, truth: str | None) -> str:
    """Draw one match."""
    verdict = "" if truth is None else "right" if match.pid == truth else "wrong"
    seen = [match.camid, match.captured_at.isoformat() if match.captured_at else None, verdict or None]
    distance = "" if match.rerank_distance is None else f", distance {match.rerank_distance:.3f}"
    return (
        f'<li class="{verdict}">{picture(crop, match.pid)}<strong>{match.rank}. {escape(match.pid)}</strong>'
        f"{bar(match.cosine, threshold)}cosine {match.cosine:.3f}{distance}<br>entry {match.entry_id}"
        f"{''.join(f'<br>{escape(text)}' for text in seen if text)}</li>"
    )


def picture(content: bytes | None, name: str) -> str:
    """Draw a picture from its bytes, or its absence."""
    if content is None:
        return '<span class="none">no crop kept</span>'
    kind = next((kind for start, kind in MAGIC.items() if content.startswith(start)), None)
    if kind is None:
        return '<span class="none">not a picture</span>'
    return f'<img alt="{escape(name)}" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'


def bar(cosine: float, threshold: float | None) -> str:
    """Draw a cosine and the threshold on a scale from 0 to 1."""
    line = "" if threshold is None else f'<i style="left:{percent(threshold)}%"></i>'
    return f'<div class="bar"><b style="width:{percent(cosine)}%"></b>{line}</div>'


def percent(cosine: float) -> str:
    """Write a place on the scale; what is below 0 stands at its beginning."""
    return f"{100 * max(0.0, cosine):.1f}"
