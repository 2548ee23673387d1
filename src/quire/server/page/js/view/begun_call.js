// A call that the model is writing. The server gives calls whole, once they are certain, and their text
// as the model writes it before that.
import { h, icon, show } from "../dom.js";
import { readTools } from "../request.js";

const CERTAIN = 16; // characters that are no mark of a thought any more; a name says so before
// What stands between a call's name and its arguments in the forms of most models.
const BEFORE_ARGUMENTS =
  /^(?::\d+|<\|[^|]*\|>|["'>\s]|,?\s*"(?:arguments|parameters)"\s*:)*(?:,?\s*"?[a-z]*"?\s*$)?/;

export class BegunCall {
  #names;
  #name = h("code");
  #label = h("span", {});
  #content = h("code");

  /** Shown at the end of an element with calls; `tools` is the text of those that were offered. */
  constructor(parent, tools) {
    this.#names = namesOf(tools);
    this.body = h("pre", { tabIndex: 0 }, this.#content);
    const summary = h("summary", {}, icon("call"), this.#label, this.#name);
    this.element = h("details", { class: "block call begun", open: true }, summary, this.body);
    this.element.hidden = true;
    this.parent = parent;
  }

  /** Show what there is of the text; nothing of one that may still be none. */
  update(text) {
    const found = nameIn(text, this.#names);
    this.element.hidden = !found && text.trim().length < CERTAIN;
    if (this.element.hidden) return this.element.remove();
    if (this.parent.lastElementChild !== this.element) this.parent.append(this.element);
    this.#label.textContent = found ? "Writes a call of " : "Writes a call";
    show(this.#name, found?.name ?? "");
    const written = found ? text.slice(found.end).replace(BEFORE_ARGUMENTS, "") : "";
    show(this.#content, written);
    this.body.hidden = !written;
    this.body.scrollTop = this.body.scrollHeight;
  }
}

function namesOf(tools) {
  try {
    return readTools(tools).map(({ function: { name } }) => name);
  } catch {
    return []; // they were changed meanwhile
  }
}

/** {name, end} of the first name in a text; null without one, or while it may go on. */
function nameIn(text, names) {
  const isPart = (character) => /[\w-]/.test(character);
  let found = null;
  for (const name of names) {
    const at = text.indexOf(name);
    const end = at + name.length;
    const isWhole = at >= 0 && end < text.length && !isPart(text[end]) && !isPart(text[at - 1] ?? " ");
    if (isWhole && (found === null || end < found.end)) found = { name, end };
  }
  return found;
}
