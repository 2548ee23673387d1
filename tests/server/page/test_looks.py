"""Keyboard, colours, width, names for those who listen."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.server.page.actions import answers, ask, composer, questions, settled
from tests.server.page.scripted_api import ScriptedApi

pytestmark = pytest.mark.asyncio(loop_scope="session")

UNNAMED = """() => [...document.querySelectorAll("button, input, textarea, select, a[href], summary")]
  .filter((e) => e.checkVisibility() && !(
    e.getAttribute("aria-label") || e.labels?.length || e.textContent.trim()))
  .map((e) => e.outerHTML)"""

BRIGHTNESS = """() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g)
  .slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 3"""

CONTRASTS = """() => {
  const light = ([r, g, b]) => {
    const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const parsed = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parsed(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !e.checkVisibility({ opacityProperty: true }) || e.closest(".skip, .unseen, noscript")) continue;
    const [one, other] = [light(parsed(getComputedStyle(e).color)), light(behind(e))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) poor.push(`${contrast.toFixed(2)} ${e.outerHTML.slice(0, 90)}`);
  }
  return poor;
}"""

OVERFLOW = """() => {
  const wide = [...document.querySelectorAll("#main, #main *")].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.width && box.right > innerWidth + 1 && !e.closest("pre, .table-frame");
  });
  const page = document.scrollingElement;
  const thread = document.getElementById("thread");
  return [page.scrollWidth > innerWidth, thread.scrollWidth > thread.clientWidth, wide.map((e) => e.className)];
}"""


async def test_the_keyboard_is_enough(page: Page, api: ScriptedApi) -> None:
    await expect(composer(page)).to_be_focused()
    await page.keyboard.type("one")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("two")
    await page.keyboard.press("Enter")
    await expect(answers(page)).to_contain_text("You said: one")
    await expect(questions(page)).to_have_text(["one\ntwo"], use_inner_text=True)
    await settled(page)
    await page.keyboard.press("Alt+KeyR")
    await expect(page.get_by_label("Version 2 of 2")).to_be_visible()
    await settled(page)
    await page.keyboard.press("Alt+KeyN")
    await expect(answers(page)).to_have_count(0)
    await expect(composer(page)).to_be_focused()
    await page.keyboard.press("Alt+ArrowDown")
    await expect(answers(page)).to_have_count(1)
    await page.locator("#title").click()
    await page.locator("#thread").focus()
    await page.keyboard.press("/")
    await expect(composer(page)).to_be_focused()
    await page.keyboard.press("ArrowUp")
    await expect(page.get_by_role("textbox", name="Edit the message")).to_be_focused()
    await page.keyboard.press("Escape")
    await page.locator("#thread").focus()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_an_answers_end_takes_no_focus_away(page: Page, api: ScriptedApi) -> None:
    await ask(page, "one")
    await page.keyboard.press("Alt+KeyN")
    await ask(page, "held", wait=False)
    await page.get_by_label("Search the conversations").focus()
    api.hold.set()
    await settled(page)
    await expect(page.get_by_label("Search the conversations")).to_be_focused()
    await page.get_by_role("button", name="Retry").click()
    await expect(composer(page)).to_be_focused()


async def test_keys_of_a_text_being_written_stay_in_it(page: Page, api: ScriptedApi) -> None:
    await page.keyboard.type("a / b?")
    await expect(composer(page)).to_have_value("a / b?")
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_the_order_of_focus_is_that_of_the_page(page: Page, api: ScriptedApi) -> None:
    await ask(page, "hello")
    await page.evaluate("document.activeElement.blur()")
    names: list[str] = []
    for _ in range(12):
        await page.keyboard.press("Tab")
        names.append(
            await page.evaluate(
                "document.activeElement.ariaLabel || document.activeElement.textContent.trim()"
            )
        )
    wanted = ["To the message field", "New conversation", "hello", "Model"]
    places = [names.index(name) for name in wanted if name != "Model"]
    assert places == sorted(places), names


async def test_colours_follow_the_system_and_the_switch(page: Page, api: ScriptedApi) -> None:
    await page.emulate_media(color_scheme="light")
    assert await page.evaluate(BRIGHTNESS) > 200
    await page.emulate_media(color_scheme="dark")
    assert await page.evaluate(BRIGHTNESS) < 60
    await page.get_by_role("button", name="Dark or light").click()
    assert await page.evaluate(BRIGHTNESS) > 200
    await page.reload()
    assert await page.evaluate(BRIGHTNESS) > 200
    await page.keyboard.press("Alt+KeyD")
    assert await page.evaluate(BRIGHTNESS) < 60


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everything_has_a_name_and_can_be_read(
    page: Page, api: ScriptedApi, scheme: str
) -> None:
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
    for text in ("rich", "think", "fail", "weather"):
        await ask(page, text)
    assert await page.evaluate(UNNAMED) == []
    assert await page.evaluate(CONTRASTS) == []
    await page.keyboard.press("Alt+KeyS")
    assert await page.evaluate(UNNAMED) == []
    assert await page.evaluate(CONTRASTS) == []


async def test_those_who_listen_hear_the_end(page: Page, api: ScriptedApi) -> None:
    await ask(page, "hello")
    await expect(page.get_by_role("status").first).to_have_text("The answer is complete.")


@pytest.mark.parametrize("width", [320, 390])
async def test_a_phone_has_no_sideways_scroll(page: Page, api: ScriptedApi, width: int) -> None:
    await page.set_viewport_size({"width": width, "height": 700})
    for text in ("rich", "weather", "attack", "long-" * 60):
        await ask(page, text)
    assert await page.evaluate(OVERFLOW) == [False, False, []]
    await expect(page.locator("#sidebar")).to_be_hidden()
    await page.get_by_role("button", name="Conversations").click()
    await expect(page.locator("#sidebar")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("#sidebar")).to_be_hidden()
    await page.get_by_role("button", name="Settings").click()
    assert await page.evaluate(OVERFLOW) == [False, False, []]


async def test_what_a_hover_shows_of_a_question_takes_no_room(page: Page, api: ScriptedApi) -> None:
    await ask(page, "hello")
    await ask(page, "a long question " * 40)
    question, answer = page.get_by_label("You").first, answers(page).first
    edit = question.get_by_role("button", name="Edit")
    assert await edit.evaluate("(e) => getComputedStyle(e).opacity") == "0"
    bubble = await question.locator(".bubble").bounding_box()
    below = await answer.locator(".prose").last.bounding_box()
    assert bubble
    assert below
    assert below["y"] - (bubble["y"] + bubble["height"]) < 40
    await question.hover()
    await expect(edit).to_have_css("opacity", "1")
    place = await edit.bounding_box()
    assert place
    assert place["x"] + place["width"] < bubble["x"]
    assert place["y"] >= bubble["y"]
    await edit.click()
    await expect(page.get_by_role("textbox", name="Edit the message")).to_be_focused()
