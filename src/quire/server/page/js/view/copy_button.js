// A button that copies a text and says so.
import { copyText } from "../clipboard.js";
import { h, icon } from "../dom.js";

const TOLD = 1500; // ms

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
    }, TOLD);
  });
  return button;
}
