"""What comes late, after another conversation was opened or an answer went on, changes nothing there."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Page, Route, expect

from tests.server.page.actions import answers, ask, composer, reload, settled
from tests.server.page.scripted_api import ScriptedApi
from tests.server.page.test_documents import PASTE, chips
from tests.server.page.test_media import choose
from tests.server.page.test_probabilities import set_probabilities

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOLD_TEXTS = """() => {
  const { text } = Blob.prototype;
  const held = new Promise((resolve) => { window.letTextsCome = resolve; });
  window.textsAsked = 0;
  Blob.prototype.text = async function () {
    window.textsAsked += 1;
    await held;
    return text.call(this);
  };
}"""
"""Files of the store are read when `letTextsCome` is called."""


async def come(page: Page) -> None:
    """Let the texts come, and what waits for them be done."""
    await page.evaluate(
        "() => { letTextsCome(); return new Promise((done) => setTimeout(done, 50)); }"
    )


async def test_a_file_that_is_read_slowly_is_in_the_next_new_conversation(
    page: Page, api: ScriptedApi
) -> None:
    """There is one draft of what was not begun yet."""
    asked, counted = asyncio.Event(), asyncio.Event()

    async def slowly(route: Route) -> None:
        asked.set()
        await counted.wait()
        await route.continue_()

    await page.route("**/tokenize", slowly)
    await choose(page, ("a.txt", "", b"some words"))
    await asyncio.wait_for(asked.wait(), 60)
    await page.keyboard.press("Alt+KeyN")
    await expect(page.locator("#composer .chip.busy")).to_have_count(1)
    counted.set()
    await expect(chips(page)).to_contain_text("a.txt")
    await composer(page).fill("What is it?")
    await reload(page)
    await expect(chips(page)).to_contain_text("a.txt")


async def test_a_pasted_text_goes_into_no_other_message(page: Page, api: ScriptedApi) -> None:
    await ask(page, "first")
    await page.evaluate(PASTE, "many words " * 500)
    await expect(chips(page)).to_contain_text("pasted-1.txt")
    await page.evaluate(HOLD_TEXTS)
    await page.get_by_role("button", name="Put it into the message").click()
    await page.wait_for_function("() => textsAsked > 0")
    await page.keyboard.press("Alt+KeyN")
    await expect(chips(page)).to_have_count(0)
    await come(page)
    await expect(composer(page)).to_have_value("")
    await page.go_back()
    await expect(chips(page)).to_contain_text("pasted-1.txt")


async def test_probabilities_do_not_hide_an_answer_that_goes_on(
    page: Page, api: ScriptedApi
) -> None:
    await set_probabilities(page, True)
    await ask(page, "held", wait=False)
    answer = answers(page).last
    await expect(answer).to_contain_text("Before.")
    await page.get_by_role("button", name="Stop the answer").click()
    await settled(page)
    await page.evaluate(HOLD_TEXTS)
    await answer.get_by_role("button", name="Probabilities").click()
    await page.wait_for_function("() => textsAsked > 0")
    await answer.get_by_role("button", name="Continue").click()
    await expect(answer).to_contain_text("Before. And")
    await come(page)
    await expect(answer.locator(".tokens")).to_have_count(0)
    api.hold.set()
    await settled(page)
    await expect(answer.locator(".prose").last).to_have_text("Before. And on.")
