// What an answer took: its tokens, their rate, its times, and its prompt.
import { pace } from "../answer.js";
import { h } from "../dom.js";

const ABOUT =
  "The prompt is all of the conversation. Cached tokens of it were known from before, and not read again.";

/** "27 tokens · 41/s" of an answer that is being written; null before its first token. */
export function growingFigures(node) {
  const told = pace(node);
  return told && h("span", { class: "figures" }, short(told));
}

/** The figures of an answer that has ended; null if there are none. On a narrow page the first ones are
 * a button that shows the rest; `isOpen` says whether it does, `turn(isOpen)` takes a change. */
export function figures(node, isOpen, turn) {
  const told = pace(node);
  if (!told) return null;
  const rest = [timesText(told), ...promptText(node.usage)].join(" · ");
  const open = (isNow) => {
    button.setAttribute("aria-expanded", String(isNow));
    turn(isNow);
  };
  const onclick = () => open(button.getAttribute("aria-expanded") !== "true");
  const button = h("button", { type: "button", class: "quiet-button", title: rest, onclick });
  button.append(short(told));
  open(isOpen);
  const first = h("span", { class: "first" }, `${short(told)} · `);
  return h("span", { class: "figures", title: ABOUT }, button, first, h("span", {}, rest));
}

function short({ tokens, rate, exact }) {
  const about = exact ? "" : "≈ ";
  const count = `${about}${shown(tokens)} ${tokens === 1 ? "token" : "tokens"}`;
  return tokens > 1 ? `${count} · ${about}${rateText(rate)}/s` : count;
}

function timesText({ seconds, wait }) {
  const [first, last] = [timeText(wait), timeText(seconds)];
  // Nobody sees two moments within a second.
  return seconds < 1 || first === last ? `after ${last}` : `first after ${first}, last after ${last}`;
}

function promptText(usage) {
  if (!Number.isFinite(usage?.prompt)) return [];
  const cached = usage.cached ? `, ${shown(usage.cached)} cached` : "";
  return [`prompt: ${shown(usage.prompt)} ${usage.prompt === 1 ? "token" : "tokens"}${cached}`];
}

function rateText(rate) {
  return rate >= 10 ? shown(Math.round(rate)) : rate.toFixed(1);
}

function timeText(seconds) {
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
}

function shown(number) {
  return number.toLocaleString("en");
}
