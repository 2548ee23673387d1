// Edits a message within the thread.
import { h } from "../dom.js";
import { fileChip } from "./media.js";

/** `draft`: {text, files} to begin with; `keep(draft)` takes each change, `done(draft)` makes the
 * branch, and `cancel()` changes nothing. */
export function editorView(node, draft, store, { keep, done, cancel }) {
  let { files } = draft;
  const field = h("textarea", {
    value: draft.text,
    rows: 2,
    dir: "auto",
    "aria-label": "Edit the message",
  });
  const chips = h("ul", { class: "chips", "aria-label": "Attached files" });
  const written = () => ({ text: field.value, files });
  const save = () => (field.value.trim() || files.length) && done(written());
  const showChips = () => {
    chips.replaceChildren(...files.map((file) => fileChip(file, store, () => remove(file))));
  };
  const remove = (file) => {
    files = files.filter((other) => other !== file);
    keep(written());
    showChips();
  };
  field.addEventListener("input", () => keep(written()));
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
