// A model's growing Markdown on the page.
import { copyText } from "../clipboard.js";
import { h, icon } from "../dom.js";
import { draw } from "../formulas.js";
import { colour } from "../highlight.js";
import { GrowingMarkdown } from "../markdown.js";
import { GrowingCode } from "./growing_code.js";

export class Prose {
  #reader = new GrowingMarkdown();
  #shown = null;
  #open = []; // the elements of the last block
  #code = null; // the last block, if it is long code that only grows

  constructor() {
    this.element = h("div", { class: "prose" });
  }

  /** Show a text that continues the one before; `ended`: it is complete. */
  update(text, ended = false) {
    const plain = text.replaceAll("\r\n", "\n").replaceAll("\r", "\n");
    const isShown = plain === this.#shown && !(ended && this.#code);
    if (!isShown) this.#grow(plain, ended);
    this.#shown = plain;
    if (ended && this.#reader.hasReferences) this.#again(plain);
  }

  #grow(text, ended) {
    if (!ended && this.#code?.grow(text)) return;
    const { settled, open, settledJoins, openJoins, restarts } = this.#reader.read(text);
    for (const element of this.#open) element.remove();
    if (restarts) this.element.lastElementChild.remove();
    if (settled) this.#add(settled, settledJoins);
    this.#open = this.#add(open, openJoins);
    const { openFence } = this.#reader;
    const code = openFence && !ended ? this.element.lastElementChild.querySelector("code") : null;
    this.#code = GrowingCode.of(code, text, openFence);
  }

  /** Add a fragment, whose first items go to the list at the end if it joins that; returns its nodes. */
  #add(fragment, joins) {
    const nodes = [...dressed(fragment).childNodes];
    if (!joins) {
      this.element.append(...nodes);
      return nodes;
    }
    const [more, ...rest] = nodes;
    const items = [...more.childNodes].slice(1); // without the line break before the first item
    const last = this.element.lastChild;
    if (last.nodeType === Node.TEXT_NODE) last.remove(); // the rest begins with this line break
    this.element.lastElementChild.append(...items);
    this.element.append(...rest);
    return [...items, ...rest];
  }

  /** Render the whole text again, now that all link targets are known. */
  #again(text) {
    this.#reader.forget();
    this.element.replaceChildren();
    this.#open = [];
    this.#grow(text, true);
  }
}

const BLOCKS = "blockquote, h1, h2, h3, h4, h5, h6, li, ol, p, table, td, th, ul";

/** Add each block's direction of writing, highlighting and a bar to code, scrolling to tables, and draw
 * the formulas. */
function dressed(fragment) {
  for (const block of fragment.querySelectorAll(BLOCKS)) block.dir = "auto";
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

/** A button that copies a text and says so. */
export function copyButton(textOf, label = "Copy") {
  const words = h("span", {}, label);
  const button = h("button", { type: "button", class: "quiet-button" }, icon("copy"), words);
  button.addEventListener("click", async () => {
    await copyText(textOf());
    button.replaceChildren(icon("check"), words);
    words.textContent = "Copied";
    setTimeout(() => {
      button.replaceChildren(icon("copy"), words);
      words.textContent = label;
    }, 1500);
  });
  return button;
}
