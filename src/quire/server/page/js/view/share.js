// Hands the shown conversation on: as Markdown, as JSON, on paper.
import { asMarkdown, fileName } from "../as_markdown.js";
import { copyText } from "../clipboard.js";
import { h } from "../dom.js";
import { download } from "../download.js";
import { notify } from "./notices.js";

export function openShare(session) {
  if (document.querySelector("dialog[open]")) return; // it was pressed twice
  const { current } = session;
  const markdown = () => asMarkdown(current);
  const ways = [
    ["Copy as Markdown", () => copyText(markdown()).then(() => notify("Copied."))],
    ["Save as Markdown", () => saveText(markdown(), fileName(current, "md"))],
    [
      "Save as JSON",
      async () => download(await session.export([current]), fileName(current, "json")),
    ],
    ["Print", () => print()],
  ];
  const act = (way) => async () => {
    dialog.close();
    try {
      await way();
    } catch (error) {
      notify(error.message);
    }
  };
  const buttons = ways.map(([label, way]) =>
    h("button", { type: "button", class: "button", onclick: act(way) }, label),
  );
  const close = h(
    "button",
    { type: "button", class: "button", onclick: () => dialog.close() },
    "Close",
  );
  const note =
    "Markdown and paper have the versions that are shown. JSON has all of them, and the files: " +
    "the settings import it again, here or in another browser.";
  const dialog = h(
    "dialog",
    { class: "small", "aria-labelledby": "dialog-title" },
    h("h2", { id: "dialog-title" }, "Export this conversation"),
    h("div", { class: "ways" }, buttons),
    h("p", { class: "note" }, note),
    h("div", { class: "row" }, close),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function saveText(text, name) {
  download(new Blob([text], { type: "text/markdown;charset=utf-8" }), name);
}
