// Edits a message within the thread.
import { h } from "../dom.js";
import { fileChip } from "./media.js";

/** `done(text, files)` makes the branch; `cancel()` changes nothing. */
export function editorView(node, store, done, cancel) {
  let files = [...node.files];
  const field = h("textarea", { value: node.text, rows: 2, "aria-label": "Edit the message" });
  const chips = h("ul", { class: "chips", "aria-label": "Attached files" });
  const save = () => (field.value.trim() || files.length) && done(field.value, files);
  const showChips = () => {
    chips.replaceChildren(...files.map((file) => fileChip(file, store, () => remove(file))));
  };
  const remove = (file) => {
    files = files.filter((other) => other !== file);
    showChips();
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) save();
    else if (event.key === "Escape") cancel();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  showChips();
  const buttons = [
    h("button", { type: "button", class: "button", onclick: cancel }, "Cancel"),
    h("button", { type: "button", class: "button main", onclick: save }, "Send"),
  ];
  const note = h("span", { class: "note" }, "The old version stays beside the new one.");
  const element = h("article", {
    class: "message editor",
    "aria-label": "Edit the message",
    data: { id: node.id },
  });
  element.append(chips, field, h("div", { class: "row" }, note, buttons));
  return {
    element,
    focus: () => (field.focus(), field.setSelectionRange(field.value.length, field.value.length)),
  };
}
