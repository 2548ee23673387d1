"""Makes the pictures of the chat page in docs/pictures, of the demo model on NativeEngine; that of
formulas is of an answer that was written by hand.

Run it from the repository's root, with what the tests need: `python -m docs.make_page_pictures`.
The fonts are those of the machine: Inter, JetBrains Mono and TeX Gyre Pagella were there.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, async_playwright

from quire.chat import ChatModel
from quire.demo import demo_model_path
from tests.server.page.actions import ask, settled
from tests.server.page.conftest import FLAGS
from tests.server.page.pdfs import text_pdf
from tests.server.page.programs import CHROMIUM, browser_program
from tests.server.page.scripted_api import scripted_api
from tests.server.page.test_media import choose
from tests.server.serving import serving

PICTURES = Path(__file__).parent / "pictures"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FORMULAS = r"""The factor makes the density a density: its integral is 1. With $t = (x - \mu) / \sigma$,

$$
\int_{-\infty}^{\infty} \frac{1}{\sigma\sqrt{2\pi}}\,
e^{-\frac12\left(\frac{x-\mu}{\sigma}\right)^2}\,dx
= \frac{1}{\sqrt{2\pi}} \int_{-\infty}^{\infty} e^{-t^2/2}\,dt = 1,
$$

since the last integral squared is one over the plane[^1]:

\begin{align*}
\left(\int_{-\infty}^{\infty} e^{-t^2/2}\,dt\right)^2
  &= \int_0^{2\pi}\!\!\int_0^{\infty} e^{-r^2/2}\,r\,dr\,d\varphi = 2\pi.
\end{align*}

[^1]: In polar coordinates, \(dx\,dy = r\,dr\,d\varphi\).
"""
TOOL = {"name": "get_weather", "description": "Get the current weather for a city."}


async def opened(browser: Browser, url: str, width: int, scheme: Any) -> Page:
    page = await browser.new_page(
        viewport={"width": width, "height": 780}, color_scheme=scheme, device_scale_factor=1.5
    )
    await page.goto(url)
    await page.locator("#model option").first.wait_for(state="attached")
    await setting(page, "Temperature", "0")
    return page


async def setting(page: Page, label: str, value: str) -> None:
    await page.keyboard.press("Alt+KeyS")
    await page.get_by_label(label).fill(value)
    await page.keyboard.press("Escape")


async def asked_alone(page: Page, *texts: str) -> None:
    """A new conversation."""
    await page.keyboard.press("Alt+KeyN")
    for text in texts:
        await ask(page, text)


async def taken(page: Page, name: str) -> None:
    await page.mouse.move(5, 770)
    await page.wait_for_timeout(400)  # for what fades
    await page.screenshot(path=PICTURES / f"page-{name}.png")


async def wide(browser: Browser, url: str) -> None:
    page = await opened(browser, url, 1200, "dark")
    await setting(page, "Functions", json.dumps([{**TOOL, "parameters": CITY}]))
    await ask(page, "What is the weather in Oslo?")
    await page.locator(".results textarea").fill('{"weather": "rain", "temperature": 9}')
    await page.get_by_role("button", name="Send results").click()
    await settled(page)
    await taken(page, "dark")
    await setting(page, "Functions", "")
    await page.emulate_media(color_scheme="light")
    await asked_alone(page, "Which Python version does quire need?")
    await asked_alone(page, "Does quire need a GPU?")
    await asked_alone(page, "What is quire?", "How do I stream an answer?")
    await page.get_by_role("button", name="Retry").last.click()
    await page.get_by_label("Version 2 of 2").wait_for()
    await settled(page)
    await taken(page, "light")


async def narrow(browser: Browser, url: str) -> None:
    page = await opened(browser, url, 390, "light")
    await ask(page, "What does the name quire mean?")
    await ask(page, "How do I use ChatModel?")
    await page.locator("#composer-text").blur()
    await taken(page, "phone")


async def paper(browser: Browser, url: str) -> None:
    page = await opened(browser, url, 794, "light")
    await ask(page, "What does the name quire mean?")
    await ask(page, "How do I use ChatModel?")
    await page.emulate_media(media="print")
    await page.evaluate("document.body.style.padding = '3rem'")  # in the place of a page's margin
    await taken(page, "print")


async def formulas(browser: Browser) -> None:
    with scripted_api() as api:
        api.models = [{"id": "a-model", "parent": None, "max_media": {"image": 4}}]
        api.answer = FORMULAS
        page = await opened(browser, api.url, 1200, "light")
        pages = text_pdf("The normal distribution", "Moments")
        await choose(page, ("normal-distribution.pdf", "application/pdf", pages))
        await ask(page, "Why does the density have this factor?")
        await page.locator(".katex-display").last.wait_for()
        await taken(page, "formulas")


async def make(url: str) -> None:
    async with async_playwright() as playwright:
        flags = [*FLAGS, "--font-render-hinting=none"]
        browser = await playwright.chromium.launch(
            executable_path=browser_program(CHROMIUM), args=flags
        )
        await wide(browser, url)
        await narrow(browser, url)
        await paper(browser, url)
        await formulas(browser)
        await browser.close()


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    arguments = {"model_name_or_path": str(demo_model_path()), "infer_backend": "native"}
    with ChatModel(arguments) as model, serving(model, served_model_name="quire-demo") as server:
        asyncio.run(make(server.url))


if __name__ == "__main__":
    main()
