"""What the console weighs, asks for, and how well it serves those who use no mouse or no eyes."""

import pytest

from tests.console.browsing import SAMPLES, serious_faults

CONSOLE = SAMPLES.parent
MOST_BYTES = 300_000
SMALL, LARGE = {"width": 390, "height": 800}, {"width": 1280, "height": 900}


def test_no_module_is_long_and_all_files_together_are_light():
    assert sum(path.stat().st_size for path in CONSOLE.rglob("*") if path.is_file()) < MOST_BYTES
    assert {path.name for path in CONSOLE.glob("*.js") if len(path.read_text().splitlines()) > 250} == set()


def test_no_module_puts_markup_in_or_keeps_anything_beyond_the_tab():
    forbidden = (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "localStorage",
        "cookie",
    )
    text = "".join(path.read_text() for path in CONSOLE.glob("*.js"))
    assert [word for word in forbidden if word in text] == []


def ways(page):
    """Every state of the page that looks different, one after another."""
    page.set_input_files("#query", SAMPLES / "person-06-garden.jpg")
    page.locator(".match-card").first.wait_for()
    yield "search"
    page.locator("#rerank").check()
    page.locator(".orders").wait_for()
    page.get_by_text("Filters").click()
    yield "both orders"
    page.locator('nav a[href="#enroll"]').click()
    page.set_input_files("#files", {"name": "bad.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"})
    page.locator("#pid").fill("Hal")
    page.locator("#send").click()
    page.locator("#retry").wait_for()
    yield "enroll"
    page.locator('nav a[href="#health"]').click()
    page.locator("#charts .chart").first.wait_for()
    page.locator("#thresholds td").first.wait_for()
    yield "health"
    page.locator('nav a[href="#gallery"]').click()
    page.locator(".tile").first.wait_for()
    yield "gallery"
    page.locator(".tile .pid").first.click()
    page.get_by_role("dialog").wait_for()
    yield "identity"


@pytest.mark.parametrize(("scheme", "size"), [("light", LARGE), ("dark", SMALL)], ids=["light-large", "dark-small"])
def test_axe_finds_no_serious_fault(keyed, open_page, scheme, size):
    page = open_page(keyed.url, has_key=True, color_scheme=scheme, viewport=size)
    assert {way: found for way in ways(page) if (found := serious_faults(page))} == {}


def test_every_page_fits_a_telephone_and_asks_its_own_service_alone(keyed, open_page):
    page = open_page(f"{keyed.url}/console/style.css", has_key=True, viewport=SMALL)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(keyed.url)
    wide = "document.documentElement.scrollWidth > innerWidth"
    assert [way for way in ways(page) if page.evaluate(wide)] == []
    assert [url for url in asked if not url.startswith((keyed.url, "blob:", "data:"))] == [] != asked
