// Short messages at the page's edge, which disappear by themselves.
import { h, iconButton } from "../dom.js";

const SHOWN = 8000; // ms

export function notify(text) {
  const notice = h("div", { class: "notice" }, h("span", {}, text));
  notice.append(iconButton("close", "Dismiss", () => notice.remove()));
  document.getElementById("notices").append(notice);
  setTimeout(() => notice.remove(), SHOWN);
}
