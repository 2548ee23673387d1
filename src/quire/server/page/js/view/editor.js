// Edits a message within the thread.
import { h } from "../dom.js";
import { isComposing, isTouched } from "../keys.js";
import { fileChip } from "./media.js";

/** `draft`: {text, files} to begin with; `keep(draft)` takes each change, `done(draft, goesOn)` makes
 * the branch, which the model writes on if `goesOn`, and `cancel()` changes nothing. `excess(files)` says
 * which files are too much. */
export function editorView(node, draft, store, { keep, done, cancel, excess }) {
  const isAnswer = node.role === "assistant";
  const label = isAnswer ? "Edit the answer" : "Edit the message";
  let { files } = draft;
  const field = h("textarea", { value: draft.text, rows: 2, dir: "auto", "aria-label": label });
  const chips = h("ul", { class: "chips", "aria-label": "Attached files" });
  const problem = h("p", { class: "excess", role: "status" });
  const written = () => ({ text: field.value, files });
  const save = (goesOn) => {
    if ((field.value.trim() || files.length) && !excess(files)) done(written(), goesOn);
  };
  const showChips = () => {
    const over = excess(files);
    const chip = (file) =>
      fileChip(file, store, () => remove(file), { isTooMuch: over?.files.includes(file) });
    chips.replaceChildren(...files.map(chip));
    problem.hidden = !over;
    problem.textContent = over?.text ?? "";
  };
  const remove = (file) => {
    files = files.filter((other) => other !== file);
    keep(written());
    showChips();
  };
  field.addEventListener("input", () => keep(written()));
  field.addEventListener("keydown", (event) => {
    if (isDone(event, isAnswer)) save(true);
    else if (event.key === "Escape" && !isComposing(event)) cancel();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  showChips();
  const button = (text, onclick, more = "") =>
    h("button", { type: "button", class: `button ${more}`, onclick }, text);
  const buttons = [
    button("Cancel", cancel),
    isAnswer ? button("Save", () => save(false)) : null,
    button(isAnswer ? "Save and continue" : "Send", () => save(true), "main"),
  ];
  const note = h("span", { class: "note" }, "The old version stays beside the new one.");
  const element = h("article", {
    class: "message editor",
    "aria-label": label,
    data: { id: node.id },
  });
  element.append(chips, problem, field, h("div", { class: "row" }, note, buttons));
  return {
    element,
    focus: () => (field.focus(), field.setSelectionRange(field.value.length, field.value.length)),
  };
}

/** Whether a key ends the edit: Enter, but in an answer, which has many lines, only with Ctrl. */
function isDone(event, isAnswer) {
  if (event.key !== "Enter" || event.shiftKey || isComposing(event)) return false;
  return event.ctrlKey || event.metaKey || !(isAnswer || isTouched());
}
