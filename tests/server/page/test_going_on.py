"""Answers that go on: after a cut, a stop, an error, or an edit of the user's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.async_api import Locator, Page, expect

from tests.server.page.actions import answers, ask, messages_sent, questions, reload, settled
from tests.server.page.scripted_api import ScriptedApi

pytestmark = pytest.mark.asyncio(loop_scope="session")


def prose(page: Page) -> Locator:
    return answers(page).last.locator(".prose").last


def go_on(page: Page) -> Locator:
    return page.get_by_role("button", name="Continue", exact=True)


def field(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Edit the answer")


HELD_FRAMES = """() => {
  const held = [];
  const later = globalThis.requestAnimationFrame;
  globalThis.requestAnimationFrame = (draw) => held.push(draw);
  globalThis.drawHeld = () => {
    globalThis.requestAnimationFrame = later;
    held.forEach((draw) => draw(performance.now()));
    return held.length;
  };
}"""
"""A page that draws no frame for a while, as on a busy machine."""


async def edit_answer(page: Page) -> None:
    await answers(page).last.get_by_role("button", name="Edit").click()
    await expect(field(page)).to_be_focused()


async def test_an_answer_that_was_cut_goes_on_in_place(page: Page, api: ScriptedApi) -> None:
    await ask(page, "length")
    await expect(page.locator(".note", has_text="the limit of tokens")).to_be_visible()
    await expect(page.locator(".figures .first")).to_contain_text("5 tokens · ")
    await go_on(page).click()
    await settled(page)
    await expect(prose(page)).to_have_text("You said: length. And on.")
    await expect(answers(page)).to_have_count(1)
    await expect(page.get_by_label("Version 2 of 2")).to_have_count(0)
    await expect(go_on(page)).to_have_count(0)  # it has ended by itself
    await expect(page.locator(".note", has_text="the limit of tokens")).to_have_count(0)
    await expect(page.locator(".figures .first")).to_contain_text("8 tokens · ")  # of both rounds
    assert api.last["continue_final_message"] is True
    assert messages_sent(api) == [("user", "length"), ("assistant", "You said: length.")]
    await reload(page)
    await expect(prose(page)).to_have_text("You said: length. And on.")
    await expect(page.locator(".figures .first")).to_contain_text("8 tokens · ")
    await ask(page, "next")
    assert messages_sent(api)[1] == ("assistant", "You said: length. And on.")
    assert "continue_final_message" not in api.last


async def test_an_answer_that_was_stopped_goes_on_by_the_keyboard(
    page: Page, api: ScriptedApi
) -> None:
    await ask(page, "held", wait=False)
    await expect(prose(page)).to_have_text("Before.")
    await page.keyboard.press("Escape")
    await settled(page)
    await page.keyboard.press("Alt+KeyC")
    await expect(answers(page)).to_have_attribute("aria-busy", "true")
    await expect(page.locator(".note", has_text="Stopped.")).to_have_count(0)
    await page.keyboard.press("Escape")
    await expect(page.locator(".note", has_text="Stopped.")).to_be_visible()
    api.hold.set()
    await page.keyboard.press("Alt+KeyC")
    await settled(page)
    await expect(prose(page)).to_contain_text("And on.")


async def test_an_answer_that_failed_goes_on_and_an_error_leaves_its_text(
    page: Page, api: ScriptedApi
) -> None:
    await ask(page, "break")
    await expect(page.locator(".assistant .problem")).to_be_visible()
    await page.route("**/v1/chat/completions", lambda route: route.abort())
    await go_on(page).click()
    await expect(page.locator(".assistant .problem")).to_contain_text("cannot be reached")
    await expect(prose(page)).to_have_text("You said: break.")
    await page.unroute_all()
    await go_on(page).click()
    await settled(page)
    await expect(page.locator(".assistant .problem")).to_have_count(0)
    await expect(prose(page)).to_have_text("You said: break. And on.")


async def test_a_thought_goes_on(page: Page, api: ScriptedApi) -> None:
    await ask(page, "ponder", wait=False)
    await expect(page.locator(".thought summary")).to_have_text("Thinking…")
    await page.keyboard.press("Escape")
    await settled(page)
    await go_on(page).click()
    await settled(page)
    assert api.last["messages"][1] == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Two and two are ",
    }
    await page.locator(".thought summary").click()
    await expect(page.locator(".thought .prose")).to_have_text("Two and two are four.")
    await expect(prose(page)).to_have_text("And on.")


async def test_only_the_last_answer_goes_on(page: Page, api: ScriptedApi) -> None:
    await ask(page, "length")
    await ask(page, "hello")
    await expect(go_on(page)).to_have_count(0)


async def test_an_edited_answer_is_a_version_and_goes_on(page: Page, api: ScriptedApi) -> None:
    await ask(page, "hello")
    await edit_answer(page)
    await expect(field(page)).to_have_value("You said: hello.")
    await field(page).fill("I say: ")
    await page.get_by_role("button", name="Save and continue").click()
    await settled(page)
    await expect(prose(page)).to_have_text("I say: And on.")
    assert messages_sent(api) == [("user", "hello"), ("assistant", "I say: ")]
    await expect(page.get_by_label("Version 2 of 2")).to_be_visible()
    await page.get_by_role("button", name="Earlier version").click()
    await expect(prose(page)).to_have_text("You said: hello.")


async def test_an_edited_answer_is_kept_as_it_is_and_sent_so(page: Page, api: ScriptedApi) -> None:
    await ask(page, "hello")
    await ask(page, "below")
    first = answers(page).first
    await first.get_by_role("button", name="Edit").click()
    await field(page).fill("one")
    await field(page).press("End")
    await field(page).press("Enter")  # a line: an answer has many
    await page.keyboard.type("two")
    await page.get_by_role("button", name="Save", exact=True).click()
    await expect(questions(page)).to_have_text(["hello"])
    await expect(prose(page)).to_have_text("one\ntwo", use_inner_text=True)
    await expect(page.get_by_text("Edited by you.")).to_be_visible()
    assert len(api.bodies) == 2
    await ask(page, "next")
    assert messages_sent(api) == [("user", "hello"), ("assistant", "one\ntwo"), ("user", "next")]
    await reload(page)
    await expect(page.get_by_text("Edited by you.")).to_be_visible()
    await page.get_by_role("button", name="Earlier version").click()
    await expect(questions(page)).to_have_text(["hello", "below"])


async def test_an_edited_answer_can_go_on_later_and_an_edit_be_left(
    page: Page, api: ScriptedApi
) -> None:
    await ask(page, "hello")
    await expect(go_on(page)).to_have_count(0)
    await edit_answer(page)
    await field(page).fill("half")
    await reload(page)
    await expect(field(page)).to_have_value("half")
    await field(page).press("Escape")
    await expect(prose(page)).to_have_text("You said: hello.")
    await edit_answer(page)
    await field(page).fill("half")
    await page.get_by_role("button", name="Save", exact=True).click()
    await go_on(page).click()
    await settled(page)
    await expect(prose(page)).to_have_text("half And on.")
    await edit_answer(page)
    await field(page).fill("whole")
    await field(page).press("Control+Enter")
    await settled(page)
    await expect(prose(page)).to_have_text("whole And on.")


async def test_a_frame_that_comes_late_leaves_the_buttons_of_an_answer(page: Page) -> None:
    """A press whose button is replaced before the release is lost."""
    await page.evaluate(HELD_FRAMES)
    await ask(page, "hello")
    await answers(page).get_by_role("button", name="Edit").hover()
    await page.mouse.down()
    assert await page.evaluate("drawHeld()") > 0
    await page.mouse.up()
    await expect(field(page)).to_be_focused()


async def test_calls_neither_go_on_nor_are_edited(page: Page, api: ScriptedApi) -> None:
    await ask(page, "weather")
    await expect(answers(page).get_by_role("button", name="Retry")).to_be_visible()
    await expect(answers(page).get_by_role("button", name="Edit")).to_have_count(0)
    await page.keyboard.press("Alt+KeyC")
    await ask(page, "on")
    assert len(api.bodies) == 2


async def test_an_answer_goes_on_in_all_tabs(page: Page, api: ScriptedApi) -> None:
    """A copy that has ended is behind one that goes on."""
    await ask(page, "held", wait=False)
    await expect(prose(page)).to_have_text("Before.")
    await page.keyboard.press("Escape")
    await settled(page)
    other = await page.context.new_page()
    await other.goto(page.url)
    await expect(prose(other)).to_have_text("Before.")
    await go_on(page).click()
    await expect(answers(other)).to_have_attribute("aria-busy", "true")
    api.hold.set()
    await expect(prose(other)).to_have_text("Before. And on.")
    await settled(other)
    await reload(page)
    await expect(prose(page)).to_have_text("Before. And on.")


async def test_an_answer_that_another_tab_left_has_no_growing_time(
    page: Page, api: ScriptedApi, tmp_path: Path
) -> None:
    """Its end is when its last piece came, not now."""
    times = {"start": 1_000, "first": 2_000, "latest": 5_000, "end": None}
    nodes = [
        {"id": "1", "parent": None, "role": "user", "text": "q"},
        {"id": "2", "parent": "1", "role": "assistant", "text": "a", "finish": "cut",
         "times": times, "pieces": 7},
    ]  # fmt: skip
    content = {
        "format": "quire-conversations",
        "version": 1,
        "conversations": [{"title": "old", "nodes": nodes}],
    }
    file = tmp_path / "old.json"
    file.write_text(json.dumps(content))
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_label("File to import").set_input_files(file)
    await page.keyboard.press("Escape")
    await page.locator("#sidebar .title").click()
    await expect(page.locator(".figures")).to_have_text(
        "≈ 7 tokens · ≈ 2.0/s · first after 1.0 s, last after 4.0 s", use_inner_text=True
    )
