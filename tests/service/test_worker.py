"""The one thread: calls, what they raise, death and replacement."""

import ctypes
import sys
import threading

import pytest

from service.worker import Worker


@pytest.fixture(name="worker")
def worker_fixture():
    worker = Worker("inference")
    yield worker
    worker.stop()


def end(worker):
    """Let the thread end, as if something had killed it."""
    worker.stop()
    worker._thread.join(timeout=10)


def test_a_call_gives_its_result(worker):
    assert worker.run(lambda: 3).result(timeout=10) == 3


def test_what_a_call_raises_is_its_callers_and_the_next_call_runs(worker):
    with pytest.raises(ZeroDivisionError):
        worker.run(lambda: 1 // 0).result(timeout=10)
    assert worker.run(lambda: 3).result(timeout=10) == 3


def test_a_call_that_wants_to_end_the_process_ends_nothing(worker):
    def leave():
        raise SystemExit

    with pytest.raises(RuntimeError, match="SystemExit in the thread"):
        worker.run(leave).result(timeout=10)
    assert worker.run(lambda: 3).result(timeout=10) == 3


def test_a_cancelled_call_is_not_run(worker):
    entered, release, ran = threading.Event(), threading.Event(), []
    worker.run(lambda: entered.set() or release.wait(10))
    assert entered.wait(10)
    worker.run(lambda: ran.append(1)).cancel()
    release.set()
    assert worker.run(lambda: 3).result(timeout=10) == 3 and ran == []


def test_a_living_thread_is_not_replaced(worker):
    assert worker.is_alive and not worker.revive()


def test_a_call_that_a_dead_thread_had_not_begun_is_run_by_the_next_one(worker):
    end(worker)
    assert not worker.is_alive
    future = worker.run(lambda: 3)
    assert worker.revive() and worker.is_alive
    assert future.result(timeout=10) == 3


@pytest.mark.skipif(sys.gettrace() is not None, reason="a thread that is killed while it is traced for coverage hangs")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # that the thread dies is the point
def test_a_call_that_was_taken_by_a_thread_killed_before_it_began_is_run_after_all(worker):
    killed = ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker._thread.ident), ctypes.py_object(SystemExit))
    assert killed == 1
    future = worker.run(lambda: 3)  # wakes the thread, which then dies
    worker._thread.join(timeout=10)
    assert not worker.is_alive and not future.done()
    assert worker.revive()
    assert future.result(timeout=10) == 3


def test_a_call_that_a_thread_died_in_fails(worker):
    end(worker)
    future = worker.run(lambda: 3)
    assert future.set_running_or_notify_cancel()
    assert worker.revive()
    with pytest.raises(RuntimeError, match="the inference thread died"):
        future.result(timeout=10)


def test_a_thread_that_died_idle_is_replaced_and_works(worker):
    worker.run(lambda: 1).result(timeout=10)
    end(worker)
    assert worker.revive()
    assert worker.run(lambda: 2).result(timeout=10) == 2


def test_a_worker_that_nobody_holds_ends_its_thread():
    worker = Worker("forgotten")
    thread = worker._thread
    assert worker.run(lambda: 3).result(timeout=10) == 3
    del worker
    thread.join(timeout=10)
    assert not thread.is_alive()
