"""Other scripts, other keyboards, other eyes: input methods, phones, right to left, enlarged pages."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect

from tests.server.page.actions import PATIENCE, answers, ask, composer, questions, settled
from tests.server.page.scripted_api import ScriptedApi
from tests.server.page.test_media import choose

pytestmark = pytest.mark.asyncio(loop_scope="session")

ENTER = """(field, how) => field.dispatchEvent(
  new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true, ...how }))"""

COMPOSING = [{"isComposing": True}, {"keyCode": 229}]
"""What ends a word in an input method: in most browsers, and in Safari."""

CUT = """async (area) => {
  await Promise.all(document.getAnimations().map(({ finished }) => finished.catch(() => {})));
  return [...document.querySelectorAll(area)].filter((e) => {
  if (!e.checkVisibility() || e.closest("pre, .table-frame, .unseen, .skip")) return false;
  const box = e.getBoundingClientRect();
  return box.width && (box.left < -1 || box.right > innerWidth + 1);
}).map((e) => e.outerHTML.slice(0, 100)); }"""


@pytest_asyncio.fixture(loop_scope="session")
async def phone(browser: Browser, api: ScriptedApi) -> AsyncIterator[Page]:
    """The page under a finger."""
    size = {"width": 390, "height": 780}
    context = await browser.new_context(viewport=size, has_touch=True, is_mobile=True)  # type: ignore[arg-type]
    page = await context.new_page()
    page.set_default_timeout(PATIENCE)
    await page.goto(api.url)
    await page.locator("#model option").first.wait_for(state="attached")
    yield page
    await context.close()


def editor(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Edit the message")


@pytest.mark.parametrize("how", COMPOSING)
async def test_enter_ends_a_word_of_an_input_method_and_sends_nothing(
    page: Page, api: ScriptedApi, how: dict[str, object]
) -> None:
    await composer(page).fill("日本")
    await composer(page).evaluate(ENTER, how)
    await expect(composer(page)).to_have_value("日本")
    await composer(page).press("Enter")
    await settled(page)
    await composer(page).press("ArrowUp")
    await editor(page).fill("日本語")
    await editor(page).evaluate(ENTER, how)
    await editor(page).evaluate(ENTER.replace("Enter", "Escape"), how)
    await expect(editor(page)).to_have_value("日本語")
    await editor(page).press("Enter")
    await settled(page)
    assert [body["messages"][0]["content"] for body in api.bodies] == ["日本", "日本語"]


async def test_escape_in_an_input_method_stops_no_answer(page: Page, api: ScriptedApi) -> None:
    await ask(page, "held", wait=False)
    await composer(page).fill("日本")
    await composer(page).evaluate(ENTER.replace("Enter", "Escape"), {"keyCode": 229})
    api.hold.set()
    await settled(page)
    await expect(answers(page)).to_contain_text("After.")


async def test_enter_on_a_phone_is_a_line(phone: Page, api: ScriptedApi) -> None:
    await composer(phone).fill("one")
    await composer(phone).press("End")
    await composer(phone).press("Enter")
    await expect(composer(phone)).to_have_value("one\n")
    await phone.get_by_role("button", name="Send").tap()
    await expect(answers(phone)).to_contain_text("You said: one.")
    await settled(phone)
    await phone.get_by_label("You").get_by_role("button", name="Edit").tap()
    await editor(phone).press("End")
    await editor(phone).press("Enter")
    await expect(editor(phone)).to_have_value("one\n")
    await editor(phone).press_sequentially("two")
    await phone.locator(".editor").get_by_role("button", name="Send").tap()
    await expect(answers(phone)).to_contain_text("You said: one\ntwo.", use_inner_text=True)


async def test_each_line_of_a_question_runs_in_its_own_direction(
    page: Page, api: ScriptedApi
) -> None:
    await ask(page, "שלום\nhello there, this is the longer line")
    starts = await questions(page).evaluate("""(bubble) => {
      const { left, right } = bubble.getBoundingClientRect();
      const text = bubble.firstChild;
      return [0, 5].map((at) => {
        const range = document.createRange();
        range.setStart(text, at);
        range.setEnd(text, at + 1);
        const letter = range.getBoundingClientRect();
        return letter.left - left > right - letter.right ? "right" : "left";
      });
    }""")
    assert starts == ["right", "left"]
    assert await composer(page).evaluate("(e) => getComputedStyle(e).unicodeBidi") == "plaintext"


@pytest.mark.parametrize("height", [256, 640])
async def test_a_page_enlarged_four_times_loses_nothing(
    page: Page, api: ScriptedApi, height: int
) -> None:
    await page.emulate_media(reduced_motion="reduce")
    await page.set_viewport_size({"width": 320, "height": height})
    for text in ("rich", "length"):
        await ask(page, text)
    await page.get_by_role("button", name="Retry").last.click()
    await settled(page)
    assert await page.evaluate(CUT, "#main *") == []
    thread = await page.locator("#thread").bounding_box()
    assert thread
    assert thread["height"] > height / 2  # to read in
    for button in ("Continue", "Copy", "Retry", "Edit"):
        await answers(page).last.get_by_role("button", name=button, exact=True).click(trial=True)
    await answers(page).last.get_by_role("link", name="Link to this message").click(trial=True)
    await page.get_by_role("button", name="Export").click()
    assert await page.evaluate(CUT, "dialog *") == []
    await page.get_by_role("button", name="Print").click(trial=True)
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Settings").click()
    assert await page.evaluate(CUT, "dialog *") == []
    await page.get_by_role("button", name="Delete all").click(trial=True)
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Conversations").click()
    await page.locator("#sidebar .title").click(trial=True)


async def test_forced_colours_tell_by_lines_what_colours_told(page: Page, api: ScriptedApi) -> None:
    await page.emulate_media(forced_colors="active")
    await ask(page, "held", wait=False)
    width = "(e) => getComputedStyle(e).borderTopWidth"
    assert await questions(page).evaluate(width) != "0px"
    assert await page.locator(".running").evaluate(width) != "0px"
    assert await page.get_by_role("button", name="Stop the answer").evaluate(width) != "0px"
    current = page.locator(".conversations li.current")
    assert await current.evaluate("(e) => getComputedStyle(e).outlineStyle") == "solid"


async def test_going_on_needs_no_mouse(page: Page, api: ScriptedApi) -> None:
    await ask(page, "length")
    await page.get_by_role("button", name="Continue", exact=True).focus()
    await page.keyboard.press("Enter")
    await settled(page)
    await expect(answers(page)).to_contain_text("And on.")
    await expect(composer(page)).to_be_focused()  # the button is gone
    await page.get_by_role("link", name="Link to this message").last.focus()
    await page.keyboard.press("Enter")
    await expect(answers(page)).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(answers(page).get_by_role("button", name="Copy")).to_be_focused()


async def test_what_is_spoken(page: Page, api: ScriptedApi) -> None:
    said = page.get_by_role("status").first
    await ask(page, "length")
    await expect(said).to_have_text("Cut off: the limit of tokens was reached.")
    await page.keyboard.press("Alt+KeyC")
    await expect(said).to_have_text("The answer is complete.")
    await ask(page, "break")
    await expect(said).to_have_text("The answer failed: The engine died.")


async def ask_by_touch(phone: Page, text: str) -> None:
    await composer(phone).fill(text)
    await phone.get_by_role("button", name="Send").tap()
    await expect(answers(phone)).to_have_count(1)
    await settled(phone)


async def test_what_belongs_to_a_question_is_nearer_to_it_than_to_its_answer(
    phone: Page, api: ScriptedApi
) -> None:
    await ask_by_touch(phone, "hello")
    asked = await phone.locator("article.user .bubble").bounding_box()
    buttons = await phone.locator("article.user .actions").bounding_box()
    answer = await answers(phone).locator(".prose").last.bounding_box()
    assert asked
    assert buttons
    assert answer
    above = buttons["y"] - (asked["y"] + asked["height"])
    below = answer["y"] - (buttons["y"] + buttons["height"])
    assert 0 <= above < below / 3
    await phone.get_by_label("You").get_by_role("button", name="Copy").tap()
    for button in await phone.locator(".actions .quiet-button:visible").all():
        box = await button.bounding_box()
        assert box
        assert min(box["width"], box["height"]) >= 32  # px, for a finger


async def test_many_files_leave_a_phone_its_thread(phone: Page, api: ScriptedApi) -> None:
    await ask_by_touch(phone, "hello")
    files = [(f"a-file-with-a-long-name-{each}.txt", "text/plain", b"words") for each in range(7)]
    await choose(phone, *files)
    await expect(phone.locator("#composer .chip")).to_have_count(7)
    chips = await phone.locator("#composer .chips").bounding_box()
    assert chips
    assert chips["height"] < 70
    await expect(phone.locator("#composer .chip").last).to_be_in_viewport(ratio=0.9)  # the new one
    assert await phone.evaluate(CUT, "#main :not(.chips *)") == []
    await phone.get_by_role("button", name="Remove a-file-with-a-long-name-0.txt").tap()
    await expect(phone.locator("#composer .chip")).to_have_count(6)
