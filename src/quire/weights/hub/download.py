"""Downloading the files of a snapshot: several at once, each with a progress bar, each resumable.

The hub's client throws a file away that did not come whole. Here it stays beside the blobs, named by
its content as older versions of the client do, and a later download asks for the rest of it.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from quire.errors import ModelError
from quire.weights.hub.cache import Repository
from quire.weights.hub.errors import is_passing

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

RETRIES = 5
"""How often a file is asked for again after a break that brought nothing new."""
RETRY_PAUSE = 1.0
"""Seconds before that."""
_WORKERS = 8
_PLAIN_LIMIT = 50 * 1000**3
"""The hub gives larger files through Xet alone, which begins a file anew."""
_PIECE = 2**16
_FILE_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,127}")


def check_name(repository: str, name: str | None) -> None:
    """Check what a hub says that becomes the name of a file or a folder: it must lead nowhere else.

    Raises:
        ModelError: it would.
    """
    if name is not None and not _FILE_NAME.fullmatch(name):
        raise ModelError(f"The hub's answer for {repository} has {name!r} where a name should be.")


class Stopped(Exception):
    """Another file's download failed, or the user stopped them all."""


@dataclass(frozen=True, slots=True)
class Download:
    """One commit of a repository, on its way into the cache."""

    repository: Repository
    commit: str

    @property
    def folder(self) -> Path:
        """The snapshot's folder."""
        return self.repository.folder / "snapshots" / self.commit

    def pointer(self, file: RepoFile) -> Path:
        """Where a file of the snapshot is found once it is there."""
        return self.folder / file.path

    def bytes_here(self, file: RepoFile) -> int:
        """How much of a file is in the cache, of another snapshot or of a broken-off download."""
        etag = file.lfs.sha256 if file.lfs else file.blob_id
        for path in (self._blob(etag), self._partial(etag)):
            if path.is_file():
                return min(path.stat().st_size, file.size)
        return 0

    def fetch(self, file: RepoFile, stop: threading.Event) -> None:
        """Download one file, unless the cache has it, and link it into the snapshot.

        Raises:
            Stopped: `stop` was set.
            ModelError: the file came damaged.
            Exception: of the network, the hub's client, or the disk.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        name, endpoint, token = (
            self.repository.name,
            self.repository.endpoint,
            self.repository.token,
        )
        url = hf_hub_url(name, file.path, revision=self.commit, endpoint=endpoint)
        about = get_hf_file_metadata(url, token=token)
        check_name(name, about.etag)
        if about.etag and about.size is not None and about.size <= _PLAIN_LIMIT:
            self._fetch_blob(RemoteFile(file, url, about.size, token, stop), about.etag)
        if stop.is_set():
            raise Stopped
        hf_hub_download(
            name,
            file.path,
            revision=self.commit,
            cache_dir=self.repository.cache,
            token=token,
            endpoint=endpoint,
        )

    def _blob(self, etag: str) -> Path:
        return self.repository.folder / "blobs" / etag

    def _partial(self, etag: str) -> Path:
        return self.repository.folder / "blobs" / f"{etag}.incomplete"

    def _fetch_blob(self, remote: RemoteFile, etag: str) -> None:
        from huggingface_hub.utils import WeakFileLock

        blob, partial = self._blob(etag), self._partial(etag)
        lock = self.repository.cache / ".locks" / blob.parents[1].name / f"{etag}.lock"
        for folder in (blob.parent, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if blob.exists():
                return
            had_some = partial.exists()
            remote.receive(partial)
            if had_some and not remote.is_intact(partial, etag):
                partial.unlink()
                remote.receive(partial)
            if not remote.is_intact(partial, etag):
                partial.unlink()
                raise ModelError(
                    f"{remote.file.path} of {self.repository.name} came damaged: its checksum is not "
                    "the hub's. The same command downloads it again."
                )
            partial.replace(blob)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of the hub, and how it is received."""

    file: RepoFile
    url: str
    size: int
    token: str | None
    stop: threading.Event

    def receive(self, partial: Path) -> None:
        """Append to `partial` what it lacks; a connection that breaks is made again.

        Raises:
            Stopped: `stop` was set.
            Exception: of the network or the hub, after some retries; or of the disk.
        """
        from huggingface_hub.utils import tqdm

        with partial.open("ab") as out:
            if out.tell() > self.size:
                _make_empty(out)
            bar = tqdm(
                desc=self.file.path,
                total=self.size,
                initial=out.tell(),
                unit="B",
                unit_scale=True,
                disable=None,  # shown on a terminal alone
            )
            with bar:
                failures = 0
                while out.tell() < self.size:
                    before = out.tell()
                    try:
                        self._append(out, bar)
                    except Stopped:
                        raise
                    except Exception as error:
                        failures = 0 if out.tell() > before else failures + 1
                        if not is_passing(error) or failures > RETRIES:
                            raise
                        if self.stop.wait(RETRY_PAUSE):
                            raise Stopped from error

    def _append(self, out: BinaryIO, bar: Any) -> None:
        start = out.tell()
        with _response(self.url, self.token, start) as response:
            if start and response.status_code != HTTPStatus.PARTIAL_CONTENT:
                _make_empty(out)  # the server sends all of it
                bar.update(-start)
            for piece in _pieces(response):
                if self.stop.is_set():
                    raise Stopped
                out.write(piece)
                bar.update(len(piece))
        if out.tell() < self.size:
            raise ConnectionError(f"it ended after {out.tell()} of {self.size} bytes")

    def is_intact(self, path: Path, etag: str) -> bool:
        """Whether a file is what the hub says. The etag of a file in LFS is its checksum."""
        if path.stat().st_size != self.size:
            return False
        if self.file.lfs is None or self.file.lfs.sha256 != etag:
            return True
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == self.file.lfs.sha256


def _make_empty(out: BinaryIO) -> None:
    out.seek(0)
    out.truncate()


@contextmanager
def _response(url: str, token: str | None, start: int) -> Generator[Any]:
    """The hub's answer to a GET from byte `start` on, whose body is still to come.

    The session is the client's, with its proxies and certificates: of requests before version 1 of the
    client, and of httpx since then. Both take the token off where the hub leads to another host.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    headers = build_hf_headers(token=token, library_name="quire")
    headers["Accept-Encoding"] = "identity"  # a range counts the file's own bytes
    if start:
        headers["Range"] = f"bytes={start}-"
    session: Any = get_session()
    patience = constants.HF_HUB_DOWNLOAD_TIMEOUT
    if isinstance(session.stream, bool):  # a flag of requests'
        opened: Any = session.get(url, headers=headers, timeout=patience, stream=True)
    else:
        opened = session.stream("GET", url, headers=headers, timeout=patience)
    with opened as response:
        hf_raise_for_status(response)
        yield response


def _pieces(response: Any) -> Iterator[bytes]:
    """The body as it comes: a break loses no more than a piece."""
    if hasattr(response, "iter_content"):
        return response.iter_content(_PIECE)
    return response.iter_bytes()


Fetch: TypeAlias = "Callable[[RepoFile, threading.Event], None]"


def download_files(fetch: Fetch, files: Sequence[RepoFile]) -> None:
    """Fetch all files in threads; the first error stops the others.

    Raises:
        Exception: what `fetch` raised.
    """
    pending = deque(files)
    stop = threading.Event()
    failures: list[Exception] = []

    def work() -> None:
        while not stop.is_set():
            try:
                file = pending.popleft()
            except IndexError:
                return
            try:
                fetch(file, stop)
            except Exception as error:
                failures.append(error)
                stop.set()

    # Daemons: an executor's threads would hold up Ctrl-C until gigabytes have come.
    count = min(_WORKERS, len(files))
    threads = [
        threading.Thread(target=work, daemon=True, name="quire-download") for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:
        stop.set()
    if failures:
        raise failures[0]
