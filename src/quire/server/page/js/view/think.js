// Below the message field: whether the model thinks first, and how much.
import { announce, h, icon } from "../dom.js";
import { setEffort, switchThinking, thinkingOf } from "../thinking.js";
import "./later_style.js";

/** Add the switch, and the choice of an effort, to an element. They show where the chosen model has them. */
export function offerThinking(session, parent) {
  const label = "Think before answering (Alt+T)";
  const words = h("span", {}, "Think");
  const toggle = h(
    "button",
    { type: "button", id: "think", class: "toggle", title: label, "aria-label": "Think" },
    icon("think"),
    words,
  );
  const effort = h("select", { class: "effort", "aria-label": "Reasoning effort" });
  toggle.addEventListener("click", () => {
    switchThinking(session);
    announce(thinkingOf(session).on ? "The model thinks first." : "The model does not think first.");
  });
  effort.addEventListener("change", () => setEffort(session, effort.value || null));
  const draw = () => {
    const { switch: isSwitched, efforts } = session.model?.thinking ?? { switch: false, efforts: [] };
    const { on, effort: word } = thinkingOf(session);
    toggle.hidden = !isSwitched;
    toggle.setAttribute("aria-pressed", on === null ? "mixed" : String(on));
    effort.hidden = !efforts.length || (isSwitched && on === false);
    list(effort, efforts, word);
  };
  parent.append(toggle, effort);
  for (const event of ["settings", "thread"]) session.addEventListener(event, draw);
  draw();
}

/** The words that the model knows, and the one that holds. */
function list(select, efforts, word) {
  const words = word === null || efforts.includes(word) ? efforts : [...efforts, word];
  const options = words.map((value) => h("option", { value }, `Effort: ${value}`));
  select.replaceChildren(h("option", { value: "" }, "Effort"), ...options);
  select.value = word ?? "";
}
