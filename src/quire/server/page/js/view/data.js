// The settings' part on what this browser keeps: its size, export, import, deletion.
import { h } from "../dom.js";
import { download } from "../download.js";
import { sizeText } from "../files.js";
import { confirmed } from "./dialogs.js";
import { whereKept } from "./welcome.js";

/** The content of the section. */
export function keptData(session) {
  const size = h("p", { class: "note" });
  const told = h("p", { class: "note", role: "status" });
  const picker = h("input", {
    type: "file",
    accept: "application/json,.json",
    hidden: true,
    "aria-label": "File to import",
  });
  const showSize = async () => size.replaceChildren(await sizeOf(session));
  const change = async (deed) => {
    try {
      told.textContent = (await deed()) ?? "";
    } catch (error) {
      told.textContent = error.message;
    }
    await showSize();
  };
  picker.addEventListener("change", () => {
    const [file] = picker.files;
    picker.value = ""; // so that the same file can be chosen again
    if (file) change(() => importFile(session, file));
  });
  const button = (text, onclick, more = "") =>
    h("button", { type: "button", class: `button ${more}`, onclick }, text);
  const buttons = [
    button("Export all", () => change(() => exportAll(session))),
    button("Import", () => picker.click()),
    button("Delete all", () => change(() => removeAll(session)), "dangerous"),
  ];
  showSize();
  return [
    h("p", { class: "note" }, whereKept(session)),
    size,
    h("div", { class: "row start" }, buttons, picker),
    told,
  ];
}

/** How much is kept, and how much more the browser would keep, where it says so. */
async function sizeOf(session) {
  const { conversations, files } = await session.keptSize();
  const kept = `${counted(conversations, "conversation")}, ${counted(files, "file")}.`;
  const estimate = await navigator.storage?.estimate?.().catch(() => null); // not over plain http
  if (!session.isKept || !estimate?.quota) return kept;
  return `${kept} This browser has room for ${sizeText(estimate.quota - estimate.usage)} more.`;
}

function counted({ count, bytes }, word) {
  return `${numbered(count, word)} (${sizeText(bytes)})`;
}

function numbered(count, word) {
  return `${count} ${count === 1 ? word : `${word}s`}`;
}

async function importFile(session, file) {
  const { conversations, prompts } = await session.import(await file.text());
  if (conversations.length === 1) session.open(conversations[0].id);
  const all = [numbered(conversations.length, "conversation")];
  if (prompts) all.push(numbered(prompts, "prompt"));
  return `${all.join(" and ")} imported.`;
}

async function exportAll(session) {
  const day = new Date().toISOString().slice(0, 10);
  download(await session.export(), `quire-conversations-${day}.json`);
}

async function removeAll(session) {
  const text = "All conversations and their files are deleted from this browser for good.";
  if (await confirmed("Delete everything?", text, "Delete all")) await session.removeAll();
}
