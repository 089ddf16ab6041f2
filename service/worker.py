"""Threads that run calls; unlike an executor's they can be seen to be dead and replaced, and hold no exit up."""

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Generic, TypeVar

LOOK_S = 1.0  # between two looks at threads whose results are waited for

log = logging.getLogger("service")
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


class Crew(Generic[R]):
    """Several threads that take calls in the order of their coming; called from any thread."""

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._calls: SimpleQueue[Call[R] | None] = SimpleQueue()
        self._lock = threading.Lock()  # of the next two
        self._threads = [self._begin(place) for place in range(count)]
        self._deaths = 0
        weakref.finalize(self, end, self._calls, count)

    def __len__(self) -> int:
        return len(self._threads)

    def run_all(self, calls: Sequence[Callable[[], R]]) -> list[R]:
        """Run calls and wait for their results; when one fails, those that have not begun are dropped.

        Raises:
            what the first one to fail, in their order, raised. RuntimeError: when a thread died meanwhile, maybe in one of these.
        """
        deaths = self._replace_dead()
        work: list[Call[R]] = [(Future(), call) for call in calls]
        for one in work:
            self._calls.put(one)
        try:
            return [self._result(future, deaths) for future, _ in work]
        finally:
            for future, _ in work:
                future.cancel()

    def _result(self, future: "Future[R]", deaths: int) -> R:
        while not wait({future}, timeout=LOOK_S).done:
            if self._replace_dead() != deaths:
                raise RuntimeError(f"a {self._name} thread died")
        return future.result()

    def _replace_dead(self) -> int:
        """Begin new threads for dead ones; returns how many have died so far."""
        with self._lock:
            for place, thread in enumerate(self._threads):
                if not thread.is_alive():
                    log.error("a thread died and was replaced", extra={"fields": {"thread": thread.name}})
                    self._threads[place] = self._begin(place)
                    self._deaths += 1
            return self._deaths

    def _begin(self, place: int) -> threading.Thread:
        # A daemon, as above.
        thread = threading.Thread(target=serve, args=(self._calls,), name=f"{self._name} {place + 1}", daemon=True)
        thread.start()
        return thread


def end(calls: "SimpleQueue[Call[R] | None]", count: int) -> None:
    """Let so many threads end after what waits."""
    for _ in range(count):
        calls.put(None)


def serve(calls: "SimpleQueue[Call[R] | None]") -> None:
    """Run calls until there is None; nothing of one is held while the next is waited for."""
    while (work := calls.get()) is not None:
        carry_out(*work)
        del work


def carry_out(future: "Future[R]", call: Callable[[], R]) -> None:
    """Run one call that was not cancelled; whatever it raises is its caller's."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except Exception as error:
        future.set_exception(error)
        del future  # the error holds this frame, and waits for its caller
    except BaseException as error:  # SystemExit would end the event loop that awaits it
        future.set_exception(RuntimeError(f"{type(error).__name__} in the thread"))
    else:
        future.set_result(result)
