"""The page's main ways in Firefox: answers, formulas, files, what is kept, and a policy that holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.documents.archives import FILES
from tests.server.page.firefox import ENTER, Firefox, firefox
from tests.server.page.pdfs import text_pdf
from tests.server.page.scripted_api import ScriptedApi

pytestmark = pytest.mark.asyncio(loop_scope="session")

ANSWERS = """[...document.querySelectorAll("article.assistant")].map(
  (each) => [...each.querySelectorAll(".prose")].at(-1).innerText,
)"""
FORGOTTEN = """new Promise((resolve) => {
  indexedDB.deleteDatabase("quire").onsuccess = () => resolve();
})"""
IS_SETTLED = "document.querySelector('article.assistant[aria-busy=false]') !== null"


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def browser() -> AsyncIterator[Firefox]:
    async with firefox() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Firefox, api: ScriptedApi) -> AsyncIterator[Firefox]:
    """The page with an empty conversation; a complaint of its console fails the test."""
    browser.complaints.clear()
    await browser.load("about:blank")
    await browser.load(api.url)
    await browser.until("document.querySelector('#model option') !== null")
    await browser.read("document.getElementById('composer-text').focus()")
    yield browser
    assert browser.complaints == []


async def test_a_question_is_answered_and_kept(page: Firefox) -> None:
    await page.write(f"one{ENTER}")
    await page.until(ANSWERS, ["You said: one."])
    await page.until(IS_SETTLED)
    address = await page.read("location.hash")
    assert len(address) > 1
    await page.reload()
    await page.until(ANSWERS, ["You said: one."])
    assert await page.read("location.hash") == address


async def test_formulas_are_drawn(page: Firefox, api: ScriptedApi) -> None:
    api.answer = r"It is $x^2$ for $5 and $10, or \[\sqrt{\frac{1}{2}}\]"
    await page.write(f"formulas{ENTER}")
    await page.until(
        "document.querySelectorAll('.math > .katex, .math > .katex-display').length", 2
    )
    await page.until("document.fonts.check('16px KaTeX_Main')")
    height = "document.querySelector('.katex-display .sqrt').getBoundingClientRect().height"
    assert await page.read(height) > 20
    (text,) = await page.read(ANSWERS)
    assert "$5 and $10" in text


async def test_a_pdf_is_read(page: Firefox, api: ScriptedApi, tmp_path: Path) -> None:
    file = tmp_path / "paper.pdf"
    file.write_bytes(text_pdf("Some words"))
    await page.give("input[type=file]", file)
    await page.until("document.querySelector('#composer .chip:not(.busy)') !== null")
    await page.read("document.getElementById('composer-text').focus()")
    await page.write(f"read it{ENTER}")
    await page.until(IS_SETTLED)
    assert "Some words" in str(api.last["messages"])


@pytest.mark.parametrize("name", ["pandoc.docx", "pandoc.odt", "openpyxl.xlsx", "python_pptx.pptx"])
async def test_a_document_is_read(page: Firefox, api: ScriptedApi, name: str) -> None:
    await page.give("input[type=file]", FILES / name)
    await page.until("document.querySelector('#composer .chip:not(.busy)') !== null")
    await page.read("document.getElementById('composer-text').focus()")
    await page.write(f"read it{ENTER}")
    await page.until(IS_SETTLED)
    text = (FILES / f"{name}.txt").read_text(encoding="utf-8")
    assert text in api.last["messages"][-1]["content"]


async def test_an_answer_is_stopped_by_a_key(page: Firefox) -> None:
    await page.write(f"endless{ENTER}")
    await page.until("document.querySelector('article.assistant')?.innerText.includes('3 ')")
    await page.write("\ue00c")
    await page.until("document.querySelector('.note')?.innerText.startsWith('Stopped')")


async def test_what_could_not_be_loaded_is_tried_again(page: Firefox, api: ScriptedApi) -> None:
    """Firefox itself keeps a module's failure until the page is left."""
    await page.read(FORGOTTEN)  # else what draws answers is loaded for what other tests have asked
    await page.reload()
    await page.until("document.querySelector('#model option') !== null")
    await page.read("document.getElementById('composer-text').focus()")
    api.away = True
    await page.write(f"*one*{ENTER}")
    await page.until(IS_SETTLED)
    await page.until("document.querySelector('.prose.plain')?.innerText", "You said: *one*.")
    press = "document.getElementById('settings').click()"
    await page.read(press)
    await page.until("document.querySelector('.notice')?.innerText.includes('cannot be reached')")
    api.away = False
    # Again and again, as people do: the notice may be that of the answer, while the dialog is on its way.
    shown = "document.querySelector('dialog.settings') !== null"
    await page.until(f"{shown} || ({press}, {shown})")
    await page.read("document.querySelector('dialog.settings').close()")
    await page.read("document.getElementById('composer-text').focus()")
    await page.write(f"two{ENTER}")
    await page.until(ANSWERS, ["You said: one.", "You said: two."])
    assert await page.read("document.querySelector('.prose em').innerText") == "one"
