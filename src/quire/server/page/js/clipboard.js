// Text to the clipboard, also where the page comes over plain http.
import { h } from "./dom.js";

export async function copyText(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "unseen";
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

/** A listener: formulas of what is selected are copied as they were written. */
export function copyFormulas(event) {
  const selection = getSelection();
  if (selection.isCollapsed || event.target.closest?.("input, textarea")) return;
  const copy = h(
    "div",
    { class: "unseen" },
    wholeFormulas(selection.getRangeAt(0)).cloneContents(),
  );
  const formulas = copy.querySelectorAll(".math[data-source]");
  if (!formulas.length) return;
  for (const formula of formulas) formula.replaceChildren(formula.dataset.source);
  document.body.append(copy);
  event.clipboardData.setData("text/plain", copy.innerText);
  event.clipboardData.setData("text/html", copy.innerHTML);
  event.preventDefault();
  copy.remove();
}

/** A range that begins and ends in no formula. */
function wholeFormulas(range) {
  const whole = range.cloneRange();
  const formulaOf = (node) => (node.closest ? node : node.parentElement)?.closest(".math");
  const [first, last] = [range.startContainer, range.endContainer].map(formulaOf);
  if (first) whole.setStartBefore(first);
  if (last) whole.setEndAfter(last);
  return whole;
}
