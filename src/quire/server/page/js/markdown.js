// Markdown of a model as safe elements.
//
// Three defences, each enough alone: markdown-it passes no HTML through; DOMPurify allows few elements
// and links; the page's policy runs no foreign script and loads nothing from elsewhere.
import "../vendor/markdown-it.min.js";
import "../vendor/purify.min.js";
import { harmless } from "./harmless.js";
import { addRules } from "./markdown_rules.js";

const { markdownit, DOMPurify } = globalThis;

const markdown = markdownit({ html: false, linkify: true, breaks: true });
markdown.linkify.set({ fuzzyLink: false, fuzzyEmail: false, fuzzyIP: false });
addRules(markdown);

// Loading a foreign image would tell its host that it was seen, so that images become links.
markdown.renderer.rules.image = (tokens, index) => {
  const { escapeHtml } = markdown.utils;
  const token = tokens[index];
  return `<a href="${escapeHtml(token.attrGet("src") ?? "")}">${escapeHtml(token.content || "image")}</a>`;
};

// The policy forbids style attributes, so that a column's alignment becomes an `align` attribute.
markdown.core.ruler.push("sides", ({ tokens }) => {
  for (const token of tokens) {
    const side = /^text-align:(\w+)$/.exec(token.attrGet("style") ?? "");
    if (side) token.attrs = [["align", side[1]]];
  }
});

const ALLOWED = {
  ALLOWED_TAGS:
    "a blockquote br code del em h1 h2 h3 h4 h5 h6 hr li ol p pre s span strong table tbody td th thead tr ul".split(
      " ",
    ),
  ALLOWED_ATTR: ["href", "title", "class", "start", "align"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  ADD_URI_SAFE_ATTR: ["align", "start"], // not URLs, so not checked against the expression above
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

/** The allowed elements of some HTML. */
export function sanitized(html) {
  const fragment = DOMPurify.sanitize(html, ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    if (link.hasAttribute("href"))
      Object.assign(link, { target: "_blank", rel: "noopener noreferrer" });
  }
  // Only now: Markdown's entities and percent signs may have become such characters, too.
  const texts = document.createTreeWalker(fragment, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.data = harmless(texts.currentNode.data);
  for (const titled of fragment.querySelectorAll("[title]")) titled.title = harmless(titled.title);
  return fragment;
}

/** Renders a growing text. Blocks that can no longer change are returned once, the rest each time.
 *
 * Only a text's last blocks (paragraph, list, code, ...) can still change, so that a frame renders
 * these alone, however long the text is.
 */
export class GrowingMarkdown {
  #env = {};
  #done = 0; // length of the text in settled blocks

  /** The mark of a code block at the text's end that is not closed yet, or null. */
  openFence = null;

  /** {settled, open}: fragments, of which `open` is rendered again next time. */
  read(text) {
    const tokens = markdown.parse(text.slice(this.#done), this.#env);
    const start = (token) => lineStart(text, this.#done, token.map[0]);
    // A block's start is certain once its first line is complete: a "*" may still become emphasis.
    const last = tokens.findLastIndex(
      (token) => token.level === 0 && token.nesting >= 0 && text.indexOf("\n", start(token)) >= 0,
    );
    const settled = last > 0 ? this.#render(tokens.slice(0, last)) : null;
    const open = this.#render(tokens.slice(Math.max(last, 0)));
    this.openFence = openFence(tokens.at(-1), (line) => lineStart(text, this.#done, line), text);
    if (settled) this.#done = start(tokens[last]);
    return { settled, open };
  }

  /** Whether a link's target may follow the link, so that all must be rendered again at the end. */
  get hasReferences() {
    return Object.keys(this.#env.references ?? {}).length > 0;
  }

  /** Start over, since a link's target may have been read before it was complete. */
  forget() {
    this.#done = 0;
    this.#env = {};
  }

  #render(tokens) {
    return sanitized(markdown.renderer.render(tokens, markdown.options, this.#env));
  }
}

function openFence(token, startOf, text) {
  if (token?.type !== "fence" || token.level > 0) return null;
  const [first, end] = token.map;
  const { markup } = token;
  const isIndented = !text.startsWith(markup, startOf(first)); // its lines lose their indent
  const last = text.slice(startOf(end - 1)).trimStart();
  return isIndented || (end - 1 > first && last.startsWith(markup)) ? null : markup;
}

function lineStart(text, from, lines) {
  let at = from;
  for (let line = 0; line < lines; line += 1) at = text.indexOf("\n", at) + 1;
  return at;
}
