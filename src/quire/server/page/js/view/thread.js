// The messages of the current conversation. Only what changed is drawn again.
import { announce, arrange, h } from "../dom.js";
import { openCalls, siblings } from "../tree.js";
import { editorView } from "./editor.js";
import { messageView } from "./message.js";
import { resultsForm } from "./results.js";
import { welcome } from "./welcome.js";

const NEAR = 80; // px from the end within which the thread follows what comes
const REST = 3; // a frame's work is followed by so many times its length of rest

export class Thread {
  #views = new Map(); // node id -> {view, state}
  #editing = null;
  #following = true;
  #top = 0; // where the last scroll ended
  #drawing = false;
  #grown = new Set(); // ids of answers that are to be drawn
  #results = null;

  constructor(session, scroller, jump) {
    Object.assign(this, { session, scroller, jump });
    this.list = h("div", { class: "messages" });
    scroller.append(this.list);
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    jump.addEventListener("click", () => this.follow("smooth"));
    session.addEventListener("thread", () => this.draw());
    session.addEventListener("progress", ({ detail }) => this.#grow(detail));
    session.addEventListener("settled", ({ detail }) => announce(spoken(detail)));
    this.draw();
  }

  draw() {
    const { session } = this;
    const changed = this.conversation !== session.current;
    if (changed) this.#reset(session.current);
    const path = session.path;
    const shown = path.map((node) => this.#viewOf(node).element);
    if (!path.length) shown.push(welcome(session));
    const form = this.#resultsForm(path);
    arrange(this.list, form ? [...shown, form] : shown);
    this.list.classList.toggle("empty", !path.length);
    if (changed || this.#following) this.follow();
  }

  /** Edit a message of the user; without one, the last. */
  edit(node = this.session.path.findLast(({ role }) => role === "user")) {
    if (!node || this.session.isRunning) return;
    this.#editing = node;
    this.draw();
    this.#views.get(node.id).view.focus();
  }

  /** To the end, and along with what comes. */
  follow(behavior = "instant") {
    this.#following = true;
    this.scroller.scrollTo({ top: this.scroller.scrollHeight, behavior });
    this.jump.hidden = true;
  }

  #reset(conversation) {
    Object.assign(this, { conversation });
    this.#editing = this.#results = null;
    this.#views.clear();
  }

  /** A message's view; it is made anew where its state is another. */
  #viewOf(node) {
    const { session } = this;
    const all = siblings(session.current, node);
    const context = {
      session,
      place: all.indexOf(node),
      count: all.length,
      growing: session.isGrowing(node),
    };
    context.edit = (edited) => this.edit(edited);
    const editing = node === this.#editing;
    const state = [node.revision, context.place, context.count, context.growing, editing].join();
    const known = this.#views.get(node.id);
    if (known?.state === state) return known.view;
    const view = editing
      ? this.#editor(node)
      : (known?.view.renew?.(context) ?? messageView(node, context));
    this.#views.set(node.id, { view, state });
    return view;
  }

  #editor(node) {
    const leave = () => {
      this.#editing = null;
      this.draw();
    };
    const done = (text, files) => {
      this.#editing = null;
      this.session.edit(node, text, files);
    };
    return editorView(node, this.session.store, done, leave);
  }

  #resultsForm(path) {
    const calls = this.session.isRunning ? [] : openCalls(path);
    if (!calls.length) return (this.#results = null);
    const key = calls.map(({ id }) => id).join();
    if (this.#results?.key !== key) {
      this.#results = {
        key,
        form: resultsForm(calls, (results) => this.session.giveResults(results)),
      };
    }
    return this.#results.form;
  }

  /** Draw an answer's progress, once a frame at most, and with time for others in between. */
  #grow(node) {
    this.#grown.add(node.id);
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      const began = performance.now();
      const grown = [...this.#grown];
      this.#grown.clear();
      for (const id of grown) this.#views.get(id)?.view.update?.();
      if (this.#following) this.follow();
      setTimeout(() => this.#rested(), (performance.now() - began) * REST);
    });
  }

  /** What came while the last frame was drawn and rested from is drawn now. */
  #rested() {
    this.#drawing = false;
    for (const id of this.#grown) this.#grow({ id });
  }

  /** Upwards, the user leaves the end; near the end, the page follows again. */
  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    const near = scrollHeight - scrollTop - clientHeight < NEAR;
    if (near) this.#following = true;
    else if (scrollTop < this.#top) this.#following = false;
    this.#top = scrollTop;
    this.jump.hidden = near || this.#following;
  }
}

function spoken(node) {
  if (node.error) return `The answer failed: ${node.error.message}`;
  return node.finish === "stopped" ? "Stopped." : "The answer is complete.";
}
