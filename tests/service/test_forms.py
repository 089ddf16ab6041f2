"""Text of forms is UTF-8, or refused: never guessed at."""

import pytest


def form(part: bytes) -> bytes:
    """A form of one part, by its own head and content."""
    return b"--b\r\nContent-Disposition: form-data; " + part + b"\r\n--b--\r\n"


@pytest.mark.parametrize(
    ("part", "where"), [(b'name="pid"\r\n\r\n\xff\xfe', "pid: "), (b'name="\xff"\r\n\r\nx', "a field's name: ")]
)
@pytest.mark.parametrize("charset", ["", "; charset=utf-8"])
def test_a_form_of_undecodable_bytes_is_refused(client, part, where, charset):
    kind = {"content-type": f"multipart/form-data; boundary=b{charset}"}
    answer = client.post("/gallery", content=form(part), headers=kind)
    assert answer.status_code == 422 and f"{where}got bytes that are no UTF-8" in answer.json()["error"]["message"]


@pytest.mark.parametrize("charset", ["undefined", "latin-1", "utf-16", "idna", "zip", "\xff"])
def test_a_form_in_another_charset_is_refused(client, charset):
    kind = {"content-type": f"multipart/form-data; boundary=b; charset={charset}".encode("latin-1")}
    answer = client.post("/gallery", content=form(b'name="pid"\r\n\r\nx'), headers=kind)
    assert answer.status_code == 422 and "wanted UTF-8: leave it out" in answer.json()["error"]["message"]


def test_a_form_that_says_it_is_utf8_is_read_so(client, pictures):
    crop = b'name="crops"; filename="x.png"\r\n\r\n' + pictures(1)
    body = form('name="pid"\r\n\r\nÜnï 人'.encode()).removesuffix(b"--b--\r\n") + form(crop)
    answer = client.post("/gallery", content=body, headers={"content-type": 'multipart/form-data; boundary="b"; charset=UTF8'})
    (result,) = answer.json()["results"]
    assert client.get(f"/gallery/entries/{result['entry_id']}").json()["pid"] == "Ünï 人"
