// The dialog in which a prompt is named and written.
import { h } from "../dom.js";
import { LONGEST_NAME, isTaken, nameOf, savePrompt } from "../prompts.js";
import { ask } from "./dialogs.js";
import { tell } from "./notices.js";

/** Have a prompt written, a new one if it has no id, and keep it; resolves to whether it was. */
export async function editPrompt({ id = null, text = "", name = text && nameOf(text) } = {}) {
  const names = { value: name, dir: "auto", required: true, maxLength: LONGEST_NAME, autofocus: true };
  const field = h("input", names);
  const words = h("textarea", { rows: 7, value: text, dir: "auto", required: true });
  const check = () =>
    field.setCustomValidity(isTaken(field.value, id) ? "Another prompt has this name." : "");
  field.addEventListener("input", check);
  check();
  const content = h(
    "div",
    {},
    h("label", {}, h("span", {}, "Name"), field),
    h("label", {}, h("span", {}, "Text"), words),
    h("p", { class: "note" }, "What stands in {{…}} is filled in when the prompt is used."),
  );
  const written = () => ({ id, name: field.value, text: words.value });
  const answer = ask(id ? "Edit the prompt" : "Save a prompt", content, "Save", written);
  field.select();
  const prompt = await answer;
  if (!prompt) return false;
  try {
    savePrompt(prompt);
  } catch (error) {
    tell(error);
    return false;
  }
  return true;
}
