// Short messages above the message field, which disappear by themselves.
import { h, iconButton } from "../dom.js";

const SHOWN = 8000; // ms

const shown = new Map(); // text -> what ends its notice

/** Show a notice; one that is shown already stays longer instead. */
export function notify(text) {
  const known = shown.get(text);
  if (known) clearTimeout(known.timer);
  const end = known?.end ?? open(text);
  shown.set(text, { end, timer: setTimeout(end, SHOWN) });
}

function open(text) {
  const end = () => {
    clearTimeout(shown.get(text)?.timer);
    shown.delete(text);
    notice.remove();
  };
  const notice = h("div", { class: "notice" }, h("span", { dir: "auto" }, text));
  notice.append(iconButton("close", "Dismiss", end));
  document.getElementById("notices").append(notice);
  return end;
}
