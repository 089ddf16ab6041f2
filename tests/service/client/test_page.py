"""A search in words, as a table, and as a page that nothing can break out of."""

from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from service.client import Match, SearchAnswer, Searched, TookMs
from service.client.page import page
from service.client.tables import in_words, table

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
EVIL = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'&{title}"


def match(rank, pid, cosine, **changes):
    return replace(Match(rank, pid, cosine, None, rank, None, None, 1), **changes)


def answer(*matches, decision="match", threshold=0.5):
    return SearchAnswer("m" * 64, decision, threshold, matches, Searched(9, 3), TookMs(1.0, 2.0, None), ())


class Tags(HTMLParser):
    """Notes every tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.seen = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (answer(match(1, "anna", 0.9)), "match: anna is first with cosine 0.900, the threshold is 0.500"),
        (answer(match(1, "anna", 0.4), decision="unknown"), "unknown: anna is first with cosine 0.400, the threshold is 0.500"),
        (answer(match(1, "anna", 0.9), decision="ambiguous"), "0.500, and another identity is too close to tell them apart"),
        (answer(decision="unknown"), "unknown: no entry was searched"),
        (answer(match(1, "anna", 0.9), decision="unknown", threshold=None), "the model has no threshold, give one"),
    ],
)
def test_a_decision_is_put_into_words(given, words):
    assert words in in_words(given)


def test_a_re_ranked_table_has_the_distance():
    rows = table([match(1, "anna", 0.9, rerank_distance=0.25, captured_at=NOON), match(2, "bert", 0.95)]).splitlines()
    assert rows[0].split()[3] == "distance" and rows[1].split()[3] == "0.250" and rows[2].split()[3] == "-"
    assert NOON.isoformat() in rows[1]


def test_no_text_becomes_markup():
    given = answer(match(1, EVIL, 0.9, camid=EVIL, captured_at=NOON), decision=EVIL)
    drawn = page(given, query=[b"\xff\xd8\xff", EVIL.encode()], crops={1: b"\x89PNG"}, truth=EVIL, title=EVIL)
    tags = Tags(drawn).seen
    assert "script" not in {tag for tag, _ in tags}
    assert all(attributes["src"].startswith("data:image/") for tag, attributes in tags if tag == "img")
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert len([tag for tag, _ in tags if tag == "img"]) == 2 and "not a picture" in drawn
    assert drawn.count("{title}") == drawn.count("&#x27;&amp;{title}")


def test_the_page_asks_for_nothing_from_elsewhere():
    tags = Tags(page(answer(match(1, "anna", 0.9)), query=[], crops={}, truth=None)).seen
    policies = [attributes["content"] for tag, attributes in tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert {tag for tag, attributes in tags if "href" in attributes or "src" in attributes} == set()


def test_frames_say_who_is_right_where_the_truth_is_known():
    given = answer(match(1, "anna", 0.9), match(2, "bert", 0.8, rerank_distance=0.25))
    drawn = page(given, query=[], crops={}, truth="bert")
    assert [attributes["class"] for tag, attributes in Tags(drawn).seen if tag == "li"] == ["wrong", "right"]
    drawn = page(given, query=[], crops={}, truth=None)
    assert {attributes["class"] for tag, attributes in Tags(drawn).seen if tag == "li"} == {""}
    assert "distance 0.250" in drawn


def test_bars_show_cosines_beside_the_threshold():
    drawn = page(answer(match(1, "anna", 0.9), match(2, "bert", -0.1)), query=[], crops={}, truth=None)
    assert "width:90.0%" in drawn and "width:0.0%" in drawn and drawn.count("left:50.0%") == 2
    assert "left:" not in page(answer(match(1, "anna", 0.9), threshold=None), query=[], crops={}, truth=None).split("</style>")[1]
