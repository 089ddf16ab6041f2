"""Fixtures of the console's tests: one browser for all of them, a running service, and a page that is watched."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

from playwright.sync_api import Browser, Page, expect

from tests.console.browsing import Service, chromium, open_browser

TIMEOUT_MS = 30_000


@pytest.fixture(name="browser", scope="session")
def browser_fixture() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        pytest.skip("no Chromium found: apt-get install chromium")
    expect.set_options(timeout=TIMEOUT_MS)
    with open_browser(path) as browser:
        yield browser


@pytest.fixture(name="service", scope="module")
def service_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for a file's tests: its gallery keeps what they enroll."""
    service = Service(tmp_path_factory.mktemp("service"))
    service.start()
    yield service
    service.stop()


@pytest.fixture(name="open_page")
def open_page_fixture(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages in tabs of their own; afterwards none may have stumbled over its script or its own policy."""
    troubles: list[str] = []
    contexts = []

    def open_page(url: str, **options: object) -> Page:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("console", lambda line: "Content Security" in line.text and troubles.append(line.text))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture(name="people")
def people_fixture(tmp_path: Path) -> Path:
    """A folder for each of two drawn people, as somebody would enroll it, with a file that is no picture among them."""
    samples = Path(__file__).parents[2] / "service" / "console" / "samples"
    for pid, number in (("Fay", 6), ("Gus", 12)):
        folder = tmp_path / "people" / pid
        folder.mkdir(parents=True)
        for camera in ("entrance", "hall"):
            (folder / f"{camera}.jpg").write_bytes((samples / f"person-{number:02d}-{camera}.jpg").read_bytes())
    (tmp_path / "people" / "Fay" / "notes.txt").write_text("no picture")
    (tmp_path / "people" / "Gus" / "broken.jpg").write_bytes(b"no picture either")
    return tmp_path / "people"
