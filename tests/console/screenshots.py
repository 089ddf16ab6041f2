"""Drives the console and keeps what it looks like, with drawn people alone: python -m tests.console.screenshots [FOLDER]"""

import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from playwright.sync_api import Page

from tests.console.browsing import MISSING, ROOT, SAMPLES, Service, chromium, open_browser
from training.synthetic import draw_camera, draw_crop, draw_person

FOLDER = ROOT / "docs" / "screenshots"
SIZES = {"desktop": {"width": 1200, "height": 820}, "phone": {"width": 390, "height": 800}}
THEMES = ("light", "dark")
ALL_CROPS = """() => [...document.querySelectorAll('.crop')].every((crop) => {
    const { top, bottom, height } = crop.getBoundingClientRect();
    if (height === 0 || top > innerHeight || bottom < 0) return true;
    return crop.classList.contains('lost') || crop.querySelector('img')?.complete;
})"""
PEOPLE, CAMERAS = 40, ("entrance", "hall")
COLOURS = 128  # enough for drawings, and a third of the bytes


def main(folder: Path) -> None:
    """Writes <page>-<size>-<theme>.png for every page, at both sizes, in both themes."""
    path = chromium()
    if path is None:
        raise SystemExit(MISSING)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, open_browser(path) as browser:
        service = Service(Path(place))
        service.start()
        for size, viewport in SIZES.items():
            for theme in THEMES:
                erase_all(service.url)
                context = browser.new_context(viewport=viewport, color_scheme=theme, locale="en-GB", timezone_id="UTC")
                page = context.new_page()
                page.goto(service.url)
                for name in tour(page):
                    keep(page, folder / f"{name}-{size}-{theme}.png")
                context.close()
        service.stop()


def erase_all(url: str) -> None:
    """Empties the gallery, for the next one who comes new."""
    for identity in httpx.get(f"{url}/gallery/identities").json()["identities"]:
        httpx.delete(f"{url}/gallery/identities/{identity['pid']}", timeout=60).raise_for_status()


def keep(page: Page, path: Path) -> None:
    """Takes the picture once every crop in view has come."""
    page.wait_for_function(ALL_CROPS)
    page.mouse.move(0, 0)
    taken = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    taken.quantize(COLOURS, kmeans=2).save(path, optimize=True)  # without k-means a chart's only green is lost


def draw(person: int, camera: int, crop: int = 0) -> bytes:
    """Draws one JPEG of a person, always the same for the same numbers."""
    buffer = io.BytesIO()
    seen = draw_camera(np.random.default_rng((1, camera)))
    draw_crop(draw_person(np.random.default_rng((0, person))), seen, np.random.default_rng((2, person, camera, crop))).save(
        buffer, "JPEG"
    )
    return buffer.getvalue()


def enroll_drawn(url: str) -> None:
    """Enrolls people whom two cameras saw, as many as a calibration wants and more."""
    for person in range(PEOPLE):
        files = [("crops", draw(person, camera)) for camera in range(len(CAMERAS))]
        labels = {"pid": f"drawn {person:02d}", "camid": list(CAMERAS)}
        httpx.post(f"{url}gallery", files=files, data=labels, timeout=60).raise_for_status()


def tour(page: Page) -> Iterator[str]:
    """Goes a newcomer's way, and stops where something is to be seen."""
    start = page.get_by_role("button", name="Enroll five drawn people")
    start.wait_for()
    yield "empty"
    start.click()
    page.get_by_role("button", name="Search with sample 1").click()
    page.locator(".match-card").first.wait_for()
    yield "search"
    enroll_drawn(page.url.split("#")[0])
    page.locator("#rerank").check()
    page.locator(".orders").wait_for()
    page.locator("#verdict").evaluate("(verdict) => verdict.scrollIntoView()")
    yield "orders"
    page.locator('nav a[href="#enroll"]').click()
    crops = [{"name": f"hal-{n}.jpg", "mimeType": "image/jpeg", "buffer": draw(PEOPLE, n % 2, n)} for n in range(5)]
    page.set_input_files("#files", [*crops, {"name": "scan.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"}])
    page.locator("#pid").fill("Hal")
    page.locator("#camid").fill("lobby")
    page.locator("#send").click()
    page.locator("#retry").wait_for()
    yield "enroll"
    page.locator('nav a[href="#gallery"]').click()
    page.locator(".tile").first.wait_for()
    yield "gallery"
    page.locator(".tile .pid").first.click()
    page.get_by_role("dialog").wait_for()
    yield "identity"
    page.keyboard.press("Escape")
    page.locator('nav a[href="#health"]').click()
    # Some work, so that the charts have something to draw; each page turned to asks the service anew.
    script = """async (files) => { for (let i = 0; i < 60; i++) {
        const body = new FormData();
        for (let n = 0; n <= i % 4; n++) body.append('crops', await (await fetch(files[n])).blob(), 'crop.jpg');
        await fetch('/embed', { method: 'POST', body });
        await new Promise((go) => setTimeout(go, 200 + 150 * Math.sin(i / 5)));
    } }"""
    page.evaluate(script, [f"/console/samples/{path.name}" for path in sorted(SAMPLES.glob("*-hall.jpg"))])
    yield "health"
    page.locator("#calibrate").click()
    page.locator(".compared").wait_for()
    yield "calibrate"
    page.keyboard.press("Escape")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
