// Exports and imports conversations as one JSON file.
import { fromDataUrl, toDataUrl } from "./files.js";
import { OPTIONS } from "./options.js";
import { addPrompts, checked, readPrompts } from "./prompts.js";
import { fileIds } from "./store.js";
import { newId } from "./tree.js";

const FORMAT = "quire-conversations";

/** A Blob with conversations and their files, and, if wanted, the saved prompts. */
export async function exported(conversations, store, withPrompts = false) {
  const files = {};
  for (const id of conversations.flatMap((conversation) => [...fileIds(conversation)])) {
    const blob = await store.file(id);
    if (blob) files[id] = await toDataUrl(blob);
  }
  const prompts = withPrompts ? readPrompts() : [];
  const content = { format: FORMAT, version: 1, conversations, files, prompts };
  return new Blob([JSON.stringify(content, null, 1)], { type: "application/json" });
}

/** Add the conversations of such a file to the store, and its prompts to the others; returns
 * {conversations, prompts: how many are new}. */
export async function imported(text, store) {
  const content = parsed(text);
  const prompts = addPrompts(checked(content.prompts));
  const renamed = new Map();
  for (const [id, url] of Object.entries(content.files ?? {})) {
    renamed.set(id, newId());
    await store.saveFile(renamed.get(id), fromDataUrl(url));
  }
  const conversations = objects(content.conversations).map((each) => checkedConversation(each, renamed));
  for (const conversation of conversations) await store.save(conversation);
  return { conversations, prompts };
}

function parsed(text) {
  let content = null;
  try {
    content = JSON.parse(text);
  } catch {
    // reported below
  }
  if (content?.format !== FORMAT || !Array.isArray(content.conversations)) {
    throw new Error("This file holds no conversations exported from this page.");
  }
  return content;
}

const ROLES = ["user", "assistant", "tool"];
const text = (value) => (typeof value === "string" ? value : "");
const objects = (value) =>
  Array.isArray(value) ? value.filter((each) => each !== null && typeof each === "object") : [];
const number = (value, other = Date.now()) => (Number.isFinite(value) ? value : other);

/** A conversation with only known fields of the right types. */
function checkedConversation(given, renamed) {
  const nodes = objects(given.nodes).filter(({ role, id }) => ROLES.includes(role) && text(id));
  return {
    id: newId(),
    title: text(given.title),
    named: given.named === true,
    pinned: given.pinned === true,
    created: number(given.created),
    updated: number(given.updated),
    system: text(given.system),
    options: checkedOptions(given.options),
    nodes: withParents(nodes.map((node) => checkedNode(node, renamed))),
    chosen: Object.fromEntries(Object.entries(given.chosen ?? {}).filter(([, id]) => text(id))),
    changed: {},
  };
}

/** Options that there are; whether a value is in range, the server says. */
function checkedOptions(given) {
  const known = OPTIONS.filter(({ name }) => given?.[name] !== undefined && given[name] !== null);
  return Object.fromEntries(known.map(({ name }) => [name, given[name]]));
}

/** Nodes with parents before their children; nodes without a parent in the file are left out. */
function withParents(nodes) {
  const seen = new Set([null]);
  return nodes.filter((node) => seen.has(node.parent) && !seen.has(node.id) && seen.add(node.id));
}

function checkedNode(node, renamed) {
  const kept = {
    id: node.id,
    parent: text(node.parent) || null,
    role: node.role,
    text: text(node.text),
    files: objects(node.files).map((file) => checkedFile(file, renamed)),
    created: number(node.created),
    revision: 0,
  };
  if (node.role === "tool") return { ...kept, callId: text(node.callId), name: text(node.name) };
  if (node.role === "user") return kept;
  return { ...kept, ...checkedAnswer(node, renamed) };
}

function checkedFile(file, renamed) {
  const { id, kind, type, name, size } = file;
  const kept = {
    id: renamed.get(id) ?? newId(),
    kind: ["image", "audio", "video", "text", "pdf"].includes(kind) ? kind : "image",
    type: text(type),
    name: text(name),
    size: number(size),
  };
  if (kept.kind !== "pdf") return kept;
  const textId = renamed.get(file.textId) ?? null;
  const pictures = (Array.isArray(file.pictures) ? file.pictures : []).map((one) =>
    renamed.get(one),
  );
  return { ...kept, textId, pictures: pictures.filter(Boolean), pages: number(file.pages) };
}

function checkedAnswer(node, renamed) {
  const calls = objects(node.calls).map((call) => ({
    id: text(call.id),
    name: text(call.name),
    arguments: text(call.arguments),
  }));
  const finish = text(node.finish) || "stop";
  const error = node.error ? { message: text(node.error.message) } : null;
  return {
    reasoning: text(node.reasoning),
    calls,
    model: text(node.model),
    edited: node.edited === true,
    thought: number(node.thought, null),
    finish,
    error,
    usage: numbers(node.usage, ["prompt", "completion", "cached"]),
    times: numbers(node.times, ["start", "first", "latest", "end"]),
    pieces: number(node.pieces, 0),
    rounds: number(node.rounds, 0),
    earlier: checkedPace(node.earlier),
    probabilities: objects(node.probabilities).flatMap((file) => checkedRuns(file, renamed)),
  };
}

/** The numbers of these names; null unless there is a first one. */
function numbers(value, names) {
  if (!Number.isFinite(value?.[names[0]])) return null;
  return Object.fromEntries(names.map((name) => [name, number(value[name], null)]));
}

function checkedPace(value) {
  const names = ["tokens", "rate", "seconds", "wait", "decoding", "rounds"];
  const told = numbers(value, names);
  return told && names.every((name) => told[name] !== null)
    ? { ...told, exact: value.exact === true }
    : null;
}

/** A file with probabilities; what is in it is looked at when it is shown. */
function checkedRuns({ id, until }, renamed) {
  return renamed.has(id) ? [{ id: renamed.get(id), until: number(until, null) }] : [];
}
