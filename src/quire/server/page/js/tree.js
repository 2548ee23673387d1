// A conversation: a tree of messages, of which one path is shown, as plain values and functions.
//
// {id, title, named, pinned, created, updated, system, options: {name: value}, nodes: [node],
//  chosen: {parent or "": child}, changed: {title, pinned, system, options: when the user wrote it}}
// node: {id, parent, role: user | assistant | tool, text, files, created, revision} and, of the
// assistant, {reasoning, calls, model, edited, finish, error, usage, times, pieces, held: what there is of a
// call that is being written, rounds: how often it went on, earlier: the pace before that, probabilities:
// [{id, until}], files with those of the text up to a place, or of all that they have}; of a tool,
// {callId, name}.

const TITLE_LENGTH = 60;

export function newId() {
  // randomUUID is there in secure contexts alone, and this page may come over plain http.
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newConversation(system = "") {
  const now = Date.now();
  return {
    id: newId(),
    title: "",
    named: false,
    pinned: false,
    created: now,
    updated: now,
    system,
    options: {},
    nodes: [],
    chosen: {},
    changed: {},
  };
}

/** Add a message after `parent` (null: as a first one), and show it. */
export function addNode(conversation, parent, fields) {
  const node = {
    id: newId(),
    parent,
    text: "",
    files: [],
    created: Date.now(),
    revision: 0,
    ...fields,
  };
  conversation.nodes.push(node);
  conversation.chosen[parent ?? ""] = node.id;
  conversation.updated = node.created;
  if (!conversation.named && !conversation.title && node.role === "user") {
    conversation.title = titleOf(node);
  }
  return node;
}

function titleOf(node) {
  const line = node.text.trim().split("\n")[0].replace(/\s+/g, " ");
  if (!line) return node.files[0]?.name ?? "";
  return line.length > TITLE_LENGTH ? `${line.slice(0, TITLE_LENGTH - 1).trimEnd()}…` : line;
}

export function find(conversation, id) {
  return conversation.nodes.find((node) => node.id === id) ?? null;
}

/** A message and its alternatives, in the order of their creation. */
export function siblings(conversation, node) {
  return conversation.nodes.filter((other) => other.parent === node.parent);
}

/** The shown messages, first to last. */
export function shownPath(conversation) {
  const children = Map.groupBy
    ? Map.groupBy(conversation.nodes, (node) => node.parent)
    : grouped(conversation.nodes);
  const path = [];
  for (let below = children.get(null); below?.length; below = children.get(path.at(-1).id)) {
    const chosen = conversation.chosen[below[0].parent ?? ""];
    path.push(below.find((node) => node.id === chosen) ?? below.at(-1));
  }
  return path;
}

function grouped(nodes) {
  const groups = new Map();
  for (const node of nodes) groups.set(node.parent, [...(groups.get(node.parent) ?? []), node]);
  return groups;
}

/** The messages from the first to this one. */
export function pathTo(conversation, id) {
  const byId = new Map(conversation.nodes.map((node) => [node.id, node]));
  const path = [];
  for (let node = byId.get(id); node; node = byId.get(node.parent)) path.unshift(node);
  return path;
}

/** Show the alternative `step` further on; returns it, or null past either end. */
export function switchBranch(conversation, node, step) {
  const all = siblings(conversation, node);
  const other = all[all.indexOf(node) + step] ?? null;
  if (other) conversation.chosen[node.parent ?? ""] = other.id;
  return other;
}

/** Show a message, by the versions that lead to it. */
export function choose(conversation, node) {
  for (const each of pathTo(conversation, node.id))
    conversation.chosen[each.parent ?? ""] = each.id;
}

/** An order of conversations. */
export function latestFirst(one, other) {
  return other.updated - one.updated;
}

/** Conversations with those that are pinned before the others. */
export function pinnedFirst(all) {
  return [...all.filter(({ pinned }) => pinned), ...all.filter(({ pinned }) => !pinned)];
}

/** The path without questions that got no answer: those that were refused would be refused again,
 * with all that follows them. */
export function answered(path) {
  const kept = [];
  for (const node of path) {
    if (!isUnanswered(node)) kept.push(node);
    else while (kept.length && kept.at(-1).role !== "assistant") kept.pop();
  }
  return kept;
}

/** Whether an answer was refused, or broken off before its first word. */
export function isUnanswered({ role, text, calls, finish }) {
  const broken = role === "assistant" && ["error", "stopped", "cut"].includes(finish);
  return broken && !text && !calls.length;
}

/** The calls of an answer that have no result on the shown path. */
export function openCalls(path) {
  const last = path.findLastIndex((node) => node.role === "assistant");
  const answered = new Set(path.slice(last + 1).map((node) => node.callId));
  const after = path.slice(last + 1).every((node) => node.role === "tool");
  return after ? (path[last]?.calls ?? []).filter((call) => !answered.has(call.id)) : [];
}

// --- the same conversation in several tabs

/** Whether an answer is being written, by this tab or another one. */
export function isOpen(node) {
  return node.role === "assistant" && node.finish === null;
}

/** Take over what another tab has done with the same conversation; returns whether it changed. */
export function absorb(conversation, other) {
  const known = new Map(conversation.nodes.map((node) => [node.id, node]));
  const before = conversation.nodes.length;
  let changed = false;
  for (const node of other.nodes) {
    const mine = known.get(node.id);
    if (!mine) conversation.nodes.push(node);
    else if (reach(node) > reach(mine)) {
      Object.assign(mine, node, { revision: mine.revision + 1 });
      changed = true;
    }
  }
  if (conversation.nodes.length > before) {
    conversation.nodes.sort((one, two) => one.created - two.created || (one.id < two.id ? -1 : 1));
    changed = true;
  }
  conversation.chosen = { ...other.chosen, ...conversation.chosen };
  conversation.updated = Math.max(conversation.updated, other.updated);
  return absorbNames(conversation, other) || changed;
}

const ROUND = 1e9; // more than the pieces of an answer

/** How far a copy of a node has come: the tab that writes an answer is ahead of all others. */
function reach({ role, finish, times, pieces = 0, rounds = 0 }) {
  if (role !== "assistant") return 0;
  const before = rounds * ROUND;
  if (finish === null) return before + pieces;
  if (finish === "cut") return before + pieces + 0.25; // said by a tab that only watches
  return before + (times?.end === null ? pieces + 0.5 : ROUND / 2);
}

function absorbNames(conversation, other) {
  const later = (name) => (other.changed?.[name] ?? 0) > (conversation.changed?.[name] ?? 0);
  const renamed = later("title") || (!conversation.title && other.title !== "");
  const { title, named } = other;
  if (renamed) Object.assign(conversation, { title, named });
  const others = ["pinned", "system", "options"].filter(later);
  for (const name of others) conversation[name] = other[name];
  conversation.changed = { ...conversation.changed };
  for (const [name, time] of Object.entries(other.changed ?? {})) {
    conversation.changed[name] = Math.max(time, conversation.changed[name] ?? 0);
  }
  return renamed || others.length > 0;
}
