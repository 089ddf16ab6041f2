"""Group commit: calls that come while others are being committed share the next transaction and its one fsync."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

Call = TypeVar("Call")
Answer = TypeVar("Answer")


class GroupCommit(Generic[Call, Answer]):
    """Commits calls in groups, in the order they came; one of the calling threads does it for all of its group."""

    def __init__(self, commit: Callable[[list[Call]], Sequence[Answer | Exception]]) -> None:
        """Takes what commits a group: it returns the outcome of each call, or raises what all of them then raise."""
        self._commit = commit
        self._changed = threading.Condition()
        self._waiting: list[_Pending[Call, Answer]] = []
        self._is_committing = False

    def run(self, call: Call) -> Answer:
        """The call's answer once it is committed; raises the call's own error, or its group's."""
        mine: _Pending[Call, Answer] = _Pending(call)
        with self._changed:
            self._waiting.append(mine)
            self._changed.wait_for(lambda: mine.outcome is not None or not self._is_committing)
            if mine.outcome is None:  # nobody commits: this thread does it for everyone who waits
                group, self._waiting, self._is_committing = self._waiting, [], True
        if mine.outcome is None:
            self._lead(group)
        if isinstance(mine.outcome, BaseException):
            raise mine.outcome
        return cast(Answer, mine.outcome)

    def _lead(self, group: list[_Pending[Call, Answer]]) -> None:
        outcomes: Sequence[Answer | BaseException] = []
        try:
            outcomes = self._commit([one.call for one in group])
        except BaseException as error:  # even an interrupt: nobody may be left waiting
            outcomes = [error] * len(group)
        with self._changed:
            for one, outcome in zip(group, outcomes, strict=True):
                one.outcome = outcome
            self._is_committing = False
            self._changed.notify_all()


class _Pending(Generic[Call, Answer]):
    """A call that waits, and its outcome, None until there is one."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.outcome: Answer | BaseException | None = None
