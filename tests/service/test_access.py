"""Keys: who may read, who may write, and where the service may listen without any."""

import contextlib
import logging

import pytest
from pydantic import SecretStr

from service.access import is_loopback, read_access
from service.errors import MissingKey, SettingRefused

WRITES = [
    ("POST", "/gallery"),
    ("POST", "/gallery/snapshots"),
    ("PATCH", "/gallery/identities/a"),
    ("DELETE", "/gallery/entries/1"),
    ("DELETE", "/gallery/identities/a"),
]
COPIES = [("GET", "/gallery/snapshots/x")]  # changes nothing, and hands out everything
READS = [
    ("POST", "/embed"),
    ("POST", "/search"),
    ("GET", "/search?entry_id=1"),
    ("GET", "/gallery"),
    ("GET", "/gallery/stats"),
    ("GET", "/gallery/identities"),
    ("GET", "/gallery/snapshots"),
    ("GET", "/gallery/identities/a"),
    ("GET", "/gallery/entries/1"),
    ("GET", "/gallery/entries/1/crop"),
    ("GET", "/model"),
    ("GET", "/metrics"),
]
OPEN = [("GET", "/livez"), ("GET", "/readyz"), ("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json")]


@pytest.fixture(name="guarded")
def guarded_fixture(serving, fake):
    return serving(embed=fake(), api_keys=SecretStr("full, other"), read_only_keys=SecretStr("reader"))


def status(client, method, path, key=None):
    headers = {} if key is None else {"authorization": key}
    return client.request(method, path, headers=headers).status_code


@pytest.mark.parametrize("call", OPEN)
def test_probes_docs_and_the_page_need_no_key(guarded, call):
    assert status(guarded, *call) == 200


@pytest.mark.parametrize("call", READS + WRITES + COPIES)
def test_without_a_key_every_other_call_is_refused(guarded, call):
    answer = guarded.request(*call)
    assert answer.status_code == 401 and answer.json()["error"]["code"] == "missing_key"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "key", ["", "Bearer", "Bearer wrong", "Basic full", "full", "Bearer full,other", "Bearer full, other", "Bearer füll"]
)
def test_what_is_no_known_bearer_key_is_refused(guarded, key):
    answer = guarded.get("/model", headers={"authorization": key.encode()})
    assert answer.status_code == 401 and answer.json()["error"]["code"] == "missing_key"


@pytest.mark.parametrize("call", READS)
def test_a_read_only_key_reads(guarded, call):
    assert status(guarded, *call, key="Bearer reader") not in (401, 403)


@pytest.mark.parametrize("call", WRITES + COPIES)
def test_a_read_only_key_neither_writes_nor_takes_a_copy(guarded, call):
    answer = guarded.request(*call, headers={"authorization": "Bearer reader"})
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "read_only_key"


def test_every_documented_call_but_the_probes_wants_a_key(guarded):
    paths = guarded.get("/openapi.json").json()["paths"]
    calls = [(method.upper(), path.replace("{entry_id}", "1")) for path, methods in paths.items() for method in methods]
    assert len(calls) >= 20
    assert {call for call in calls if status(guarded, *call) != 401} == {("GET", "/livez"), ("GET", "/readyz")}


@pytest.mark.parametrize("key", ["Bearer full", "bearer other"])
def test_a_full_key_does_everything(guarded, key):
    assert not {status(guarded, *call, key=key) for call in READS + WRITES} & {401, 403}


def test_without_configured_keys_everybody_does_everything(serving, fake):
    client = serving(embed=fake())
    assert not {status(client, *call) for call in READS + WRITES} & {401, 403}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_listening_beyond_loopback_without_keys_is_refused(settings, host):
    with pytest.raises(SettingRefused, match="wanted a loopback address; set REID_API_KEYS"):
        read_access(settings.model_copy(update={"host": host}))


@pytest.mark.parametrize("change", [{"allow_anonymous": True}, {"api_keys": SecretStr("k")}])
def test_listening_beyond_loopback_is_allowed_with_keys_or_on_request(settings, change):
    read_access(settings.model_copy(update={"host": "0.0.0.0", **change}))


def test_a_key_of_both_kinds_is_refused(settings):
    both = {"api_keys": SecretStr("a,b"), "read_only_keys": SecretStr("b")}
    with pytest.raises(SettingRefused, match="also in REID_API_KEYS"):
        read_access(settings.model_copy(update=both))


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False)])
def test_loopback_is_recognised(host, loopback):
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("call", [("POST", "/embed"), *WRITES])
@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:8001", "http://127.0.0.1:8000", "null", ""])
def test_without_keys_a_page_of_another_site_changes_nothing(serving, fake, call, origin):
    client = serving(embed=fake())
    answer = client.request(*call, headers={"host": "localhost:8000", "origin": origin})
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "forbidden_origin"
    assert "set REID_API_KEYS" in answer.json()["error"]["message"]


def test_without_keys_the_services_own_page_does_everything(serving, fake):
    client = serving(embed=fake())
    headers = {"host": "localhost:8000", "origin": "http://localhost:8000"}
    assert not {client.request(*call, headers=headers).status_code for call in READS + WRITES} & {401, 403}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", "", "[::", "@"])
def test_without_keys_on_loopback_another_name_is_refused(serving, fake, host):
    answer = serving(embed=fake()).get("/gallery", headers={"host": host})
    assert answer.status_code == 403 and "wanted localhost or a loopback address" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/console/page.css", "/docs", "/livez", "/nowhere"])
def test_no_path_is_answered_by_another_name(serving, fake, path):
    answer = serving(embed=fake()).get(path, headers={"host": "evil.example"})
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "forbidden_origin"
    assert answer.headers["x-request-id"] == answer.json()["error"]["request_id"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000"])
def test_every_loopback_name_is_let_in(serving, fake, host):
    assert serving(embed=fake()).get("/gallery", headers={"host": host}).status_code == 200


def test_behind_a_proxy_that_keeps_strangers_out_any_name_is_let_in(serving, fake):
    client = serving(embed=fake(), allow_anonymous=True)
    assert client.get("/gallery", headers={"host": "people.example"}).status_code == 200


def test_with_keys_neither_origin_nor_host_matter(guarded):
    headers = {"authorization": "Bearer full", "host": "people.example", "origin": "https://other.example"}
    assert guarded.delete("/gallery/entries/1", headers=headers).status_code == 404


def keys_file(tmp_path, text, name="keys"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_keys_come_from_the_environment_and_from_files_several_at_once(serving, fake, tmp_path):
    client = serving(
        embed=fake(),
        api_keys=SecretStr("full"),
        api_keys_file=keys_file(tmp_path, "# the pipeline\nsecond\n\n  third, fourth\r\n"),
        read_only_keys_file=keys_file(tmp_path, "reader", "readers"),
    )
    for key in ("full", "second", "third", "fourth"):
        assert status(client, "DELETE", "/gallery/entries/1", f"Bearer {key}") == 404
    assert status(client, "GET", "/gallery", "Bearer reader") == 200
    assert status(client, "DELETE", "/gallery/entries/1", "Bearer reader") == 403
    assert status(client, "GET", "/gallery", "Bearer #") == status(client, "GET", "/gallery", "Bearer pipeline") == 401


@pytest.mark.parametrize("text", ["", "\n \n", "# nothing but a remark\n", ",,"])
def test_a_file_without_keys_never_opens_the_service_to_everybody(settings, tmp_path, text):
    with pytest.raises(SettingRefused, match="REID_API_KEYS_FILE: got .*, which holds no key, wanted one a line"):
        read_access(settings.model_copy(update={"api_keys_file": keys_file(tmp_path, text)}))


def test_a_file_of_keys_that_cannot_be_read_is_named(settings, tmp_path):
    with pytest.raises(SettingRefused, match="REID_READ_ONLY_KEYS_FILE: got .*nowhere, No such file or directory"):
        read_access(settings.model_copy(update={"read_only_keys_file": tmp_path / "nowhere"}))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingRefused, match="no UTF-8 text"):
        read_access(settings.model_copy(update={"api_keys_file": tmp_path / "binary"}))


@pytest.mark.parametrize("key", ["two words", "schlüssel", "tab\tbed", "\ufeffmarked"])
def test_a_key_that_no_header_carries_is_refused_without_showing_it(settings, tmp_path, key):
    with pytest.raises(SettingRefused, match="printable ASCII") as refusal:
        read_access(settings.model_copy(update={"api_keys_file": keys_file(tmp_path, key)}))
    assert key not in str(refusal.value)


def test_a_key_of_both_kinds_is_found_across_files(settings, tmp_path):
    both = {"api_keys": SecretStr("a"), "read_only_keys_file": keys_file(tmp_path, "b\na\n")}
    with pytest.raises(SettingRefused, match="also in REID_API_KEYS"):
        read_access(settings.model_copy(update=both))


def test_keys_are_kept_as_digests_alone(settings):
    access = read_access(settings.model_copy(update={"api_keys": SecretStr("sesame")}))
    assert "sesame" not in repr(access) and {len(one) for one in access.full} == {32}


def test_every_known_key_is_compared_whichever_fits(settings, monkeypatch):
    compared = []
    monkeypatch.setattr("service.access.hmac.compare_digest", lambda a, b: compared.append(b) or a == b)
    access = read_access(settings.model_copy(update={"api_keys": SecretStr("a,b,c"), "read_only_keys": SecretStr("d")}))
    for key in ("a", "c", "d", "wrong"):
        compared.clear()
        with contextlib.suppress(MissingKey):
            access.check(f"Bearer {key}", writes=False)
        assert compared == [*access.full, *access.read_only]


def test_no_key_is_ever_logged(serving, fake, caplog):
    caplog.set_level(logging.DEBUG)
    client = serving(embed=fake(), api_keys=SecretStr("sesame"), read_only_keys=SecretStr("barley"))
    for key in ("sesame", "barley", "guess"):
        for call in (("GET", "/gallery"), ("DELETE", "/gallery/entries/1"), ("GET", "/nowhere")):
            assert key not in client.request(*call, headers={"authorization": f"Bearer {key}"}).text
    assert caplog.records and not [word for word in ("sesame", "barley", "guess") if word in caplog.text]
