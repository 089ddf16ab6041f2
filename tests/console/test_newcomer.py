"""A newcomer's whole way through the console, in a real browser, against the bundled model."""

import httpx
from playwright.sync_api import expect

from tests.console.browsing import SAMPLES


def turn_to(page, name):
    page.get_by_role("navigation").get_by_role("link", name=name).click()


def test_a_newcomer_fills_searches_changes_and_finds_all_again_after_a_restart(service, open_page, people):
    page = open_page(service.url)
    page.get_by_role("button", name="Enroll five drawn people").click()
    page.get_by_role("button", name="Search with sample 1").click()
    expect(page.locator("#verdict")).to_contain_text("A match")
    assert page.locator(".match-card .pid").all_inner_texts()[0] == "Ada"
    page.get_by_role("button", name="Search with sample 4").click()
    expect(page.locator("#verdict")).to_contain_text("under the threshold")  # the stranger

    turn_to(page, "Enroll")
    page.set_input_files("#folder", people)
    expect(page.locator("#named")).to_have_text("2 identities: Fay, Gus.")
    page.get_by_label("Camera", exact=True).fill("lobby")
    page.get_by_role("button", name="Enroll 5 crops").click()
    expect(page.locator("#progress-words")).to_have_text("4 enrolled, 1 failed, 1 file left out: no picture")
    expect(page.locator("#sent .failed")).to_contain_text("broken.jpg")
    page.get_by_role("button", name="Retry 1 failed").click()
    expect(page.locator("#progress-words")).to_contain_text("1 failed")

    turn_to(page, "Gallery")
    expect(page.locator("#identities .tile")).to_have_count(7)
    rename(page, "Gus", "Gustav")
    merge_by_keyboard(page, "Fay", "Ada")
    page.locator(".tile", has_text="Gustav").drag_to(page.locator(".tile", has_text="Dev"))
    page.get_by_role("button", name="Merge into Dev").click()
    expect(page.locator("#notice")).to_contain_text("Gustav is now Dev: 0 crops moved, 2 dropped because they stood there")
    erase(page, "Ben")
    expect(page.locator("#notice")).to_contain_text("Ben is erased: 2 entries, 2 vectors, 2 pictures")
    expect(page.locator("#identities .tile")).to_have_count(4)

    service.stop()
    page.get_by_label("Names beginning with").fill("A")
    expect(page.get_by_text("This page tries again until it does.")).to_be_visible()
    service.start()
    expect(page.locator("#notice")).to_contain_text("The service answers again.")
    expect(page.locator("#gone")).to_be_hidden()
    expect(page.locator("#identities .tile")).to_have_count(1)
    page.reload()
    expect(page.locator("#identities .tile")).to_have_count(4)
    assert page.locator("#identities .pid").all_inner_texts() == ["Ada", "Cleo", "Dev", "Eve"]
    assert httpx.get(f"{service.url}/gallery/identities/Ada").json()["identity"]["entries"] == 2


def test_what_failed_while_the_service_was_gone_is_retried_once_it_is_back(service, open_page):
    page = open_page(f"{service.url}/#enroll")
    expect(page.get_by_role("heading", name="Nobody is enrolled yet")).to_be_visible()
    page.set_input_files("#files", SAMPLES / "person-06-hall.jpg")
    page.get_by_label("Name of the identity").fill("Ada")
    service.stop()
    page.get_by_role("button", name="Enroll 1 crop").click()
    expect(page.locator("#sent .failed")).to_contain_text("The service does not answer.")
    service.start()
    expect(page.locator("#notice")).to_contain_text("The service answers again.")
    page.get_by_role("button", name="Retry 1 failed").click()
    expect(page.locator("#progress-words")).to_have_text("1 enrolled")
    page.set_input_files("#files", SAMPLES / "person-06-hall.jpg")
    page.get_by_role("button", name="Enroll 1 crop").click()
    expect(page.locator("#sent .duplicate")).to_contain_text("stood already, as entry 1")


def test_an_empty_gallery_says_how_to_fill_it_and_a_name_nobody_bears_is_told(service, open_page):
    page = open_page(f"{service.url}/#gallery")
    page.get_by_role("button", name="Enroll five drawn people").click()
    expect(page.locator("#identities .tile")).to_have_count(5)
    page.get_by_label("Names beginning with").fill("Z")
    expect(page.get_by_text("No identity's name begins like this.")).to_be_visible()


def test_what_is_being_dragged_stays_in_hand_when_the_gallery_changes(service, open_page):
    page = open_page(f"{service.url}/#gallery")
    page.get_by_role("button", name="Enroll five drawn people").click()
    expect(page.locator("#identities .tile")).to_have_count(5)
    page.locator(".tile", has_text="Eve").hover()
    page.mouse.down()
    page.locator(".tile", has_text="Dev").hover()  # the first move begins to drag, the second is over the tile
    page.locator(".tile", has_text="Dev").hover()
    expect(page.locator(".tile.over")).to_have_count(1)
    crop = (SAMPLES / "person-06-hall.jpg").read_bytes()
    httpx.post(f"{service.url}/gallery", files={"crops": crop}, data={"pid": "Fay"}, timeout=60).raise_for_status()
    page.evaluate("""async () => {
        const { announce, json } = await import("/console/api.js");
        announce("gallery-known", await json("/gallery/stats"));
    }""")
    page.wait_for_load_state("networkidle")
    expect(page.locator("#identities .tile")).to_have_count(5)
    page.locator(".tile", has_text="Dev").hover()
    page.mouse.up()
    page.get_by_role("button", name="Merge into Dev").click()
    expect(page.locator("#notice")).to_contain_text("Eve is now Dev: 2 crops moved")
    expect(page.locator("#identities .pid")).to_have_text(["Ada", "Ben", "Cleo", "Dev", "Fay"])


def rename(page, old, new):
    page.get_by_role("link", name=old, exact=True).click()
    page.get_by_label("Name", exact=True).fill(new)
    page.get_by_role("button", name="Rename").click()
    expect(page.locator("#notice")).to_contain_text(f"{old} is now {new}.")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("link", name=new, exact=True).wait_for()


def merge_by_keyboard(page, old, into):
    """Without a mouse from the opened tile on."""
    page.get_by_role("link", name=old, exact=True).press("Enter")
    page.get_by_label("Merge into").fill(into)
    page.keyboard.press("Enter")
    page.get_by_role("button", name=f"Merge into {into}").press("Enter")
    expect(page.locator("#notice")).to_contain_text(f"{old} is now {into}")
    expect(page.get_by_role("dialog")).to_have_count(0)


def erase(page, pid):
    page.get_by_role("link", name=pid, exact=True).click()
    page.get_by_role("button", name="Erase this identity").click()
    page.get_by_role("button", name=f"Erase {pid}").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
