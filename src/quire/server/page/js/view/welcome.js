// The view of an empty conversation.
import { h } from "../dom.js";

export function welcome(session) {
  const model = session.settings.model;
  return h(
    "section",
    { class: "welcome" },
    h("h1", {}, "What shall we write?"),
    h("p", {}, whereKept(session)),
    h("p", {}, model ? ["You talk to ", h("b", {}, model), "."] : null), // once the server has told
  );
}

/** Where conversations are, in a sentence. */
export function whereKept(session) {
  return session.isKept
    ? "Conversations stay in this browser."
    : "This browser keeps nothing: conversations are gone when the page is left.";
}
