from io import StringIO

import pytest

from gallery.progress import ProgressLine


class Terminal(StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    """A clock that stands where `now` says."""

    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

    return Clock()


def test_a_line_is_shown_after_two_seconds_and_then_now_and_then(clock):
    stream = Terminal()
    line = ProgressLine("verify", stream, clock)
    for clock.now in (101.0, 102.0, 102.1, 102.3):
        line(int(1000 * clock.now), 200_000)
    assert stream.getvalue() == "\rverify: 102,000 of 200,000 (51 %)\x1b[K\rverify: 102,300 of 200,000 (51 %)\x1b[K"


def test_a_line_that_was_shown_is_taken_away(clock):
    stream = Terminal()
    line = ProgressLine("verify", stream, clock)
    line.close()
    assert stream.getvalue() == ""
    clock.now += 3
    line(0, 0)
    line.close()
    assert stream.getvalue() == "\rverify: 0 of 0 (100 %)\x1b[K\r\x1b[K"


def test_nothing_is_shown_where_there_is_no_terminal(clock):
    stream = StringIO()
    line = ProgressLine("verify", stream, clock)
    clock.now += 3
    line(1, 2)
    assert stream.getvalue() == ""
