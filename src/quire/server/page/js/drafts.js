// What is being written and was not sent yet. It outlives a reload, in the tab's own sessionStorage:
// two tabs never write over each other's drafts.
import { idsOf } from "./store.js";

const PREFIX = "quire.draft.";
const EMPTY = Object.freeze({ text: "", files: [] });

export class Drafts {
  #kept = new Map(); // key -> {text, files}

  /** `complain(text)` is told, once, that drafts cannot be kept. */
  constructor(complain) {
    this.complain = complain;
    try {
      for (const key of Object.keys(sessionStorage)) {
        if (key.startsWith(PREFIX)) this.#read(key);
      }
    } catch {
      // without storage, drafts last until the page is left
    }
  }

  has(key) {
    return this.#kept.has(key);
  }

  get(key) {
    return this.#kept.get(key) ?? EMPTY;
  }

  set(key, { text, files = [] }) {
    this.#kept.set(key, { text, files });
    try {
      sessionStorage.setItem(PREFIX + key, JSON.stringify({ text, files }));
    } catch {
      this.complain?.("What you write is too long for this browser to keep over a reload.");
      this.complain = null;
    }
  }

  delete(key) {
    this.#kept.delete(key);
    try {
      sessionStorage.removeItem(PREFIX + key);
    } catch {
      // it was never stored
    }
  }

  /** The ids of all files in drafts. */
  fileIds() {
    return [...this.#kept.values()].flatMap(({ files }) => files.flatMap(idsOf));
  }

  #read(key) {
    const { text, files } = JSON.parse(sessionStorage.getItem(key));
    this.#kept.set(key.slice(PREFIX.length), { text: String(text), files: files ?? [] });
  }
}
