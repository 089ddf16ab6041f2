"""Group commit: calls that come while others are being committed share the next transaction and its one fsync."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar, cast

from gallery.errors import StoreUnavailable

Call = TypeVar("Call")
Answer = TypeVar("Answer")


class GroupCommit(Generic[Call, Answer]):
    """Commits calls in groups, in the order they came; one of the calling threads does it for all of its group.

    A thread that waits is woken once: with its outcome, or to lead the next group.
    """

    def __init__(self, commit: Callable[[list[Call]], Sequence[Answer | Exception]]) -> None:
        """Takes what commits a group: it returns the outcome of each call, or raises what all of them then raise."""
        self._commit = commit
        self._lock = threading.Lock()
        self._waiting: list[_Pending[Call, Answer]] = []
        self._is_led = False  # a thread commits, or has been woken to

    def run(self, call: Call) -> Answer:
        """The call's answer once it is committed; raises the call's own error, or its group's.

        An interrupted call is taken back, unless its group is being committed.
        """
        mine: _Pending[Call, Answer] = _Pending(call)
        try:
            with self._lock:
                self._waiting.append(mine)
                mine.leads, self._is_led = not self._is_led, True
            if not mine.leads:
                mine.woken.acquire()
            if mine.outcome is None:
                self._lead(mine)
        finally:
            self._leave(mine)
        outcome = mine.outcome
        if isinstance(outcome, BaseException):
            try:
                raise outcome
            finally:
                del mine, outcome  # the error holds this frame, which must not hold the error, nor what was to be committed
        return cast(Answer, outcome)

    def _lead(self, mine: _Pending[Call, Answer]) -> None:
        """Gives everyone who waits an outcome."""
        try:
            with self._lock:
                mine.group, self._waiting = self._waiting, []
            outcomes = self._commit([one.call for one in mine.group])
            _settle(mine.group, outcomes)
        except BaseException as error:
            _fail(mine, error)
            del mine  # as in run(): the error holds this frame too

    def _leave(self, mine: _Pending[Call, Answer]) -> None:
        """Sees to it that nobody waits for a thread that leaves, however it came to leave."""
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
            if not mine.leads:
                return
            self._is_led = bool(self._waiting)
            if self._is_led:  # first, so that the next group is under way while this one's threads wake up
                self._waiting[0].leads = True
                self._waiting[0].woken.release()
        group, mine.group = mine.group, []  # it stands in its own, and would keep its call until the next collection
        for one in group:
            if one is not mine:
                with suppress(RuntimeError):  # it has been interrupted while it waited, and woke by itself
                    one.woken.release()


class _Pending(Generic[Call, Answer]):
    """A call that waits, and its outcome, None until there is one; the group is the one that it leads."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.outcome: Answer | BaseException | None = None
        self.leads = False
        self.group: list[_Pending[Call, Answer]] = []
        self.woken = threading.Lock()
        self.woken.acquire()


def _settle(group: list[_Pending[Call, Answer]], outcomes: Sequence[Answer | Exception]) -> None:
    for one, outcome in zip(group, outcomes, strict=True):
        one.outcome = outcome


def _fail(leader: _Pending[Call, Answer], error: BaseException) -> None:
    for one in leader.group:
        one.outcome = error if one is leader or isinstance(error, Exception) else _interrupted()


def _interrupted() -> StoreUnavailable:
    return StoreUnavailable(
        "the thread that committed this with its own was interrupted, so it may or may not be kept; look before you repeat it"
    )
