// The text of an answer. What draws Markdown is half of the page: it comes with the first answer, or a
// little before.
import { h, show } from "../dom.js";
import { later } from "../later.js";
import { notify } from "./notices.js";

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

/** A text that grows, as Markdown; as it was written where the server is gone before Markdown is there. */
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
    waiting.add(this);
    const problem = await loadProse();
    const [text] = this.#given;
    if (problem === null || !text) return;
    notify(problem.message);
    this.element.classList.add("plain");
    show(this.element, text);
  }
}
