"""One thread and several: calls, what they raise, death and replacement."""

import ctypes
import gc
import sys
import threading
from contextlib import suppress

import pytest

from service.worker import Crew, Worker


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


@pytest.fixture(name="crew")
def crew_fixture(monkeypatch):
    monkeypatch.setattr("service.worker.LOOK_S", 0.01)
    return Crew("core", 2)


def kill(crew):
    """Let all threads end, as if something had killed them."""
    threads = list(crew._threads)
    for _ in threads:
        crew._calls.put(None)
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_a_crew_gives_results_in_the_order_of_the_calls(crew):
    first_may = threading.Event()
    calls = [lambda: first_may.wait(10) and 1, lambda: first_may.set() or 2, lambda: 3]
    assert crew.run_all(calls) == [1, 2, 3] and crew.run_all([]) == []


def test_a_call_may_take_longer_than_one_look_at_the_threads(crew):
    release = threading.Event()
    threading.Timer(0.1, release.set).start()
    assert crew.run_all([lambda: release.wait(10) and 5]) == [5] and crew._deaths == 0


def test_calls_after_one_that_failed_are_dropped():
    crew, may, ran = Crew("core", 1), threading.Event(), []

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # the thread may have begun the second by then, and no other
        crew.run_all([fail, lambda: may.wait(10), lambda: ran.append(3)])
    may.set()
    assert crew.run_all([lambda: 4]) == [4] and ran == []


def test_threads_that_died_idle_are_replaced_before_they_are_wanted(crew, caplog):
    kill(crew)
    assert crew.run_all([lambda: 1, lambda: 2, lambda: 3]) == [1, 2, 3]
    assert [record.fields["thread"] for record in caplog.records] == ["core 1", "core 2"]
    assert {thread.name for thread in crew._threads if thread.is_alive()} == {"core 1", "core 2"}


def test_everybody_who_waits_while_a_thread_dies_is_told(crew):
    entered, release = threading.Semaphore(0), threading.Event()
    told = []

    def stand():
        entered.release()
        assert release.wait(10)

    def wait_for_one():
        try:
            crew.run_all([stand, stand])
        except RuntimeError as error:
            told.append(str(error))

    waiting = [threading.Thread(target=wait_for_one) for _ in range(2)]
    waiting[0].start()
    for _ in range(2):
        assert entered.acquire(timeout=10)
    waiting[1].start()
    dead = threading.Thread()  # never begun: as dead as one can be
    crew._threads[0] = dead
    for thread in waiting:
        thread.join(timeout=10)
        assert not thread.is_alive()
    release.set()
    assert told == 2 * ["a core thread died"] and crew._deaths == 1


def test_a_crew_that_nobody_holds_ends_its_threads_though_calls_of_it_were_dropped():
    class Caller:
        def __init__(self):
            self.crew = Crew("core", 2)

        def fail(self):
            raise ZeroDivisionError

    caller = Caller()
    threads = list(caller.crew._threads)
    with suppress(ZeroDivisionError):
        caller.crew.run_all(8 * [caller.fail])
    del caller
    gc.collect()
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()
