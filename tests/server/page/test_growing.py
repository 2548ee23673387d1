"""Growing Markdown: of a long block the last part alone is drawn anew, and the end is as if drawn at once."""

from __future__ import annotations

import random

import pytest
from playwright.async_api import Page

from tests.server.page.scripted_api import ScriptedApi

pytestmark = pytest.mark.asyncio(loop_scope="session")

GROW = """async ([text, cuts, ended]) => {
  const { Prose } = await import("/page/js/view/prose.js");
  const [grown, whole] = [new Prose(), new Prose()];
  let drawn = 0;
  const size = (nodes) => nodes.reduce((sum, node) => sum + (node.textContent?.length ?? 0), 0);
  const count = (changes) => {
    for (const { type, addedNodes, target, oldValue } of changes) {
      if (type === "childList") drawn += size([...addedNodes]);
      else drawn += target.data.startsWith(oldValue) ? 0 : target.data.length;
    }
  };
  const observer = new MutationObserver(count);
  observer.observe(grown.element, {
    childList: true, characterData: true, characterDataOldValue: true, subtree: true,
  });
  for (const at of cuts) {
    grown.update(text.slice(0, at));
    count(observer.takeRecords());
  }
  if (ended) grown.update(text, true);
  whole.update(text, true);
  count(observer.takeRecords());
  await new Promise((resolve) => setTimeout(resolve));
  const [mine, wanted] = [grown, whole].map(({ element }) => element.innerHTML);
  if (mine === wanted || !ended) return { drawn, wrong: null };
  let at = 0;
  while (mine[at] === wanted[at]) at += 1;
  return { drawn, wrong: [mine, wanted].map((html) => html.slice(Math.max(0, at - 80), at + 80)) };
}"""

SENTENCE = "The model **says** the same `thing` again, and [links](https://example.org) to it. "
LONG = {
    "a paragraph": SENTENCE * 700,
    "a paragraph of lines": f"{SENTENCE}\n" * 700,
    "a paragraph without blanks": "これは長い文章です。" * 5000,
    "a paragraph that nothing closes": f"**[`{SENTENCE * 700}",
    "a table": "| a | b |\n|---|--:|\n" + f"| row | {SENTENCE}|\n" * 600,
    "a list": f"- {SENTENCE}\n" * 600,
    "a list of lists": "- top\n" + f"  - {SENTENCE}\n" * 600,
    "a quotation": f"> {SENTENCE}\n>\n" * 600,
}


@pytest.mark.parametrize("name", LONG)
async def test_of_a_long_block_the_last_part_alone_is_drawn_anew(
    page: Page, api: ScriptedApi, name: str
) -> None:
    """What is drawn in 400 steps has not many times the text's length."""
    text = LONG[name]
    cuts = [len(text) * step // 400 for step in range(1, 401)]
    told = await page.evaluate(GROW, [text, cuts, False])
    assert told["drawn"] < 12 * len(text)  # drawn whole each time: 200 times
    told = await page.evaluate(GROW, [text, cuts[::40], True])
    assert told["wrong"] is None


WORDS = [
    "word ",
    "more words here ",
    "lorem ipsum dolor sit amet ",
    "漢字漢字漢字。",
    "**bold** ",
    "`code` ",
]
MARKS = [
    "*", "**", "_", "__", "`", "``", "[", "](", ")", "]", "![", "~~", "$5 ", "$x$ ", "\\(", "\\)", "\\*", "|",
    " | ", "\n", "\n\n", "\n- ", "\n> ", "\n1. ", "\n---\n", "\n===\n", "\n|---|---|\n", "&amp;", "&",
    "<http://a.b>", "http://a.b/c ", "שלום ", "😀", "[^1] ", "\n[^1]: note\n", "\n[ref]: http://x.y\n",
    "[ref] ", "snake_case ", "2 * 3 ", "[link](http://x) ", "\n```\n", "    ", "  \n", "\t", "\n\n# ", "- [ ] ",
    "\n$$\n",
]  # fmt: skip


def written(random: random.Random, kind: str) -> str:
    """A long block, or several, with more or fewer of the marks that mean something."""
    share = random.choice([0, 0.01, 0.05, 0.3, 1])
    piece = lambda: random.choice(MARKS if random.random() < share else WORDS)  # noqa: E731
    if kind == "paragraph":
        return "".join(piece() for _ in range(random.choice([300, 1500])))
    share /= 8
    lines = ["".join(piece() for _ in range(6)) for _ in range(random.choice([60, 200]))]
    if kind == "table":
        ends = ("|", " | more |", "")
        rows = "".join(f"| {line}| x{random.choice(ends)}\n" for line in lines)
        return f"| a | b |\n|---|--:|\n{rows}"
    return "".join(f"{random.choice(['- ', '- ', '  - '])}{line}\n" for line in lines)


@pytest.mark.parametrize("seed", range(60))
async def test_any_text_in_any_pieces_ends_as_if_drawn_at_once(
    page: Page, api: ScriptedApi, seed: int
) -> None:
    rng = random.Random(seed)
    kinds = rng.choices(["paragraph", "table", "list"], k=rng.choice([1, 1, 2, 3]))
    text = rng.choice(["\n", "\n\n", "", "\n---\n"]).join(written(rng, kind) for kind in kinds)
    units = len(text.encode("utf-16-le")) // 2  # as JavaScript counts
    cuts = sorted(rng.randrange(units) for _ in range(rng.choice([5, 20, 60])))
    told = await page.evaluate(GROW, [text, cuts, True])
    assert told["wrong"] is None


async def test_what_stays_the_same_is_not_touched(page: Page, api: ScriptedApi) -> None:
    """So a selection in a growing answer stays, too."""
    kept = await page.evaluate("""async () => {
      const { Prose } = await import("/page/js/view/prose.js");
      const prose = new Prose();
      const text = "> **one** two\\n>\\n> - three\\n> - four";
      prose.update(text);
      const before = [...prose.element.querySelectorAll("strong, li")];
      prose.update(`${text} and more`);
      prose.update(`${text} and more\\n> - five`);
      return before.map((element) => prose.element.contains(element));
    }""")
    assert kept == [True, True, True]
