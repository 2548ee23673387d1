"""The chat page: static files, served at `/` and below `/page/`.

The files are read once and served from memory, so that no request names a path on the disk. The
page may run its own scripts alone, talk to its own origin alone, and be shown in no frame.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.abc import Traversable
from importlib.resources import files
from pathlib import PurePosixPath

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

PATHS = ("/", "/page/{name:path}")
"""The routes. They hold no secret: the page itself asks for the key that the APIs want."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# Whatever an answer holds, nothing of it runs, and nothing is fetched from elsewhere.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
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
    # Asked for again each time, and answered by 304: a new version of quire is seen at once.
    "cache-control": "no-cache",
    "vary": "accept-encoding",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file as it goes out; `tag` changes with its content."""

    content: bytes
    packed: bytes
    media_type: str
    tag: str

    def respond(self, request: Request) -> Response:
        """The whole file, gzipped where the client takes that, or 304 where it has it."""
        headers = {**_HEADERS, "etag": self.tag}
        if self.tag in _listed(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        body = self.content
        if "gzip" in request.headers.get("accept-encoding", ""):
            body, headers["content-encoding"] = self.packed, "gzip"
        return Response(body, headers=headers, media_type=self.media_type)


def router() -> APIRouter:
    """The routes of this module; they stand beside the APIs' and need no service."""
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
    return dict(_read(files(__name__), PurePosixPath()))


def _read(folder: Traversable, at: PurePosixPath) -> Iterator[tuple[str, StaticFile]]:
    for entry in folder.iterdir():
        path = at / entry.name
        if entry.is_dir():
            yield from _read(entry, path)
        elif path.suffix in _TYPES:
            yield str(path), _packed(entry.read_bytes(), _TYPES[path.suffix])


def _packed(content: bytes, media_type: str) -> StaticFile:
    digest = hashlib.sha256(content).hexdigest()[:32]
    packed = gzip.compress(content, 9, mtime=0)
    return StaticFile(content, packed, media_type, f'W/"{digest}"')


def _listed(tags: str) -> set[str]:
    return {tag.strip() for tag in tags.split(",")}
