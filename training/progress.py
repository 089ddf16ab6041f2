"""The progress bar of everything that takes over two seconds."""

import sys
from typing import Any

from tqdm import tqdm

from training import distributed

LINE_INTERVAL_S = 30  # between lines where stderr is no terminal


def progress(total: int, *, name: str, unit: str, initial: int = 0) -> Any:
    """Returns a tqdm bar that shows itself after two seconds; where nobody watches it prints a line now and then.

    Of several processes only the first shows one.
    """
    interval = 0.1 if sys.stderr.isatty() else LINE_INTERVAL_S
    is_hidden = distributed.rank() > 0
    return tqdm(total=total, desc=name, unit=unit, delay=2, mininterval=interval, initial=initial, disable=is_hidden)
