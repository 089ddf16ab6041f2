"""Readers go together, a writer goes alone; no wait here is longer than the test's own patience."""

import threading

from gallery.turns import Turns

PATIENCE_S = 10.0


def in_thread(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def joined(*threads):
    for thread in threads:
        thread.join(PATIENCE_S)
    return not any(thread.is_alive() for thread in threads)


def test_readers_go_together():
    turns, together = Turns(), threading.Barrier(4)

    def read():
        with turns.reading():
            together.wait(PATIENCE_S)

    assert joined(*[in_thread(read) for _ in range(4)])
    assert not together.broken


def test_writer_waits_for_readers_and_goes_before_those_that_come_later():
    turns, order, is_wanted = Turns(), [], threading.Event()

    def write():
        is_wanted.set()
        with turns.writing():
            order.append("writer")

    def read():
        with turns.reading():
            order.append("reader")

    with turns.reading():
        writer = in_thread(write)
        assert is_wanted.wait(PATIENCE_S)
        while not turns._is_wanted:  # it is under way
            pass
        reader = in_thread(read)
        reader.join(0.05)
        assert order == []
    assert joined(writer, reader)
    assert order == ["writer", "reader"]


def test_writers_go_one_by_one():
    turns, at_work, most = Turns(), [], []

    def write():
        for _ in range(100):
            with turns.writing():
                at_work.append(1)
                most.append(len(at_work))
                at_work.pop()

    assert joined(*[in_thread(write) for _ in range(4)])
    assert most == [1] * 400


def test_turn_ends_when_its_block_raises():
    turns = Turns()
    for take in (turns.reading, turns.writing, turns.reading):
        try:
            with take():
                raise ValueError
        except ValueError:
            pass
    with turns.writing():
        pass
