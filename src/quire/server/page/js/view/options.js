// The fields of all request options, for all conversations or for the current one.
import { h } from "../dom.js";
import { OPTIONS } from "../options.js";

const FIRST = ["temperature", "top_p", "max_tokens", "seed", "enable_thinking"];
const LABELS = { max_tokens: "Max tokens", enable_thinking: "Thinking" };

/** A switch between all conversations and this one, and the fields of either. */
export function optionFields(session) {
  const fields = h("div", {});
  const show = (here) => fields.replaceChildren(...groups(session, here));
  const here = Object.keys(session.optionsOf(true)).length > 0;
  const choices = [
    choice("In all conversations", !here, () => show(false)),
    choice("In this one", here, () => show(true)),
  ];
  show(here);
  const group = h("div", { class: "switch", role: "radiogroup", "aria-label": "Where they hold" });
  group.append(...choices);
  return h("div", { class: "options" }, group, fields);
}

function choice(label, checked, onchange) {
  const radio = h("input", { type: "radio", name: "where", checked, onchange });
  return h("label", {}, radio, h("span", {}, label));
}

function groups(session, here) {
  const field = (option) => optionField(session, option, here);
  const first = FIRST.flatMap((name) => OPTIONS.filter((option) => option.name === name));
  const others = OPTIONS.filter((option) => !first.includes(option));
  const set = Object.keys(session.optionsOf(here));
  const open = others.some(({ name }) => set.includes(name));
  const summary = h("summary", {}, "All options");
  const note = here
    ? "An empty field leaves it to what holds in all conversations, which it shows."
    : "An empty field leaves it to the model, whose own value it shows.";
  return [
    h("p", { class: "note" }, note),
    h("div", { class: "grid" }, first.map(field)),
    h(
      "details",
      { class: "more", open },
      summary,
      others.map((option) => explained(option, field)),
    ),
  ];
}

function explained(option, field) {
  const label = field(option);
  const id = `about-${option.name}`;
  label.querySelector("input, select, textarea").setAttribute("aria-describedby", id);
  return h("div", { class: "option" }, label, h("p", { class: "note", id }, option.meaning));
}

function optionField(session, option, here) {
  const { name, kind, meaning } = option;
  const value = session.optionsOf(here)[name] ?? null;
  const keep = (changed) => session.setOption(name, changed, here);
  const field = FIELDS[kind](option, value, elsewhere(session, name, here), keep);
  const text = LABELS[name] ?? labelOf(name);
  const label = h("label", { class: "field", title: meaning }, h("span", {}, text), field);
  const isSetInAll = here && name in session.optionsOf(false);
  return isSetInAll ? h("div", {}, label, leftToModel(session, name, field)) : label;
}

/** Beside an option that is set in all conversations: leave it to the model in this one. */
function leftToModel(session, name, field) {
  const isLeft = session.optionsOf(true)[name] === null;
  field.disabled = isLeft;
  const onchange = ({ target }) => {
    field.disabled = target.checked;
    if (target.checked) session.leaveToModel(name);
    else session.setOption(name, null, true);
    if ("value" in field) field.value = "";
  };
  const box = h("input", { type: "checkbox", checked: isLeft, onchange });
  return h("label", { class: "left" }, box, h("span", {}, "The model’s own"));
}

/** The value that holds where a field is empty; undefined if it is not known. */
function elsewhere(session, name, here) {
  const own = session.model?.defaults?.[name];
  return here ? (session.optionsOf(false)[name] ?? own) : own;
}

function labelOf(name) {
  return name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");
}

const number = (step) => (option, value, other, keep) => {
  const limits = { step, min: option.low, max: option.high };
  const field = h("input", { type: "number", inputMode: "decimal", ...limits, value: value ?? "" });
  field.placeholder = shown(other);
  field.addEventListener("change", () => {
    if (field.reportValidity()) keep(field.value === "" ? null : field.valueAsNumber);
  });
  return field;
};

const FIELDS = {
  number: number("any"),
  integer: number(1),
  flag: (_, value, other, keep) => {
    const words = { true: "On", false: "Off" };
    const left = other === undefined ? "Default" : `Default (${words[other].toLowerCase()})`;
    const all = [["", left], ...Object.entries(words)];
    const select = h(
      "select",
      {},
      all.map(([value, text]) => h("option", { value }, text)),
    );
    select.value = value === null ? "" : String(value);
    select.addEventListener("change", () =>
      keep(select.value === "" ? null : select.value === "true"),
    );
    return select;
  },
  text: (_, value, other, keep) => {
    const field = h("input", { value: value ?? "", placeholder: shown(other), dir: "auto" });
    field.addEventListener("change", () => keep(field.value || null));
    return field;
  },
  lines: (_, value, other, keep) => {
    const text = (value ?? []).map((line) => line.replaceAll("\n", "\\n")).join("\n");
    const placeholder = "One a line; \\n is a line break";
    const field = h("textarea", { rows: 2, value: text, placeholder, dir: "auto" });
    field.addEventListener("change", () => {
      const lines = field.value.split("\n").filter((line) => line !== "");
      keep(lines.length ? lines.map((line) => line.replaceAll("\\n", "\n")) : null);
    });
    return field;
  },
  json: (_, value, other, keep) => {
    const text = value === null ? "" : JSON.stringify(value, null, 1);
    const field = h("textarea", { rows: 2, class: "code", value: text, spellcheck: false });
    field.placeholder = "JSON";
    field.addEventListener("change", () => {
      const read = parsed(field.value);
      field.setCustomValidity(read.problem);
      if (field.reportValidity()) keep(read.value);
    });
    field.addEventListener("input", () => field.setCustomValidity(""));
    return field;
  },
};

function parsed(text) {
  if (!text.trim()) return { value: null, problem: "" };
  try {
    return { value: JSON.parse(text), problem: "" };
  } catch (error) {
    return { value: null, problem: `This is no JSON: ${error.message}` };
  }
}

function shown(value) {
  return value === undefined ? "Default" : String(value);
}
