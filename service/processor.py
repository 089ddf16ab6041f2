"""How the process takes the machine's cores: in long turns, and giving way to others."""

import os
import sys
from contextlib import suppress


def compute_in_long_turns() -> None:
    """Let no thread of this process, nor any that these make, interrupt another at the moment it wakes (Linux: SCHED_BATCH).

    A forward pass that is stopped for every request that comes and every crop to be decoded loses its caches each time. Where
    no core is free, whoever woke begins at the kernel's next tick, 1 to 10 ms later by its build, each time that he wakes, and
    other processes are not interrupted either; where one is free, at once. No share of the processor is lost by it. A thread
    with another policy than the usual one keeps it.
    """
    if sys.platform != "linux":
        return
    for thread in map(int, os.listdir("/proc/self/task")):  # libraries made some when they were imported
        with suppress(OSError):  # it has ended, or a sandbox allows it to nobody
            if os.sched_getscheduler(thread) == os.SCHED_OTHER:
                os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
