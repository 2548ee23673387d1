// The tokens of an answer, coloured by their probability, each with the most likely ones in its place.
import { h } from "../dom.js";
import { readRuns, spelt } from "../spelling.js";

const CLASSES = [
  { least: 0.9, name: "likely", told: "90 % and more" },
  { least: 0.5, name: "open", told: "50 %" },
  { least: 0.1, name: "unlikely", told: "10 %" },
  { least: 0, name: "rare", told: "less" },
];

/** An answer's whole text; what no run is known of is shown without colours. */
export async function tokensView(node, store) {
  const { text } = node;
  const runs = await readRuns(node, store);
  const tokens = new Map(); // element -> token
  const shown = [];
  let at = 0;
  for (const run of runs) {
    const part = text.slice(run.from, run.to);
    const all = spelt(run, part);
    shown.push(text.slice(at, run.from));
    for (const { token, shown: own } of all) {
      const element = tokenElement(token, own);
      tokens.set(element, token);
      shown.push(element);
    }
    at = run.from + all.reduce((sum, one) => sum + one.shown.length, 0);
  }
  shown.push(text.slice(at));
  return interactive(
    shown.filter((one) => one !== ""),
    tokens,
  );
}

function interactive(shown, tokens) {
  const elements = [...tokens.keys()];
  const indices = new Map(elements.map((element, index) => [element, index]));
  const card = h("div", { class: "alternatives", role: "status", hidden: true });
  const legend = h("p", { class: "legend" });
  for (const { name, told } of CLASSES) legend.append(h("span", { class: `token ${name}` }, told));
  const about = "The answer’s tokens. The arrow keys go from one to the next.";
  const view = h("div", { class: "tokens", tabIndex: 0, role: "group", "aria-label": about });
  view.append(h("div", { class: "text", dir: "auto" }, shown), card, legend);
  let chosen = -1;

  const choose = (index) => {
    elements[chosen]?.classList.remove("chosen");
    chosen = index;
    card.hidden = index < 0;
    if (index < 0) return;
    elements[index].classList.add("chosen");
    card.replaceChildren(...alternatives(tokens.get(elements[index])));
    place(card, elements[index], view);
  };
  view.addEventListener("mouseover", ({ target }) => {
    const index = indices.get(target.closest(".text > .token"));
    if (index !== undefined) choose(index);
  });
  view.addEventListener("mouseleave", () => choose(-1));
  view.addEventListener("blur", () => choose(-1));
  view.addEventListener("focus", () => chosen < 0 && choose(0));
  view.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || event.altKey) return;
    event.preventDefault();
    choose(Math.min(Math.max(chosen + step, 0), elements.length - 1));
    elements[chosen].scrollIntoView({ block: "nearest" });
  });
  return view;
}

// --- a token within the text: its marks are the style's, so that a copy has none

function tokenElement([written, logprob], shown) {
  const element = h("span", { class: `token ${classOf(logprob).name}` });
  if (shown) element.append(...marked(shown));
  else {
    element.classList.add("partial");
    element.title = told(written);
  }
  return element;
}

/** Line breaks are marked, and blanks where nothing else shows that they are there. */
function marked(text) {
  const [, body, blanks] = /^([^]*?)( *)$/.exec(text);
  const lines = body.split(/(?=\n)|(?<=\n)/).filter(Boolean);
  const nodes = lines.map((line) => (line === "\n" ? h("span", { class: "break" }, line) : line));
  return [...nodes, ...Array.from(blanks, (blank) => h("span", { class: "blank" }, blank))];
}

function classOf(logprob) {
  return CLASSES.find(({ least }) => Math.exp(logprob) >= least) ?? CLASSES.at(-1);
}

// --- the card of a token

function alternatives([written, logprob, top]) {
  const isTaken = ([other]) => String(other) === String(written);
  const all = top.some(isTaken) ? top : [[written, logprob], ...top];
  const rows = all.map((one) =>
    h(
      "li",
      { class: isTaken(one) ? "taken" : "" },
      h("code", { title: told(one[0]) }, seen(one[0])),
      h("span", {}, percent(one[1])),
    ),
  );
  return [h("ul", {}, rows), h("p", { class: "note" }, `log-probability ${logprob.toFixed(3)}`)];
}

/** A token alone: its outer blanks and its line breaks are seen, and a part of a character by its bytes. */
function seen(written) {
  if (typeof written !== "string") return partsSeen(written);
  const blanks = (outer) => "·".repeat(outer.length);
  const outer = written.replace(/^ +| +$/g, blanks);
  return outer.replaceAll("\n", "↵").replaceAll("\t", "⇥") || "(nothing)";
}

/** Whole characters as such, what is left of others as one mark for each. */
function partsSeen(bytes) {
  return seen(new TextDecoder().decode(Uint8Array.from(bytes)).replaceAll(/\ufffd+/g, "▯"));
}

function told(written) {
  if (typeof written === "string") return seen(written);
  const numbers = written.map((byte) => byte.toString(16).padStart(2, "0"));
  return `A part of a character: bytes ${numbers.join(" ").toUpperCase()}`;
}

function percent(logprob) {
  const value = 100 * Math.exp(logprob);
  return value < 0.01 ? "< 0.01 %" : `${value.toFixed(value < 10 ? 2 : 1)} %`;
}

/** Below a token, within the width of the text. */
function place(card, token, view) {
  const left = Math.min(token.offsetLeft, view.clientWidth - card.offsetWidth);
  card.style.left = `${Math.max(0, left)}px`;
  card.style.top = `${token.offsetTop + token.offsetHeight + 4}px`;
}
