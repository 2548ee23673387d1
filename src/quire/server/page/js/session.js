// The page's state and actions, without its view: conversations, and answers in flight.
import { endAnswer, newAnswer, takeChunk } from "./answer.js";
import { describe } from "./files.js";
import { chatBody } from "./request.js";
import { saveSettings } from "./settings.js";
import { fileIds } from "./store.js";
import { exported, imported } from "./transfer.js";
import * as tree from "./tree.js";

const UNUSED = 86_400_000; // ms that a file is kept that was attached and never sent
const SAVE_EVERY = 1000; // ms, while an answer comes

/** Events: `list` (conversations), `opened` (another one), `thread` (the current one's messages), `progress` (detail: the
 * node that grew), `settled` (detail: an answer that ended), `settings`, `problem` (detail: text). */
export class Session extends EventTarget {
  #running = new Map(); // conversation id -> {controller, node}

  constructor(api, store, settings) {
    super();
    Object.assign(this, { api, store, settings, conversations: [], models: [] });
    this.current = tree.newConversation(settings.system);
  }

  async load() {
    const kept = await this.store.conversations();
    kept.flatMap(({ nodes }) => nodes).forEach(endCutOff);
    this.conversations = [...this.conversations, ...kept]; // one may have begun meanwhile
    this.#tell("list");
    const used = new Set(this.conversations.flatMap((each) => [...fileIds(each)]));
    await this.#try(this.store.prune(used, Date.now() - UNUSED));
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

  open(id) {
    const found = this.conversations.find((conversation) => conversation.id === id);
    if (found && found !== this.current) this.#show(found);
  }

  /** Open the conversation `step` further down the list. */
  step(step) {
    const index = this.conversations.indexOf(this.current);
    const next = this.conversations[index < 0 ? 0 : index + step];
    if (next) this.open(next.id);
  }

  rename(conversation, title) {
    Object.assign(conversation, { title, named: title !== "" });
    this.#keep(conversation);
    this.#tell("list");
  }

  setSystem(text) {
    this.current.system = text;
    if (this.conversations.includes(this.current)) this.#keep(this.current);
  }

  async remove(conversation) {
    this.stop(conversation);
    this.conversations = this.conversations.filter((other) => other !== conversation);
    if (conversation === this.current) this.create();
    this.#tell("list");
    await this.#try(this.store.remove(conversation));
  }

  async removeAll() {
    this.conversations.forEach((conversation) => this.stop(conversation));
    this.conversations = [];
    this.create();
    this.#tell("list");
    await this.#try(this.store.clear());
  }

  export(conversations = this.conversations) {
    return exported(conversations, this.store);
  }

  /** Returns how many conversations were imported. */
  async import(text) {
    const added = await imported(text, this.store);
    this.conversations = [...this.conversations, ...added].sort(
      (one, other) => other.updated - one.updated,
    );
    this.#tell("list");
    return added.length;
  }

  // --- messages

  get path() {
    return tree.shownPath(this.current);
  }

  get isRunning() {
    return this.#running.has(this.current.id);
  }

  runs(conversation) {
    return this.#running.has(conversation.id);
  }

  isGrowing(node) {
    return [...this.#running.values()].some((run) => run.node === node);
  }

  /** Keep a File for a message; returns what the message says of it. */
  async keepFile(file) {
    const described = describe(file);
    if (!described) {
      throw new Error(
        `${file.name || "This"} is no image, sound or video: nothing else can be attached.`,
      );
    }
    const id = tree.newId();
    await this.store.saveFile(id, file);
    return { id, ...described };
  }

  /** Add a message at the end of the shown path, and have it answered. */
  async send(text, files = []) {
    const last = this.path.at(-1)?.id ?? null;
    await this.#ask(this.current, last, { role: "user", text, files });
  }

  /** Edit a message, which makes a branch beside the old one. */
  async edit(node, text, files) {
    await this.#ask(this.current, node.parent, { role: "user", text, files });
  }

  /** Answer again, beside the old answer. */
  async retry(node) {
    if (!this.isRunning) await this.#answer(this.current, node.parent);
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

  stop(conversation = this.current) {
    this.#running.get(conversation.id)?.controller.abort();
  }

  async #ask(conversation, parent, fields) {
    if (this.runs(conversation)) return;
    const node = tree.addNode(conversation, parent, fields);
    await this.#answer(conversation, node.id);
  }

  async #answer(conversation, parent) {
    const controller = new AbortController();
    const node = tree.addNode(conversation, parent, newAnswer(this.settings.model));
    this.#running.set(conversation.id, { controller, node });
    this.#raise(conversation);
    if (conversation === this.current) this.#tell("thread");
    let error = null;
    try {
      await this.#stream(conversation, node, controller.signal);
    } catch (caught) {
      error = caught;
    }
    endAnswer(node, error);
    node.revision += 1;
    this.#running.delete(conversation.id);
    if (this.conversations.includes(conversation)) this.#keep(conversation);
    this.#tell("list");
    if (conversation === this.current) this.#tell("thread");
    this.#tell("settled", node);
  }

  async #stream(conversation, node, signal) {
    const path = tree.pathTo(conversation, node.parent);
    const body = await chatBody(path, conversation.system, this.settings, (id) =>
      this.store.file(id),
    );
    signal.throwIfAborted();
    let saved = Date.now();
    for await (const chunk of this.api.chat(body, signal)) {
      takeChunk(node, chunk);
      if (conversation === this.current) this.#tell("progress", node);
      if (Date.now() - saved > SAVE_EVERY) {
        saved = Date.now();
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

  #keep(conversation) {
    return this.#try(this.store.save(conversation));
  }

  async #try(doing) {
    try {
      await doing;
    } catch (error) {
      this.#tell("problem", error.message);
    }
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** An answer that was interrupted by a reload. */
function endCutOff(node) {
  if (node.role === "assistant" && node.finish === null) node.finish = "cut";
}
