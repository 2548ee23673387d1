"""The chat page: static files, served at `/` and below `/page/`.

The files are read once and served from memory, so that no request names a path on the disk. Their
headers allow scripts and connections of the page's own origin only, and no framing.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.abc import Traversable
from importlib.resources import files
from pathlib import PurePosixPath

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from quire.characters import OBEYED

PATHS = ("/", "/page/{name:path}")
"""The routes. The files hold no secret: the page itself asks for the key that the APIs need."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}

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
        "trusted-types dompurify",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
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


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file as it is served; `tag`, its ETag, changes with its content."""

    content: bytes
    gzipped: bytes
    media_type: str
    tag: str

    def respond(self, request: Request) -> Response:
        """The file, gzipped if the client accepts that, or 304 if the client has it."""
        headers = {**_HEADERS, "etag": self.tag}
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
    made = {"js/obeyed.js": _static_file(_obeyed_characters(), ".js")}
    return dict(_read(files(__name__), PurePosixPath())) | made


def _obeyed_characters() -> bytes:
    """The list of characters that are shown as others: a module, made from the terminal's list."""
    rows = [[one.first, one.last, one.shown] for one in OBEYED]
    return (
        f"// Made from quire/characters.py.\nexport const OBEYED = {json.dumps(rows)};\n".encode()
    )


def _read(folder: Traversable, at: PurePosixPath) -> Iterator[tuple[str, StaticFile]]:
    for entry in folder.iterdir():
        path = at / entry.name
        if entry.is_dir():
            yield from _read(entry, path)
        elif path.suffix in _TYPES:
            yield str(path), _static_file(entry.read_bytes(), path.suffix)


def _static_file(content: bytes, suffix: str) -> StaticFile:
    tag = f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'
    return StaticFile(content, gzip.compress(content, 9, mtime=0), _TYPES[suffix], tag)


def _listed(tags: str) -> set[str]:
    return {tag.strip() for tag in tags.split(",")}
