// One message of the thread.
import { ENDINGS, canGoOn } from "../answer.js";
import { addressOf } from "../address.js";
import { h, icon, iconButton, show } from "../dom.js";
import { early, later } from "../later.js";
import { isUnanswered } from "../tree.js";
import { AnswerText } from "./answer_text.js";
import { copyButton } from "./copy_button.js";
import { figures, growingFigures } from "./figures.js";
import { shownFile } from "./media.js";
import { tell } from "./notices.js";
import { saidText } from "./said.js";

const LINE = 72; // characters
const probabilities = later(() => import("./probabilities.js"));
const promptDialog = later(() => import("./prompt_dialog.js"));
const begunCall = later(() => import("./begun_call.js"));

/** The view of a message. `context`: {session, index, count, growing, last, edit(node)}. */
export function messageView(node, context) {
  if (node.role === "assistant") return new AnswerView(node, context);
  const element = node.role === "tool" ? resultBlock(node) : question(node, context);
  return { element };
}

function question(node, { session, index, count, edit }) {
  const files = node.files.map((file) => shownFile(file, session.store));
  const content = h("div", { class: "said" });
  if (files.length) content.append(h("div", { class: "files" }, files));
  if (node.text) content.append(...saidText(node.text));
  const actions = h("div", { class: "actions" }, branches(node, session, index, count));
  const copy = copyButton(() => node.text);
  const save = quietIcon("prompts", "Save as a prompt", () => savePrompt(node.text));
  const alone = [quietIcon("edit", "Edit", () => edit(node)), copy, ...(node.text ? [save] : [])];
  for (const button of alone) button.title = button.textContent; // often there is but the icon
  actions.append(...alone, linkTo(node, session));
  return h(
    "article",
    { class: "message user", "aria-label": "You", data: { id: node.id } },
    content,
    actions,
  );
}

function savePrompt(text) {
  promptDialog().then(({ editPrompt }) => editPrompt({ text }), tell);
}

/** `more`: "named" where the icon alone, which is all that a phone has room for, would not do. */
function quietIcon(shape, label, onclick, more = "") {
  return h(
    "button",
    { type: "button", class: `quiet-button ${more}`, onclick },
    icon(shape),
    h("span", {}, label),
  );
}

/** A link to a message, to be opened in another tab, copied or kept as a bookmark. */
function linkTo(node, session) {
  const label = "Link to this message";
  const href = addressOf(session.current, node);
  return h("a", { class: "quiet-button", href, title: label, "aria-label": label }, icon("link"));
}

function branches(node, session, index, count) {
  if (count < 2) return null;
  const step = (by) => () => session.switchBranch(node, by);
  return h(
    "span",
    { class: "branches", role: "group", "aria-label": "Versions of this message" },
    iconButton("left", "Earlier version", step(-1), { disabled: index === 0 }),
    h("span", { "aria-label": `Version ${index + 1} of ${count}` }, `${index + 1} / ${count}`),
    iconButton("right", "Later version", step(1), { disabled: index === count - 1 }),
  );
}

function resultBlock(node) {
  const summary = h(
    "summary",
    {},
    icon("check"),
    h("span", {}, "Result of "),
    h("code", {}, node.name),
  );
  const block = h(
    "details",
    { class: "block result", open: node.text.length < 400 },
    summary,
    code(pretty(node.text)),
  );
  return h(
    "article",
    { class: "message tool", "aria-label": "Result of a tool", data: { id: node.id } },
    block,
  );
}

/** An answer, blank at first; `update` shows its new parts. */
class AnswerView {
  isBlank = true;
  #prose = new AnswerText();
  #thought = new AnswerText();
  #calls = [];
  #tellsAll = false; // whether a narrow page shows all figures

  constructor(node, context) {
    Object.assign(this, { node, context });
    this.thoughtSummary = h("summary", {});
    this.thoughtBlock = h(
      "details",
      { class: "thought" },
      this.thoughtSummary,
      this.#thought.element,
    );
    this.callList = h("div", { class: "calls" });
    this.waiting = h("div", { class: "waiting", "aria-hidden": "true" }, h("i"), h("i"), h("i"));
    this.author = h("p", { class: "author", dir: "auto" });
    this.footer = h("div", { class: "actions" });
    this.element = h(
      "article",
      {
        class: "message assistant",
        "aria-label": `Answer of ${node.model || "the model"}`,
        data: { id: node.id },
      },
      [this.author, this.thoughtBlock, this.#prose.element, this.callList, this.waiting, this.footer],
    );
  }

  /** Show the same answer in another state, without drawing it again. */
  renew(context) {
    this.context = context;
    this.update();
    return this;
  }

  /** Show what has come; an answer that has ended stays as it is, or a press of its buttons would be lost. */
  grow() {
    if (this.context.growing) this.update();
  }

  update() {
    const { node } = this;
    this.isBlank = false;
    const growing = this.context.growing;
    this.element.setAttribute("aria-busy", String(growing));
    this.author.hidden = !this.context.namesModel;
    show(this.author, node.model ?? "");
    if (growing) this.#hideTokens();
    this.#showThought(growing);
    this.#prose.update(node.text, !growing);
    this.#showCalls();
    this.#showHeld(growing);
    this.waiting.hidden = !growing || node.times.first !== null;
    if (growing) this.footer.replaceChildren(growingFigures(node) ?? "");
    else this.footer.replaceChildren(...this.#ending(), ...this.#actions());
  }

  #showThought(growing) {
    const { node } = this;
    this.thoughtBlock.hidden = !node.reasoning;
    if (!node.reasoning) return;
    const thinking = growing && node.thought === null;
    this.thoughtBlock.classList.toggle("thinking", thinking);
    this.thoughtSummary.textContent = thinking ? "Thinking…" : `Thought${duration(node.thought)}`;
    this.#thought.update(node.reasoning, !thinking);
  }

  #showCalls() {
    this.node.calls.forEach((call, index) => {
      this.#calls[index] ??= callBlock(this.callList);
      const { name, content } = this.#calls[index];
      show(name, call.name);
      show(content, pretty(call.arguments));
    });
  }

  /** A call while it is written. */
  #showHeld(growing) {
    const { held } = this.node;
    if (held && !this.begun) {
      this.begun = { update() {} }; // until the other is loaded
      begunCall().then(({ BegunCall }) => {
        this.begun = new BegunCall(this.callList, this.context.session.settings.tools);
        this.#showHeld(this.context.growing);
      }, () => {});
    }
    this.begun?.update(growing ? this.node.held : "");
  }

  /** Why the answer ended, if not by itself. */
  #ending() {
    const { finish, error } = this.node;
    const why = error ? problem(error) : ENDINGS[finish] ? note(ENDINGS[finish]) : null;
    const empty = isEmpty(this.node) ? note("The model answered nothing.") : null;
    const edited = this.node.edited ? note("Edited by you.") : null;
    const left = isUnanswered(this.node) ? note("Later questions go without this one.") : null;
    return [why, empty, edited, left].filter((each) => each !== null);
  }

  #actions() {
    const { node } = this;
    const { session, index, count, last, edit } = this.context;
    const all = [
      branches(node, session, index, count),
      last && canGoOn(node)
        ? quietIcon("forward", "Continue", () => session.goOn(), "named")
        : null,
      node.text ? copyButton(() => node.text) : null,
      quietIcon("retry", "Retry", () => session.retry(node)),
      node.text && !node.calls.length ? quietIcon("edit", "Edit", () => edit(node)) : null,
      linkTo(node, session),
      this.#probabilitiesButton(),
      figures(node, this.#tellsAll, (all) => (this.#tellsAll = all)),
    ];
    return all.filter((each) => each !== null);
  }

  /** Show the text in place of the tokens, which are others once it has grown. */
  #hideTokens() {
    this.tokens?.remove();
    this.tokens = null;
    this.#prose.element.hidden = false;
  }

  /** Shows the answer's tokens in place of its text, and the other way. */
  #probabilitiesButton() {
    const { node } = this;
    if (!node.probabilities?.length) return null;
    const button = quietIcon("chart", "Probabilities", async () => {
      if (!this.tokens) {
        const view = await tokens(node, this.context.session.store);
        if (!view || this.tokens || this.context.growing) return; // pressed twice, or it goes on
        this.tokens = view;
        view.hidden = true;
        this.#prose.element.after(view);
      }
      const shown = this.tokens.hidden;
      this.tokens.hidden = !shown;
      this.#prose.element.hidden = shown;
      button.setAttribute("aria-pressed", String(shown));
    });
    button.setAttribute("aria-pressed", String(this.tokens?.hidden === false));
    return early(button, probabilities);
  }
}

/** The view of an answer's tokens; null, which is told, where it cannot be loaded. */
async function tokens(node, store) {
  try {
    const { tokensView } = await probabilities();
    return await tokensView(node, store);
  } catch (error) {
    tell(error);
    return null;
  }
}

/** Whether an answer ended by itself, without a word. */
function isEmpty({ text, calls, finish }) {
  return finish === "stop" && !text.trim() && !calls.length;
}

function note(text) {
  return h("p", { class: "note" }, text);
}

function problem(error) {
  const later = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  return h("p", { class: "problem", role: "alert", dir: "auto" }, error.message + later);
}

function callBlock(list) {
  const name = h("code");
  const content = h("code");
  const summary = h("summary", {}, icon("call"), h("span", {}, "Calls "), name);
  list.append(
    h("details", { class: "block call", open: true }, summary, h("pre", { tabIndex: 0 }, content)),
  );
  return { name, content };
}

function code(text) {
  return h("pre", { tabIndex: 0 }, h("code", {}, text));
}

/** JSON formatted for reading, on one line if it fits. */
function pretty(text) {
  try {
    const lines = JSON.stringify(JSON.parse(text), null, 2);
    const line = lines.replace(/\n\s*/g, " ");
    return line.length <= LINE ? line : lines;
  } catch {
    return text; // not complete yet, or no JSON
  }
}

function duration(milliseconds) {
  if (!Number.isFinite(milliseconds)) return "";
  return milliseconds < 950 ? " for a moment" : ` for ${Math.round(milliseconds / 1000)} s`;
}
