"""HTTPS: what is served with a certificate, and which pairs of files are refused before anything is opened."""

import socket
import ssl
import threading

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives import serialization
from fastapi import FastAPI
from pydantic import ValidationError

from service.errors import SettingRefused
from service.settings import Settings
from service.tls import tls_options


def test_without_a_certificate_nothing_is_asked_of_the_server(settings):
    assert tls_options(settings) == {}


@pytest.mark.parametrize("half", ["tls_cert", "tls_key"])
def test_half_a_pair_is_refused(half, pair):
    with pytest.raises(ValidationError, match="both or neither"):
        Settings(_env_file=None, **{half: pair[half]})


@pytest.mark.parametrize("half", ["tls_cert", "tls_key"])
def test_a_file_that_cannot_be_read_is_named(settings, pair, half, tmp_path):
    with pytest.raises(SettingRefused, match=f"REID_{half.upper()}: got .*nowhere, No such file"):
        tls_options(settings.model_copy(update={**pair, half: tmp_path / "nowhere"}))


@pytest.mark.parametrize("half", ["tls_cert", "tls_key"])
@pytest.mark.parametrize("content", [b"", b"no PEM", None])
def test_files_that_do_not_serve_are_refused(settings, pair, other_key, half, content, tmp_path):
    (tmp_path / "file").write_bytes(other_key if content is None else content)
    with pytest.raises(SettingRefused, match="wanted a certificate chain and its own key"):
        tls_options(settings.model_copy(update={**pair, half: tmp_path / "file"}))


def test_a_key_with_a_password_is_refused_and_the_terminal_is_not_asked(settings, pair, other_key, tmp_path):
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"sesame"))
    key = serialization.load_pem_private_key(other_key, password=None)
    (tmp_path / "locked.pem").write_bytes(key.private_bytes(*form))
    with pytest.raises(SettingRefused, match="without a password"):
        tls_options(settings.model_copy(update={**pair, "tls_key": tmp_path / "locked.pem"}))


def test_what_is_given_to_the_server_serves_https_and_nothing_else(settings, pair):
    app = FastAPI()
    app.get("/livez")(lambda: {"alive": True})
    options = tls_options(settings.model_copy(update=pair))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", **options))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            trust = ssl.create_default_context(cafile=pair["tls_cert"])
            transport = httpx.HTTPTransport(verify=trust, retries=8)
            with httpx.Client(transport=transport) as http:
                assert http.get(f"https://localhost:{port}/livez").json() == {"alive": True}
            with pytest.raises(httpx.TransportError):
                httpx.get(f"http://localhost:{port}/livez", trust_env=False)
        finally:
            server.should_exit = True
            thread.join()
