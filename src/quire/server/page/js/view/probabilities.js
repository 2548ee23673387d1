// The tokens of an answer, coloured by their probability, each with the most likely ones in its place.
import { h } from "../dom.js";

const CLASSES = [
  { least: 0.9, name: "likely", told: "90 % and more" },
  { least: 0.5, name: "open", told: "50 %" },
  { least: 0.1, name: "unlikely", told: "10 %" },
  { least: 0, name: "rare", told: "less" },
];

/** `tokens`: [text, log-probability, the same of the most likely ones]. */
export function tokensView(tokens) {
  const spans = tokens.map(([text, logprob]) =>
    h("span", { class: `token ${classOf(logprob).name}` }, text),
  );
  const card = h("div", { class: "alternatives", role: "status", hidden: true });
  const legend = h("p", { class: "legend" });
  for (const { name, told } of CLASSES) legend.append(h("span", { class: `token ${name}` }, told));
  const about = "The answer’s tokens. The arrow keys go from one to the next.";
  const view = h("div", { class: "tokens", tabIndex: 0, role: "group", "aria-label": about });
  view.append(...spans, card, legend);
  let chosen = -1;

  const choose = (index) => {
    spans[chosen]?.classList.remove("chosen");
    chosen = index;
    card.hidden = index < 0;
    if (index < 0) return;
    spans[index].classList.add("chosen");
    card.replaceChildren(...alternatives(tokens[index]));
    place(card, spans[index], view);
  };
  view.addEventListener("mouseover", ({ target }) => {
    const index = spans.indexOf(target);
    if (index >= 0) choose(index);
  });
  view.addEventListener("mouseleave", () => choose(-1));
  view.addEventListener("blur", () => choose(-1));
  view.addEventListener("focus", () => chosen < 0 && choose(0));
  view.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || event.altKey) return;
    event.preventDefault();
    choose(Math.min(Math.max(chosen + step, 0), spans.length - 1));
    spans[chosen].scrollIntoView({ block: "nearest" });
  });
  return view;
}

function classOf(logprob) {
  return CLASSES.find(({ least }) => Math.exp(logprob) >= least) ?? CLASSES.at(-1);
}

function alternatives([text, logprob, top]) {
  const all = top.some(([other]) => other === text) ? top : [[text, logprob], ...top];
  const rows = all.map(([other, value]) =>
    h(
      "li",
      { class: other === text ? "taken" : "" },
      h("code", {}, seen(other)),
      h("span", {}, percent(value)),
    ),
  );
  return [h("ul", {}, rows), h("p", { class: "note" }, `log-probability ${logprob.toFixed(3)}`)];
}

/** A token with its blanks and line breaks to be seen. */
function seen(text) {
  return text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "(nothing)";
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
