// Attached files, shown.
import { h, icon, iconButton } from "../dom.js";
import { sizeText } from "../files.js";

const addresses = new Map(); // file id -> promise of an object URL, until the page is closed

function addressOf(file, store) {
  if (!addresses.has(file.id)) {
    addresses.set(
      file.id,
      store.file(file.id).then((blob) => (blob ? URL.createObjectURL(blob) : null)),
    );
  }
  return addresses.get(file.id);
}

/** A file in a message: an image that opens in full size, or a player. */
export function shownFile(file, store) {
  const frame = h("figure", { class: `file file-${file.kind}` });
  if (file.kind === "text" || file.kind === "pdf") {
    frame.append(documentButton(file, store));
    return frame;
  }
  addressOf(file, store).then((address) => {
    frame.append(
      address ? content(file, address) : h("span", { class: "file-gone" }, `${file.name} is gone`),
    );
  });
  return frame;
}

function content(file, address) {
  if (file.kind === "image") {
    const picture = h("img", { src: address, alt: file.name, loading: "lazy" });
    const onclick = () => showLarge(address, file.name);
    const shape = { type: "button", class: "picture", title: file.name, onclick };
    const button = h("button", shape, picture);
    // The browser cannot show it, though the server may.
    picture.addEventListener("error", () => button.replaceWith(plainChip(file)));
    return button;
  }
  return h(file.kind, {
    src: address,
    controls: true,
    preload: "metadata",
    "aria-label": file.name,
  });
}

function showLarge(address, name) {
  const dialog = h("dialog", { class: "large", "aria-label": name, onclick: () => dialog.close() });
  dialog.append(h("img", { src: address, alt: name }));
  openDialog(dialog);
}

function openDialog(dialog) {
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

/** A text or a PDF in a message: what the model was given of it opens with it. */
function documentButton(file, store) {
  return h(
    "button",
    { type: "button", class: "chip", title: file.name, onclick: () => read(file, store) },
    chipSign(file),
    chipWords(file, sizeOf(file)),
  );
}

function plainChip(file) {
  return h("span", { class: "chip" }, chipSign({ kind: "file" }), chipWords(file, sizeOf(file)));
}

const READ = 200_000; // characters of a text that are shown

async function read(file, store) {
  const dialog = h("dialog", { class: "reading", "aria-label": file.name });
  const head = h("header", {}, h("h2", {}, file.name));
  head.append(iconButton("close", "Close", () => dialog.close()));
  const content = h("div", { class: "reading-body", tabIndex: 0 });
  if (file.pictures?.length) {
    for (const id of file.pictures) {
      const address = await addressOf({ id }, store);
      if (address) content.append(h("img", { src: address, alt: "A page" }));
    }
  } else {
    const text = await (await store.file(file.textId ?? file.id))?.text();
    const cut = text?.length > READ ? "\n…" : "";
    content.append(
      h("pre", { dir: "auto" }, (text?.slice(0, READ) ?? `${file.name} is gone`) + cut),
    );
  }
  dialog.append(head, content);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  openDialog(dialog);
}

/** An attached file, with a button that removes it. `more`: other buttons; `most`: the tokens that the
 * model takes; `isTooMuch`: whether the server does not take it beside the others. */
export function fileChip(file, store, remove, options = {}) {
  const { more = [], most = Infinity, isTooMuch = false } = options;
  const sign = chipSign(file);
  if (file.kind === "image") {
    addressOf(file, store).then((address) => address && sign.append(thumbnail(address)));
  }
  const isTooLong = file.tokens?.count > most && !file.pictures?.length;
  const problem = isTooMuch ? "Too much" : isTooLong ? `The model takes ${shown(most)}` : null;
  const note = problem && h("small", { class: "problem" }, problem);
  return h(
    "li",
    { class: "chip" },
    sign,
    chipWords(file, sizeOf(file), note),
    more,
    iconButton("close", `Remove ${file.name}`, remove),
  );
}

/** A small picture; a sign of one where the browser cannot show it, though the server may. */
function thumbnail(address) {
  const picture = h("img", { src: address, alt: "" });
  picture.addEventListener("error", () => picture.replaceWith(icon("picture")));
  return picture;
}

/** A file that is still being read. */
export function readingChip(name) {
  const words = h("span", { class: "chip-words" }, h("b", {}, name), h("small", {}, "Reading…"));
  return h("li", { class: "chip busy" }, chipSign({ kind: "text" }), words);
}

const SIGNS = { image: null, audio: "sound", video: "sound" };

function chipSign({ kind }) {
  const shape = kind in SIGNS ? SIGNS[kind] : "file";
  return h("span", { class: "chip-sign" }, shape && icon(shape));
}

function chipWords(file, size, note = null) {
  const words = h("span", { class: "chip-words", dir: "auto" }, h("b", {}, file.name));
  words.append(h("small", {}, size), note ?? "");
  return words;
}

/** "12 kB · 3 pages · ≈ 900 tokens", or the pages that are pictures. */
function sizeOf({ size, pages, pictures, tokens }) {
  const parts = [sizeText(size)];
  const count = (number, word) => `${shown(number)} ${word}${number === 1 ? "" : "s"}`;
  if (pictures?.length) parts.push(`${pictures.length} of ${count(pages, "page")} as pictures`);
  else {
    if (pages) parts.push(count(pages, "page"));
    if (tokens) parts.push(`${tokens.exact ? "" : "≈ "}${count(tokens.count, "token")}`);
  }
  return parts.join(" · ");
}

function shown(number) {
  return number.toLocaleString("en");
}
