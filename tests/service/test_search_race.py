"""What an enrolment between the two searches of one request does to the decision: nothing worse than its absence."""

from types import SimpleNamespace

import numpy as np

from gallery.entry import Match, SearchResult
from service.routes.search import search_and_compare
from service.search_query import SearchQuery


def test_somebody_enrolled_between_the_two_searches_of_an_empty_gallery_is_no_error():
    match = Match(entry_id=1, pid="ann", camid=None, captured_at=None, cosine=0.9, rerank_distance=None, entries=1)
    answers = iter([SearchResult((), 0, 0), SearchResult((match,), 1, 1)])
    parts = SimpleNamespace(gallery=SimpleNamespace(search=lambda *args, **kwargs: next(answers)))
    query = SearchQuery.model_construct(group_by="entry")
    result, best = search_and_compare(parts, np.ones(4, np.float32) / 2, query, None, frozenset())
    assert (result.matches, best) == ((), (match,))
