// The page's state and actions, without its view: conversations, and answers in flight.
import { canGoOn, editedAnswer, endAnswer, newAnswer, reopen, takeChunk } from "./answer.js";
import { Drafts } from "./drafts.js";
import { readFile, sizeText } from "./files.js";
import { later } from "./later.js";
import { bytesOf, chatBody } from "./request.js";
import { saveSettings } from "./settings.js";
import { fileIds } from "./store.js";
import { Tabs } from "./tabs.js";
import { estimated } from "./texts.js";
import { RUNS_TYPE, TokenRuns } from "./token_runs.js";
import * as tree from "./tree.js";

const UNUSED = 86_400_000; // ms that a file is kept that was attached and never sent
const SAVE_FIRST = 100; // ms after which an answer is first saved, so that little of a short one is lost
const SAVE_EVERY = 1000; // ms, while an answer comes
const COUNTED = 2_000_000; // characters; the tokens of a longer text are estimated
const COUNT_PATIENCE = 5000; // ms

const pdfs = later(() => import("./pdfs.js"));
const transfer = later(() => import("./transfer.js"));

/** Events: `list` (conversations), `opened` (another one), `thread` (the current one's messages),
 * `asked` (an answer to the current one begins), `progress` (detail: the node that grew), `settled`
 * (detail: an answer that ended), `settings`, `store` (it fails, or works again), `problem`
 * (detail: text). */
export class Session extends EventTarget {
  #running = new Map(); // conversation id -> {controller, node}: answers that this tab writes
  #watched = new Set(); // ids of answers that other tabs write, or wrote when they were closed
  #removals = 0; // how often conversations were deleted, here or in another tab
  #left = false; // whether the user has left the page: its connections end with it
  #failing = null; // what the store failed with, as long as it does

  constructor(api, store, settings) {
    super();
    Object.assign(this, { api, store, settings, conversations: [], models: [], isLoaded: false });
    this.drafts = new Drafts((text) => this.#tell("problem", text));
    this.tabs = new Tabs((id) => this.#runOf(id) !== undefined);
    this.tabs.addEventListener("saved", ({ detail }) => this.#takeSaved(detail.id));
    this.tabs.addEventListener("removed", ({ detail }) => this.#takeRemoved(detail.ids));
    this.tabs.addEventListener("stop", ({ detail }) => this.#runOf(detail.id)?.controller.abort());
    this.current = tree.newConversation(settings.system);
    addEventListener("pagehide", () => (this.#left = true));
    addEventListener("pageshow", () => (this.#left = false));
  }

  async load() {
    const kept = (await this.#try(this.store.conversations())) ?? [];
    const known = new Set(this.conversations.map(({ id }) => id)); // one may have begun meanwhile
    this.conversations = [...this.conversations, ...kept.filter(({ id }) => !known.has(id))];
    this.isLoaded = true;
    this.#tell("list");
    for (const conversation of this.conversations) this.#watch(conversation);
  }

  /** Delete files that were attached and never sent. */
  async tidy() {
    const used = new Set(this.conversations.flatMap((each) => [...fileIds(each)]));
    for (const id of this.drafts.fileIds()) used.add(id);
    await this.#try(this.store.prune(used, Date.now() - UNUSED));
  }

  /** Whether conversations outlive the page, as far as is known. */
  get isKept() {
    return this.store.lasting && this.#failing === null;
  }

  async loadModels() {
    this.models = await this.api.models();
    const served = this.models.some((model) => model.id === this.settings.model);
    if (!served) this.set({ model: this.models[0]?.id ?? "" });
    this.#tell("settings");
  }

  set(changes) {
    Object.assign(this.settings, changes);
    saveSettings(this.settings);
    this.#tell("settings");
  }

  // --- conversations

  create() {
    this.#show(tree.newConversation(this.settings.system));
  }

  /** Returns whether there is such a conversation. */
  open(id) {
    const found = this.conversations.find((conversation) => conversation.id === id);
    if (found && found !== this.current) this.#show(found);
    return found !== undefined;
  }

  /** Whether the current conversation has a message, and so an id to find it by. */
  get isBegun() {
    return this.conversations.includes(this.current);
  }

  /** The conversations in the order of the list: pinned ones stand above. */
  get listed() {
    return tree.pinnedFirst(this.conversations);
  }

  /** Open the conversation `step` further down the list. */
  step(step) {
    const { listed } = this;
    const index = listed.indexOf(this.current);
    const next = listed[index < 0 ? 0 : index + step];
    if (next) this.open(next.id);
  }

  /** Have a conversation stand above the others, or no longer. */
  pin(conversation, pinned) {
    conversation.pinned = pinned;
    conversation.changed = { ...conversation.changed, pinned: Date.now() };
    this.#keep(conversation);
    this.#tell("list");
  }

  rename(conversation, title) {
    Object.assign(conversation, { title, named: title !== "" });
    conversation.changed = { ...conversation.changed, title: Date.now() };
    this.#keep(conversation);
    this.#tell("list");
  }

  setSystem(text) {
    this.current.system = text;
    this.current.changed = { ...this.current.changed, system: Date.now() };
    if (this.isBegun) this.#keep(this.current);
  }

  /** The options of requests that are set in all conversations, or in the current one alone; null in the
   * current one leaves an option to the model that is set in all. */
  optionsOf(here) {
    return (here ? this.current.options : this.settings.options) ?? {};
  }

  /** Set an option; null leaves it to the other conversations, or to the model. */
  setOption(name, value, here) {
    const { [name]: _, ...others } = this.optionsOf(here);
    const options = value === null ? others : { ...others, [name]: value };
    if (here) this.setOptionsHere(options);
    else this.set({ options });
  }

  /** In the current conversation, leave an option to the model that is set in all conversations. */
  leaveToModel(name) {
    this.setOptionsHere({ ...this.optionsOf(true), [name]: null });
  }

  /** Set all options of the current conversation. */
  setOptionsHere(options) {
    this.current.options = options;
    this.current.changed = { ...this.current.changed, options: Date.now() };
    if (this.isBegun) this.#keep(this.current);
    this.#tell("settings");
  }

  /** Returns a function that brings the conversation back. */
  async remove(conversation) {
    this.#removals += 1;
    this.stop(conversation);
    this.conversations = this.conversations.filter((other) => other !== conversation);
    if (conversation === this.current) this.create();
    this.#tell("list");
    const draft = this.drafts.get(conversation.id);
    this.drafts.delete(conversation.id);
    const files = (await this.#try(this.store.filesOf(conversation))) ?? [];
    await this.#try(this.store.remove(conversation));
    this.tabs.tell("removed", { ids: [conversation.id] });
    return () => this.#restore(conversation, draft, files);
  }

  async #restore(conversation, draft, files) {
    for (const [id, blob] of files) await this.#try(this.store.saveFile(id, blob));
    await this.#try(this.store.restore(conversation));
    if (draft.text || draft.files.length) this.drafts.set(conversation.id, draft);
    this.conversations = [...this.conversations, conversation].sort(tree.latestFirst);
    this.tabs.tell("saved", { id: conversation.id });
    this.#show(conversation);
  }

  async removeAll() {
    this.#removals += 1;
    this.conversations.forEach((conversation) => this.stop(conversation));
    this.conversations = [];
    this.create();
    this.#tell("list");
    await this.#try(this.store.clear());
    this.tabs.tell("removed", { ids: null });
  }

  /** {conversations, files}: how many are kept, and in how many bytes. */
  async keptSize() {
    const texts = this.conversations.map((each) => JSON.stringify(each));
    const blobs = (await this.#try(this.store.files())) ?? [];
    const files = blobs.filter(({ type }) => type !== RUNS_TYPE);
    const sum = (all) => all.reduce((bytes, { size }) => bytes + size, 0);
    const beside = sum(blobs) - sum(files);
    return {
      conversations: { count: texts.length, bytes: new Blob(texts).size + beside },
      files: { count: files.length, bytes: sum(files) },
    };
  }

  /** A file with some conversations, or with all and the saved prompts. */
  async export(some = null) {
    const { exported } = await transfer();
    return exported(some ?? this.conversations, this.store, some === null);
  }

  /** Returns {conversations, prompts: their number} that were imported. */
  async import(text) {
    const { imported } = await transfer();
    const { conversations: added, prompts } = await imported(text, this.store);
    this.conversations = [...this.conversations, ...added].sort(tree.latestFirst);
    this.#tell("list");
    for (const { id } of added) this.tabs.tell("saved", { id });
    return { conversations: added, prompts };
  }

  // --- messages

  get path() {
    return tree.shownPath(this.current);
  }

  get isRunning() {
    return this.runs(this.current);
  }

  /** Whether an answer is written, here or in another tab. */
  runs(conversation) {
    return this.#running.has(conversation.id) || conversation.nodes.some(tree.isOpen);
  }

  isGrowing(node) {
    return this.#runOf(node.id) !== undefined || tree.isOpen(node);
  }

  #runOf(id) {
    return [...this.#running.values()].find(({ node }) => node.id === id);
  }

  /** The key of a conversation's draft: all that were not begun yet share one. */
  draftKey(conversation) {
    return this.conversations.includes(conversation) ? conversation.id : "new";
  }

  /** Keep a File for a message; returns what the message says of it. */
  async keepFile(file) {
    const { content, text, ...described } = await readFile(file);
    if (text === undefined) this.#checkSize(described);
    const kept = { id: await this.#keepBlob(content), ...described };
    if (text === undefined) return kept;
    if (kept.kind === "text") return { ...kept, tokens: await this.#count(text) };
    if (!text) return this.asPictures(kept);
    const written = new Blob([text], { type: "text/plain" });
    const textId = await this.#keepBlob(written);
    return { ...kept, textId, textSize: written.size, tokens: await this.#count(text) };
  }

  /** Media are sent in base64, within one request. */
  #checkSize({ name, size }) {
    const most = Math.floor((this.api.mostBytes * 3) / 4);
    if (size <= most) return;
    const sizes = `${name} has ${sizeText(size)}: the server takes less than ${sizeText(most)}`;
    throw new Error(`${sizes} (max_body_bytes).`);
  }

  /** A kept PDF, as pictures of its pages: as many as the model takes. */
  async asPictures(file) {
    if (!this.mostImages) {
      throw new Error(`${file.name} has no text but pictures, which this model does not see.`);
    }
    const { drawPages } = await pdfs();
    const pages = await drawPages(await this.store.file(file.id), file.name, this.mostImages);
    const pictures = await Promise.all(pages.map((page) => this.#keepBlob(page)));
    return { ...file, pictures, picturesSize: pages.reduce((sum, { size }) => sum + size, 0) };
  }

  /** What is wrong with the size of a message's files: {files: those that are too much, text}; null if
   * all fit. A request holds the whole conversation up to the message `parent`, the last by default. */
  excess(files, parent = this.path.at(-1)?.id ?? null) {
    const most = this.api.mostBytes;
    const path = tree.pathTo(this.current, parent);
    const fitting = [];
    for (const file of files) {
      if (bytesOf(path, [...fitting, file]) <= most) fitting.push(file);
    }
    if (fitting.length === files.length) return null;
    const before = bytesOf(path);
    const own = sizeText(bytesOf(path, files) - before);
    const earlier = path.some((node) => node.files.length)
      ? ` beside the ${sizeText(before)} of this conversation`
      : "";
    const text = `These files take ${own} in a request${earlier}: the server takes at most ${sizeText(most)}.`;
    return { files: files.filter((file) => !fitting.includes(file)), text };
  }

  /** How many images the chosen model takes. */
  get mostImages() {
    return this.model?.max_media?.image ?? 0;
  }

  /** What the server says of the chosen model. */
  get model() {
    return this.models.find(({ id }) => id === this.settings.model) ?? null;
  }

  async #keepBlob(blob) {
    const id = tree.newId();
    await this.store.saveFile(id, blob);
    return id;
  }

  /** {count, exact}: the server counts, where it does so soon. */
  async #count(text) {
    if (text.length <= COUNTED) {
      try {
        const signal = AbortSignal.timeout(COUNT_PATIENCE);
        const count = await this.api.countTokens(text, this.settings.model, signal);
        return { count, exact: true };
      } catch {
        // its tokenizer is not known here, the text is too long, or the server is busy or away
      }
    }
    return { count: estimated(text), exact: false };
  }

  /** Add a message at the end of the shown path, and have it answered. */
  async send(text, files = []) {
    const last = this.path.at(-1)?.id ?? null;
    await this.#ask(this.current, last, { role: "user", text: asTyped(text), files });
  }

  /** Edit a message, which makes a branch beside the old one. */
  async edit(node, text, files) {
    await this.#ask(this.current, node.parent, { role: "user", text: asTyped(text), files });
  }

  /** Answer again, beside the old answer. */
  async retry(node) {
    if (!this.isRunning) await this.#answer(this.current, node.parent);
  }

  /** Have the last answer go on where it was cut, stopped or edited. */
  async goOn() {
    const node = this.path.at(-1);
    if (this.isRunning || !canGoOn(node)) return;
    reopen(node);
    await this.#write(this.current, node);
  }

  /** Put the user's version of an answer beside it; if `goesOn`, the model writes on from there. */
  async editAnswer(node, text, goesOn) {
    if (this.isRunning) return;
    tree.addNode(this.current, node.parent, editedAnswer(node, text));
    if (goesOn) await this.goOn();
    else {
      this.#raise(this.current);
      this.#tell("thread");
    }
  }

  /** Add the results of the last answer's calls: {call id: text}. */
  async giveResults(results) {
    if (this.isRunning) return;
    let parent = this.path.at(-1).id;
    for (const { id, name } of tree.openCalls(this.path)) {
      parent = tree.addNode(this.current, parent, {
        role: "tool",
        callId: id,
        name,
        text: results[id] ?? "",
      }).id;
    }
    await this.#answer(this.current, parent);
  }

  switchBranch(node, step) {
    if (!tree.switchBranch(this.current, node, step)) return;
    this.#keep(this.current);
    this.#tell("thread");
  }

  /** Show the versions among which a message is; returns it, or null if it is not there. */
  showMessage(id) {
    const node = tree.find(this.current, id);
    if (!node || this.path.includes(node)) return node;
    tree.choose(this.current, node);
    this.#keep(this.current);
    this.#tell("thread");
    return node;
  }

  stop(conversation = this.current) {
    const run = this.#running.get(conversation.id);
    if (run) run.controller.abort();
    else
      for (const { id } of conversation.nodes.filter(tree.isOpen)) this.tabs.tell("stop", { id });
  }

  async #ask(conversation, parent, fields) {
    if (this.runs(conversation)) return;
    const node = tree.addNode(conversation, parent, fields);
    await this.#answer(conversation, node.id);
  }

  // --- answers

  async #answer(conversation, parent) {
    const node = tree.addNode(conversation, parent, newAnswer(this.settings.model));
    await this.#write(conversation, node);
  }

  /** Fill an answer with what the model writes, or add that to what it holds. */
  async #write(conversation, node) {
    const controller = new AbortController();
    this.#running.set(conversation.id, { controller, node });
    this.#raise(conversation);
    if (conversation === this.current) {
      this.#tell("thread");
      this.#tell("asked");
    }
    let error = null;
    const runs = new TokenRuns(node, (id, blob) => this.#try(this.store.saveFile(id, blob)));
    try {
      await this.#stream(conversation, node, runs, controller.signal);
    } catch (caught) {
      if (this.#left) node.finish = "cut";
      else error = caught;
    }
    if (this.conversations.includes(conversation)) runs.flush();
    endAnswer(node, error);
    node.revision += 1;
    this.#running.delete(conversation.id);
    if (this.conversations.includes(conversation)) this.#keep(conversation);
    this.#redraw(conversation);
    this.#tell("settled", node);
    // The model is not served any more, or the server takes less at once than it told.
    if ([404, 413].includes(error?.status)) this.loadModels().catch(() => {});
  }

  async #stream(conversation, node, runs, signal) {
    const path = tree.pathTo(conversation, node.parent);
    const options = { ...this.settings.options, ...conversation.options };
    const settings = { ...this.settings, options };
    const fileOf = (id) => this.store.file(id);
    const begun = node.rounds ? node : null;
    const body = await chatBody(path, conversation.system, settings, fileOf, begun);
    signal.throwIfAborted();
    let nextSave = Date.now() + SAVE_FIRST;
    for await (const chunk of this.api.chat(body, signal)) {
      const from = node.text.length;
      takeChunk(node, chunk);
      runs.add(chunk, from);
      if (conversation === this.current) this.#tell("progress", node);
      if (Date.now() > nextSave) {
        nextSave = Date.now() + SAVE_EVERY;
        this.#keep(conversation);
      }
    }
  }

  /** Move to the top of the list, or add it there. */
  #raise(conversation) {
    this.conversations = [
      conversation,
      ...this.conversations.filter((other) => other !== conversation),
    ];
    this.#keep(conversation);
    this.#tell("list");
  }

  #show(conversation) {
    this.current = conversation;
    this.#tell("list");
    this.#tell("thread");
    this.#tell("opened");
  }

  #redraw(conversation) {
    this.#tell("list");
    if (conversation === this.current) this.#tell("thread");
  }

  // --- other tabs

  /** What another tab has saved. */
  async #takeSaved(id) {
    let saved, removals;
    do {
      removals = this.#removals;
      saved = await this.#try(this.store.conversation(id));
    } while (removals !== this.#removals); // it may have been read just before it was deleted
    if (!saved) return;
    const mine = this.conversations.find((conversation) => conversation.id === id);
    if (!mine) this.conversations = [saved, ...this.conversations].sort(tree.latestFirst);
    else if (!tree.absorb(mine, saved)) return;
    this.#watch(mine ?? saved);
    this.#redraw(mine ?? saved);
  }

  /** What another tab has deleted. `ids` null: all. */
  #takeRemoved(ids) {
    this.#removals += 1;
    for (const conversation of this.conversations) {
      if (ids === null || ids.includes(conversation.id)) this.#forget(conversation);
    }
  }

  /** Drop a conversation that another tab has deleted; what is being written goes to a new one. */
  #forget(conversation) {
    this.#running.get(conversation.id)?.controller.abort();
    const draft = this.drafts.get(conversation.id);
    if (draft.text && !this.drafts.get("new").text) this.drafts.set("new", draft);
    this.drafts.delete(conversation.id);
    this.conversations = this.conversations.filter((other) => other !== conversation);
    if (conversation === this.current) {
      this.create();
      this.#tell("problem", "This conversation was deleted in another tab.");
    }
    this.#tell("list");
  }

  #watch(conversation) {
    for (const node of conversation.nodes.filter(tree.isOpen)) {
      if (this.#watched.has(node.id) || this.#runOf(node.id)) continue;
      this.#watched.add(node.id);
      this.#untilEnded(conversation, node).finally(() => this.#watched.delete(node.id));
    }
  }

  /** Wait for the end of another tab's answer; it is interrupted where no tab writes it. */
  async #untilEnded(conversation, node) {
    while (tree.isOpen(node) && (await this.tabs.isWritten(node.id)));
    if (!tree.isOpen(node)) return;
    node.finish = "cut";
    node.revision += 1;
    if (this.conversations.includes(conversation)) await this.#keep(conversation);
    this.#redraw(conversation);
  }

  // --- the store

  async #keep(conversation) {
    const told = await this.#try(this.store.save(conversation));
    if (!told) return;
    if (told.removed) this.#forget(conversation);
    else this.tabs.tell("saved", { id: conversation.id });
    if (!told.changed) return;
    this.#watch(conversation);
    this.#redraw(conversation);
  }

  /** What the store gives; undefined where it fails, which is told once. */
  async #try(doing) {
    let failing = null;
    let result;
    try {
      result = await doing;
    } catch (error) {
      failing = error.message;
      if (failing !== this.#failing) this.#tell("problem", failing);
    }
    const before = this.#failing;
    this.#failing = failing;
    if (before !== failing) this.#tell("store");
    return result;
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** A question as it was typed: blanks at its beginning may be those of code. */
function asTyped(text) {
  return text.replace(/^\n+|\n+$/g, "");
}
