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
    const open = () => showLarge(address, file.name);
    return h(
      "button",
      { type: "button", class: "picture", title: file.name, onclick: open },
      picture,
    );
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
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

/** An attached file, with a button that removes it. */
export function fileChip(file, store, remove) {
  const sign = h("span", { class: "chip-sign" }, file.kind === "image" ? null : icon("sound"));
  if (file.kind === "image") {
    addressOf(file, store).then(
      (address) => address && sign.append(h("img", { src: address, alt: "" })),
    );
  }
  const words = h(
    "span",
    { class: "chip-words" },
    h("b", {}, file.name),
    h("small", {}, sizeText(file.size)),
  );
  return h(
    "li",
    { class: "chip" },
    sign,
    words,
    iconButton("close", `Remove ${file.name}`, remove),
  );
}
