"""The progress bar of everything that takes over two seconds."""

import sys
from typing import Any

from tqdm import tqdm

LINE_INTERVAL_S = 30  # between lines where stderr is no terminal


def progress(total: int, *, name: str, unit: str) -> Any:
    """Returns a tqdm bar that shows itself after two seconds; where nobody watches it prints a line now and then."""
    return tqdm(total=total, desc=name, unit=unit, delay=2, mininterval=0.1 if sys.stderr.isatty() else LINE_INTERVAL_S)
