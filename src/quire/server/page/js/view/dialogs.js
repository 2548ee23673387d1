// Dialogs; each resolves to its answer, or to null or false if it is closed.
import { h } from "../dom.js";

/** A form with two buttons; resolves to what `answerOf` gives when it is sent, and else to undefined. */
export function ask(title, content, action, answerOf, { dangerous = false, cancel = "Cancel" } = {}) {
  return new Promise((resolve) => {
    const close = () => dialog.close();
    const go = h(
      "button",
      { type: "submit", class: `button main ${dangerous ? "dangerous" : ""}` },
      action,
    );
    const row = h(
      "div",
      { class: "row" },
      h("button", { type: "button", class: "button", onclick: close }, cancel),
      go,
    );
    const form = h("form", {}, h("h2", { id: "dialog-title" }, title), content, row);
    const dialog = h("dialog", { class: "small", "aria-labelledby": "dialog-title" }, form);
    let answer;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      answer = answerOf();
      close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

export async function confirmed(title, text, action) {
  return (await ask(title, h("p", {}, text), action, () => true, { dangerous: true })) ?? false;
}

export async function written(title, label, value) {
  const field = h("input", { value, dir: "auto", autofocus: true, maxLength: 200 });
  const answer = ask(title, h("label", {}, h("span", {}, label), field), "Save", () => field.value);
  field.select();
  return (await answer) ?? null;
}

/** Ask for the API key; `refused` is true if a key was refused. */
export async function askKey(refused) {
  const text = refused ? "The server does not know this key." : "This server asks for an API key.";
  const field = h("input", {
    type: "password",
    autocomplete: "off",
    spellcheck: false,
    required: true,
    autofocus: true,
  });
  const content = [
    h("p", { class: refused ? "problem" : "", role: refused ? "alert" : null }, text),
    h("label", {}, h("span", {}, "API key"), field),
    h("p", { class: "note" }, "It is kept until this tab is closed."),
  ];
  return (await ask("API key", h("div", {}, content), "Use it", () => field.value.trim())) ?? null;
}

/** The table of shortcuts. */
export function showShortcuts(table) {
  const keys = (shown) => shown.map((key) => h("kbd", {}, key));
  const rows = table.map(({ shown, does }) =>
    h("tr", {}, h("td", {}, keys(shown)), h("td", {}, does)),
  );
  const close = h(
    "button",
    { type: "button", class: "button", onclick: () => dialog.close() },
    "Close",
  );
  const title = h("h2", { id: "dialog-title" }, "Keyboard");
  const content = [
    title,
    h("table", { class: "shortcuts" }, h("tbody", {}, rows)),
    h("div", { class: "row" }, close),
  ];
  const dialog = h("dialog", { class: "small", "aria-labelledby": "dialog-title" }, content);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
