"""Who may call: bearer keys, compared in constant time, and where the server may listen without any."""

import hashlib
import hmac
import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from service.errors import ForbiddenOrigin, MissingKey, ReadOnlyKey, SettingRefused
from service.settings import Settings

SANE_KEY = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class Access:
    """The keys' sha256 digests; with no key at all everybody may do everything, but no web page on its own."""

    full: tuple[bytes, ...]
    read_only: tuple[bytes, ...]
    is_local: bool  # only this machine is meant to call: no keys, on loopback

    def check(self, authorization: str | None, *, writes: bool) -> None:
        """Let a caller pass or refuse it.

        Args:
            authorization: the Authorization header.
            writes: whether the call changes the gallery, or hands out a copy of all of it.

        Raises:
            MissingKey: no key, or an unknown one. ReadOnlyKey: a read-only key on a write.
        """
        if not self.full and not self.read_only:
            return
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise MissingKey("got no API key, wanted the header Authorization: Bearer KEY")
        got = digest(key.strip())
        may_write, may_read = is_among(got, self.full), is_among(got, self.read_only)
        if not may_write and not may_read:
            raise MissingKey("got an unknown API key, wanted one of REID_API_KEYS or REID_READ_ONLY_KEYS")
        if writes and not may_write:
            raise ReadOnlyKey("got a read-only key, wanted one of REID_API_KEYS to change the gallery or to copy it whole")

    def check_origin(self, *, origin: str | None, host: str | None, is_change: bool) -> None:
        """Refuse what a page of another site makes a browser send; with keys there is no need, as no page knows one.

        Args:
            origin, host: the headers; every browser sends Host, and Origin with whatever is not a plain GET.
            is_change: whether the method is other than GET and HEAD.

        Raises:
            ForbiddenOrigin: a change from another site's page, or a name that is not this machine's (DNS rebinding).
        """
        if self.full or self.read_only or host is None:
            return
        if is_change and origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise ForbiddenOrigin(
                f"got Origin {origin} for Host {host}, wanted the same without keys; set REID_API_KEYS, "
                "or let the proxy pass Host on"
            )
        if self.is_local and not names_loopback(host):
            raise ForbiddenOrigin(
                f"got Host {host}, wanted localhost or a loopback address without keys; set REID_API_KEYS, "
                "or REID_ALLOW_ANONYMOUS=true if a proxy keeps strangers out"
            )


@lru_cache(maxsize=32)  # every call brings one of a few, and reading an address takes a third of refusing a request
def names_loopback(host: str) -> bool:
    """Tell whether a Host header names this machine."""
    return is_loopback(host_name(host))


def host_name(host: str) -> str:
    """Take the port off a Host header; empty when it makes no sense."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def digest(key: str) -> bytes:
    """Hash a key, so that comparing takes equally long for every length."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def is_among(got: bytes, known: tuple[bytes, ...]) -> bool:
    """Compare with every known key, never stopping at the first that fits."""
    return sum(hmac.compare_digest(got, one) for one in known) > 0


def given_keys(keys: SecretStr, file: Path | None, *, setting: str) -> tuple[str, ...]:
    """Gather the keys of a comma-separated setting and of its file.

    Raises:
        SettingRefused: a file that cannot be read or holds no key, or a key that no header can carry; none is ever shown.
    """
    found = split_keys(keys.get_secret_value())
    if file is not None:
        in_file = split_keys(
            ",".join(line for line in read_keys(file, setting).splitlines() if not line.lstrip().startswith("#"))
        )
        if not in_file:
            raise SettingRefused(f"{setting}_FILE: got {file}, which holds no key, wanted one a line")
        found += in_file
    if not all(SANE_KEY.fullmatch(key) for key in found):
        raise SettingRefused(f"{setting}: got a key that no header can carry, wanted printable ASCII without spaces")
    return found


def split_keys(text: str) -> tuple[str, ...]:
    """Split at commas, dropping what is empty."""
    return tuple(key.strip() for key in text.split(",") if key.strip())


def read_keys(file: Path, setting: str) -> str:
    """Read a file of keys, like a secret that Docker mounts."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise SettingRefused(f"{setting}_FILE: got {file}, {reason}, wanted a readable file of keys, one a line") from None


def read_access(settings: Settings) -> Access:
    """Take the keys from the settings, and refuse to be open to the network.

    Raises:
        SettingRefused: a key that both may and may not write, no key beyond loopback, or a file of keys that holds none.
    """
    full = given_keys(settings.api_keys, settings.api_keys_file, setting="REID_API_KEYS")
    read_only = given_keys(settings.read_only_keys, settings.read_only_keys_file, setting="REID_READ_ONLY_KEYS")
    if set(full) & set(read_only):
        raise SettingRefused("REID_READ_ONLY_KEYS: got a key that is also in REID_API_KEYS; take it out of one of them")
    if not full and not read_only and not settings.allow_anonymous and not is_loopback(settings.host):
        raise SettingRefused(
            f"REID_HOST: got {settings.host} without keys, wanted a loopback address; "
            "set REID_API_KEYS, or REID_ALLOW_ANONYMOUS=true if a proxy keeps strangers out"
        )
    is_local = not full and not read_only and not settings.allow_anonymous
    return Access(tuple(map(digest, full)), tuple(map(digest, read_only)), is_local)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
