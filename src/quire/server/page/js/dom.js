// Elements are made without markup in strings, so that text of models or users is never parsed.
import { harmless } from "./harmless.js";

/** An element. Properties: `on*` listeners, `class`, `data`, booleans, properties, attributes. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) set(element, name, value);
  const given = children.flat().filter((child) => child !== null && child !== undefined);
  element.append(...given.map((child) => (typeof child === "string" ? harmless(child) : child)));
  return element;
}

/** Make a text all that an element shows. */
export function show(element, text) {
  element.textContent = harmless(text);
}

const TOLD = new Set(["alt", "aria-label", "label", "placeholder", "title"]);

function set(element, name, value) {
  if (value === null || value === undefined) return;
  if (TOLD.has(name)) value = harmless(value);
  if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else if (name === "class") element.className = value;
  else if (name === "data") Object.assign(element.dataset, value);
  else if (name in element && !name.startsWith("aria")) element[name] = value;
  else if (typeof value === "boolean" && !name.startsWith("aria-")) {
    element.toggleAttribute(name, value);
  } else element.setAttribute(name, value);
}

const PIN = "M5.8 2.5h4.4M6.6 2.5v3.8L4.3 9.4h7.4L9.4 6.3V2.5M8 9.4v4.4";
const SHAPES = {
  attach:
    "M13.5 7.5 8 13a3.2 3.2 0 0 1-4.5-4.5l6-6a2.1 2.1 0 0 1 3 3l-6 6a1 1 0 0 1-1.5-1.5L10.5 4.5",
  call: "M6.3 2.5C4.5 2.5 5.5 5 5 6.5 4.7 7.5 3.5 8 3 8c.5 0 1.7.5 2 1.5.5 1.5-.5 4 1.3 4M9.7 2.5c1.8 0 .8 2.5 1.3 4 .3 1 1.5 1.5 2 1.5-.5 0-1.7.5-2 1.5-.5 1.5.5 4-1.3 4",
  chart: "M3 13V9.5M6.4 13V6M9.7 13V8M13 13V3",
  check: "m3 8.5 3.2 3.2L13 4.5",
  close: "m4 4 8 8m0-8-8 8",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
  down: "M8 3v10m-4.2-4L8 13l4.2-4",
  edit: "M3 13h2.5L13 5.5 10.5 3 3 10.5zM9 4.5 11.5 7",
  file: "M4 1.8h5L12.5 5v9.2H4zM9 1.8V5h3.5M6 8.3h4.5M6 11h4.5",
  left: "M10 3.5 5.5 8l4.5 4.5",
  forward: "M3 3.5 9.5 8 3 12.5zM12.5 3.5v9",
  keys: "M1.5 4.5h13v7.5h-13zM4 7h.01M6.7 7h.01M9.3 7h.01M12 7h.01M5 9.5h6",
  moon: "M13 9.3A5.5 5.5 0 0 1 6.7 3 5.5 5.5 0 1 0 13 9.3z",
  link: "M6.6 9.4a2.4 2.4 0 0 0 3.4 0l2.6-2.6a2.4 2.4 0 0 0-3.4-3.4l-.8.8M9.4 6.6a2.4 2.4 0 0 0-3.4 0L3.4 9.2a2.4 2.4 0 0 0 3.4 3.4l.8-.8",
  menu: "M2.5 4.5h11M2.5 8h11M2.5 11.5h7",
  pin: PIN,
  picture: "M2.5 3h11v10h-11zM3 11.5l3.3-3.7 2.6 2.7 1.7-1.7 2.6 2.7M10.3 6h.01",
  plus: "M8 3v10M3 8h10",
  prompts: "M4.5 2.5h7v11L8 10.7l-3.5 2.8z",
  retry: "M13 8a5 5 0 1 1-1.6-3.65M13 2v3h-3",
  right: "M6 3.5 10.5 8 6 12.5",
  send: "M8 13V3M3.8 7 8 3l4.2 4",
  settings: "M2.5 5h6m4 0h1M2.5 11h1m4 0h6M10.5 3.3v3.4M5.5 9.3v3.4",
  share: "M8 10V2.5M4.8 5.5 8 2.3l3.2 3.2M3 8.5v5h10v-5",
  sound:
    "M6 12V3.5l6.5-1.3v8.3M6 12a1.8 1.6 0 1 1-3.6 0A1.8 1.6 0 0 1 6 12m6.5-1.5a1.8 1.6 0 1 1-3.6 0 1.8 1.6 0 0 1 3.6 0",
  stop: "M4.5 4.5h7v7h-7z",
  think: "M6.2 11c0-.6-.3-1-.8-1.5a4 4 0 1 1 5.2 0c-.5.5-.8.9-.8 1.5zM6.4 13.7h3.2",
  trash: "M3 4.5h10M6.5 4.5v-2h3v2M4.5 4.5l.6 9h5.8l.6-9",
  unpin: `${PIN}M2.5 2.5l11 11`,
};
const SVG = "http://www.w3.org/2000/svg";

/** An icon in the text's colour; its button has the name. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of [
    ["viewBox", "0 0 16 16"],
    ["aria-hidden", "true"],
    ["class", "icon"],
  ]) {
    svg.setAttribute(key, value);
  }
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", SHAPES[name]);
  svg.append(path);
  return svg;
}

/** A button with an icon; its name is its label and tooltip. */
export function iconButton(shape, label, onclick, properties = {}) {
  const { class: more = "", ...rest } = properties;
  const shown = { type: "button", class: `icon-button ${more}`, title: label, "aria-label": label };
  return h("button", { ...shown, onclick, ...rest }, icon(shape));
}

/** Make an element's children equal to a list, touching only those that differ. */
export function arrange(parent, children) {
  children.forEach((child, index) => {
    if (parent.children[index] !== child)
      parent.insertBefore(child, parent.children[index] ?? null);
  });
  while (parent.children.length > children.length) parent.lastElementChild.remove();
}

const SPOKEN = 40;

/** Announce a text to screen readers. */
export function announce(text) {
  const region = document.getElementById("announcer");
  region.textContent = "";
  setTimeout(() => show(region, text), SPOKEN);
}
