// The fields of all request options, for all conversations or for the current one.
import { h } from "../dom.js";
import { OPTIONS } from "../options.js";

// What most people look for; reasoning_effort is at home beside enable_thinking.
const FIRST = [
  "temperature",
  "top_p",
  "max_tokens",
  "seed",
  "enable_thinking",
  "reasoning_effort",
];

/** A switch between all conversations and this one, and the fields of either. */
export function optionFields(session) {
  const fields = h("div", {});
  const show = (here) => {
    const isOpen = fields.querySelector("details")?.open ?? false;
    fields.replaceChildren(...groups(session, here, isOpen));
  };
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

function groups(session, here, isOpen) {
  const first = FIRST.flatMap((name) => OPTIONS.filter((option) => option.name === name));
  const others = OPTIONS.filter((option) => !first.includes(option));
  const note = here
    ? "An empty field leaves it to what holds in all conversations, which it shows."
    : "An empty field leaves it to the model, whose own value it shows.";
  return [
    h("p", { class: "note" }, note),
    h(
      "div",
      { class: "grid" },
      first.map((option) => optionField(session, option, here)),
    ),
    moreOptions(session, others, here, isOpen),
  ];
}

/** The options that few people look for, by groups, with a field that finds them; they are unfolded where
 * one is set, or if `isOpen`. */
function moreOptions(session, options, here, isOpen) {
  const kept = session.optionsOf(here);
  const set = options.filter(({ name }) => name in kept).length;
  const sections = [...new Set(options.map(({ group }) => group))].map((group) => {
    const own = options.filter((option) => option.group === group);
    const rows = own.map((option) => explained(session, option, here));
    return { options: own, rows, element: h("section", {}, h("h4", {}, group), rows) };
  });
  const nothing = h("p", { class: "note", role: "status" });
  const find = h("input", {
    type: "search",
    placeholder: "Find an option",
    "aria-label": "Find an option",
    oninput: () => {
      const found = narrowed(sections, find.value.trim().toLowerCase());
      nothing.textContent = found ? "" : "No other option has this in its name or its text.";
    },
  });
  const summary = h("summary", {}, set ? `More options (${set} set)` : "More options");
  const shown = sections.map(({ element }) => element);
  return h("details", { class: "more", open: isOpen || set > 0 }, summary, find, nothing, shown);
}

/** Hide what a text is not in; returns whether anything is left. */
function narrowed(sections, text) {
  for (const { options, rows, element } of sections) {
    options.forEach(({ name, label, meaning }, index) => {
      rows[index].hidden = ![name, label, meaning].some((one) => one.toLowerCase().includes(text));
    });
    element.hidden = rows.every(({ hidden }) => hidden);
  }
  return sections.some(({ element }) => !element.hidden);
}

/** An option with its meaning, and its name in the API for those who know that. */
function explained(session, option, here) {
  const { name, meaning } = option;
  const labelled = optionField(session, option, here);
  const api = h("code", { id: `api-${name}` }, name);
  const about = h("p", { class: "note", id: `about-${name}` }, meaning);
  const field = labelled.querySelector("input, select, textarea");
  field.setAttribute("aria-describedby", `${about.id} ${api.id}`);
  return h("div", { class: "option" }, labelled, api, about);
}

function optionField(session, option, here) {
  const { name, kind, label: text, meaning } = option;
  const value = session.optionsOf(here)[name] ?? null;
  const keep = (changed) => session.setOption(name, changed, here);
  const field = FIELDS[kind](option, value, elsewhere(session, name, here), keep);
  const title = `${meaning} (${name})`;
  const label = h("label", { class: "field", title }, h("span", {}, text), field);
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

const number = (step) => (option, value, other, keep) => {
  const inputMode = option.low >= 0 ? "decimal" : null; // some phones' pad of digits has no minus
  const limits = { step, min: option.low, max: option.high, inputMode };
  const field = h("input", { type: "number", ...limits, value: value ?? "" });
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
  json: ({ example }, value, other, keep) => {
    const text = value === null ? "" : JSON.stringify(value, null, 1);
    const field = h("textarea", { rows: 2, class: "code", value: text, spellcheck: false });
    field.placeholder = `JSON, such as ${example}`;
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
