// The text of a question; a long one is folded, since nobody reads 20,000 lines of it again.
import { h, show } from "../dom.js";

const LONG = { lines: 30, characters: 5000 }; // what is longer is folded
const SHOWN = { lines: 14, characters: 2000 }; // what stays of it

/** The elements of a text. The part that is folded away is found by the browser's own search. */
export function saidText(text) {
  const end = foldAt(text);
  if (end === null) return [h("p", { class: "bubble", dir: "auto" }, text)];
  const head = h("span", {}, text.slice(0, end).replace(/\n$/, "")); // the rest begins a line itself
  const rest = h("div", { class: "folded", dir: "auto" }, text.slice(end));
  const bubble = h("div", { class: "bubble", dir: "auto" });
  const button = h("button", { type: "button", class: "quiet-button fold" });
  let isOpen = false;
  const tell = (open) => {
    isOpen = open;
    button.textContent = open ? "Show less" : `Show all ${sizeOf(text)}`;
    button.setAttribute("aria-expanded", String(open));
  };
  const fold = () => {
    rest.hidden = "until-found";
    bubble.replaceChildren(head, rest);
    tell(false);
  };
  const unfold = () => {
    show(bubble, text); // in one piece, so that a selection copies what was written
    tell(true);
  };
  button.addEventListener("click", () => {
    if (!isOpen) return unfold();
    fold();
    bubble.scrollIntoView({ block: "nearest" });
  });
  rest.addEventListener("beforematch", () => tell(true)); // the browser shows what it has found
  fold();
  return [bubble, button];
}

/** Where a text is cut: after a line, if that is not too long; null if it is short enough. */
function foldAt(text) {
  if (text.length <= LONG.characters && lineEnd(text, LONG.lines) === null) return null;
  const end = Math.min(lineEnd(text, SHOWN.lines) ?? text.length, SHOWN.characters);
  return /[\ud800-\udbff]/.test(text[end - 1]) ? end - 1 : end; // no character is cut in two
}

/** Where the `count`-th line ends; null if nothing follows it. */
function lineEnd(text, count) {
  let at = 0;
  for (let line = 0; line < count; line += 1) {
    at = text.indexOf("\n", at) + 1;
    if (at === 0) return null;
  }
  return at;
}

function sizeOf(text) {
  const lines = text.split("\n").length;
  if (lines > SHOWN.lines) return `${lines.toLocaleString("en")} lines`;
  return `${text.length.toLocaleString("en")} characters`;
}
