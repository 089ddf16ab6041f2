"""Fixtures of the console's tests: one browser for all of them, a running service, and a page that is watched."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console.browsing import MISSING, SAMPLES, Service, chromium, open_browser

TIMEOUT_MS = 30_000
KEY, READER = "a-key-for-this-test", "another-that-may-only-read"
HAVE_KEY = f"sessionStorage.setItem('reid-api-key', '{KEY}')"


@pytest.fixture(name="path", scope="session")
def path_fixture() -> str:
    path = chromium()
    if path is None:
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)(MISSING)
    return path


@pytest.fixture(name="browser", scope="module")
def browser_fixture(path: str) -> Iterator[Browser]:
    """One browser a file: while it is open an event loop runs in this thread, which other files' tests want for themselves."""
    expect.set_options(timeout=TIMEOUT_MS)
    with open_browser(path) as browser:
        yield browser


@pytest.fixture(name="service")
def service_fixture(path: str, tmp_path: Path) -> Iterator[Service]:
    """A service of the test's own, with nobody enrolled."""
    service = Service(tmp_path)
    service.start()
    yield service
    service.stop()


@pytest.fixture(name="keyed", scope="session")
def keyed_fixture(path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service that wants a key, with two people, for every test that asks nothing of what else is enrolled."""
    service = Service(tmp_path_factory.mktemp("keyed"), REID_API_KEYS=KEY, REID_READ_ONLY_KEYS=READER)
    service.start()
    for pid, number in (("Fay", 6), ("Gus", 12)):
        for camera in ("entrance", "hall"):
            crop = (SAMPLES / f"person-{number:02d}-{camera}.jpg").read_bytes()
            labels = {"pid": pid, "camid": camera, "captured_at": "2026-01-05T08:00:00Z"}
            headers = {"Authorization": f"Bearer {KEY}"}
            httpx.post(
                f"{service.url}/gallery", files={"crops": crop}, data=labels, headers=headers, timeout=60
            ).raise_for_status()
    yield service
    service.stop()


@pytest.fixture(name="open_page")
def open_page_fixture(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages in tabs of their own; afterwards none may have stumbled over its script or its own policy."""
    troubles: list[str] = []
    contexts = []

    def open_page(url: str, *, has_key: bool = False, **options: object) -> Page:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        if has_key:
            page.add_init_script(HAVE_KEY)
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
    for pid, number in (("Fay", 6), ("Gus", 12)):
        folder = tmp_path / "people" / pid
        folder.mkdir(parents=True)
        for camera in ("entrance", "hall"):
            (folder / f"{camera}.jpg").write_bytes((SAMPLES / f"person-{number:02d}-{camera}.jpg").read_bytes())
    (tmp_path / "people" / "Fay" / "notes.txt").write_text("no picture")
    (tmp_path / "people" / "Gus" / "broken.jpg").write_bytes(b"no picture either")
    return tmp_path / "people"
