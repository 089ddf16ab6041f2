"""Whose turn it is in memory: many readers at once, or one writer alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A readers-writer lock: a writer that waits goes before readers that come after it.

    Not re-entrant: a thread that takes a turn within its own turn may wait for itself.
    """

    def __init__(self) -> None:
        self._one_writer = threading.Lock()
        self._changed = threading.Condition()
        self._num_readers = 0
        self._is_wanted = False  # a writer is at work, or waits for the readers to leave

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A turn beside other readers."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_wanted)
            self._num_readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_readers -= 1
                if self._num_readers == 0:
                    self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A turn alone."""
        with self._one_writer:
            try:
                with self._changed:
                    self._is_wanted = True
                    self._changed.wait_for(lambda: self._num_readers == 0)
                yield
            finally:
                with self._changed:
                    self._is_wanted = False
                    self._changed.notify_all()
