"""One thread that runs one call at a time; unlike an executor's it can be seen to be dead and replaced, and holds no exit up."""

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

R = TypeVar("R")
Call = tuple[Future[R], Callable[[], R]]


class Worker(Generic[R]):
    """Runs the calls of one caller who awaits each before the next; used from one thread.

    A call that never returns keeps its thread: no thread can be ended from outside, so the process is what must be ended.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: Call[R] | None = None
        self._begin()

    def _begin(self) -> None:
        self._calls: SimpleQueue[Call[R] | None] = SimpleQueue()
        # A daemon: a process that is told to stop must not wait for a call that hangs.
        self._thread = threading.Thread(target=serve, args=(self._calls,), name=self._name, daemon=True)
        weakref.finalize(self, self._calls.put, None)  # a worker that nobody holds any more ends its thread
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread lives, at work or not."""
        return self._thread.is_alive()

    def run(self, call: Callable[[], R]) -> "Future[R]":
        """Run a call; the future is never resolved when the thread hangs, nor when it dies until it is revived."""
        self._last = Future(), call
        self._calls.put(self._last)
        return self._last[0]

    def revive(self) -> bool:
        """Replace a dead thread: a call that it had not begun is run after all, one that it died in fails.

        Returns:
            Whether it was dead.
        """
        if self.is_alive:
            return False
        self._begin()
        if self._last is not None and not self._last[0].done():
            future, call = self._last
            if future.running():
                future.set_exception(RuntimeError(f"the {self._name} thread died"))
            else:
                self._calls.put((future, call))
        return True

    def stop(self) -> None:
        """Let the thread end after the call that runs."""
        self._calls.put(None)


def serve(calls: "SimpleQueue[Call[R] | None]") -> None:
    """Run calls until there is None; whatever one raises is its caller's."""
    while (work := calls.get()) is not None:
        future, call = work
        if not future.set_running_or_notify_cancel():
            continue
        try:
            result = call()
        except Exception as error:
            future.set_exception(error)
        except BaseException as error:  # SystemExit would end the event loop that awaits it
            future.set_exception(RuntimeError(f"{type(error).__name__} in the thread"))
        else:
            future.set_result(result)
        del work, future, call  # nothing of a call is held while the next is waited for
