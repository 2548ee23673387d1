// Markdown of a model as safe elements.
//
// Three defences, each enough alone: markdown-it passes no HTML through; DOMPurify allows few elements
// and links; the page's policy runs no foreign script and loads nothing from elsewhere.
import "../vendor/markdown-it.min.js";
import "../vendor/purify.min.js";
import { harmless } from "./harmless.js";
import { addRules } from "./markdown_rules.js";

const { markdownit, DOMPurify } = globalThis;

export const markdown = markdownit({ html: false, linkify: true, breaks: true });
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

/** The allowed elements of some tokens. */
export function rendered(tokens, env) {
  return sanitized(markdown.renderer.render(tokens, markdown.options, env));
}

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
