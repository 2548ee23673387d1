"""Markdown of a model: safe, right, and quick however long it grows."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.async_api import Page, Request, expect

from tests.properties import EVERY_CHECK
from tests.server.page.actions import answers, ask, composer, questions, settled
from tests.server.page.scripted_api import ATTACK, RICH, ScriptedApi

pytestmark = pytest.mark.asyncio(loop_scope="session")

READ_IN_PIECES = """async ([text, cuts]) => {
  const { Prose } = await import("/page/js/view/prose.js");
  const [grown, whole] = [new Prose(), new Prose()];
  for (const cut of cuts) grown.update(text.slice(0, cut));
  grown.update(text, true);
  whole.update(text, true);
  return [grown.element.innerHTML, whole.element.innerHTML];
}"""

READ_EVENTS = """async (pieces) => {
  const { readEvents } = await import("/page/js/sse.js");
  const bytes = pieces.map((piece) => Uint8Array.from(piece));
  const body = new ReadableStream({
    pull(controller) {
      if (bytes.length) controller.enqueue(bytes.shift());
      else controller.close();
    },
  });
  const events = [];
  for await (const data of readEvents(body)) events.push(data);
  return events;
}"""


async def test_an_attack_is_inert(page: Page, api: ScriptedApi) -> None:
    elsewhere: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith((api.url, "data:", "blob:")):
            elsewhere.append(request.url)

    page.on("request", note)
    await ask(page, "attack")
    prose = answers(page).locator(".prose").last
    await expect(prose.locator("h1")).to_have_text("Hello")
    assert await page.evaluate("window.broken") is None
    assert (
        await prose.locator("script, img, iframe, svg:not(.icon), style, object, form").count() == 0
    )
    links = await prose.locator("a[href]").evaluate_all("all => all.map((a) => a.href)")
    assert links == ["https://elsewhere.invalid/pixel.png", "https://example.org/"]
    written = await prose.evaluate(
        "e => [...e.querySelectorAll('*')].flatMap((x) => x.getAttributeNames())"
    )
    assert not [name for name in written if name.startswith("on") or name == "style"]
    await expect(prose).to_contain_text("<script>window.broken = 1</script>")
    for link in await prose.locator("a[href]").all():
        assert await link.get_attribute("rel") == "noopener noreferrer"
    await page.mouse.click(600, 300)
    assert (await page.evaluate("window.broken"), elsewhere) == (None, [])


async def test_an_attack_of_the_user_is_plain_text(page: Page, api: ScriptedApi) -> None:
    await ask(page, ATTACK)
    await expect(questions(page)).to_have_text(ATTACK.strip(), use_inner_text=True)
    assert await questions(page).locator("*").count() == 0
    title = await page.locator("#sidebar .title").inner_text()
    assert title == "# Hello"
    assert await page.evaluate("window.broken") is None


async def test_the_policy_stops_what_would_get_through(
    page: Page, api: ScriptedApi, complaints: list[str]
) -> None:
    """The last fence by itself: markup in the page does not become a script."""
    refused = await page.evaluate("""() => {
      try {
        document.body.innerHTML = "<img src=x onerror='window.broken = 1'>";
        return null;
      } catch (error) {
        return error.name;
      }
    }""")
    assert refused == "TypeError"  # trusted types
    policy = await page.evaluate("""async () => {
      const script = document.createElement("img");
      const refused = new Promise((resolve) => {
        document.addEventListener("securitypolicyviolation", (e) => resolve(e.effectiveDirective));
      });
      script.src = "https://elsewhere.invalid/pixel.png";
      return refused;
    }""")
    assert policy == "img-src"
    complaints.clear()


async def test_tables_code_and_late_references(page: Page, api: ScriptedApi) -> None:
    await ask(page, "rich")
    prose = answers(page).locator(".prose").last
    await expect(prose.locator("th").nth(1)).to_have_css("text-align", re.compile("right"))
    await expect(prose.locator(".code-bar")).to_contain_text("python")
    await expect(prose.locator("code .hljs-keyword").first).to_have_text("def")
    await expect(prose.get_by_role("link", name="the site")).to_have_attribute(
        "href", "https://example.org"
    )
    await prose.get_by_role("button", name="Copy").click()
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert copied == "def add(a: int, b: int) -> int:\n    return a + b  # simple\n"
    await answers(page).locator(".actions").get_by_role("button", name="Copy").click()
    assert await page.evaluate("navigator.clipboard.readText()") == RICH


async def test_a_long_answer_stays_smooth(page: Page, api: ScriptedApi) -> None:
    """Each frame draws the last block alone: old blocks are the very same elements at the end."""
    await page.evaluate("""() => {
      window.removed = 0;
      new MutationObserver((changes) => {
        for (const change of changes) window.removed += change.removedNodes.length;
      }).observe(document.getElementById("thread"), { childList: true, subtree: true });
    }""")
    await composer(page).fill("long")
    await composer(page).press("Enter")
    await expect(page.locator(".prose p")).to_have_count(750)
    first = await page.locator(".prose p").first.element_handle()
    api.hold.set()
    await settled(page)
    await expect(page.locator(".prose p")).to_have_count(1500)
    assert await first.evaluate("(e) => e.isConnected")
    assert await page.evaluate("window.removed") < 1500  # drawn whole each time: 100,000 and more
    away = await page.evaluate(
        "(({scrollHeight, scrollTop, clientHeight}) => scrollHeight - scrollTop - clientHeight)"
        "(document.getElementById('thread'))"
    )
    assert away < 80


async def test_who_reads_above_is_not_pulled_down(page: Page, api: ScriptedApi) -> None:
    api.hold.set()
    await ask(page, "long")
    api.hold.clear()
    await ask(page, "held", wait=False)
    await expect(answers(page).last).to_contain_text("Before.")
    await page.locator("#thread").evaluate("(e) => e.scrollTo(0, 100)")
    await expect(page.locator("#jump")).to_be_visible()
    api.hold.set()
    await expect(answers(page).last).to_contain_text("After.")
    await page.wait_for_timeout(50)
    assert await page.locator("#thread").evaluate("(e) => e.scrollTop") == 100
    await page.locator("#jump").click()
    await expect(page.locator("#jump")).to_be_hidden()


MARKDOWN = st.lists(
    st.sampled_from(
        [
            "word ", "*em* ", "**b", "** ", "`", "`code` ", "\n", "\n\n", "\r\n", "- item\n", "  - deep\n",
            "1. one\n", "> said\n", "```py\n", "```\n", "# Head\n", "===\n", "---\n", "| a | b |\n",
            "|---|--:|\n", "| 1 | 2 |\n", "[x](https://a.example) ", "[r] ", "[r]: https://b.example\n",
            "    code\n", "<b>", "&amp;", "![p](https://c.example/p.png)", "\\", "é🙂 ", "\t",
        ]
    ),
    max_size=25,
).map("".join)  # fmt: skip


async def test_text_in_pieces_looks_as_the_whole_does(page: Page, api: ScriptedApi) -> None:
    cases_of = MARKDOWN.flatmap(
        lambda text: st.tuples(
            st.just(text), st.lists(st.integers(0, len(text)), max_size=12).map(sorted)
        )
    )
    cases: list[tuple[str, list[int]]] = []

    @settings(max_examples=200, deadline=None, suppress_health_check=EVERY_CHECK, database=None)
    @given(cases_of)
    def gather(case: tuple[str, list[int]]) -> None:
        cases.append(case)

    gather()
    for text, cuts in cases:
        grown, whole = await page.evaluate(READ_IN_PIECES, [text, cuts])
        assert grown == whole, json.dumps([text, cuts])


async def test_events_in_any_pieces(page: Page, api: ScriptedApi) -> None:
    lines = [
        ": a comment", "", 'data: {"é": "🙂"}', "", "event: x", "id: 3", "data:one", "data: two",
        "", "", "data", "data: last", "", "data: never ended",
    ]  # fmt: skip
    for end, size in itertools.product(("\n", "\r\n", "\r"), (1, 2, 3, 7, 1000)):
        sent = end.join(lines).encode()
        pieces = [list(sent[at : at + size]) for at in range(0, len(sent), size)]
        told = await page.evaluate(READ_EVENTS, pieces)
        assert told == ['{"é": "🙂"}', "one\ntwo", "last"], (end, size)
