"""A moment that is put off again and again comes once, and no sooner than it was last put off to."""

import gc
import weakref

from service.patience import Patience


class Loop:
    """A clock that is moved by hand, with its timers."""

    def __init__(self):
        self.now, self.timers, self.made = 0.0, [], 0

    def time(self):
        return self.now

    def call_later(self, seconds, call):
        self.made += 1
        timer = Timer(self, self.now + seconds, call)
        self.timers.append(timer)
        return timer

    def move(self, seconds):
        """Lets time go by, and rings what is due, in order."""
        until = self.now + seconds
        while due := [timer for timer in self.timers if timer.at <= until]:
            first = min(due, key=lambda timer: timer.at)
            self.timers.remove(first)
            self.now = first.at
            first.call()
        self.now = until


class Timer:
    """One of them."""

    def __init__(self, loop, at, call):
        self.loop, self.at, self.call = loop, at, call

    def cancel(self):
        self.loop.timers.remove(self)


def made():
    loop, calls = Loop(), []
    return Patience(loop, lambda: calls.append(loop.now)), loop, calls


def test_it_comes_once():
    patience, loop, calls = made()
    patience.wait(5)
    assert patience.is_waiting
    loop.move(100)
    assert calls == [5] and not patience.is_waiting


def test_it_comes_no_sooner_than_it_was_put_off_to():
    patience, loop, calls = made()
    for _ in range(1000):
        patience.wait(5)
        loop.move(0.01)
    loop.move(4.98)
    assert calls == []
    loop.move(1)
    assert len(calls) == 1 and abs(calls[0] - 14.99) < 1e-6
    assert loop.made <= 4  # not one each time


def test_it_may_be_brought_forward():
    patience, loop, calls = made()
    patience.wait(20)
    patience.wait(5)
    loop.move(100)
    assert calls == [5]


def test_it_does_not_come_while_nothing_is_waited_for():
    patience, loop, calls = made()
    patience.wait(5)
    patience.stop()
    assert not patience.is_waiting
    loop.move(100)
    assert calls == [] and loop.timers == []
    patience.wait(5)
    loop.move(6)
    assert calls == [105]


def test_it_may_be_set_anew_by_what_it_calls():
    loop, calls = Loop(), []

    def call():
        calls.append(loop.now)
        patience.wait(3)

    patience = Patience(loop, call)
    patience.wait(5)
    loop.move(9)
    assert calls == [5, 8]


def test_closed_it_calls_nobody_and_holds_nothing():
    class Owner:
        def __init__(self, loop):
            self.patience = Patience(loop, self.give_up)

        def give_up(self):
            raise AssertionError

    loop = Loop()
    owner = Owner(loop)
    owner.patience.wait(5)
    owner.patience.close()
    assert loop.timers == []
    gone = weakref.ref(owner)
    gc.disable()
    try:
        del owner
        assert gone() is None
    finally:
        gc.enable()
