"""The machine's cores: what they can multiply, and how the process takes them: in long turns, and giving way to others."""

import os
import sys
from contextlib import suppress
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
VNNI = frozenset({"avx512_vnni", "avx_vnni"})  # Linux's names of x86's exact sums of int8 products
AMX = frozenset({"amx_int8"})


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


def has_vnni(cpuinfo: Path = CPUINFO) -> bool:
    """Tell whether the processor is known to sum int8 products exactly; where nothing is known, that it does not."""
    return every_core_has(VNNI, cpuinfo)


def has_amx(cpuinfo: Path = CPUINFO) -> bool:
    """Tell whether the processor is known to have a matrix unit for int8."""
    return every_core_has(AMX, cpuinfo)


def every_core_has(wanted: frozenset[str], cpuinfo: Path) -> bool:
    """Tell whether each core lists one of the flags."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return False
    found = [set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")]
    return bool(found) and all(flags & wanted for flags in found)
