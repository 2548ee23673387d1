// Short messages above the message field, or at the sidebar's end where that covers it. They disappear
// by themselves.
import { h, iconButton } from "../dom.js";

const SHOWN = 8000; // ms

const shown = new Map(); // text -> what ends its notice

/** Show a notice; one that is shown already stays longer instead. `action`: {label, act} of a button
 * that ends it. Returns functions that end it, or let it stay longer if it is still there. */
export function notify(text, action = null) {
  const known = shown.get(text);
  if (known && !action) known.wait();
  else {
    known?.end();
    shown.set(text, open(text, action));
  }
  return shown.get(text);
}

/** Say what went wrong. */
export function tell(error) {
  notify(error.message);
}

/** Bring the notices to where they can be seen and used. */
export function placeNotices() {
  place().append(...document.querySelectorAll(".notice"));
}

function place() {
  const isCovered = document.getElementById("main").inert;
  return document.querySelector(isCovered ? "#sidebar > .notices" : "#notices");
}

function open(text, action) {
  let timer;
  const end = () => {
    clearTimeout(timer);
    shown.delete(text);
    notice.remove();
  };
  const wait = () => {
    clearTimeout(timer);
    if (!notice.isConnected) return;
    timer = setTimeout(() => (isUsed(notice) ? wait() : end()), SHOWN);
  };
  const notice = h("div", { class: "notice" }, h("span", { dir: "auto" }, text));
  if (action) {
    const onclick = () => (end(), action.act());
    notice.append(h("button", { type: "button", class: "button", onclick }, action.label));
  }
  notice.append(iconButton("close", "Dismiss", end));
  place().append(notice);
  wait();
  return { end, wait };
}

/** Whether someone is about to press a button of it. */
function isUsed(notice) {
  return notice.matches(":hover, :focus-within");
}
