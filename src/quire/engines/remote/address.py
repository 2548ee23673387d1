"""Addresses of servers: checked at the edge, so that nothing after it meets a strange one."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from quire.errors import ConfigError


def read_addresses(addresses: Iterable[str] | None) -> tuple[str, ...]:
    """Check `remote_base_url`; returns each address once, without `/v1` and without a slash at its end.

    Raises:
        ConfigError: none is given, or one is no address of a server.
    """
    found = tuple(dict.fromkeys(_read(address.strip()) for address in addresses or ()))
    if not found:
        raise ConfigError(
            "infer_backend remote needs remote_base_url: the address of a running vLLM or quire "
            "server, such as http://127.0.0.1:8000, or a list of them."
        )
    return found


def _read(address: str) -> str:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"remote_base_url: {_shown(address)} is no address: {error}.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError(
            f"remote_base_url: {_shown(address)} must begin with http:// or https:// and name a "
            "host, such as http://127.0.0.1:8000."
        )
    if "@" in parts.netloc:
        raise ConfigError(
            "remote_base_url holds a user's name or a password; give a key with remote_api_key "
            "or the environment's QUIRE_REMOTE_API_KEY instead."
        )
    if parts.query or parts.fragment or not (address.isascii() and address.isprintable()):
        raise ConfigError(
            f"remote_base_url: {_shown(address)} must be plain: no ?, no # and no special characters."
        )
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _shown(address: str) -> str:
    """The address for an error's text, without what stands before an @."""
    return repr(address.rpartition("@")[2])
