"""The service in a process of its own, and the distribution's Chromium to look at it with."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

START_S, LOOK_S = 60, 0.1
ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "service" / "console" / "samples"
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
RUN_AXE = """() => axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations
    .filter((one) => ['serious', 'critical'].includes(one.impact))
    .map((one) => [one.id, one.nodes.map((node) => node.html + ': ' + node.failureSummary)]))"""
MISSING = "got no Chromium, wanted one for the tests of the console: as root, apt-get install chromium"
SANDBOX = [] if os.geteuid() else ["--no-sandbox"]  # it refuses to start for root


def chromium() -> str | None:
    """The path of the distribution's Chromium; None where there is none."""
    return next(filter(None, map(shutil.which, CHROMIUMS)), None)


@contextmanager
def open_browser(path: str) -> Iterator[Browser]:
    """Start one browser, which ends with the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=SANDBOX)
        yield browser
        browser.close()


def serious_faults(page: Page) -> object:
    """What axe-core finds wrong for those who use no mouse or no eyes, as the page stands."""
    if page.evaluate("typeof axe") == "undefined":
        page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text())
    return page.evaluate(RUN_AXE)


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class Service:
    """python -m service with the bundled model, on one port however often it is started."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "service.log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("REID_")}
        places = {"REID_GALLERY": str(folder / "gallery"), "REID_SNAPSHOTS": str(folder / "snapshots")}
        self.environment = {**clean, **places, "REID_PORT": str(self.port), **settings}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service"], cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
        for _ in range(int(START_S / LOOK_S)):
            assert self.process.poll() is None, self.log.read_text()
            with suppress(httpx.TransportError):
                httpx.get(f"{self.url}/readyz", timeout=START_S).raise_for_status()
                return
            time.sleep(LOOK_S)
        raise AssertionError(self.log.read_text())

    def stop(self) -> None:
        """End it, and wait for its end."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)
            self.process = None
