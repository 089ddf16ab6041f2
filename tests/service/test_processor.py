"""How the service's threads are scheduled, asked in processes of their own."""

import os
import subprocess
import sys

import pytest

from service import processor

ASK = """
import os, threading
from service.processor import compute_in_long_turns
{before}
compute_in_long_turns()
policies = [os.sched_getscheduler(0)]
thread = threading.Thread(target=lambda: policies.append(os.sched_getscheduler(0)))
thread.start()
thread.join()
print(*policies)
"""
linux = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="another system")


def policies(before=""):
    """The policies of a process and of a thread that it makes afterwards."""
    done = subprocess.run([sys.executable, "-c", ASK.format(before=before)], capture_output=True, text=True, check=True)
    return [int(policy) for policy in done.stdout.split()]


@linux
def test_the_process_and_the_threads_that_it_makes_interrupt_nobody():
    assert policies() == [os.SCHED_BATCH] * 2


@linux
def test_a_policy_that_somebody_chose_stays():
    assert policies("os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))") == [os.SCHED_IDLE] * 2


@linux
def test_where_it_is_not_permitted_nothing_changes(monkeypatch):
    def refuse(*_):
        raise PermissionError

    before = os.sched_getscheduler(0)
    monkeypatch.setattr(os, "sched_getscheduler", lambda pid: os.SCHED_OTHER)
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    processor.compute_in_long_turns()
    monkeypatch.undo()
    assert os.sched_getscheduler(0) == before


def test_on_another_system_nothing_changes(monkeypatch):
    monkeypatch.delattr(os, "sched_getscheduler", raising=False)
    processor.compute_in_long_turns()
