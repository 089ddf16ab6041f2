"""How the service's threads are scheduled, asked in processes of their own."""

import os
import subprocess
import sys

import pytest

from service import processor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="another system")

ASK = """
import os, threading
def tell(policies):
    policies.append(os.sched_getscheduler(0))
def told(*, wait):
    policies = []
    thread = threading.Thread(target=lambda: (wait.wait(), tell(policies)))
    thread.start()
    return thread, policies
os.sched_setscheduler(0, os.{policy}, os.sched_param(0))
earlier_may = threading.Event()
earlier, of_earlier = told(wait=earlier_may)
from service.processor import compute_in_long_turns
compute_in_long_turns()
earlier_may.set()
later, of_later = told(wait=earlier_may)
earlier.join(); later.join()
print(os.sched_getscheduler(0), *of_earlier, *of_later)
"""


def policies(policy):
    """The policies of a process's own thread, one made before and one made after, the first two having begun with this one."""
    done = subprocess.run([sys.executable, "-c", ASK.format(policy=policy)], capture_output=True, text=True, check=True)
    return [int(found) for found in done.stdout.split()]


def test_no_thread_of_the_process_interrupts_anybody():
    assert policies("SCHED_OTHER") == [os.SCHED_BATCH] * 3


def test_a_policy_that_somebody_chose_stays():
    assert policies("SCHED_IDLE") == [os.SCHED_IDLE] * 3


def test_a_sandbox_that_refuses_stops_nothing(monkeypatch):
    asked = []

    def refuse(thread, *_):
        asked.append(thread)
        raise PermissionError

    monkeypatch.setattr(os, "sched_getscheduler", lambda thread: os.SCHED_OTHER)
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    processor.compute_in_long_turns()
    assert os.getpid() in asked


def test_another_system_is_left_alone(monkeypatch):
    monkeypatch.setattr(processor.sys, "platform", "darwin")
    monkeypatch.setattr(processor.os, "sched_setscheduler", lambda *_: pytest.fail("there is none"))
    processor.compute_in_long_turns()


@pytest.mark.parametrize(
    ("flags", "vnni", "amx"), [("avx2", 0, 0), ("avx512_vnni", 1, 0), ("avx_vnni amx_int8", 1, 1), (None, 0, 0)]
)
def test_what_the_cores_can_multiply_is_read(tmp_path, flags, vnni, amx):
    path = tmp_path / "cpuinfo"
    if flags is not None:
        path.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    assert (processor.has_vnni(path), processor.has_amx(path)) == (vnni, amx)
