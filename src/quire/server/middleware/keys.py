"""API keys: kept as hashes, compared in constant time, required on all but a few routes."""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from quire.errors import ConfigError
from quire.server.arguments import ServerArguments
from quire.server.call import CALLER, Caller
from quire.server.errors import ErrorForm, Unauthorized, openai_form, problem_of, refuse

OPEN_PATHS = frozenset({"/health", "/ready", "/", "/page/"})
"""Paths that need no key: probes, and the chat page, whose files hold no secret and which asks for a
key itself. A path that ends with a slash covers all below it, except `/`."""

_HASHED = re.compile(r"sha256:([0-9a-fA-F]{64})")
_MAX_BYTES = 512  # of a key


@dataclass(frozen=True, slots=True)
class _Key:
    digest: bytes
    caller: Caller


class KeyRing:
    """The hashes of all keys of a server; the keys themselves are not kept.

    Each key has its own salt, so that callers with different keys share no cached prefix. Salts are
    new for each ring, since no cache outlives it.
    """

    def __init__(self, users: Iterable[tuple[str, str]], admins: Iterable[tuple[str, str]]) -> None:
        """Both are pairs of a key and its name, which may be empty."""
        secret = secrets.token_bytes(32)
        rows = [*((*user, False) for user in users), *((*admin, True) for admin in admins)]
        keys: dict[bytes, _Key] = {}
        for number, (key, name, admin) in enumerate(rows, start=1):
            hashed = _HASHED.fullmatch(key)
            digest = bytes.fromhex(hashed[1]) if hashed else sha256(key.encode()).digest()
            salt = hmac.new(secret, digest, sha256).hexdigest()[:32]
            owner = sha256(b"owner:" + digest).hexdigest()[:32]
            caller = Caller(name or f"key-{number}", admin, salt, owner)
            keys[digest] = _Key(digest, caller)
        self._keys = tuple(keys.values())

    @classmethod
    def of(cls, arguments: ServerArguments) -> KeyRing | None:
        """The keys of arguments and files; None if the server needs none.

        Raises:
            ConfigError: a file cannot be read, or holds no key.
        """
        if not arguments.has_keys:
            return None
        return cls(
            [*_from_text(arguments.api_key), *_from_file(arguments.api_key_file)],
            [*_from_text(arguments.admin_key), *_from_file(arguments.admin_key_file)],
        )

    def __len__(self) -> int:
        return len(self._keys)

    def owner(self, owner: str) -> Caller | None:
        """The caller whose files and batches have this owner; None where there is no such key."""
        return next((one.caller for one in self._keys if one.caller.owner == owner), None)

    def find(self, key: bytes) -> Caller | None:
        """The caller with this key. All keys are compared, so that timing reveals nothing."""
        digest = sha256(key[:_MAX_BYTES]).digest()
        caller: Caller | None = None
        for known in self._keys:
            if hmac.compare_digest(known.digest, digest):
                caller = known.caller
        return caller


def _from_text(text: SecretStr | None) -> Iterator[tuple[str, str]]:
    if text is not None:
        keys = [key.strip() for key in text.get_secret_value().split(",")]
        yield from ((_checked(key), "") for key in keys if key)


def _from_file(name: str | None) -> Iterator[tuple[str, str]]:
    if name is None:
        return
    try:
        lines = Path(os.path.expanduser(name)).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ConfigError(f"The file of keys {name} cannot be read: {reason}.") from None
    rows = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    if not rows:
        raise ConfigError(f"The file of keys {name} holds no key: write one per line.")
    yield from ((_checked(row[0]), row[1].strip() if len(row) > 1 else "") for row in rows)


def _checked(key: str) -> str:
    """Refuse a key that is easily guessed, or that HTTP headers cannot carry."""
    if len(key) < 8 or len(key) > _MAX_BYTES or not key.isascii() or not key.isprintable():
        raise ConfigError(
            "An API key has 8 to 512 printable ASCII characters, and one of the given keys does not. "
            f"Use, for example, {secrets.token_urlsafe(24)}"
        )
    return key


class KeysMiddleware:
    """ASGI middleware: refuses requests without a key, and puts the caller into the scope."""

    def __init__(
        self,
        app: ASGIApp,
        ring: KeyRing | None,
        *,
        open_paths: Iterable[str] = OPEN_PATHS,
        form: ErrorForm = openai_form,
    ) -> None:
        """Without a ring all requests pass; `open_paths` never need a key."""
        self._app, self._ring, self._form = app, ring, form
        self._open = frozenset(open_paths)
        self._below = tuple(path for path in self._open if path.endswith("/") and path != "/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ring = self._ring
        if ring is None or scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        key = key_of(scope["headers"])
        caller = None if key is None else ring.find(key)
        if caller is not None:
            scope[CALLER] = caller
        elif not self._is_open(scope["path"]):
            await refuse(scope, send, problem_of(_refusal(key)), self._form)
            return
        await self._app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self._open or (bool(self._below) and path.startswith(self._below))


def key_of(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """A request's key, from OpenAI's `Authorization: Bearer` or Anthropic's `x-api-key`."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return key.strip()
        elif name == b"x-api-key":
            return value.strip()
    return None


def _refusal(key: bytes | None) -> Unauthorized:
    if not key:
        return Unauthorized(
            "This server needs an API key: send it as the header Authorization: Bearer KEY."
        )
    return Unauthorized("This API key is not known here.")
