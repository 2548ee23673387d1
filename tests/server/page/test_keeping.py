"""What the browser keeps."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.server.page.actions import PATIENCE, answers, ask, composer, questions, reload, settled
from tests.server.page.scripted_api import ScriptedApi
from tests.server.page.test_media import RED, choose

KEPT = """async () => {
  const { openStore } = await import("/page/js/store.js");
  const store = await openStore();
  const isKept = ({ nodes }) => nodes.at(-1).text.startsWith("0 1 2");
  while (!(await store.conversations()).some(isKept)) await new Promise((go) => setTimeout(go, 20));
}"""
"""Waits until the beginning of an answer is in the store; `wait_for_function` waits for no promise."""

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_conversations_outlive_a_reload(page: Page, api: ScriptedApi) -> None:
    await ask(page, "think")
    await page.get_by_role("button", name="Retry").click()
    await settled(page)
    await page.keyboard.press("Alt+KeyN")
    await ask(page, "other")
    figures = await page.locator(".figures").inner_text()
    await reload(page)
    await expect(page.locator("#sidebar .title")).to_have_text(["other", "think"])
    await page.locator("#sidebar .title").first.click()
    await expect(page.locator(".figures")).to_have_text(figures, use_inner_text=True)
    await page.locator("#sidebar .title").last.click()
    await expect(answers(page).locator(".prose").last).to_have_text("It is four.")
    await expect(page.locator(".thought")).to_be_visible()
    await expect(page.get_by_label("Version 2 of 2")).to_be_visible()


async def test_an_answer_that_a_reload_cuts_off_is_kept_as_far_as_it_came(
    page: Page, api: ScriptedApi
) -> None:
    await ask(page, "endless", wait=False)
    await expect(answers(page)).to_contain_text("3 ")
    await asyncio.wait_for(page.evaluate(KEPT), PATIENCE / 1000)
    await page.reload()
    await page.locator("#sidebar .title").click()
    await expect(answers(page)).to_contain_text("0 1 2")
    await expect(page.locator(".note", has_text="Interrupted")).to_be_visible()


async def test_a_connection_that_ends_with_its_page_is_no_error(
    page: Page, api: ScriptedApi
) -> None:
    await ask(page, "killed", wait=False)
    await expect(answers(page)).to_contain_text("You said: killed.")
    await page.evaluate("dispatchEvent(new Event('pagehide'))")
    api.hold.set()
    await expect(page.locator(".note", has_text="Interrupted")).to_be_visible()
    await expect(page.locator(".problem")).to_have_count(0)


async def test_rename_search_and_delete(page: Page, api: ScriptedApi) -> None:
    for text in ("apples", "pears"):
        await page.keyboard.press("Alt+KeyN")
        await ask(page, text)
    await page.locator(".conversations li").first.hover()
    await page.get_by_role("button", name="Rename pears").click()
    field = page.get_by_label("Title")
    await expect(field).to_have_value("pears")
    await field.fill("Fruit")
    await field.press("Enter")
    await expect(page.locator("#title")).to_have_text("Fruit")
    await page.get_by_label("Search the conversations").fill("said: apples")
    await expect(page.locator("#sidebar .title > span")).to_have_text(
        ["apples", "You said: apples."]
    )
    await expect(page.locator("#sidebar mark")).to_have_text("said: apples")
    await page.get_by_label("Search the conversations").fill("")
    await page.locator(".conversations li").first.hover()
    await page.get_by_role("button", name="Delete Fruit").click()
    await expect(page.locator("#sidebar .title")).to_have_text(["apples"])
    await expect(page.get_by_text("What shall we write?")).to_be_visible()
    await reload(page)
    await expect(page.locator("#sidebar .title")).to_have_text(["apples"])


async def test_a_deleted_conversation_comes_back_whole(page: Page, api: ScriptedApi) -> None:
    await choose(page, ("red.png", "image/png", RED))
    await ask(page, "Which?")
    await ask(page, "And then?")
    address = page.url
    await composer(page).fill("half a thought")
    await page.locator(".conversations li").hover()
    await page.get_by_role("button", name="Delete Which?").click()
    await expect(page.get_by_text("What shall we write?")).to_be_visible()
    await expect(composer(page)).to_have_value("")
    notice = page.locator(".notice")
    await expect(notice).to_contain_text("“Which?” was deleted.")
    await notice.get_by_role("button", name="Undo").click()
    await expect(notice).to_have_count(0)
    await expect(questions(page)).to_have_text(["Which?", "And then?"])
    await expect(page).to_have_url(address)
    await expect(composer(page)).to_have_value("half a thought")
    await reload(page)
    await expect(page.locator("article.user img")).to_be_visible()
    await ask(page, "Still?")
    assert api.last["messages"][0]["content"][0]["type"] == "image_url"


async def test_files_that_were_never_sent_are_pruned(page: Page, api: ScriptedApi) -> None:
    left = await page.evaluate("""async () => {
      const { openStore } = await import("/page/js/store.js");
      const store = await openStore();
      for (const id of ["used", "unused"]) await store.saveFile(id, new Blob(["x"]));
      await store.prune(new Set(["used"]), Date.now() - 1000);
      const young = await store.file("unused");
      await store.prune(new Set(["used"]), Date.now() + 1000);
      return [young, await store.file("unused"), await store.file("used")].map((file) => file?.size ?? 0);
    }""")
    assert left == [1, 0, 1]


async def test_a_draft_waits_in_its_conversation(page: Page, api: ScriptedApi) -> None:
    await ask(page, "one")
    await composer(page).fill("begun")
    await page.keyboard.press("Alt+KeyN")
    await expect(composer(page)).to_have_value("")
    await page.locator("#sidebar .title").click()
    await expect(composer(page)).to_have_value("begun")


async def test_a_draft_outlives_a_reload(page: Page, api: ScriptedApi) -> None:
    await ask(page, "one")
    await composer(page).fill("for this one")
    await page.keyboard.press("Alt+KeyN")
    await composer(page).fill("for a new one")
    await reload(page)
    await expect(composer(page)).to_have_value("for a new one")
    await page.locator("#sidebar .title").click()
    await expect(composer(page)).to_have_value("for this one")
    await composer(page).press("Enter")
    await settled(page)
    await reload(page)
    await page.locator("#sidebar .title").click()
    await expect(composer(page)).to_have_value("")


async def test_the_draft_of_a_new_conversation_is_not_left_behind(
    page: Page, api: ScriptedApi
) -> None:
    await composer(page).fill("begun")
    await page.keyboard.press("Alt+KeyN")
    await expect(composer(page)).to_have_value("begun")


async def test_two_tabs_have_their_own_drafts(page: Page, api: ScriptedApi) -> None:
    await composer(page).fill("here")
    other = await page.context.new_page()
    await other.goto(api.url)
    await composer(other).fill("there")
    await reload(page)
    await expect(composer(page)).to_have_value("here")


@pytest.mark.parametrize("way", ["reload", "other conversation"])
async def test_an_edit_is_kept(page: Page, api: ScriptedApi, way: str) -> None:
    await ask(page, "one")
    await ask(page, "two")
    await composer(page).press("ArrowUp")
    field = page.get_by_role("textbox", name="Edit the message")
    await field.fill("changed")
    if way == "reload":
        await reload(page)
    else:
        await page.keyboard.press("Alt+KeyN")
        await expect(field).to_have_count(0)
    await page.locator("#sidebar .title").click()
    await expect(field).to_have_value("changed")
    await field.press("Enter")
    await expect(answers(page).last).to_contain_text("You said: changed.")
    await expect(field).to_have_count(0)


async def test_two_edits_at_once_and_one_while_an_answer_comes(
    page: Page, api: ScriptedApi
) -> None:
    for text in ("one", "two"):
        await ask(page, text)
    fields = page.get_by_role("textbox", name="Edit the message")
    for number in range(2):
        await questions(page).first.hover()
        await page.get_by_label("You").first.get_by_role("button", name="Edit").click()
        await fields.nth(number).fill(f"edit {number}")
    await expect(fields.first).to_have_value("edit 0")
    await composer(page).fill("held")
    await composer(page).press("Enter")
    await expect(answers(page).last).to_contain_text("Before.")
    await fields.last.press("Enter")  # it cannot be sent yet
    await expect(fields.last).to_have_value("edit 1")
    api.hold.set()
    await settled(page)
    await fields.last.press("Enter")
    await expect(answers(page).last).to_contain_text("You said: edit 1.")


async def test_results_that_were_typed_are_kept(page: Page, api: ScriptedApi) -> None:
    await ask(page, "weather")
    await page.get_by_label("Result of get_weather").fill("rain")
    await page.keyboard.press("Alt+KeyN")
    await page.locator("#sidebar .title").click()
    await expect(page.get_by_label("Result of get_weather")).to_have_value("rain")
    await reload(page)
    await page.locator("#sidebar .title").click()
    await expect(page.get_by_label("Result of get_weather")).to_have_value("rain")


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "other", "conversations": []}', "\0"])
async def test_a_wrong_file_is_refused(
    page: Page, api: ScriptedApi, content: str, tmp_path: Path
) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(content)
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_label("File to import").set_input_files(file)
    await expect(page.get_by_role("dialog")).to_contain_text("holds no conversations")


async def test_a_hostile_file_does_no_harm(page: Page, api: ScriptedApi, tmp_path: Path) -> None:
    evil = "<img src=x onerror='window.broken=1'>"
    nodes = [
        {"id": "1", "parent": None, "role": "user", "text": evil, "files": []},
        {"id": "2", "parent": "1", "role": "assistant", "text": evil, "usage": {"completion": evil},
         "calls": [{"id": 3, "name": evil, "arguments": evil}], "times": {"first": 1, "start": evil}},
        {"id": "1", "parent": "2", "role": "user", "text": "a circle"},
        {"id": "5", "parent": "4", "role": "user", "text": "an orphan"},
        {"id": "6", "parent": "2", "role": "system", "text": "no role of ours"},
        {"id": "7", "parent": "2", "role": "user", "text": 7, "files": 5},
        None, 5, [],
    ]  # fmt: skip
    content = {
        "format": "quire-conversations",
        "version": 1,
        "conversations": [
            {"id": "x", "title": evil, "nodes": nodes, "chosen": {"": "nobody"}},
            {"id": "y", "nodes": 5, "chosen": 7},
            None,
        ],
        "files": {},
    }
    file = tmp_path / "hostile.json"
    file.write_text(json.dumps(content))
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_label("File to import").set_input_files(file)
    await expect(page.get_by_role("dialog")).to_contain_text("2 conversations imported.")
    await page.keyboard.press("Escape")
    await page.locator("#sidebar .title", has_text="onerror").click()
    await expect(questions(page).first).to_have_text(evil)
    await expect(answers(page).locator(".prose").last).to_have_text(evil)
    assert await page.evaluate("window.broken") is None


async def test_without_a_store_the_page_works_and_says_so(page: Page, api: ScriptedApi) -> None:
    await page.add_init_script("Object.defineProperty(window, 'indexedDB', { value: undefined })")
    await page.reload()
    await expect(page.locator(".welcome")).to_contain_text("This browser keeps nothing")
    await expect(page.locator(".welcome")).not_to_contain_text("stay")
    await ask(page, "hello")
    await expect(answers(page)).to_contain_text("You said: hello.")
    await page.keyboard.press("Alt+KeyS")
    await expect(page.get_by_text("This browser keeps nothing")).to_be_visible()


FULL = """() => {
  IDBObjectStore.prototype.put = function () { throw new DOMException("full", "QuotaExceededError"); };
}"""


async def test_a_store_that_fails_is_told_once(page: Page, api: ScriptedApi) -> None:
    await page.evaluate(FULL)
    for text in ("one", "two"):
        await ask(page, text)
    notices = page.locator("#notices .notice")
    await expect(notices).to_have_count(1)
    await expect(notices).to_contain_text("no room left")
    notice, thread = await notices.bounding_box(), await page.locator("#thread").bounding_box()
    assert notice
    assert thread
    assert notice["y"] >= thread["y"] + thread["height"]
    await page.keyboard.press("Alt+KeyN")
    await expect(page.locator(".welcome")).to_contain_text("This browser keeps nothing")


async def test_on_a_phone_an_undo_is_where_it_can_be_pressed(page: Page, api: ScriptedApi) -> None:
    await page.set_viewport_size({"width": 390, "height": 700})
    await ask(page, "one")
    await page.get_by_role("button", name="Conversations").click()
    await page.locator(".conversations li").hover()
    await page.get_by_role("button", name="Delete one").click()
    undo = page.get_by_role("button", name="Undo")
    await expect(page.locator("#sidebar").get_by_role("button", name="Undo")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("#main").get_by_role("button", name="Undo")).to_be_visible()
    await undo.click()
    await expect(questions(page)).to_have_text(["one"])


async def test_what_is_found_in_a_message_leads_to_it(page: Page, api: ScriptedApi) -> None:
    for text in ("A bird", "What of\n\nthe <b>cherry</b> tree in the garden behind the house?"):
        await ask(page, text)
    await page.keyboard.press("Alt+KeyN")
    await ask(page, "another")
    await page.get_by_label("Search the conversations").fill("CHERRY")
    link = page.locator("#sidebar .title")
    await expect(link).to_have_count(1)
    await expect(link.locator(".excerpt")).to_contain_text("What of the <b>cherry</b> tree")
    await link.click()
    asked = page.locator("article.user", has_text="cherry")
    await expect(asked).to_be_focused()  # it is brought into view
    assert page.url.endswith(str(await asked.get_attribute("data-id")))
