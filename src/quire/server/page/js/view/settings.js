// The settings: request options, appearance, stored data.
import { h, iconButton } from "../dom.js";
import { readTools } from "../request.js";
import { keptData } from "./data.js";
import { optionFields } from "./options.js";
import { promptSettings } from "./prompt_settings.js";

const EXAMPLE =
  '[{"name": "get_weather", "description": "…",\n  "parameters": {"type": "object", "properties": {…}}}]';

export function openSettings(session) {
  if (document.querySelector("dialog[open]")) return; // it was pressed twice, or another came first
  const dialog = h("dialog", { class: "settings", "aria-labelledby": "settings-title" });
  const head = h(
    "header",
    {},
    h("h2", { id: "settings-title" }, "Settings"),
    iconButton("close", "Close", () => dialog.close()),
  );
  const sections = [
    systemSection(session),
    section("Answers", null, optionFields(session), probabilities(session)),
    toolsSection(session),
    section("Saved prompts", null, ...promptSettings()),
    looksSection(session),
    section("Conversations", null, ...keptData(session)),
  ];
  dialog.append(head, h("div", { class: "settings-body" }, sections));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function section(title, note, ...content) {
  return h(
    "section",
    {},
    h("h3", {}, title),
    note ? h("p", { class: "note" }, note) : null,
    content,
  );
}

function labelled(label, field, more = null) {
  return h("label", { class: "field" }, h("span", {}, label), field, more);
}

function systemSection(session) {
  const own = h("textarea", {
    rows: 3,
    value: session.current.system,
    dir: "auto",
    placeholder: "The model’s own default",
  });
  own.addEventListener("change", () => session.setSystem(own.value));
  const later = h("textarea", {
    rows: 2,
    value: session.settings.system,
    dir: "auto",
    placeholder: "None",
  });
  later.addEventListener("change", () => session.set({ system: later.value }));
  return section(
    "System prompt",
    null,
    labelled("Of this conversation", own),
    labelled("Of new conversations", later),
  );
}

function probabilities(session) {
  const box = h("input", { type: "checkbox", checked: session.settings.probabilities });
  box.addEventListener("change", () => session.set({ probabilities: box.checked }));
  const words = h("span", {}, "Ask for the probability of each token");
  return h("label", { class: "check" }, box, words);
}

function choice(session, name, options) {
  const select = h(
    "select",
    {},
    options.map(([value, text]) => h("option", { value }, text)),
  );
  select.value = session.settings[name];
  select.addEventListener("change", () => session.set({ [name]: select.value }));
  return select;
}

function toolsSection(session) {
  const field = h("textarea", {
    rows: 5,
    class: "code",
    spellcheck: false,
    value: session.settings.tools,
    placeholder: EXAMPLE,
  });
  const told = h("p", { class: "note", role: "status" });
  const check = () => {
    let problem = "";
    try {
      const count = readTools(field.value).length;
      told.textContent = count ? `${count} ${count === 1 ? "tool" : "tools"}.` : "";
      session.set({ tools: field.value });
    } catch (error) {
      problem = told.textContent = error.message;
    }
    field.setCustomValidity(problem);
    told.classList.toggle("problem", problem !== "");
  };
  field.addEventListener("input", check);
  const note =
    "A list of functions in JSON. The page shows their calls, and asks you for the results.";
  return section("Tools", note, labelled("Functions", field, told));
}

function looksSection(session) {
  const options = [
    ["auto", "As the system"],
    ["light", "Light"],
    ["dark", "Dark"],
  ];
  return section("Appearance", null, labelled("Colours", choice(session, "theme", options)));
}
