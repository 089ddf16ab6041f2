"""A typed client of the service, sync and async, and `python -m service.client` for the shell.

    from service.client import Client

    with Client("http://127.0.0.1:8000") as reid:
        reid.enroll(["alice1.jpg", "alice2.jpg"], pid="alice", camid="entrance")
        answer = reid.search("who.jpg", k=5)
        print(answer.decision, answer.matches)

It loads httpx, numpy and orjson; Pillow only where pictures or arrays are sent; nothing else of the service.
"""

from service.client.aio import AsyncClient
from service.client.answers import (
    EmbedAnswer,
    EnrollAnswer,
    Enrolled,
    Entry,
    Identity,
    ItemError,
    Match,
    Model,
    Receipt,
    Renamed,
    SearchAnswer,
    Searched,
    Stats,
    TookMs,
)
from service.client.blocking import Client
from service.client.errors import (
    AllFailed,
    Conflict,
    NotFound,
    Overloaded,
    ReidError,
    Rejected,
    TimedOut,
    TooLarge,
    Unauthorised,
    Unreachable,
)

__all__ = [
    "AllFailed",
    "AsyncClient",
    "Client",
    "Conflict",
    "EmbedAnswer",
    "EnrollAnswer",
    "Enrolled",
    "Entry",
    "Identity",
    "ItemError",
    "Match",
    "Model",
    "NotFound",
    "Overloaded",
    "Receipt",
    "Rejected",
    "ReidError",
    "Renamed",
    "SearchAnswer",
    "Searched",
    "Stats",
    "TimedOut",
    "TooLarge",
    "TookMs",
    "Unauthorised",
    "Unreachable",
]
