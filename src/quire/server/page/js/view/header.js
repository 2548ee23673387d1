// The bar above the thread: the conversation's title and the model.
import { h, show } from "../dom.js";
import { harmless } from "../harmless.js";

export class Header {
  constructor(session, title, select) {
    Object.assign(this, { session, title, select });
    select.addEventListener("change", () => session.set({ model: select.value }));
    for (const event of ["list", "thread", "settings"])
      session.addEventListener(event, () => this.draw());
    this.draw();
  }

  draw() {
    const { current, isBegun, models, settings } = this.session;
    show(this.title, current.title || "Untitled");
    this.title.hidden = !isBegun; // the welcome has a heading of its own
    document.title = current.title ? `${harmless(current.title)} · quire` : "quire";
    const key = models.map(({ id }) => id).join("\n");
    if (key !== this.key) this.#list(models);
    this.key = key;
    this.select.value = settings.model;
    this.select.title = settings.model; // it may be too long for the bar
    this.select.hidden = !models.length;
  }

  #list(models) {
    const option = ({ id }) => h("option", { value: id }, id);
    const bases = models.filter(({ parent }) => !parent).map(option);
    const variants = models.filter(({ parent }) => parent).map(option);
    const group = variants.length ? [h("optgroup", { label: "Variants" }, variants)] : [];
    this.select.replaceChildren(...bases, ...group);
  }
}
