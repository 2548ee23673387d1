// The settings' part on saved prompts.
import { h, icon, iconButton } from "../dom.js";
import { KEY, deletePrompt, readPrompts, savePrompt } from "../prompts.js";
import { editPrompt } from "./prompt_dialog.js";
import "./later_style.js";

/** The content of the section. */
export function promptSettings() {
  const list = h("ul", { class: "prompts" });
  const told = h("p", { class: "note", role: "status" });
  const edit = async (prompt) => (await editPrompt(prompt)) && draw();
  const remove = ({ id }) => {
    const prompt = deletePrompt(id);
    const undo = () => {
      savePrompt(prompt);
      draw();
    };
    draw();
    const button = h("button", { type: "button", class: "quiet-button", onclick: undo }, icon("retry"));
    button.append(h("span", {}, "Undo"));
    told.replaceChildren(h("span", {}, `“${prompt.name}” was deleted. `), button);
    button.focus();
  };
  const draw = () => {
    list.replaceChildren(...readPrompts().map((prompt) => item(prompt, edit, remove)));
    told.replaceChildren();
  };
  const create = h("button", { type: "button", class: "button", onclick: () => edit() }, "New prompt");
  addEventListener("storage", function changed({ key }) {
    if (!list.isConnected) removeEventListener("storage", changed);
    else if (key === KEY || key === null) draw(); // another tab has changed them
  });
  draw();
  return [list, told, h("div", { class: "row start" }, create)];
}

function item(prompt, edit, remove) {
  const { name, text } = prompt;
  return h(
    "li",
    {},
    h("span", { class: "words" }, h("b", { dir: "auto" }, name), h("small", { dir: "auto" }, text)),
    iconButton("edit", `Edit ${name}`, () => edit(prompt)),
    iconButton("trash", `Delete ${name}`, () => remove(prompt)),
  );
}
