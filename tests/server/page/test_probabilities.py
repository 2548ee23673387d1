"""The tokens of an answer with their probabilities: as people read them, and over the whole answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.async_api import Locator, Page, expect

from tests.server.page.actions import answers, ask, reload, settled
from tests.server.page.scripted_api import PIECES, ScriptedApi

pytestmark = pytest.mark.asyncio(loop_scope="session")

SHOWN = """(text) => [...text.childNodes].map((node) =>
  node.nodeType === Node.TEXT_NODE ? `plain ${node.data}` : node.textContent)"""


async def set_probabilities(page: Page, on: bool) -> None:
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_label("Ask for the probability").set_checked(on)
    await page.keyboard.press("Escape")


async def tokens_of(page: Page) -> Locator:
    """The last answer, shown as tokens."""
    answer = answers(page).last
    await answer.get_by_role("button", name="Probabilities").click()
    text = answer.locator(".tokens .text")
    await expect(text).to_be_visible()
    return text


async def test_parts_of_characters_blanks_and_breaks(page: Page, api: ScriptedApi) -> None:
    await set_probabilities(page, True)
    await ask(page, "pieces")
    text = await tokens_of(page)
    whole = b"".join(PIECES).decode()
    assert await text.evaluate("(e) => e.textContent") == whole  # with no mark in what is copied
    assert await text.evaluate(SHOWN) == ["Grü", "", "ße ", "\n", " ", "", "👋", " you", "!"]
    await expect(text.locator(".partial")).to_have_count(2)
    await expect(text.locator(".partial").first).to_have_attribute(
        "title", "A part of a character: bytes C3"
    )
    await expect(text.locator(".break")).to_have_text(["\n"])
    blanks = await text.locator(".blank").evaluate_all(
        "(all) => all.map((e) => e.parentElement.textContent)"
    )
    assert blanks == ["ße ", " "]  # alone, or at an end that nothing shows
    mark = "(e) => getComputedStyle(e, '::before').content"
    assert await text.locator(".break").evaluate(mark) == '"↵"'
    card = answers(page).last.locator(".alternatives li.taken code")
    for index, seen in enumerate(["Grü", "▯", "▯e·", "↵", "·", "▯", "▯", "·you", "!"]):
        await text.locator(".token").nth(index).hover()
        await expect(card).to_have_text(seen)


async def test_an_answer_that_goes_on_is_shown_whole(page: Page, api: ScriptedApi) -> None:
    """The first part with no colours, if its probabilities were not asked for."""
    await ask(page, "length")
    await set_probabilities(page, True)
    await page.get_by_role("button", name="Continue").click()
    await settled(page)
    text = await tokens_of(page)
    assert await text.evaluate(SHOWN) == ["plain You said: length.", " And", " on."]


async def test_an_edited_answer_keeps_what_is_known_of_its_beginning(
    page: Page, api: ScriptedApi, tmp_path: Path
) -> None:
    await set_probabilities(page, True)
    await ask(page, "length")
    await answers(page).get_by_role("button", name="Edit").click()
    await page.get_by_role("textbox", name="Edit the answer").fill("You said: lengths, and more:")
    await page.get_by_role("button", name="Save and continue").click()
    await settled(page)
    wanted = ["You ", "said: ", "length", "plain s, and more:", " And", " on."]
    assert await (await tokens_of(page)).evaluate(SHOWN) == wanted
    await reload(page)
    assert await (await tokens_of(page)).evaluate(SHOWN) == wanted
    # They are beside the conversation, and go with it to another browser.
    async with page.expect_download() as download:
        await page.keyboard.press("Alt+KeyS")
        await page.get_by_role("button", name="Export all").click()
    file = tmp_path / "exported.json"
    await (await download.value).save_as(file)
    nodes = json.loads(file.read_text())["conversations"][0]["nodes"]
    assert [len(node.get("probabilities", [])) for node in nodes] == [0, 1, 2]
    await page.get_by_role("button", name="Delete all").click()
    await page.get_by_role("button", name="Delete all").last.click()
    await page.get_by_label("File to import").set_input_files(file)
    await expect(page.get_by_role("dialog").get_by_text("imported.")).to_be_visible()
    await page.keyboard.press("Escape")
    assert await (await tokens_of(page)).evaluate(SHOWN) == wanted


KEPT = """() => new Promise((resolve) => {
  indexedDB.open("quire").onsuccess = ({ target: { result: database } }) => {
    const all = database.transaction("conversations").objectStore("conversations").getAll();
    all.onsuccess = () => { database.close(); resolve(JSON.stringify(all.result).length); };
  };
})"""


async def test_probabilities_are_no_part_of_what_is_saved_each_second(
    page: Page, api: ScriptedApi
) -> None:
    api.answer = "word " * 1200
    await set_probabilities(page, True)
    await ask(page, "hello")
    await reload(page)
    assert await page.evaluate(KEPT) < len(api.answer) + 2000
    text = await tokens_of(page)
    await expect(text.locator(".token")).to_have_count(1200)
    assert await text.evaluate("(e) => e.textContent") == api.answer


async def test_probabilities_that_are_lost_leave_the_text(page: Page, api: ScriptedApi) -> None:
    await set_probabilities(page, True)
    await ask(page, "hello")
    await page.evaluate("""() => new Promise((resolve) => {
      indexedDB.open("quire").onsuccess = ({ target: { result: database } }) => {
        const deleted = database.transaction("files", "readwrite");
        deleted.objectStore("files").clear();
        deleted.oncomplete = () => { database.close(); resolve(); };
      };
    })""")
    text = await tokens_of(page)
    assert await text.evaluate(SHOWN) == ["plain You said: hello."]
