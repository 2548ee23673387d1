"""Each conversation and each message has an address: Back, bookmarks and other tabs work."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Locator, Page, expect

from tests.server.page.actions import answers, ask, composer, questions, reload, settled
from tests.server.page.scripted_api import ScriptedApi

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONVERSATION = re.compile(r"/#[0-9a-f]{24}$")
MESSAGE = re.compile(r"/#[0-9a-f]{24}/[0-9a-f]{24}$")
NEW = re.compile(r"/$")
WELCOME = "What shall we write?"


def links(page: Page) -> Locator:
    return page.locator("#sidebar .title")


async def link_to(message: Locator) -> Locator:
    await message.hover()
    return message.get_by_role("link", name="Link to this message")


async def two_conversations(page: Page) -> None:
    await ask(page, "one")
    await page.keyboard.press("Alt+KeyN")
    await ask(page, "two")


async def test_a_conversation_has_an_address_from_its_first_message_on(page: Page) -> None:
    await expect(page).to_have_url(NEW)
    await ask(page, "one")
    await expect(page).to_have_url(CONVERSATION)
    assert await page.evaluate("history.length") == 2  # about:blank and this page: no step back


async def test_back_and_forward(page: Page) -> None:
    await two_conversations(page)
    await links(page).last.click()
    await expect(questions(page)).to_have_text(["one"])
    await page.go_back()
    await expect(questions(page)).to_have_text(["two"])
    await page.go_back()
    await expect(questions(page)).to_have_text(["one"])
    await page.go_forward()
    await expect(questions(page)).to_have_text(["two"])
    await page.keyboard.press("Alt+KeyN")
    await expect(page).to_have_url(NEW)
    await page.go_back()
    await expect(questions(page)).to_have_text(["two"])
    await page.go_forward()
    await expect(page.get_by_text(WELCOME)).to_be_visible()


async def test_steps_by_the_keyboard_are_steps_back(page: Page) -> None:
    await two_conversations(page)
    await page.keyboard.press("Alt+ArrowDown")
    await expect(questions(page)).to_have_text(["one"])
    await page.go_back()
    await expect(questions(page)).to_have_text(["two"])


async def test_a_reload_shows_the_same_and_a_bookmark_too(page: Page) -> None:
    await two_conversations(page)
    await links(page).last.click()
    await expect(questions(page)).to_have_text(["one"])
    await reload(page)
    await expect(questions(page)).to_have_text(["one"])
    bookmark = page.url
    await page.goto("about:blank")
    await page.goto(bookmark)
    await expect(questions(page)).to_have_text(["one"])
    await ask(page, "more")
    await expect(page).to_have_url(bookmark)


async def test_nothing_flashes_before_the_addressed_conversation(page: Page) -> None:
    await ask(page, "one")
    await page.add_init_script("""
      globalThis.flashed = false;
      new MutationObserver(() => {
        globalThis.flashed ||= document.querySelector(".welcome") !== null;
      }).observe(document, { childList: true, subtree: true });
    """)
    await reload(page)
    await expect(questions(page)).to_have_text(["one"])
    assert await page.evaluate("flashed") is False


@pytest.mark.parametrize("way", ["middle", "Control"])
async def test_a_conversation_opens_in_a_new_tab(page: Page, way: str) -> None:
    await two_conversations(page)
    async with page.context.expect_page() as opened:
        if way == "middle":
            await links(page).last.click(button="middle")
        else:
            await links(page).last.click(modifiers=["Control"])
    tab = await opened.value
    await expect(questions(tab)).to_have_text(["one"])
    await expect(questions(page)).to_have_text(["two"])
    async with page.context.expect_page() as opened:
        await page.get_by_role("link", name="New conversation").click(button="middle")
    empty = await opened.value
    await expect(empty.get_by_text(WELCOME)).to_be_visible()
    await expect(questions(page)).to_have_text(["two"])


async def test_a_message_is_shown_with_the_versions_that_lead_to_it(
    page: Page, api: ScriptedApi
) -> None:
    api.hold.set()
    await ask(page, "long")
    await ask(page, "two")
    link = await link_to(questions(page).last.locator("xpath=ancestor::article"))
    address = await link.evaluate("(e) => e.href")
    assert MESSAGE.search(address)
    await page.get_by_label("You").first.hover()
    await page.get_by_label("You").first.get_by_role("button", name="Edit").click()
    await page.get_by_role("textbox", name="Edit the message").fill("other")
    await page.keyboard.press("Enter")
    await settled(page)
    await expect(questions(page)).to_have_text(["other"])
    await page.evaluate("(address) => { location.href = address }", address)
    await expect(questions(page)).to_have_text(["long", "two"])
    await expect(page.get_by_label("You").last).to_be_focused()
    await expect(page.get_by_label("You").last).to_be_in_viewport()
    await reload(page)
    await expect(page.get_by_label("You").last).to_be_focused()
    await page.go_back()
    await expect(page).to_have_url(CONVERSATION)


async def test_a_message_far_above_is_brought_into_view(page: Page, api: ScriptedApi) -> None:
    await ask(page, "first")
    api.hold.set()
    await ask(page, "long")
    link = await link_to(page.get_by_label("You").first)
    await link.click()
    await expect(page).to_have_url(MESSAGE)
    await expect(page.get_by_label("You").first).to_be_in_viewport()
    await reload(page)
    await expect(page.get_by_label("You").first).to_be_in_viewport()
    await expect(page.locator("#jump")).to_be_visible()
    await ask(page, "on")  # what is asked is read at the end, also after a reload
    await expect(questions(page).last).to_be_in_viewport()
    await expect(page).to_have_url(CONVERSATION)


@pytest.mark.parametrize(
    "address", ["nobody", "0123456789abcdef01234567", "%E0%A4%A", "thread", "a/b/c", "__proto__"]
)
async def test_an_unknown_address_says_so_and_does_no_harm(page: Page, address: str) -> None:
    await ask(page, "one")
    await page.evaluate("(hash) => { location.hash = hash }", address)
    await expect(page.locator("#notices")).to_contain_text("names no conversation of this browser")
    await expect(page.get_by_text(WELCOME)).to_be_visible()
    await expect(page).to_have_url(NEW)
    await expect(links(page)).to_have_text(["one"])
    await page.go_back()
    await expect(questions(page)).to_have_text(["one"])
    await ask(page, "two")
    await expect(links(page)).to_have_count(1)


async def test_an_unknown_address_at_the_start(page: Page, api: ScriptedApi) -> None:
    await page.goto("about:blank")
    await page.goto(f"{api.url}/#nobody")
    await expect(page.locator("#notices")).to_contain_text("names no conversation of this browser")
    await ask(page, "one")
    await expect(page).to_have_url(CONVERSATION)


async def test_an_unknown_message_of_a_known_conversation(page: Page) -> None:
    await ask(page, "one")
    await page.evaluate("location.hash += '/nobody'")
    await expect(page.locator("#notices")).to_contain_text("not in its conversation")
    await expect(questions(page)).to_have_text(["one"])
    await expect(page).to_have_url(CONVERSATION)


async def test_the_address_of_a_deleted_conversation(page: Page) -> None:
    await two_conversations(page)
    deleted = page.url
    await links(page).last.click()
    await page.locator(".conversations li").first.hover()
    await page.get_by_role("button", name="Delete two").click()
    await expect(links(page)).to_have_text(["one"])
    await page.go_back()
    await expect(page.locator("#notices")).to_contain_text("was deleted")
    await expect(page.get_by_text(WELCOME)).to_be_visible()
    await links(page).first.click()
    await page.locator(".conversations li").first.hover()
    await page.get_by_role("button", name="Delete one").click()
    await expect(page).to_have_url(NEW)
    await page.goto(deleted)
    await expect(page.locator("#notices")).to_contain_text("was deleted")


async def test_the_skip_link_leaves_the_address(page: Page) -> None:
    await ask(page, "one")
    await page.locator("#thread").focus()
    await page.locator(".skip").focus()
    await page.keyboard.press("Enter")
    await expect(composer(page)).to_be_focused()
    await expect(page).to_have_url(CONVERSATION)


async def test_an_answer_under_way_goes_on_behind_back(page: Page, api: ScriptedApi) -> None:
    await ask(page, "one")
    await page.keyboard.press("Alt+KeyN")
    await ask(page, "held", wait=False)
    await expect(answers(page)).to_contain_text("Before.")
    await page.go_back()
    await expect(questions(page)).to_have_text(["one"])
    api.hold.set()
    await expect(page.locator(".running")).to_have_count(0)
    await page.go_forward()
    await expect(answers(page)).to_contain_text("After.")
