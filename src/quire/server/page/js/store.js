// Conversations and files, in the browser's IndexedDB, or in memory without it.
import { absorb, latestFirst } from "./tree.js";

const NAME = "quire";
const VERSION = 1;

/** A store; `lasting` says whether it survives a reload. */
export async function openStore() {
  try {
    return new BrowserStore(await open());
  } catch {
    return new MemoryStore();
  }
}

function open() {
  const request = indexedDB.open(NAME, VERSION);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("conversations", { keyPath: "id" });
    request.result.createObjectStore("files", { keyPath: "id" });
  };
  return settled(request);
}

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = request.onblocked = () => reject(request.error ?? new Error("blocked"));
  });
}

/** A conversation is saved as what all tabs have made of it; one that a tab deleted stays deleted. */
class BrowserStore {
  lasting = true;
  #known = new Set(); // ids of conversations that are, or were, in the database

  constructor(database) {
    this.database = database;
    database.onversionchange = () => database.close();
  }

  /** All conversations, the latest first. */
  async conversations() {
    const kept = await this.#ask("conversations", "readonly", (all) => all.getAll());
    for (const { id } of kept) this.#known.add(id);
    return kept.sort(latestFirst);
  }

  async conversation(id) {
    const kept = await this.#ask("conversations", "readonly", (all) => all.get(id));
    if (kept) this.#known.add(id);
    return kept ?? null;
  }

  /** {removed: whether another tab has deleted it, changed: whether the given one has grown}. */
  async save(conversation) {
    const { id } = conversation;
    const told = { removed: false, changed: false };
    await this.#ask("conversations", "readwrite", (all, fail) => {
      const request = all.get(id);
      request.onsuccess = () => {
        told.removed = !request.result && this.#known.has(id);
        if (told.removed) return;
        if (request.result) told.changed = absorb(conversation, request.result);
        try {
          all.put(conversation);
        } catch (error) {
          fail(error);
        }
      };
      return request;
    });
    this.#known.add(id);
    return told;
  }

  /** Save one that was deleted. */
  async restore(conversation) {
    await this.#ask("conversations", "readwrite", (all) => all.put(conversation));
  }

  /** The files of a conversation: [[id, blob]]. */
  async filesOf(conversation) {
    const ids = [...fileIds(conversation)];
    const blobs = await Promise.all(ids.map((id) => this.file(id)));
    return ids.map((id, index) => [id, blobs[index]]).filter(([, blob]) => blob !== null);
  }

  async saveFile(id, blob) {
    await this.#ask("files", "readwrite", (all) => all.put({ id, blob, at: Date.now() }), "file");
  }

  async file(id) {
    return (await this.#ask("files", "readonly", (all) => all.get(id), "file"))?.blob ?? null;
  }

  /** All files, as Blobs. */
  async files() {
    const files = await this.#ask("files", "readonly", (all) => all.getAll(), "file");
    return files.map(({ blob }) => blob);
  }

  /** Delete the files that are not in `used` and older than a time. */
  async prune(used, before) {
    const files = await this.#ask("files", "readonly", (all) => all.getAll());
    await this.#drop(
      files.filter(({ id, at }) => !used.has(id) && at < before).map(({ id }) => id),
    );
  }

  /** Delete a conversation with its files. */
  async remove(conversation) {
    // First the conversation: what is read from here on does not find it any more.
    await this.#ask("conversations", "readwrite", (all) => all.delete(conversation.id));
    await this.#drop(fileIds(conversation));
  }

  async clear() {
    await this.#ask("conversations", "readwrite", (all) => all.clear());
    await this.#ask("files", "readwrite", (all) => all.clear());
  }

  async #drop(ids) {
    for (const id of ids) await this.#ask("files", "readwrite", (all) => all.delete(id));
  }

  /** Resolves once the data is stored: at the transaction's end, not the request's. */
  #ask(name, mode, act, subject = "conversation") {
    const deed = mode === "readonly" ? "read" : "keep";
    return new Promise((resolve, reject) => {
      const fail = (error) => reject(storeError(error, `${deed} the ${subject}`));
      try {
        const transaction = this.database.transaction(name, mode);
        const request = act(transaction.objectStore(name), fail);
        transaction.oncomplete = () => resolve(request.result);
        transaction.onerror = transaction.onabort = () => fail(transaction.error);
      } catch (error) {
        fail(error); // the database is closed, since another tab has a later version of the page
      }
    });
  }
}

function storeError(error, deed) {
  if (error?.name === "QuotaExceededError") {
    return new Error("This browser has no room left: delete conversations, or export them first.");
  }
  const reason = (error?.message ?? "unknown").replace(/\.$/, "");
  return new Error(`This browser could not ${deed}: ${reason}.`);
}

class MemoryStore {
  lasting = false;
  #conversations = new Map();
  #files = new Map();

  async conversations() {
    return [...this.#conversations.values()].sort(latestFirst);
  }

  async conversation() {
    return null; // no other tab has saved here
  }

  async save(conversation) {
    this.#conversations.set(conversation.id, structuredClone(conversation));
    return { removed: false, changed: false };
  }

  async restore(conversation) {
    await this.save(conversation);
  }

  async filesOf(conversation) {
    const ids = [...fileIds(conversation)].filter((id) => this.#files.has(id));
    return ids.map((id) => [id, this.#files.get(id)]);
  }

  async saveFile(id, blob) {
    this.#files.set(id, blob);
  }

  async file(id) {
    return this.#files.get(id) ?? null;
  }

  async files() {
    return [...this.#files.values()];
  }

  async prune() {} // memory is freed with the page

  async remove(conversation) {
    fileIds(conversation).forEach((id) => this.#files.delete(id));
    this.#conversations.delete(conversation.id);
  }

  async clear() {
    this.#conversations.clear();
    this.#files.clear();
  }
}

/** The ids of all files of a conversation; several messages may share one. */
export function fileIds(conversation) {
  return new Set(conversation.nodes.flatMap(fileIdsOf));
}

function fileIdsOf({ files, probabilities = [] }) {
  return [...files.flatMap(idsOf), ...probabilities.map(({ id }) => id)];
}

/** The ids under which a file of a message is kept: a PDF has its text and its pages' pictures, too. */
export function idsOf({ id, textId = null, pictures = [] }) {
  return [id, ...(textId ? [textId] : []), ...pictures];
}
