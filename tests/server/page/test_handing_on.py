"""A conversation leaves the page: as Markdown, as JSON, on paper; and comes back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.async_api import Locator, Page, expect

from tests.server.page.actions import answers, ask, composer, questions, settled
from tests.server.page.scripted_api import RICH, ScriptedApi

pytestmark = pytest.mark.asyncio(loop_scope="session")

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154"
    "08d763f8cfc000000301010018dd8db00000000049454e44ae426082"
)

VISIBLE = """() => [...document.querySelectorAll("button, textarea, select, input, nav, form, dialog")]
  .filter((e) => e.checkVisibility() && e.getClientRects().length).map((e) => e.outerHTML)"""

OVERLAPS = """() => {
  const boxes = [...document.querySelectorAll("#title, article")].map((e) => e.getBoundingClientRect());
  return boxes.slice(1).filter(({ top }, index) => top < boxes[index].bottom).map(({ top }) => top);
}"""


def dialog(page: Page) -> Locator:
    return page.get_by_role("dialog", name="Export this conversation")


async def saved(page: Page, button: str, folder: Path) -> Path:
    """The file that a button of the dialog saves."""
    await page.keyboard.press("Alt+KeyE")
    async with page.expect_download() as download:
        await dialog(page).get_by_role("button", name=button).click()
    file = folder / (await download.value).suggested_filename
    await (await download.value).save_as(file)
    return file


async def attach(page: Page) -> None:
    await page.locator("#composer input[type=file]").set_input_files(
        {"name": "dot.png", "mimeType": "image/png", "buffer": PIXEL}
    )
    await expect(page.locator(".chip")).to_have_count(1)


async def import_file(page: Page, file: Path) -> None:
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_label("File to import").set_input_files(file)
    await expect(page.get_by_role("dialog").get_by_text("imported.")).to_be_visible()
    await page.keyboard.press("Escape")


async def test_there_is_nothing_to_hand_on_at_first(page: Page, api: ScriptedApi) -> None:
    button = page.get_by_role("button", name="Export")
    await expect(button).to_be_disabled()
    await page.keyboard.press("Alt+KeyE")
    await expect(dialog(page)).to_have_count(0)
    await ask(page, "one")
    await button.click()
    await expect(dialog(page)).to_be_visible()
    await page.keyboard.press("Escape")
    await page.keyboard.press("Alt+KeyN")
    await expect(button).to_be_disabled()


async def test_as_markdown(page: Page, api: ScriptedApi, tmp_path: Path) -> None:
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_label("Of this conversation").fill("Be brief.")
    await page.keyboard.press("Escape")
    await attach(page)
    await ask(page, "think")
    await page.get_by_role("button", name="Retry").click()
    await settled(page)
    await ask(page, "rich")
    await ask(page, "weather")
    await page.get_by_label("Result of get_weather").fill("```rain```")
    await page.get_by_role("button", name="Send results").click()
    await settled(page)
    file = await saved(page, "Save as Markdown", tmp_path)
    assert file.name == "think.md"
    text = file.read_text(encoding="utf-8")
    text = re.sub(r"\d{4}-\d\d-\d\d", "DAY", text, count=1)
    assert text == (
        "# think\n\n*DAY, from quire*\n\n## System\n\nBe brief.\n\n"
        "## You\n\n*Attached: dot.png, 69 B*\n\nthink\n\n"
        "## scripted\n\n<details><summary>Thought</summary>\n\nLet me see: **two**.\n\n</details>\n\n"
        f"It is four.\n\n## You\n\nrich\n\n## scripted\n\n{RICH.rstrip()}\n\n"
        "## You\n\nweather\n\n## scripted\n\nI look it up.\n\n"
        'Calls `get_weather`:\n\n```json\n{"city": "Oslo"}\n```\n\n'
        'Calls `get_time`:\n\n```json\n{"zone": "CET"}\n```\n\n'
        "## Result of get_weather\n\n````\n```rain```\n````\n\n"
        "## Result of get_time\n\n```\n\n```\n\n## scripted\n\nYou said: (a file).\n"
    )
    await page.keyboard.press("Alt+KeyE")
    await dialog(page).get_by_role("button", name="Copy as Markdown").click()
    await expect(page.locator("#notices")).to_contain_text("Copied.")
    assert (await page.evaluate("navigator.clipboard.readText()")).endswith("(a file).\n")


async def test_as_json_and_back(page: Page, api: ScriptedApi, tmp_path: Path) -> None:
    await ask(page, "another")
    await page.keyboard.press("Alt+KeyN")
    await attach(page)
    await ask(page, "What? / Is: this")
    await page.get_by_role("button", name="Retry").click()
    await settled(page)
    figures = await page.locator(".figures").inner_text()
    file = await saved(page, "Save as JSON", tmp_path)
    assert file.name == "What-Is-this.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    assert [each["title"] for each in content["conversations"]] == ["What? / Is: this"]
    assert len(content["files"]) == 1
    await import_file(page, file)
    await expect(page.locator("#sidebar .title")).to_have_count(3)
    # The one that was imported is shown, with its versions, its file and its figures.
    await expect(page.get_by_label("Version 2 of 2")).to_be_visible()
    await expect(page.locator(".picture img")).to_be_visible()
    await expect(page.locator(".figures")).to_have_text(figures, use_inner_text=True)
    await ask(page, "on")
    await expect(page.locator("#sidebar .title").first).to_have_text("What? / Is: this")
    await page.locator("#sidebar .title").nth(1).click()
    await expect(questions(page)).to_have_count(1)  # the old one has not changed


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_paper_has_all_and_no_controls(page: Page, api: ScriptedApi, scheme: str) -> None:
    await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    api.hold.set()
    for text in ("long", "rich", "weather"):
        await ask(page, text)
    await page.get_by_label("Result of get_weather").fill("wet " * 200)
    await page.get_by_role("button", name="Send results").click()
    await settled(page)
    await page.emulate_media(media="print", color_scheme=scheme)  # type: ignore[arg-type]
    assert await page.evaluate(VISIBLE) == []
    assert await page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert await page.evaluate(OVERLAPS) == []
    height = await page.evaluate("document.scrollingElement.scrollHeight")
    assert height > 1500 * 25  # all that "long" wrote
    for text in ("Line 0 of", "Line 1499 of", "def add(", "wet wet"):
        await expect(page.get_by_text(text).first).to_be_visible()
    pages = (await page.pdf(format="A4")).count(b"/Type /Page\n")
    assert pages > height / 1200


async def test_print_is_asked_of_the_browser(page: Page, api: ScriptedApi) -> None:
    await ask(page, "one")
    await page.evaluate(
        "window.print = () => { window.printed = document.querySelectorAll('dialog[open]').length }"
    )
    await page.keyboard.press("Alt+KeyE")
    await dialog(page).get_by_role("button", name="Print").click()
    assert await page.evaluate("window.printed") == 0


async def test_what_is_kept_is_shown_with_its_size(page: Page, api: ScriptedApi) -> None:
    await page.keyboard.press("Alt+KeyS")
    settings = page.get_by_role("dialog", name="Settings")
    await expect(settings).to_contain_text("0 conversations (0 B), 0 files (0 B).")
    await page.keyboard.press("Escape")
    await attach(page)
    await ask(page, "x" * 5000)
    await page.keyboard.press("Alt+KeyS")
    await expect(
        settings.get_by_text(re.compile(r"1 conversation \(1\d kB\), 1 file \(69 B\)\."))
    ).to_be_visible()
    await expect(settings).to_contain_text("This browser has room for ")
    await settings.get_by_role("button", name="Delete all").click()
    await (
        page.get_by_role("dialog", name="Delete everything?")
        .get_by_role("button", name="Delete all")
        .click()
    )
    await expect(settings).to_contain_text("0 conversations (0 B), 0 files (0 B).")
    await page.keyboard.press("Escape")
    await expect(composer(page)).to_be_visible()
    await expect(answers(page)).to_have_count(0)
