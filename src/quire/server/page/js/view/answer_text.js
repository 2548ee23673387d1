// The text of an answer. What draws Markdown is half of the page: it comes with the first answer, or a
// little before.
import { h, show } from "../dom.js";
import { later } from "../later.js";
import { tell } from "./notices.js";

const load = later(() => import("./prose.js"));
const waiting = new Set(); // those that were given a text before Markdown could be drawn
let Prose = null;

/** Load what draws Markdown, and draw the texts that wait for it. Resolves to what hindered it, or to
 * null; the next call tries again. */
export async function loadProse() {
  try {
    ({ Prose } = await load());
  } catch (error) {
    return error;
  }
  const texts = [...waiting];
  waiting.clear();
  for (const text of texts) text.draw();
  return null;
}

/** A text that grows, as Markdown; as it was written until Markdown can be drawn. */
export class AnswerText {
  element = h("div", { class: "prose" });
  #prose = null;
  #given = ["", false];

  /** Show a text that continues the one before; `ended`: it is complete. */
  update(text, ended = false) {
    this.#given = [text, ended];
    if (Prose === null) this.#wait();
    else this.draw();
  }

  /** Show what was given last, as Markdown. */
  draw() {
    if (this.#prose === null) {
      this.element.replaceChildren();
      this.element.classList.remove("plain");
      this.#prose = new Prose(this.element);
    }
    this.#prose.update(...this.#given);
  }

  async #wait() {
    const [text] = this.#given;
    waiting.add(this);
    show(this.element, text);
    this.element.classList.add("plain");
    this.element.setAttribute("aria-busy", "true");
    const problem = await loadProse();
    this.element.removeAttribute("aria-busy");
    if (problem !== null && text) tell(problem);
  }
}
