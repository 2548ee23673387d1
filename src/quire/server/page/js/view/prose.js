// A model's growing Markdown on the page.
import { h } from "../dom.js";
import { draw } from "../formulas.js";
import { GrowingMarkdown } from "../growing_markdown.js";
import { colour } from "../highlight.js";
import { copyButton } from "./copy_button.js";
import { GrowingCode } from "./growing_code.js";
import { patch } from "./patch.js";

const NONE = { holder: null, parts: [], blocks: [] };

export class Prose {
  #reader = new GrowingMarkdown();
  #shown = null;
  #open = NONE; // the nodes that may still change: parts at the end of a long block, and blocks
  #code = null; // the last block, if it is long code that only grows

  /** `element` is an empty one that shows the text. */
  constructor(element = h("div", { class: "prose" })) {
    this.element = element;
  }

  /** Show a text that continues the one before; `ended`: it is complete. */
  update(text, ended = false) {
    const plain = text.replaceAll("\r\n", "\n").replaceAll("\r", "\n");
    const isShown = plain === this.#shown && !(ended && (this.#code || this.#reader.guesses));
    if (!isShown) this.#grow(plain, ended);
    this.#shown = plain;
    if (ended && this.#reader.hasReferences) this.#again(plain);
  }

  #grow(text, ended) {
    if (!ended && this.#code?.grow(text)) return;
    const { settled, open, settledJoins, openJoins, restarts } = this.#reader.read(text, ended);
    if (settled || restarts || openJoins !== (this.#open.holder !== null)) {
      this.#drop();
      if (restarts) this.element.lastElementChild.remove();
      if (settled) this.#show(settled, settledJoins);
    }
    this.#open = this.#show(open, openJoins);
    const { openFence } = this.#reader;
    const code = openFence && !ended ? this.element.lastElementChild.querySelector("code") : null;
    this.#code = GrowingCode.of(code, text, openFence);
  }

  /** Take away what may still change. */
  #drop() {
    for (const node of [...this.#open.parts, ...this.#open.blocks]) node.remove();
    this.#open = NONE;
  }

  /** Show a fragment, which may begin with more of the long block at the end, in place of what is
   * open; returns its nodes. */
  #show(fragment, joins) {
    const nodes = [...dressed(fragment).childNodes];
    const open = this.#open;
    if (!joins) return { ...NONE, blocks: patch(this.element, open.blocks, nodes) };
    const [more, ...rest] = nodes;
    const holder = open.holder ?? this.#reopened();
    const parts = patch(holder, open.parts, partsOf(more));
    return { holder, parts, blocks: patch(this.element, open.blocks, rest) };
  }

  /** What more parts of the block at the end go into; the line break after it comes with them. */
  #reopened() {
    const { lastChild, lastElementChild } = this.element;
    if (lastChild.nodeType === Node.TEXT_NODE) lastChild.remove();
    return holderOf(lastElementChild);
  }

  /** Render the whole text again, now that all link targets are known. */
  #again(text) {
    this.#reader.forget();
    this.element.replaceChildren();
    this.#open = NONE;
    this.#grow(text, true);
  }
}

/** What a long block's parts are in: a list, a paragraph, or the body of a table in its frame. */
function holderOf(block) {
  return block.matches(".table-frame") ? block.querySelector("tbody") : block;
}

/** The items of a list, the text of a paragraph or the rows of a table. */
function partsOf(block) {
  const nodes = [...(holderOf(block)?.childNodes ?? [])];
  return block.matches("p") ? nodes : nodes.slice(1); // without the line break before the first one
}

const BLOCKS = "blockquote, h1, h2, h3, h4, h5, h6, li, ol, p, table, td, th, ul";

/** Add each block's direction of writing, highlighting and a bar to code, scrolling to tables, and draw
 * the formulas. */
function dressed(fragment) {
  // The outer ones last: a browser looks through a block that has a direction at each change in it.
  for (const block of [...fragment.querySelectorAll(BLOCKS)].reverse()) block.dir = "auto";
  for (const code of fragment.querySelectorAll("pre > code")) dressCode(code);
  for (const formula of fragment.querySelectorAll(".math")) draw(formula);
  for (const table of fragment.querySelectorAll("table")) {
    const frame = h("div", {
      class: "table-frame",
      tabIndex: 0,
      role: "region",
      "aria-label": "Table",
    });
    table.replaceWith(frame);
    frame.append(table);
  }
  return fragment;
}

function dressCode(code) {
  const pre = code.parentElement;
  const language = /\blanguage-(\S+)/.exec(code.className)?.[1] ?? "";
  const frame = h("div", { class: "code-frame" });
  pre.replaceWith(frame);
  const bar = h(
    "div",
    { class: "code-bar" },
    h("span", {}, language),
    copyButton(() => code.textContent),
  );
  frame.append(bar, pre);
  Object.assign(pre, { tabIndex: 0, dir: "ltr" });
  colour(code);
}
