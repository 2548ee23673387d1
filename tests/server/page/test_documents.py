"""Texts and PDFs: read by content, counted before they are sent, refused with the reason."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.async_api import Locator, Page, expect

from tests.server.page.actions import answers, ask, composer, reload, settled
from tests.server.page.pdfs import ENCRYPTION, faxed_pdf, japanese_pdf, scanned_pdf, text_pdf
from tests.server.page.scripted_api import MODELS, ScriptedApi
from tests.server.page.test_media import choose, give

pytestmark = pytest.mark.asyncio(loop_scope="session")

PASTE = """(text) => {
  const carried = new DataTransfer();
  carried.setData("text/plain", text);
  const event = new ClipboardEvent("paste", { clipboardData: carried, bubbles: true, cancelable: true });
  return document.getElementById("composer-text").dispatchEvent(event);
}"""


def chips(page: Page) -> Locator:
    return page.locator("#composer .chip:not(.busy)")


def sees(api: ScriptedApi, most: int, length: int = 100_000) -> None:
    """The models of the next load take this many images, and this many tokens."""
    api.models = [{**MODELS[0], "max_media": {"image": most}, "max_model_len": length}]


async def fresh(page: Page) -> None:
    await page.reload()
    await page.locator("#model option").first.wait_for(state="attached")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("notes", "One é two\r\nthree\n".encode(), "One é two\nthree"),
        ("a.ts", b"const a = `b`;", "const a = `b`;"),
        ("drawing.svg", b"<svg/>", "<svg/>"),
        ("marked.txt", b"\xef\xbb\xbfmark", "mark"),
        ("wide.txt", b"\xff\xfe" + "wide ∑".encode("utf-16-le"), "wide ∑"),
        ("big.txt", b"\xfe\xff" + "big".encode("utf-16-be"), "big"),
        ("old.csv", "Größe;1".encode("latin1"), "Größe;1"),
        ("log.txt", b"\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
    ],
)
async def test_a_text_is_told_by_its_content(
    page: Page, api: ScriptedApi, name: str, content: bytes, text: str
) -> None:
    kind = "video/mp2t" if name.endswith(".ts") else ""  # what browsers take TypeScript for
    await choose(page, (name, kind, content))
    await expect(chips(page)).to_have_count(1)
    await ask(page, "What is it?")
    sent = api.last["messages"][0]["content"]
    assert sent == f"{name}:\n\n```\n{text}\n```\n\nWhat is it?"


async def test_what_is_sent_is_shown_before_and_after(page: Page, api: ScriptedApi) -> None:
    content = b"some words of a text\n" * 100 + b"````\n"
    await choose(page, ("words.md", "text/markdown", content), ("blank.txt", "", b" \n"))
    await expect(chips(page).first).to_contain_text("2 kB · 501 tokens")
    await expect(chips(page).last).to_contain_text("2 B · ≈ 1 token")
    await page.get_by_role("button", name="Remove blank.txt").click()
    await ask(page, "")
    sent = api.last["messages"][0]["content"]
    assert sent.startswith("words.md:\n\n`````\nsome words")
    assert sent.endswith("\n````\n`````")
    await page.locator("article.user").get_by_role("button", name="words.md").click()
    await expect(page.get_by_role("dialog")).to_contain_text("some words of a text")
    await page.get_by_role("dialog").get_by_role("button", name="Close").click()
    await reload(page)
    await page.locator("#sidebar .title").click()
    await page.locator("article.user").get_by_role("button", name="words.md").click()
    await expect(page.get_by_role("dialog")).to_contain_text("some words of a text")


async def test_a_text_beyond_the_context_is_told(page: Page, api: ScriptedApi) -> None:
    sees(api, 0, length=1000)
    await fresh(page)
    await choose(page, ("long.txt", "text/plain", b"word " * 1001))
    await expect(chips(page)).to_contain_text("1,001 tokens")
    await expect(chips(page)).to_contain_text("The model takes 1,000")


@pytest.mark.parametrize(
    ("name", "kind", "content", "reason"),
    [
        ("a.gz", "application/gzip", b"\x1f\x8b\x08", "a.gz is no text, document, PDF, picture"),
        ("run", "", b"\x7fELF\2\1\1", "run is no text"),
        ("nul.txt", "text/plain", b"a\0b", "nul.txt is no text"),
        ("half.txt", "text/plain", b"\xff\xfea", "half.txt is no text"),
        ("noise.bin", "", bytes(range(128, 256)), "noise.bin is no text"),
        ("none.txt", "text/plain", b"", "none.txt is empty"),
        ("photo.heic", "image/heic", b"x", "photo.heic is a picture in HEIC"),
        ("cut.pdf", "application/pdf", b"%PDF-1.7\nnothing", "cut.pdf is a damaged PDF"),
        (
            "locked.pdf",
            "application/pdf",
            text_pdf("Secret", trailer=ENCRYPTION),
            "locked.pdf is locked with a password",
        ),
        (
            "film.mp4",
            "video/mp4",
            b"x" * 150_001,
            "film.mp4 has 150 kB: the server takes less than",
        ),
        ("scan.pdf", "", scanned_pdf("red"), "scan.pdf has no text but pictures, which this model"),
    ],
)
async def test_what_cannot_be_read_is_refused_with_the_reason(
    page: Page, api: ScriptedApi, name: str, kind: str, content: bytes, reason: str
) -> None:
    await give(page, name, kind, content, "drop")
    await expect(page.locator("#notices")).to_contain_text(reason)
    await expect(page.locator("#composer .chip")).to_have_count(0)


async def test_the_text_of_a_pdf_is_sent(page: Page, api: ScriptedApi) -> None:
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url) if "/pdfjs/" in one.url else None)
    await choose(page, ("a.txt", "", b"text"))
    await expect(chips(page)).to_have_count(1)
    assert asked == []  # pdf.js comes with the first PDF
    await choose(page, ("two.pdf", "application/pdf", text_pdf("First page", "Second page")))
    await expect(chips(page).last).to_contain_text("2 pages · 8 tokens")
    await expect(chips(page).last.get_by_role("button")).to_have_count(1)  # this model is blind
    await ask(page, "So?")
    assert api.last["messages"][0]["content"] == (
        "a.txt:\n\n```\ntext\n```\n\n"
        "two.pdf:\n\n```\n[Page 1]\nFirst page\n\n[Page 2]\nSecond page\n```\n\nSo?"
    )


async def test_a_font_that_is_not_in_the_pdf_is_read(page: Page, api: ScriptedApi) -> None:
    await choose(page, ("ja.pdf", "application/pdf", japanese_pdf("日本語")))
    await ask(page, "?")
    assert "日本語" in api.last["messages"][0]["content"]


def images(parts: list[dict[str, Any]]) -> list[Image.Image]:
    """The images of a message."""
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) for url in urls]


def colour_at(image: Image.Image, x: float, y: float) -> Any:
    """The colour so far to the right and down, as shares of the image."""
    return image.getpixel((int(x * image.width), int(y * image.height)))


async def test_a_scan_is_shown_to_a_model_that_sees(page: Page, api: ScriptedApi) -> None:
    sees(api, 2)
    await fresh(page)
    await choose(page, ("scan.pdf", "application/pdf", scanned_pdf("blue", pages=3)))
    await expect(chips(page)).to_contain_text("2 of 3 pages as pictures")
    await ask(page, "What colour?")
    parts = api.last["messages"][0]["content"]
    assert parts[0] == {"type": "text", "text": "scan.pdf, 2 of 3 pages:"}
    for red, green, blue in (colour_at(image, 0.5, 0.5) for image in images(parts)):
        assert max(red, green) < 20
        assert blue > 235
    await page.locator("article.user").get_by_role("button", name="scan.pdf").click()
    await expect(page.get_by_role("dialog").locator("img")).to_have_count(2)


async def test_a_scan_in_jbig2_is_shown(page: Page, api: ScriptedApi) -> None:
    """Black and white, as many scanners write pages; the decoder comes with the first one."""
    black = Image.new("1", (96, 64))
    black.paste(1, (0, 0, 48, 32))  # the quarter above on the left
    black.paste(1, (72, 48, 96, 64))  # the last sixteenth
    sees(api, 1)
    await fresh(page)
    await choose(page, ("fax.pdf", "application/pdf", faxed_pdf(black)))
    await expect(chips(page)).to_contain_text("1 of 1 page as pictures")
    await ask(page, "What is it?")
    (image,) = images(api.last["messages"][0]["content"])
    for x, y in ((0.1, 0.1), (0.4, 0.1), (0.1, 0.4), (0.4, 0.4), (0.8, 0.8), (0.95, 0.95)):
        assert max(colour_at(image, x, y)) < 40, f"not black at {x}, {y}"
    for x, y in ((0.6, 0.1), (0.9, 0.3), (0.1, 0.6), (0.6, 0.6), (0.6, 0.9), (0.9, 0.6)):
        assert min(colour_at(image, x, y)) > 215, f"not white at {x}, {y}"


async def test_a_pdf_is_text_or_pictures_as_one_likes(page: Page, api: ScriptedApi) -> None:
    sees(api, 4)
    await fresh(page)
    await choose(page, ("one.pdf", "application/pdf", text_pdf("Only page")))
    await page.get_by_role("button", name="one.pdf as pictures").click()
    await expect(chips(page)).to_contain_text("1 of 1 page as pictures")
    await page.get_by_role("button", name="one.pdf as text").click()
    await expect(chips(page)).to_contain_text("1 page · 4 tokens")
    await page.get_by_role("button", name="one.pdf as pictures").click()
    await ask(page, "So?")
    assert [part["type"] for part in api.last["messages"][0]["content"]] == [
        "text",
        "image_url",
        "text",
    ]


async def test_a_long_text_is_pasted_as_a_file(page: Page, api: ScriptedApi) -> None:
    long = "many words " * 500
    await page.evaluate(PASTE, "short")  # the browser's own business
    await expect(chips(page)).to_have_count(0)
    await composer(page).fill("Before ")
    await page.evaluate(PASTE, long)
    await expect(chips(page)).to_contain_text("pasted-1.txt")
    await expect(chips(page)).to_contain_text("1,000 tokens")
    await page.get_by_role("button", name="Put it into the message").click()
    await expect(composer(page)).to_have_value(f"Before {long}")
    await expect(chips(page)).to_have_count(0)
    await composer(page).press("Enter")
    await expect(answers(page)).to_have_count(1)
    await settled(page)
    assert api.last["messages"][0]["content"] == f"Before {long}"


async def test_documents_travel_with_an_export(
    page: Page, api: ScriptedApi, tmp_path: Path
) -> None:
    sees(api, 1)
    await fresh(page)
    scan = ("scan.pdf", "application/pdf", scanned_pdf("red"))
    await choose(page, ("a.txt", "", b"text"), ("b.pdf", "", text_pdf("Page")), scan)
    await expect(chips(page)).to_have_count(3)
    await ask(page, "So?")
    before = api.last["messages"]
    await page.keyboard.press("Alt+KeyS")
    async with page.expect_download() as saved:
        await page.get_by_role("button", name="Export all").click()
    path = tmp_path / "all.json"
    await (await saved.value).save_as(path)
    await page.get_by_role("button", name="Delete all").click()
    await page.get_by_role("dialog").last.get_by_role("button", name="Delete all").click()
    await expect(page.locator("#sidebar .title")).to_have_count(0)
    await page.get_by_label("File to import").set_input_files(path)
    await expect(page.locator("#sidebar .title")).to_have_count(1)
    await page.keyboard.press("Escape")
    await page.locator("#sidebar .title").click()
    await ask(page, "Again?")
    assert api.last["messages"][0] == before[0]
