// A form for the results of an answer's calls: this page runs no tools itself.
import { h } from "../dom.js";

export function resultsForm(calls, give) {
  const fields = calls.map((call) =>
    h("textarea", { rows: 2, name: call.id, "aria-label": `Result of ${call.name}` }),
  );
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
    give(Object.fromEntries(calls.map((call, index) => [call.id, fields[index].value])));
  });
  return form;
}
