"""How a command of the programme is run and ended."""

import signal

import pytest

from benchmarks.ledger import TAIL_CHARS, run_command


def test_a_command_gives_its_status_and_the_end_of_its_output(tmp_path):
    ended = run_command(["python", "-c", f"print('a' * {TAIL_CHARS}); print('last'); raise SystemExit(3)"], tmp_path / "log", 60)
    assert ended.code == 3
    assert ended.tail.endswith("aaa\nlast\n")
    assert len(ended.tail) == TAIL_CHARS


def test_the_tail_is_of_this_command_and_not_of_an_earlier_one(tmp_path):
    (tmp_path / "log").write_text("earlier\n")
    assert run_command(["python", "-c", "print('now')"], tmp_path / "log", 60).tail == "now\n"
    assert (tmp_path / "log").read_text() == "earlier\nnow\n"


def test_a_command_whose_time_is_up_is_asked_to_end(tmp_path):
    ended = run_command(["python", "-c", "import time; time.sleep(600)"], tmp_path / "log", 1, save_s=30)
    assert ended.code == -signal.SIGTERM


@pytest.fixture
def deaf():
    """SIGTERM is ignored, here and by every command begun here."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_command_that_does_not_listen_is_killed(tmp_path, deaf):
    ended = run_command(["python", "-c", "import time; time.sleep(600)"], tmp_path / "log", 0.2, save_s=0.1)
    assert ended.code == -signal.SIGKILL
