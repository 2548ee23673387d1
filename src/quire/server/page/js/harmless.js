// Characters that a browser would obey are shown as others, by the list that the terminal has too.
import { OBEYED } from "./obeyed.js";

const escaped = (code) => `\\u{${code.toString(16)}}`;
const RANGES = OBEYED.map(([first, last]) => `${escaped(first)}-${escaped(last)}`);
const PATTERN = new RegExp(`[${RANGES.join("")}]`, "gu");

/** A text with nothing in it that is obeyed, except line breaks and tabs. */
export function harmless(text) {
  return text.replaceAll("\r\n", "\n").replace(PATTERN, shownFor);
}

function shownFor(character) {
  const code = character.codePointAt(0);
  return OBEYED.find(([first, last]) => first <= code && code <= last)[2];
}
