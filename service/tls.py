"""HTTPS: a certificate and its key, tried before anything slow is opened."""

import ssl
from pathlib import Path

from service.errors import SettingRefused
from service.settings import Settings


def tls_options(settings: Settings) -> dict[str, Path]:
    """Give uvicorn what it needs to serve HTTPS: nothing where no certificate is set.

    Raises:
        SettingRefused: a file that cannot be read, or a pair that is none.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return {}
    for setting, path in (("REID_TLS_CERT", settings.tls_cert), ("REID_TLS_KEY", settings.tls_key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise SettingRefused(f"{setting}: got {path}, {error.strerror}, wanted a readable PEM file") from None
    try:
        # The password is for a key that has one: without it OpenSSL would ask the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise SettingRefused(
            f"REID_TLS_CERT={settings.tls_cert} REID_TLS_KEY={settings.tls_key}: got files that do not serve ({error}), "
            "wanted a certificate chain and its own key without a password, both in PEM form"
        ) from None
    return {"ssl_certfile": settings.tls_cert, "ssl_keyfile": settings.tls_key}
