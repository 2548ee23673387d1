"""Long questions and long conversations: folded, drawn when they come near, and whole on demand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.server.page.actions import (
    answers,
    ask,
    messages_sent,
    questions,
    reload,
    settled,
    stop_clock,
)
from tests.server.page.scripted_api import ScriptedApi

pytestmark = pytest.mark.asyncio(loop_scope="session")

MESSAGES = 400
DRAWN = "document.querySelectorAll('.assistant .prose:not(:empty)').length"
AWAY = """(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight)
  (document.getElementById("thread"))"""


def conversation() -> dict[str, Any]:
    nodes: list[dict[str, Any]] = []
    for number in range(MESSAGES):
        is_answer = number % 2 == 1
        nodes.append(
            {
                "id": f"n{number}",
                "parent": f"n{number - 1}" if number else None,
                "role": "assistant" if is_answer else "user",
                "text": f"Answer {number} of **many**.\n\n- one\n- two\n\n```python\nx = {number}\n```"
                if is_answer
                else f"Question {number}",
            }
        )
    return {"title": "Long", "nodes": nodes}


GROW_CODE = """async () => {
  const { Prose } = await import("/page/js/view/prose.js");
  const fence = "```";
  const lines = Array.from({ length: 2000 }, (_, n) => `  value_${n} = call(${n})  # é ${fence} ${n}`);
  lines[1000] = `${fence}stays code`;
  const before = `Before.\\n\\n${fence}text\\n`;
  const text = `${before}${lines.join("\\n")}\\n${fence}\\n\\nAfter.\\n`;
  const code = text.slice(before.length, text.lastIndexOf(`\\n${fence}`));
  const [grown, whole] = [new Prose(), new Prose()];
  document.body.append(grown.element, whole.element);
  let drawn = 0;
  const wrong = [];
  new MutationObserver((changes) => {
    drawn += changes.flatMap((each) => [...each.addedNodes]).filter(({ localName }) => localName === "div").length;
  }).observe(grown.element, { childList: true });
  for (let at = 0; at < text.length; at += 53) {
    grown.update(text.slice(0, at));
    const shown = grown.element.querySelector("code")?.textContent.trimEnd() ?? "";
    if (at < before.length + code.length && shown !== code.slice(0, Math.max(0, at - before.length)).trimEnd()) {
      wrong.push(at);
    }
    if (at % 530 === 0) await new Promise(requestAnimationFrame);
  }
  const beforeTheEnd = drawn;
  grown.update(text, true);
  whole.update(text, true);
  await new Promise(requestAnimationFrame);
  const result = { same: grown.element.innerHTML === whole.element.innerHTML, wrong, drawn: beforeTheEnd };
  grown.element.remove();
  whole.element.remove();
  return result;
}"""


async def test_long_code_only_grows_while_it_is_written(page: Page, api: ScriptedApi) -> None:
    told = await page.evaluate(GROW_CODE)
    assert told["wrong"] == []
    assert told["same"]
    assert told["drawn"] < 200  # of 1,500 pieces: anew while it is short, then hardly ever


GROW_LIST = """async (gap) => {
  const { Prose } = await import("/page/js/view/prose.js");
  const items = Array.from({ length: 600 }, (_, n) => `${n + 1}. item ${n} of **many**\\n   - below\\n`);
  const text = `Before.\\n\\n${items.join("")}${gap}601. last\\n\\nAfter.\\n`;
  const [grown, whole] = [new Prose(), new Prose()];
  let drawn = 0;
  new MutationObserver((changes) => {
    const added = changes.flatMap((each) => [...each.addedNodes]);
    for (const { localName, childElementCount } of added) {
      if (localName === "li") drawn += 1;
      if (localName === "ol") drawn += childElementCount;
    }
  }).observe(grown.element, { childList: true, subtree: true });
  for (let at = 0; at < text.length; at += 53) {
    grown.update(text.slice(0, at));
    if (at % 530 === 0) await new Promise(requestAnimationFrame);
  }
  grown.update(text, true);
  whole.update(text, true);
  await new Promise(requestAnimationFrame);
  return { same: grown.element.innerHTML === whole.element.innerHTML, drawn };
}"""


@pytest.mark.parametrize("gap", ["", "\n"])
async def test_of_a_long_list_the_last_items_alone_are_drawn_anew(
    page: Page, api: ScriptedApi, gap: str
) -> None:
    """Also where an empty line, late in it, makes another list of it."""
    told = await page.evaluate(GROW_LIST, gap)
    assert told["same"]
    assert told["drawn"] < 15_000  # drawn whole each time: 100,000 and more


async def opened_long(page: Page, folder: Path) -> None:
    """The long conversation, imported and reloaded, which shows it as its address says."""
    content = {"format": "quire-conversations", "version": 1, "conversations": [conversation()]}
    file = folder / "long.json"
    file.write_text(json.dumps(content))
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_label("File to import").set_input_files(file)
    await expect(page.get_by_role("dialog").get_by_text("imported.")).to_be_visible()
    await page.add_init_script("""
      globalThis.idle = [];
      globalThis.requestIdleCallback = (act) => globalThis.idle.push(act);
    """)  # no moment is idle until the test says so
    await reload(page)
    await expect(questions(page)).to_have_count(MESSAGES // 2)


async def test_a_long_conversation_opens_at_its_end_and_draws_what_is_near(
    page: Page, api: ScriptedApi, tmp_path: Path
) -> None:
    await opened_long(page, tmp_path)
    await expect(answers(page).last).to_be_in_viewport()
    await expect(answers(page).last).to_contain_text("Answer 399 of many.")
    assert await page.evaluate(DRAWN) < 40
    assert await page.evaluate(AWAY) < 2
    await page.locator("#thread").evaluate("(e) => e.scrollTo(0, 0)")
    await expect(answers(page).first).to_contain_text("Answer 1 of many.")
    await expect(questions(page).first).to_be_in_viewport()
    assert await page.evaluate(DRAWN) < 80
    await ask(page, "and now?")
    await expect(answers(page).last).to_be_in_viewport()
    assert len(messages_sent(api)) == MESSAGES + 1


async def test_a_long_conversation_is_drawn_in_idle_moments(
    page: Page, api: ScriptedApi, tmp_path: Path
) -> None:
    await opened_long(page, tmp_path)
    await page.evaluate("while (idle.length) idle.shift()()")
    assert await page.evaluate(DRAWN) == MESSAGES // 2
    assert await page.evaluate(AWAY) < 2


async def test_paper_has_a_long_conversation_whole(
    page: Page, api: ScriptedApi, tmp_path: Path
) -> None:
    await opened_long(page, tmp_path)
    await page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert await page.evaluate(DRAWN) == MESSAGES // 2


async def test_a_far_message_is_drawn_when_its_address_is_opened(
    page: Page, api: ScriptedApi, tmp_path: Path
) -> None:
    await opened_long(page, tmp_path)
    await page.evaluate("location.hash += '/n101'")
    far = answers(page).nth(50)
    await expect(far).to_be_focused()
    await expect(far).to_be_in_viewport()
    await expect(far).to_contain_text("Answer 101 of many.")
    await far.get_by_role("button", name="Edit").click()
    await expect(page.get_by_role("textbox", name="Edit the answer")).to_be_focused()


async def test_a_long_question_is_folded(page: Page, api: ScriptedApi) -> None:
    api.most_bytes = 1_000_000
    await page.reload()
    await page.locator("#model option").first.wait_for(state="attached")
    text = "\n".join(f"line {number}" for number in range(20_000))
    await page.evaluate("(text) => { document.getElementById('composer-text').value = text }", text)
    await page.locator("#composer-text").press("Enter")
    await expect(answers(page)).to_have_count(1)
    await settled(page)
    assert messages_sent(api)[0] == ("user", text)  # what is sent is not changed
    rest = page.locator(".folded")
    assert (await questions(page).bounding_box() or {})["height"] < 600
    button = page.get_by_role("button", name="Show all 20,000 lines")
    await expect(button).to_have_attribute("aria-expanded", "false")
    assert await rest.evaluate("(e) => e.hidden") == "until-found"
    await button.click()
    await expect(page.get_by_role("button", name="Show less")).to_have_attribute(
        "aria-expanded", "true"
    )
    assert await questions(page).evaluate("(e) => e.innerText") == text
    assert (await questions(page).bounding_box() or {})["height"] > 200_000
    await page.get_by_role("button", name="Show less").click()
    await rest.evaluate("(e) => e.dispatchEvent(new Event('beforematch'))")  # the browser's search
    await expect(page.get_by_role("button", name="Show less")).to_be_visible()
    await page.emulate_media(media="print")
    assert (await questions(page).bounding_box() or {})["height"] > 200_000


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("x" * 6000, "6,000 characters"),
        ("x" * 1999 + "🙂" * 2001, "6,001 characters"),
        ("line\n" * 29 + "line", None),
        ("line\n" * 31 + "line", "32 lines"),
        ("שלום\n" * 40 + "end", "41 lines"),
    ],
)
async def test_what_is_folded(page: Page, api: ScriptedApi, text: str, size: str | None) -> None:
    await ask(page, text)
    fold = page.locator(".fold")
    if size is None:
        await expect(fold).to_have_count(0)
    else:
        await expect(fold).to_have_text(f"Show all {size}")
        assert "\ufffd" not in (await questions(page).text_content() or "")  # no half character
        await fold.click()
    assert await questions(page).evaluate("(e) => e.textContent") == text


PUT = """(field, text) => {
  field.focus();
  field.value = text;
  field.setSelectionRange(text.length, text.length);
  field.dispatchEvent(new Event("input", { bubbles: true }));
}"""
KEYS = """() => {
  const field = document.getElementById("composer-text");
  const { get } = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value");
  globalThis.work = { read: 0, kept: 0 };
  Object.defineProperty(field, "value", {
    get() { work.read += 1; return get.call(this); },
    configurable: true,
  });
  const { setItem } = Storage.prototype;
  Storage.prototype.setItem = function (...given) { work.kept += 1; setItem.apply(this, given); };
}"""


async def test_a_key_in_a_long_message_neither_reads_nor_keeps_it(
    page: Page, api: ScriptedApi
) -> None:
    """Either takes longer than a key may; the text is kept in the next pause, or when it is left."""
    text = "\n".join(f"line {number} of a long message" for number in range(20_000))
    await stop_clock(page)
    await page.locator("#composer-text").evaluate(PUT, text)
    await page.clock.run_for(1000)
    await page.evaluate(KEYS)
    for _ in range(5):
        await page.keyboard.press("a")
    assert await page.evaluate("work") == {"read": 0, "kept": 0}
    await page.clock.run_for(1000)
    assert (await page.evaluate("work"))["kept"] == 1
    await page.keyboard.press("b")
    await page.clock.resume()
    await page.reload()
    await expect(page.locator("#composer-text")).to_have_value(f"{text}aaaaab")


async def test_a_long_message_stays_with_its_conversation(page: Page, api: ScriptedApi) -> None:
    """Also where no pause comes before another conversation is opened."""
    await ask(page, "first")
    text = "words\n" * 5000
    await stop_clock(page)
    await page.locator("#composer-text").evaluate(PUT, text)
    await page.keyboard.press("a")
    await page.keyboard.press("Alt+KeyN")
    await expect(page.locator("#composer-text")).to_have_value("")
    await page.keyboard.press("Alt+ArrowDown")
    await expect(page.locator("#composer-text")).to_have_value(f"{text}a")
