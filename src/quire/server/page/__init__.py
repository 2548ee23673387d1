"""The chat page: static files, served at `/` and below `/page/`.

The files are read once and served from memory, so that no request names a path on the disk. Their
headers allow scripts and connections of the page's own origin only, and no framing.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.abc import Traversable
from importlib.resources import files
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from quire.characters import OBEYED
from quire.options import (
    GROUPS,
    OPTIONS_BY_NAME,
    Documents,
    Flag,
    Integer,
    Number,
    Option,
    OptionType,
    ResponseFormat,
    String,
    Strings,
    TokenBias,
    TokenIds,
    Variables,
    on_wire,
)

PATHS = ("/", "/page/{name:path}")
"""The routes. The files hold no secret: the page itself asks for the key that the APIs need."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".wasm": "application/wasm",
    ".bcmap": "application/octet-stream",
}

_OWN = frozenset(
    {
        "n",
        "logprobs",
        "prompt_logprobs",
        "add_generation_prompt",
        "continue_final_message",
    }
)
"""Options that the page sets itself, or that have no meaning in a stream of one answer."""

_EXAMPLES: Mapping[type[OptionType], str] = MappingProxyType(
    {
        TokenIds: "[2, 32000]",
        TokenBias: '{"1234": -5}',
        ResponseFormat: '{"type": "json_object"}',
        Variables: '{"date_string": "1 May 2026"}',
        Documents: '[{"title": "…", "text": "…"}]',
    }
)
"""Values of the types that are written as JSON."""

# Whatever an answer contains, none of it runs, and nothing is fetched from other origins.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify quire-worker quire-documents",
    )
)
# A worker has the policy of its own file. The one that reads PDFs decodes scans with WebAssembly.
_POLICY_OF_PDFS = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'"
_PDFS = "vendor/pdfjs/pdf.worker.min.mjs"
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    # Revalidated each time, most often with a 304, so that a new version of quire shows at once.
    "cache-control": "no-cache",
    "vary": "accept-encoding",
}


@dataclass(frozen=True)
class StaticFile:
    """A file as it is served; `tag`, its ETag, changes with its content."""

    content: bytes
    media_type: str
    tag: str
    policy: str = _POLICY

    @cached_property
    def gzipped(self) -> bytes:
        """The content, packed when it is first asked for: most files never are."""
        return gzip.compress(self.content, 9, mtime=0)

    def respond(self, request: Request) -> Response:
        """The file, gzipped if the client accepts that, or 304 if the client has it."""
        headers = {**_HEADERS, "content-security-policy": self.policy, "etag": self.tag}
        if self.tag in _listed(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        body = self.content
        if "gzip" in request.headers.get("accept-encoding", ""):
            body, headers["content-encoding"] = self.gzipped, "gzip"
        return Response(body, headers=headers, media_type=self.media_type)


def router() -> APIRouter:
    """The page's routes, which need no service."""
    routes = APIRouter(include_in_schema=False)

    @routes.api_route(PATHS[0], methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        return page_files()["index.html"].respond(request)

    @routes.api_route(PATHS[1], methods=["GET", "HEAD"])
    async def page_file(request: Request, name: str) -> Response:
        file = page_files().get(name)
        if file is None:
            raise HTTPException(404, f"The page has no file {name!r}.")
        return file.respond(request)

    return routes


@cache
def page_files() -> Mapping[str, StaticFile]:
    """All files of the page by their names, such as `js/app.js`."""
    made = {
        "js/obeyed.js": _static_file(_obeyed_characters(), ".js"),
        "js/options.js": _static_file(_request_options(), ".js"),
        "js/option_names.js": _static_file(_option_names(), ".js"),
    }
    return dict(_read(files(__name__), PurePosixPath())) | made


def _obeyed_characters() -> bytes:
    """The list of characters that are shown as others: a module, made from the terminal's list."""
    rows = [[one.first, one.last, one.shown] for one in OBEYED]
    return _module("characters.py", "OBEYED", rows)


def _request_options() -> bytes:
    """The options that the settings offer: a module, made from the table of all request options."""
    return _module("options.py", "OPTIONS", [_setting(*one) for one in _offered().items()])


def _option_names() -> bytes:
    """The names of these alone, which every request needs, as a module: most loads need no more."""
    return _module("options.py", "OPTION_NAMES", list(_offered()))


def _offered() -> dict[str, Option]:
    """The options that the settings offer, by their names in a request."""
    return {name: one for name, one in on_wire("openai").items() if name not in _OWN}


def _setting(name: str, option: Option) -> dict[str, Any]:
    """How an option is asked for: `kind` is the field's, `low` and `high` its range, if any."""
    asked: dict[str, Any] = {
        "name": name,
        "label": option.label,
        "group": GROUPS[option.group],
        "meaning": re.sub(r"`(\w+)`", _named_for_people, option.meaning),
    }
    kind = option.wire_types.get("openai", option.type)
    if isinstance(kind, Number):
        low = 0 if kind.or_zero else kind.low
        bounds = {"low": low, "high": kind.high}
        finite = {key: value for key, value in bounds.items() if math.isfinite(value)}
        return asked | {"kind": "number"} | finite
    if isinstance(kind, Integer):
        bounds = {"low": kind.low, "high": kind.high}
        # Beyond these the browser's numbers have gaps.
        safe = {key: one for key, one in bounds.items() if one is not None and abs(one) < 2**53}
        return asked | {"kind": "integer"} | safe
    kinds: dict[type[OptionType], str] = {Flag: "flag", String: "text", Strings: "lines"}
    if type(kind) in kinds:
        return asked | {"kind": kinds[type(kind)]}
    return asked | {"kind": "json", "example": _EXAMPLES[type(kind)]}


def _named_for_people(name: re.Match[str]) -> str:
    """What a name in backticks is called on the page: an option by its label."""
    option = OPTIONS_BY_NAME.get(name[1])
    return name[1] if option is None else f"“{option.label}”"


def _module(source: str, name: str, value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False)
    return f"// Made from quire/{source}.\nexport const {name} = {text};\n".encode()


def _read(folder: Traversable, at: PurePosixPath) -> Iterator[tuple[str, StaticFile]]:
    for entry in folder.iterdir():
        path = at / entry.name
        if entry.is_dir():
            yield from _read(entry, path)
        elif path.suffix in _TYPES:
            policy = _POLICY_OF_PDFS if str(path) == _PDFS else _POLICY
            yield str(path), _static_file(entry.read_bytes(), path.suffix, policy)


def _static_file(content: bytes, suffix: str, policy: str = _POLICY) -> StaticFile:
    tag = f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'
    return StaticFile(content, _TYPES[suffix], tag, policy)


def _listed(tags: str) -> set[str]:
    return {tag.strip() for tag in tags.split(",")}
