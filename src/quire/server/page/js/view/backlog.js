// What is far out of sight is drawn in idle moments, so that long conversations open at once.
import { whenIdle } from "../later.js";

const AHEAD = "150% 0px"; // how near to the visible part a message is drawn without waiting

/** Views whose `update` was not called yet, each once. */
export class Backlog {
  #views = new Map(); // element -> view, from the first to the last on the page
  #waiting = false;

  constructor(scroller) {
    const near = (entries) =>
      entries.forEach((each) => each.isIntersecting && this.#draw(each.target));
    this.observer = new IntersectionObserver(near, { root: scroller, rootMargin: AHEAD });
    addEventListener("beforeprint", () => this.#drawAll());
  }

  add(view) {
    this.#views.set(view.element, view);
    this.observer.observe(view.element);
    this.#wait();
  }

  /** Draw a view now, if it was not drawn yet. */
  hasten(view) {
    this.#draw(view.element);
  }

  clear() {
    this.observer.disconnect();
    this.#views.clear();
  }

  #draw(element) {
    const view = this.#views.get(element);
    this.#views.delete(element);
    this.observer.unobserve(element);
    view?.update();
  }

  #drawAll() {
    for (const element of [...this.#views.keys()]) this.#draw(element);
  }

  #wait() {
    if (this.#waiting || !this.#views.size) return;
    this.#waiting = true;
    whenIdle(() => {
      this.#waiting = false;
      const lowest = [...this.#views.keys()].at(-1);
      if (lowest) this.#draw(lowest);
      this.#wait();
    });
  }
}
