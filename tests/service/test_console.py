"""The page at /: what its headers keep others from, and the key in it from other pages."""

import re


def test_the_page_runs_its_own_script_alone_and_stands_in_no_frame(client):
    policy = dict(part.strip().split(" ", 1) for part in client.get("/").headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"


def test_the_page_tells_no_other_site_anything(client):
    headers = client.get("/").headers
    assert (headers["referrer-policy"], headers["cross-origin-opener-policy"]) == ("no-referrer", "same-origin")


def test_the_page_carries_its_own_picture_and_no_other_is_there_to_ask_for(client):
    assert client.get("/favicon.ico").status_code == 204
    assert 'rel="icon" href="data:' in client.get("/").text


def test_no_answer_is_taken_for_another_type_than_it_says(client):
    for path in ("/", "/console/app.js", "/console/style.css", "/gallery", "/nowhere", "/metrics"):
        assert client.get(path).headers["x-content-type-options"] == "nosniff"


def test_the_key_is_out_of_reach_of_the_documentations_scripts(client):
    # /docs loads its script from elsewhere. A page opened apart has a session storage of its own, without the key.
    page, script = client.get("/").text, client.get("/console/app.js").text
    links = re.findall(r"<a [^>]*href=\"/docs\"[^>]*>", page)
    assert links and all('target="_blank"' in link and "noopener" in link for link in links)
    assert "localStorage" not in script.replace("sessionStorage", "") and "document.cookie" not in script


def test_what_the_page_shows_is_put_in_as_text(client):
    script = client.get("/console/app.js").text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script)


def test_a_kept_crop_is_shown_by_no_other_site_and_kept_by_no_cache(client, pictures):
    made = client.post("/gallery", files=[("crops", ("a.png", pictures(1), "image/png"))], data={"pid": "ann"}).json()
    headers = client.get(f"/gallery/entries/{made['results'][0]['entry_id']}/crop").headers
    assert (headers["cross-origin-resource-policy"], headers["cache-control"]) == ("same-origin", "no-store")
