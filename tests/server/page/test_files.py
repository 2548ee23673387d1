"""The page's files as they are served."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from quire.server import page
from tests.server.page.scripted_api import ScriptedApi

FOLDER = Path(page.__file__).parent
MADE = {"js/obeyed.js", "js/options.js", "js/option_names.js"}
"""Made from lists that are not the page's own."""
NAMES = sorted(set(page.page_files()) - MADE)
"""The files of the folder."""
THIRD_PARTY = FOLDER / "vendor" / "THIRD_PARTY.md"


@pytest.fixture
def client(api: ScriptedApi) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, timeout=60) as client:
        yield client


def test_the_index_is_served_at_the_root(client: httpx.Client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text == (FOLDER / "index.html").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_every_file_comes_whole_and_with_its_type(client: httpx.Client, name: str) -> None:
    answer = client.get(f"/page/{name}")
    kinds = {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".css": "text/css",
        ".svg": "image/svg+xml",
        ".woff2": "font/woff2",
        ".wasm": "application/wasm",
        ".bcmap": "application/octet-stream",
    }
    kind = kinds.get(Path(name).suffix, "text/html")
    assert answer.headers["content-type"].split(";")[0] == kind
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.content == (FOLDER / name).read_bytes()
    plain = client.get(f"/page/{name}", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == answer.content


def test_a_known_version_is_not_sent_again(client: httpx.Client) -> None:
    tag = client.get("/page/js/app.js").headers["etag"]
    again = client.get("/page/js/app.js", headers={"if-none-match": f'"other", {tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == tag
    assert client.get("/page/js/app.js", headers={"if-none-match": '"other"'}).status_code == 200
    assert client.get("/page/js/api.js").headers["etag"] != tag


def test_head_has_no_body(client: httpx.Client) -> None:
    answer = client.head("/")
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("path", ["/", "/page/js/app.js"])
def test_the_policy_lets_nothing_else_in(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-cache"


def test_the_worker_for_pdfs_may_decode_and_read_its_own_files_alone(client: httpx.Client) -> None:
    policy = client.get("/page/vendor/pdfjs/pdf.worker.min.mjs").headers["content-security-policy"]
    assert policy == (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'"
    )


@pytest.mark.parametrize(
    "name", ["", "__init__.py", "../__init__.py", "%2e%2e/app.py", "js/../../app.py", "js", "a\0b"]
)
def test_nothing_but_the_files_of_the_page(client: httpx.Client, name: str) -> None:
    assert client.get(f"/page/{name}".replace("\0", "%00")).status_code == 404


def test_no_file_names_an_address_elsewhere() -> None:
    for name in NAMES:
        if not name.startswith("vendor/"):
            text = (FOLDER / name).read_text().replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://|//[a-z]+\.[a-z]", text), name


def test_foreign_files_are_few_and_named_with_their_licences() -> None:
    foreign = [name for name in NAMES if name.startswith("vendor/")]
    named = THIRD_PARTY.read_text()
    folders = ("languages/", "katex/fonts/", "pdfjs/cmaps/")
    for name in foreign:
        short = name.removeprefix("vendor/")
        assert short in named or short.startswith(folders), name


def test_packed_files_are_the_same_each_time() -> None:
    for file in page.page_files().values():
        assert gzip.decompress(file.gzipped) == file.content


def test_the_wheel_holds_the_page_and_all_other_files(tmp_path: Path) -> None:
    root = FOLDER.parents[3]
    builder = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", builder, str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=600)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert held >= {f"quire/server/page/{name}" for name in NAMES}
    assert "quire/server/page/vendor/THIRD_PARTY.md" in held
    source = root / "src"
    assert held >= {
        path.relative_to(source).as_posix()
        for path in (source / "quire").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
