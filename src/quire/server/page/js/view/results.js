// A form for the results of an answer's calls: this page runs no tools itself.
import { h } from "../dom.js";

/** `node` is the message after which the results stand; what is typed is kept in `drafts`. */
export function resultsForm(calls, node, drafts, give) {
  const keyOf = (call) => `result.${node.id}.${call.id}`;
  const fields = calls.map((call) => {
    const field = h("textarea", {
      rows: 2,
      name: call.id,
      dir: "auto",
      value: drafts.get(keyOf(call)).text,
      "aria-label": `Result of ${call.name}`,
    });
    field.addEventListener("input", () => drafts.set(keyOf(call), { text: field.value }));
    return field;
  });
  const rows = calls.map((call, index) =>
    h("label", {}, h("span", {}, "Result of ", h("code", {}, call.name)), fields[index]),
  );
  const form = h("form", { class: "results", "aria-label": "Results of the calls" }, rows);
  form.append(
    h(
      "div",
      { class: "row" },
      h("button", { type: "submit", class: "button main" }, "Send results"),
    ),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    for (const call of calls) drafts.delete(keyOf(call));
    give(Object.fromEntries(calls.map((call, index) => [call.id, fields[index].value])));
  });
  return form;
}
