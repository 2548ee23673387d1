"""How the page comes: nothing moves, whatever is slow."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Browser, Route

from tests.server.page.actions import ask, reload
from tests.server.page.scripted_api import ScriptedApi

pytestmark = pytest.mark.asyncio(loop_scope="session")

WATCH = """
globalThis.moved = [];
addEventListener("transitionrun", (event) => moved.push(event.propertyName), true);
new PerformanceObserver((list) => {
  for (const { value, hadRecentInput, sources } of list.getEntries()) {
    if (!hadRecentInput) moved.push([value, sources.map(({ node }) => node?.id || node?.className)]);
  }
}).observe({ type: "layout-shift", buffered: true });
"""

SLOW = ("**/js/app.js", "**/js/view/prose.js", "**/v1/models", "**/css/prose.css")


@pytest.mark.parametrize("width", [1200, 390])
async def test_nothing_moves_at_load(browser: Browser, api: ScriptedApi, width: int) -> None:
    context = await browser.new_context(viewport={"width": width, "height": 780})
    page = await context.new_page()
    await page.add_init_script(WATCH)
    processor = await context.new_cdp_session(page)

    async def late(route: Route) -> None:
        await asyncio.sleep(0.15)
        await route.continue_()

    async def moved() -> object:
        await page.locator("#model option").first.wait_for(state="attached")
        await page.wait_for_timeout(300)
        return await page.evaluate("moved")

    for name in SLOW:
        await page.route(name, late)
    await processor.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    await page.goto(api.url)
    assert await moved() == []
    await processor.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    await ask(page, "rich")
    await ask(page, "think")
    await processor.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    await reload(page)
    assert await moved() == []
    await page.keyboard.press("Alt+KeyB")  # what the user moves is seen to move
    await page.wait_for_function("() => moved.includes('transform')")
    await reload(page)
    is_shown = await page.locator("#sidebar").is_visible()
    assert (is_shown, await moved()) == (False, [])
    await context.close()
