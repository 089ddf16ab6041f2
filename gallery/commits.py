"""Group commit: calls that come while others are being committed share the next transaction and its one fsync."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

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
        """The call's answer once it is committed; raises the call's own error, or its group's."""
        mine: _Pending[Call, Answer] = _Pending(call)
        with self._lock:
            self._waiting.append(mine)
            follows, self._is_led = self._is_led, True
        if follows:
            self._wait(mine)
        if mine.outcome is None:
            self._lead(mine)
        if isinstance(mine.outcome, BaseException):
            raise mine.outcome
        return cast(Answer, mine.outcome)

    def _wait(self, mine: _Pending[Call, Answer]) -> None:
        """Waits for the outcome, or to lead; an interrupted call is taken back, unless it is being committed."""
        try:
            mine.woken.acquire()
        except BaseException:
            with self._lock:
                was_first = self._waiting[:1] == [mine]
                if mine in self._waiting:
                    self._waiting.remove(mine)
                is_leaderless = was_first and mine.leads
            if is_leaderless:
                self._hand_over()
            raise

    def _lead(self, mine: _Pending[Call, Answer]) -> None:
        with self._lock:
            group, self._waiting = self._waiting, []
        outcomes: Sequence[Answer | BaseException] = []
        try:
            outcomes = self._commit([one.call for one in group])
        except BaseException as error:  # even an interrupt: nobody may be left waiting
            outcomes = [error] * len(group)
        for one, outcome in zip(group, outcomes, strict=True):
            one.outcome = outcome
        self._hand_over()  # first, so that the next group is under way while this one's threads wake up
        for one in group:
            if one is not mine:
                one.woken.release()

    def _hand_over(self) -> None:
        """Lets whoever has waited longest lead."""
        with self._lock:
            self._is_led = bool(self._waiting)
            if self._is_led:
                self._waiting[0].leads = True
                self._waiting[0].woken.release()


class _Pending(Generic[Call, Answer]):
    """A call that waits, and its outcome, None until there is one."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.outcome: Answer | BaseException | None = None
        self.leads = False
        self.woken = threading.Lock()
        self.woken.acquire()
