"""Documents of office programs on the page: the text that the terminal reads, and what is refused."""

from __future__ import annotations

import base64
from pathlib import Path
from random import Random

import pytest
from playwright.async_api import Page, expect

from quire.cli.chat.documents.reading import document_text
from quire.errors import MediaError
from tests.documents.archives import REFUSED, TEXTS, WRITTEN, p, word
from tests.documents.random_documents import random_document
from tests.server.page.actions import ask
from tests.server.page.scripted_api import ScriptedApi
from tests.server.page.test_documents import chips
from tests.server.page.test_media import choose

pytestmark = pytest.mark.asyncio(loop_scope="session")

READ = """async ([name, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const { documentText } = await import("/page/js/documents/reading.js");
  try {
    return await documentText(new Blob([bytes]), name);
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}"""


async def read(page: Page, name: str, content: bytes) -> str:
    """The text that the page reads of a file, or its error."""
    return await page.evaluate(READ, [name, base64.b64encode(content).decode()])


async def test_the_page_reads_what_the_terminal_reads(page: Page) -> None:
    for case in TEXTS:
        assert await read(page, "any name", case.content) == case.text, case.name
    for path in WRITTEN:
        assert await read(page, path.name, path.read_bytes()) == document_text(path), path.name


async def test_what_cannot_be_read_says_why(page: Page, complaints: list[str]) -> None:
    for case in REFUSED:
        told = await read(page, case.name, case.content)
        assert told == f"Error: {case.name} cannot be read: {case.text}."
    # Chromium puts its complaint of broken XML into the document, with a style of its own.
    assert all("inline style" in complaint for complaint in complaints)
    complaints.clear()


async def test_any_elements_are_read_as_in_the_terminal(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "any"
    read_texts = 0
    for seed in range(150):
        content = random_document(Random(seed))
        path.write_bytes(content)
        try:
            text = document_text(path)
        except MediaError as error:
            text = f"Error: any cannot be read: {error}."
        read_texts += bool(text) and not text.startswith("Error")
        assert await read(page, "any", content) == text, seed
    assert read_texts > 50


async def test_a_document_goes_with_a_message(page: Page, api: ScriptedApi) -> None:
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url) if "/documents/" in one.url else None)
    await choose(page, ("a.txt", "", b"text"))
    await expect(chips(page)).to_have_count(1)
    assert asked == []  # the reader comes with the first document
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    await choose(page, ("letter.docx", kind, word(p("Dear all,") + p("good bye."))))
    await expect(chips(page).last).to_contain_text("20 B · 4 tokens")
    await ask(page, "So?")
    assert api.last["messages"][0]["content"] == (
        "a.txt:\n\n```\ntext\n```\n\nletter.docx:\n\n```\nDear all,\n\ngood bye.\n```\n\nSo?"
    )
    await page.locator("article.user").get_by_role("button", name="letter.docx").click()
    await expect(page.get_by_role("dialog")).to_contain_text("Dear all,")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.docx", word(p()), "empty.docx holds no text."),
        ("a.docx", b"PK\3\4 and more", "a.docx cannot be read: it is damaged."),
    ],
)
async def test_the_reason_is_told(page: Page, name: str, content: bytes, reason: str) -> None:
    await choose(page, (name, "", content))
    await expect(page.locator("#notices")).to_contain_text(reason)
    await expect(page.locator("#composer .chip")).to_have_count(0)
