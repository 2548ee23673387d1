"""A small Hugging Face Hub on the loopback: what its client asks of it, and ways to go wrong.

Files over `LFS_FROM` bytes are in LFS, as on the hub: they have a sha256, and their address leads on
to another. `requests` lists what was asked, with the range.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

LFS_FROM = 1000
TOKEN = "hf_right"
RANGE = re.compile(r"bytes=(\d+)-")


@dataclass
class HubRepository:
    """One repository: its files by revision."""

    revisions: dict[str, dict[str, bytes]]
    gated: bool = False
    private: bool = False
    disabled: bool = False

    def commit(self, revision: str) -> str | None:
        """The commit that a branch, a tag, or a commit means."""
        commits = {hashlib.sha1(name.encode()).hexdigest(): name for name in self.revisions}
        return next((one for one, name in commits.items() if revision in (one, name)), None)

    def files(self, commit: str) -> dict[str, bytes]:
        """The files of a commit."""
        return next(files for name, files in self.revisions.items() if self.commit(name) == commit)


@dataclass
class HubServer:
    """The hub's repositories, and what it does wrong."""

    url: str = ""
    repositories: dict[str, HubRepository] = field(default_factory=dict[str, HubRepository])
    breaks: dict[str, int] = field(default_factory=dict[str, int])
    """Files whose connection is closed after so many bytes, at each request."""
    corrupt: set[str] = field(default_factory=set[str])
    """Files that come with other bytes than their checksum says, when they come whole."""
    claims: dict[str, int] = field(default_factory=dict[str, int])
    """Sizes that the list of files gives in place of the true ones."""
    etags: dict[str, str] = field(default_factory=dict[str, str])
    """Etags that are sent in place of the true ones."""
    ignores_ranges: bool = False
    status: int | None = None
    """What every request is answered with."""
    requests: list[tuple[str, str, str | None]] = field(
        default_factory=list[tuple[str, str, str | None]]
    )
    broken: Event = field(default_factory=Event)
    """Set when a connection was closed before its end."""
    lock: Lock = field(default_factory=Lock)

    def add(self, name: str, files: dict[str, bytes], **settings: Any) -> HubRepository:
        """Add a repository with one branch, `main`."""
        self.repositories[name] = HubRepository({"main": files}, **settings)
        return self.repositories[name]

    @property
    def cdn(self) -> str:
        """Where files in LFS are: another host, to which no token may go."""
        return self.url.replace("127.0.0.1", "localhost")

    def loaded(self) -> list[tuple[str, str | None]]:
        """The files whose content was asked for, by name, with their ranges."""
        return [
            (path.split("/resolve/")[1].split("/", 1)[1], span)
            for method, path, span in self.requests
            if method == "GET" and "/resolve/" in path
        ]


@contextmanager
def running_hub() -> Iterator[HubServer]:
    """A hub that serves until the block ends."""
    hub = HubServer()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[HubServer]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.requests.append((self.command, path, self.headers.get("Range")))
        try:
            if self.hub.status is not None:
                raise _Refused(self.hub.status)
            self._route(path)
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self._send(refused.status, b"{}", {k: v for k, v in headers.items() if v})

    def _route(self, path: str) -> None:
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._info(match[1], match[2])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(.+)", path):
            self._tree(match[1], match[2])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/refs", path):
            repository = self._repository(match[1])
            branches = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": repository.commit(name)}
                for name in repository.revisions
            ]
            self._json({"branches": branches, "converts": [], "tags": []})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3])
        elif match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/([^/]+)/(.+)", path):
            if "Authorization" in self.headers:
                raise _Refused(400)
            files = self.hub.repositories[match[1]].files(match[2])
            self._content(match[3], files[match[3]])
        else:
            raise _Refused(404)

    def _repository(self, name: str) -> HubRepository:
        given = self.headers.get("Authorization")
        if given is not None and given != f"Bearer {TOKEN}":
            raise _Refused(401, message="Invalid credentials in Authorization header")
        repository = self.hub.repositories.get(name)
        hidden = repository is None or (repository.private and given is None)
        if repository is None or hidden:
            # The hub does not tell strangers what is private.
            raise _Refused(404 if given else 401, "RepoNotFound", "Repository not found")
        if repository.disabled:
            raise _Refused(403, message="Access to this resource is disabled.")
        return repository

    def _commit(self, repository: HubRepository, revision: str) -> str:
        commit = repository.commit(revision)
        if commit is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _info(self, name: str, revision: str) -> None:
        repository = self._repository(name)
        commit = self._commit(repository, revision)
        files = [{"rfilename": path} for path in repository.files(commit)]
        self._json({"id": name, "modelId": name, "sha": commit, "siblings": files})

    def _tree(self, name: str, revision: str) -> None:
        repository = self._repository(name)
        files = repository.files(self._commit(repository, revision))
        self._json([self._entry(path, content) for path, content in files.items()])

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        size = self.hub.claims.get(path, len(content))
        entry: dict[str, Any] = {
            "type": "file",
            "path": path,
            "size": size,
            "oid": blob_id(content),
        }
        if len(content) >= LFS_FROM:
            entry["lfs"] = {"oid": sha256(content), "size": size, "pointerSize": 130}
        return entry

    def _file(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name)
        if repository.gated and self.headers.get("Authorization") is None:
            raise _Refused(401, "GatedRepo", "Access to the model is restricted")
        commit = self._commit(repository, revision)
        content = repository.files(commit).get(path)
        if content is None:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        about = {"X-Repo-Commit": commit}
        true = blob_id(content) if len(content) < LFS_FROM else sha256(content)
        etag = self.hub.etags.get(path, true)
        if len(content) < LFS_FROM:
            self._content(path, content, {**about, "ETag": f'"{etag}"'})
            return
        about |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        place = f"{self.hub.cdn}/cdn/{name}/{commit}/{path}"
        self._send(302, b"", {**about, "Location": place})

    def _content(self, path: str, content: bytes, headers: dict[str, str] | None = None) -> None:
        span = RANGE.fullmatch(self.headers.get("Range") or "")
        headers = {"Accept-Ranges": "bytes", **(headers or {})}
        start, status = 0, 200
        if span is not None and not self.hub.ignores_ranges:
            start, status = int(span[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if path in self.hub.corrupt and start == 0:
            content = bytes(len(content))
        self._send(status, content[start:], headers, stop=self.hub.breaks.get(path))

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], stop: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if stop is None or stop >= len(body):
            self.wfile.write(body)
            return
        self.wfile.write(body[:stop])
        self.close_connection = True
        self.hub.broken.set()


def blob_id(content: bytes) -> str:
    """A file's id in git."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    """A file's checksum in LFS."""
    return hashlib.sha256(content).hexdigest()
