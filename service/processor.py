"""How the process takes the machine's cores: in long turns, and giving way to others."""

import os
from contextlib import suppress


def compute_in_long_turns() -> None:
    """Let no thread of this process interrupt another at the moment it wakes (Linux: SCHED_BATCH); for threads made from now on.

    A forward pass that is stopped for every request that comes and every crop to be decoded loses its caches each time. Those
    who woke begin at the next tick, a few milliseconds later, where no core is free, and at once where one is; and no share of
    the processor is lost by it. Whoever has chosen another policy for the process keeps it.
    """
    with suppress(AttributeError, OSError):  # another system, or one that allows it to nobody
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
