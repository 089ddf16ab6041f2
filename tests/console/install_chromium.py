"""Installs a Chromium for the console's tests where none is found: python -m tests.console.install_chromium

As root, where apt-get is; otherwise it says what to type. Without a browser the tests of the console are left out and say so;
with REQUIRE_BROWSER set, as in CI, that is a failure.
"""

import os
import shutil
import subprocess
import sys
from contextlib import suppress

from tests.console.browsing import MISSING, chromium

APT = ("apt-get", "-y", "-qq", "-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=120")
# Its recommendations are a desktop's: printing, portals, 200 MB that a browser without a screen never uses.
STEP_S = 600
STEPS = ((*APT, "update"), (*APT, "--no-install-recommends", "install", "chromium"))


def main() -> int:
    """Returns the exit status: 1 where a browser is wanted, and is not there afterwards."""
    if chromium() is None and os.geteuid() == 0 and shutil.which("apt-get"):
        sys.stderr.write("installing Chromium for the tests of the console: apt-get install chromium\n")
        for step in STEPS:
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            with suppress(subprocess.TimeoutExpired):  # whether it is there is looked at below
                subprocess.run(step, env=environment, stdout=subprocess.DEVNULL, timeout=STEP_S)
    if chromium() is not None:
        return 0
    sys.stderr.write(f"{MISSING}\n")
    return 1 if os.environ.get("REQUIRE_BROWSER") else 0


if __name__ == "__main__":
    sys.exit(main())
