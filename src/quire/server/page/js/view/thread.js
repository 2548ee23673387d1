// The messages of the current conversation. Only what changed is drawn again.
import { ENDINGS } from "../answer.js";
import { announce, arrange, h } from "../dom.js";
import { openCalls, siblings } from "../tree.js";
import { Backlog } from "./backlog.js";
import { editorView } from "./editor.js";
import { messageView } from "./message.js";
import { resultsForm } from "./results.js";
import { welcome } from "./welcome.js";

const NEAR = 80; // px from the end within which the thread follows new text
const READY = 12; // messages at the end that are drawn at once, the others when they come near
const REST = 3; // pause after a frame, as a multiple of the frame's time

export class Thread {
  #views = new Map(); // node id -> {view, state}
  #following = true;
  #top = 0; // where the last scroll ended
  #drawing = false;
  #grown = new Set(); // ids of answers to be drawn
  #results = null;

  constructor(session, scroller, jump) {
    Object.assign(this, { session, scroller, jump });
    this.list = h("div", { class: "messages" });
    this.backlog = new Backlog(scroller);
    scroller.append(this.list);
    // A message has its height when it is drawn, which may be after it came to the end.
    new ResizeObserver(() => this.#following && this.follow()).observe(this.list);
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    jump.addEventListener("click", () => this.follow("smooth"));
    for (const event of ["thread", "store"]) session.addEventListener(event, () => this.draw());
    session.addEventListener("settings", () => session.path.length || this.draw()); // names the model
    session.addEventListener("progress", ({ detail }) => this.#grow(detail));
    session.addEventListener("asked", () => this.follow());
    session.addEventListener("settled", ({ detail }) => announce(spoken(detail)));
    this.draw();
  }

  draw() {
    const { session } = this;
    const changed = this.conversation !== session.current;
    if (changed) this.#reset(session.current);
    const path = session.path;
    const shown = path.map((node, index) => this.#viewOf(node, path, index).element);
    if (!path.length && session.isLoaded) shown.push(welcome(session));
    const form = this.#resultsForm(path);
    arrange(this.list, form ? [...shown, form] : shown);
    this.list.classList.toggle("empty", !path.length);
    if (changed || this.#following) this.follow();
  }

  /** Edit a message, by default the user's last. */
  edit(node = this.session.path.findLast(({ role }) => role === "user")) {
    if (!node || this.session.isRunning) return;
    const { drafts } = this.session;
    if (!drafts.has(editKey(node))) drafts.set(editKey(node), node);
    this.draw();
    this.#views.get(node.id).view.focus();
  }

  /** Bring a shown message into view, and mark it for a moment. */
  reveal(node) {
    const { view } = this.#views.get(node.id);
    const { element } = view;
    this.backlog.hasten(view);
    this.#following = false;
    element.tabIndex = -1; // who listens goes on from here
    element.focus({ preventScroll: true });
    element.scrollIntoView({ block: "start" });
    element.classList.remove("revealed");
    requestAnimationFrame(() => element.classList.add("revealed"));
  }

  /** Scroll to the end, and follow new text. */
  follow(behavior = "instant") {
    this.#following = true;
    this.scroller.scrollTo({ top: this.scroller.scrollHeight, behavior });
    this.jump.hidden = true;
  }

  #reset(conversation) {
    Object.assign(this, { conversation });
    this.#results = null;
    this.#views.clear();
    this.backlog.clear();
  }

  /** A message's view, made again if its state has changed; `at` is its place on the path. */
  #viewOf(node, path, at) {
    const { session } = this;
    const all = siblings(session.current, node);
    const fromEnd = path.length - at;
    const context = {
      session,
      index: all.indexOf(node),
      count: all.length,
      growing: session.isGrowing(node),
      last: fromEnd === 1,
      namesModel: namesModel(node, all, path.slice(0, at)),
    };
    context.edit = (edited) => this.edit(edited);
    const editing = session.drafts.has(editKey(node));
    const { index, count, growing, last } = context;
    const state = [node.revision, index, count, growing, last, editing, context.namesModel].join();
    const known = this.#views.get(node.id);
    if (known?.state === state) return known.view;
    const view = editing
      ? this.#editor(node)
      : (known?.view.renew?.(context) ?? messageView(node, context));
    this.#views.set(node.id, { view, state });
    if (view.isBlank && fromEnd > READY) this.backlog.add(view);
    else if (view.isBlank) view.update();
    return view;
  }

  #editor(node) {
    const { session } = this;
    const { drafts, store } = session;
    const key = editKey(node);
    return editorView(node, drafts.get(key), store, {
      keep: (draft) => drafts.set(key, draft),
      excess: (files) => session.excess(files, node.parent),
      done: ({ text, files }, goesOn) => {
        if (session.isRunning) return; // it stays open until it can be sent
        drafts.delete(key);
        if (node.role === "assistant") session.editAnswer(node, text, goesOn);
        else session.edit(node, text, files);
      },
      cancel: () => {
        drafts.delete(key);
        this.draw();
      },
    });
  }

  #resultsForm(path) {
    const calls = this.session.isRunning ? [] : openCalls(path);
    if (!calls.length) return (this.#results = null);
    const key = [path.at(-1).id, ...calls.map(({ id }) => id)].join();
    if (this.#results?.key !== key) {
      const form = resultsForm(calls, path.at(-1), this.session.drafts, (results) =>
        this.session.giveResults(results),
      );
      this.#results = { key, form };
    }
    return this.#results.form;
  }

  /** Draw an answer's progress, at most once per frame, with pauses for other work. */
  #grow(node) {
    this.#grown.add(node.id);
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      const began = performance.now();
      const grown = [...this.#grown];
      this.#grown.clear();
      for (const id of grown) this.#views.get(id)?.view.grow?.();
      if (this.#following) this.follow();
      setTimeout(() => this.#rested(), (performance.now() - began) * REST);
    });
  }

  /** Draw what came during the last frame and its pause. */
  #rested() {
    this.#drawing = false;
    for (const id of this.#grown) this.#grow({ id });
  }

  /** Scrolling up stops following; scrolling near the end resumes it. */
  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    const near = scrollHeight - scrollTop - clientHeight < NEAR;
    if (near) this.#following = true;
    else if (scrollTop < this.#top) this.#following = false;
    this.#top = scrollTop;
    this.jump.hidden = near || this.#following;
  }
}

/** Whether an answer says which model has written it: others have written its versions, or the answer
 * before it. */
function namesModel({ role, model }, versions, before) {
  const earlier = before.findLast((node) => node.role === "assistant");
  const others = [...versions, ...(earlier ? [earlier] : [])];
  const isAnother = (other) => other.model && other.model !== model;
  return role === "assistant" && Boolean(model) && others.some(isAnother);
}

function editKey(node) {
  return `edit.${node.id}`;
}

function spoken(node) {
  if (node.error) return `The answer failed: ${node.error.message}`;
  return ENDINGS[node.finish] ?? "The answer is complete.";
}
