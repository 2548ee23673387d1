// The list of saved prompts above the message field: typed after a slash, or opened by its button.
import { announce, h, icon, show } from "../dom.js";
import { isComposing } from "../keys.js";
import { later } from "../later.js";
import { LONGEST_NAME, blankIn, found, readPrompts } from "../prompts.js";
import { tell } from "./notices.js";
import { editPrompt } from "./prompt_dialog.js";
import "./later_style.js";

const settings = later(() => import("./settings.js"));

export class PromptList {
  #isTyped = false; // opened by a slash in the field, whose text narrows it
  #options = []; // [{element, act}]
  #active = -1;

  constructor(session, { form, field }, button) {
    Object.assign(this, { session, form, field, button });
    this.list = h("ul", { id: "prompts", role: "listbox", tabIndex: -1, "aria-label": "Saved prompts" });
    this.hint = h("p", { class: "note" });
    this.element = h("div", { class: "prompt-list", hidden: true }, this.list, this.hint);
    form.prepend(this.element);
    button.setAttribute("aria-haspopup", "listbox");
    button.setAttribute("aria-expanded", "false");
    // Before the field's own keys, of which Enter sends and Escape stops an answer.
    form.addEventListener("keydown", (event) => this.#key(event), { capture: true });
    field.addEventListener("input", () => this.#narrow());
    session.addEventListener("opened", () => this.close());
    document.addEventListener("pointerdown", ({ target }) => {
      if (!this.element.contains(target) && !button.contains(target)) this.close();
    });
    form.addEventListener("focusout", ({ relatedTarget }) => {
      if (relatedTarget && !form.contains(relatedTarget)) this.close();
    });
  }

  get isOpen() {
    return !this.element.hidden;
  }

  /** Open it for what is typed after a slash. */
  openTyped() {
    if (!this.field.value.startsWith("/")) return; // more was typed, or deleted, while this was loaded
    this.#isTyped = true;
    this.#narrow();
  }

  /** Open it with all prompts, or close it. */
  toggle() {
    if (this.isOpen) return this.close();
    this.#isTyped = false;
    this.#draw(readPrompts(), this.#chores());
    this.list.focus();
  }

  close() {
    this.#isTyped = false;
    this.element.hidden = true;
    this.button.setAttribute("aria-expanded", "false");
    this.field.removeAttribute("aria-activedescendant");
    this.field.removeAttribute("aria-controls");
  }

  /** Show what fits what was typed; a text that no name fits is a message like any other. */
  #narrow() {
    if (!this.#isTyped) return this.isOpen && this.close();
    const { value } = this.field;
    if (!value.startsWith("/") || value.length > 2 * LONGEST_NAME) return this.close();
    const all = readPrompts();
    const fitting = found(all, value.slice(1));
    const isBare = value === "/";
    if (!fitting.length && !isBare) {
      this.element.hidden = true; // it comes back where the text is shortened
      this.field.removeAttribute("aria-activedescendant");
      return;
    }
    this.#draw(fitting, isBare ? this.#chores() : []);
    const count = fitting.length;
    if (isBare && count) announce(`${count} saved ${count === 1 ? "prompt" : "prompts"}`);
  }

  /** What can be done beside using a prompt. */
  #chores() {
    const text = this.#isTyped ? "" : this.field.value.trim();
    const save = ["plus", "Save this message as a prompt", () => editPrompt({ text })];
    const create = ["plus", "New prompt", () => editPrompt()];
    const manage = ["settings", "Manage the prompts", () => openPromptSettings(this.session)];
    return [text ? save : create, ...(readPrompts().length ? [manage] : [])];
  }

  #draw(prompts, chores) {
    const uses = prompts.map((prompt) => this.#option("use", promptWords(prompt), () => this.#use(prompt)));
    const others = chores.map(([shape, label, act]) =>
      this.#option("chore", [icon(shape), h("span", {}, label)], () => this.#do(act)),
    );
    this.#options = [...uses, ...others];
    this.list.replaceChildren(...this.#options.map(({ element }) => element));
    this.#options.forEach(({ element }, index) => (element.id = `prompt-${index}`));
    const hint = "A saved prompt is a text that you use again. Type / in an empty message to find it.";
    show(this.hint, prompts.length ? "" : hint);
    this.hint.hidden = prompts.length > 0;
    this.element.hidden = false;
    this.button.setAttribute("aria-expanded", "true");
    this.field.setAttribute("aria-controls", this.list.id);
    // Enter sends a slash alone, where there is no prompt that it could choose.
    this.#choose(uses.length || !this.#isTyped ? 0 : -1);
  }

  #option(kind, words, act) {
    const option = { role: "option", class: kind, "aria-selected": "false" };
    const element = h("li", option, words);
    element.addEventListener("pointerdown", (event) => event.preventDefault()); // the focus stays
    element.addEventListener("click", act);
    element.addEventListener("pointermove", () => {
      this.#choose(this.#options.findIndex((one) => one.element === element));
    });
    return { element, act };
  }

  /** Mark the option that Enter takes. */
  #choose(index) {
    this.#active = index;
    this.#options.forEach(({ element }, at) => element.setAttribute("aria-selected", String(at === index)));
    const chosen = this.#options[index]?.element;
    const owner = this.#isTyped ? this.field : this.list;
    if (chosen) owner.setAttribute("aria-activedescendant", chosen.id);
    else owner.removeAttribute("aria-activedescendant");
    chosen?.scrollIntoView({ block: "nearest" });
  }

  #key(event) {
    if (!this.isOpen || isComposing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    const { key, target } = event;
    if (target !== this.field && target !== this.list) return;
    const count = this.#options.length;
    if (key === "ArrowDown") this.#choose((this.#active + 1) % count);
    else if (key === "ArrowUp") this.#choose((Math.max(this.#active, 0) + count - 1) % count);
    else if (key === "Escape") this.#leave();
    else if (key === "Enter" && !event.shiftKey && this.#active >= 0) this.#options[this.#active].act();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #leave() {
    this.close();
    this.field.focus();
  }

  /** Do a chore; the slash that has led to it is no message. */
  #do(act) {
    if (this.#isTyped) write(this.field, "", 0, this.field.value.length);
    this.#leave();
    act();
  }

  /** Put a prompt in the place of what was typed, or where the cursor is. */
  #use({ text }) {
    const { field } = this;
    const { selectionStart, selectionEnd, value } = field;
    const [start, end] = this.#isTyped ? [0, value.length] : [selectionStart, selectionEnd];
    this.#leave();
    write(field, text, start, end);
    if (selectBlank(field, start)) field.addEventListener("keydown", toNextBlank);
  }
}

function openPromptSettings(session) {
  const open = ({ openSettings }) => {
    openSettings(session);
    document.querySelector("dialog.settings .prompts").scrollIntoView({ block: "center" });
  };
  settings().then(open, tell);
}

function promptWords({ name, text }) {
  return [h("b", { dir: "auto" }, name), h("small", { dir: "auto" }, text.slice(0, 200))];
}

/** Write as the user would: who listens keeps the draft. */
function write(field, text, start, end) {
  field.setRangeText(text, start, end, "end");
  field.dispatchEvent(new Event("input", { bubbles: true }));
}

function toNextBlank(event) {
  const { currentTarget: field, key, shiftKey } = event;
  if (key !== "Tab" || shiftKey) return;
  if (selectBlank(field, field.selectionEnd)) event.preventDefault();
  else field.removeEventListener("keydown", toNextBlank); // Tab is the page's again
}

/** Select the first blank at or after a place, so that what is typed takes its place. */
function selectBlank(field, from) {
  const blank = blankIn(field.value, from);
  if (!blank) return false;
  field.setSelectionRange(blank.start, blank.end);
  if (field.scrollHeight > field.clientHeight) {
    field.blur(); // browsers bring a selection into view with the focus alone
    field.focus();
  }
  return true;
}
