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
    "a blockquote br code del em h1 h2 h3 h4 h5 h6 hr li ol p pre s span strong sup table tbody td th thead tr ul".split(
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

const LONG_LIST = 2000; // characters, beyond which a list's items are settled one by one

/** Renders a growing text. Blocks that can no longer change are returned once, the rest each time.
 *
 * Only a text's last blocks (paragraph, list, code, ...) can still change, so that a frame renders
 * these alone, however long the text is. Of a long list only the last items can.
 */
export class GrowingMarkdown {
  #env = {};
  #done = 0; // length of the text in settled blocks and items
  #list = null; // {start, type, markup, isLoose} of a list of which items are settled

  /** The mark of a code block at the text's end that is not closed yet, or null. */
  openFence = null;

  /** {settled, open}: fragments, of which `open` is rendered again next time. `settledJoins` and
   * `openJoins` say that the fragment begins with more items of the list before it, `restarts` that
   * this list has become another one, and all of it is here again. */
  read(text) {
    const rest = text.slice(this.#done);
    const tokens = markdown.parse(rest, this.#env);
    const list = this.#list;
    if (list && !continues(tokens, list, rest)) {
      this.#done = list.start;
      this.#list = null;
      return { ...this.read(text), restarts: true };
    }
    const joins = list !== null;
    const startOf = (line) => lineStart(text, this.#done, line);
    // A start is certain once its first line is complete: a "*" may still become emphasis.
    const isCertain = (token) => text.indexOf("\n", startOf(token.map[0])) >= 0;
    const last = tokens.findLastIndex(
      (token) => token.level === 0 && token.nesting >= 0 && isCertain(token),
    );
    this.openFence = openFence(tokens.at(-1), startOf, text);
    if (last <= 0) {
      const item = rest.length > LONG_LIST ? lastItem(tokens, isCertain) : 0;
      if (item > 0) return this.#splitList(tokens, item, startOf, joins);
      return { settled: null, open: this.#render(tokens), settledJoins: false, openJoins: joins };
    }
    const settled = this.#render(tokens.slice(0, last));
    const open = this.#render(tokens.slice(last));
    this.#done = startOf(tokens[last].map[0]);
    this.#list = null;
    return { settled, open, settledJoins: joins, openJoins: false };
  }

  /** Settle the items of a list before the token `item`. */
  #splitList(tokens, item, startOf, joins) {
    const [opener] = tokens;
    const closer = tokens.at(-1);
    const settled = this.#render([...tokens.slice(0, item), closer]);
    const open = this.#render([opener, ...tokens.slice(item)]);
    const { type, markup } = opener;
    const start = this.#list?.start ?? startOf(opener.map[0]);
    this.#list = { start, type, markup, isLoose: looseness(tokens) };
    this.#done = startOf(tokens[item].map[0]);
    return { settled, open, settledJoins: joins, openJoins: true };
  }

  /** Whether a link's target or a footnote may follow its mark, so that all must be rendered again at
   * the end. */
  get hasReferences() {
    const { references = {}, notes = new Set() } = this.#env;
    return Object.keys(references).length + notes.size > 0;
  }

  /** Start over, since a link's target may have been read before it was complete. */
  forget() {
    this.#done = 0;
    this.#env = {};
    this.#list = null;
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

/** The token of the last item of a list that is the only block and has paragraphs; 0 if there is no
 * item before it. */
function lastItem(tokens, isCertain) {
  const isList = /_list_open$/.test(tokens[0]?.type);
  if (!isList || blockEnd(tokens) < tokens.length - 1 || looseness(tokens) === null) return 0;
  const isItem = (token) => token.type === "list_item_open" && token.level === 1;
  const last = tokens.findLastIndex((token) => isItem(token) && isCertain(token));
  return last > 1 ? last : 0;
}

/** Whether the tokens begin with more items of a list, and leave those before as they are. An empty
 * line between two items is one for all of the list, whose paragraphs are then apart. */
function continues(tokens, list, text) {
  const [opener] = tokens;
  if (opener?.type !== list.type || opener.markup !== list.markup) return false;
  const isLoose = looseness(tokens);
  if (isLoose === null) return list.isLoose || !/\n[ \t]*\n/.test(text); // in doubt all is read again
  if (isLoose === list.isLoose) return true;
  if (isLoose) return false;
  for (const token of paragraphsOf(tokens)) token.hidden = false;
  return true;
}

/** Whether the paragraphs of a list, the first block, are shown as such; null if it has none. */
function looseness(tokens) {
  const [first] = paragraphsOf(tokens);
  return first ? !first.hidden : null;
}

function paragraphsOf(tokens) {
  const isParagraph = ({ type, level }) => level === 2 && /^paragraph_(?:open|close)$/.test(type);
  return tokens.slice(0, blockEnd(tokens)).filter(isParagraph);
}

/** Where the first block ends. */
function blockEnd(tokens) {
  return tokens.findIndex(({ level, nesting }) => level === 0 && nesting < 0);
}

function lineStart(text, from, lines) {
  let at = from;
  for (let line = 0; line < lines; line += 1) at = text.indexOf("\n", at) + 1;
  return at;
}
