"""Every relative link leads to a file, and every anchor to a heading, an argument or an object."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module

import pytest

from docs import reference
from tests.docs.pages import PAGES, ROOT, Page


def problems(page: Page) -> Iterator[str]:
    for link in page.links:
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.path.parent / target).resolve() if target else page.path
        # The site shows the root's pages beside those of docs/, under names in small letters.
        shown = ROOT / path.name.upper().replace(".MD", ".md")
        if (
            not path.exists()
            and shown.name in reference.ROOT_PAGES
            and path.parent == ROOT / "docs"
        ):
            path = shown
        if not path.exists():
            yield f"no file: {link}"
        elif (
            anchor
            and path.suffix == ".md"
            and not is_anchor(page if path == page.path else Page.read(path), anchor)
        ):
            yield f"no anchor: {link}"


def is_anchor(page: Page, anchor: str) -> bool:
    return anchor in page.anchors or anchor in generated(page)


def generated(page: Page) -> set[str]:
    """The anchors that a page has on the site alone."""
    tables = re.findall(r"<!-- table: (\w+) -->", page.text)
    lines = "\n".join(line for table in tables for line in reference.table(table))
    objects = re.findall(r"^::: ([\w.]+)$", f"{page.text}\n{lines}", re.M)
    return {*objects, *re.findall(r'<span id="(\w+)">', lines)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Page) -> None:
    assert list(problems(page)) == []


def test_objects_of_the_api_page_exist() -> None:
    (page,) = (page for page in PAGES if page.name == "docs/api.md")
    for name in generated(page):
        assert resolve(name) is not None


def resolve(name: str) -> object:
    """The object of a dotted name."""
    module, *rest = name.split(".")
    found: object = import_module(module)
    for part in rest:
        module = f"{module}.{part}"
        found = getattr(found, part) if hasattr(found, part) else import_module(module)
    return found


def test_a_broken_link_is_found() -> None:
    text = "[a](no.md) [b](#no) [c](server.md#nowhere) [d](server.md#chat)\n# A, b!\n[e](#a-b)"
    page = Page(ROOT / "docs" / "faq.md", text)
    assert list(problems(page)) == [
        "no file: no.md",
        "no anchor: #no",
        "no anchor: server.md#nowhere",
    ]
