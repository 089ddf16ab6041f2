"""Who may call: bearer keys, compared in constant time, and where the server may listen without any."""

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import SecretStr

from service.errors import ForbiddenOrigin, MissingKey, ReadOnlyKey, SettingRefused
from service.settings import Settings


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
            writes: whether the call changes the gallery.

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
            raise ReadOnlyKey("got a read-only key, wanted one of REID_API_KEYS for a call that changes the gallery")

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
        if self.is_local and not is_loopback(host_name(host)):
            raise ForbiddenOrigin(
                f"got Host {host}, wanted localhost or a loopback address without keys; set REID_API_KEYS, "
                "or REID_ALLOW_ANONYMOUS=true if a proxy keeps strangers out"
            )


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


def split_keys(keys: SecretStr) -> tuple[str, ...]:
    """Split a comma-separated setting."""
    return tuple(key.strip() for key in keys.get_secret_value().split(",") if key.strip())


def read_access(settings: Settings) -> Access:
    """Take the keys from the settings, and refuse to be open to the network.

    Raises:
        SettingRefused: a key that both may and may not write, or no key beyond loopback.
    """
    full, read_only = split_keys(settings.api_keys), split_keys(settings.read_only_keys)
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
