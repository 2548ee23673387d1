// The view of an empty conversation.
import { h } from "../dom.js";

export function welcome(session) {
  const model = session.settings.model;
  return h(
    "section",
    { class: "welcome" },
    h("h1", {}, "What shall we write?"),
    h(
      "p",
      {},
      model ? ["You talk to ", h("b", {}, model), ". "] : null,
      "Conversations stay in this browser.",
    ),
  );
}
