// Texts that the user has saved to be used again: [{id, name, text}], in localStorage, which all tabs read
// anew each time that they show or change them.
import { newId } from "./tree.js";

export const KEY = "quire.prompts";
export const LONGEST_NAME = 60;
const BLANK = /\{\{[^{}\n]*\}\}/g;

/** All prompts, by their names. */
export function readPrompts() {
  try {
    return checked(JSON.parse(localStorage.getItem(KEY))).sort(byName);
  } catch {
    return []; // nothing is kept, or nothing can be
  }
}

/** Those of the prompts of a file that can be used. */
export function checked(given) {
  const isText = (value) => typeof value === "string" && value.trim() !== "";
  const usable = (Array.isArray(given) ? given : []).filter((one) => isText(one?.name) && isText(one.text));
  return usable.map(({ id, name, text }) => ({ id: isText(id) ? id : newId(), name: nameFrom(name), text }));
}

/** Whether a prompt other than `id` has a name. */
export function isTaken(name, id) {
  return readPrompts().some((one) => one.id !== id && isSame(one.name, nameFrom(name)));
}

/** Keep a prompt, a new one if it has no id. Throws an Error where the browser cannot. */
export function savePrompt({ id = null, name, text }) {
  const others = readPrompts().filter((one) => one.id !== id);
  write([...others, { id: id ?? newId(), name: nameFrom(name), text }]);
}

/** Returns the prompt. */
export function deletePrompt(id) {
  const all = readPrompts();
  write(all.filter((one) => one.id !== id));
  return all.find((one) => one.id === id);
}

/** Add the prompts of a file; those that are here already are left out, and a name that is here with
 * another text gets a number. Returns how many were added. */
export function addPrompts(given) {
  const all = readPrompts();
  const isKnown = ({ name, text }) => all.some((one) => isSame(one.name, name) && one.text === text);
  const added = given.filter((one) => !isKnown(one));
  for (const { name, text } of added) all.push({ id: newId(), name: freeName(name, all), text });
  if (added.length) write(all);
  return added.length;
}

/** Prompts whose names have all words of a query, those that begin with it first. */
export function found(prompts, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const has = ({ name }) => words.every((word) => name.toLowerCase().includes(word));
  const begins = ({ name }) => name.toLowerCase().startsWith(words[0] ?? "");
  const all = prompts.filter(has);
  return [...all.filter(begins), ...all.filter((one) => !begins(one))];
}

/** {start, end} of the first blank, such as {{topic}}, of a text at or after a place; null without one. */
export function blankIn(text, from) {
  BLANK.lastIndex = from;
  const match = BLANK.exec(text);
  return match && { start: match.index, end: match.index + match[0].length };
}

/** A name for a text: its first line. */
export function nameOf(text) {
  return nameFrom(text.trim().split("\n")[0]);
}

/** A name as it is kept: it is typed after a slash. */
function nameFrom(text) {
  const name = text.replace(/\s+/g, " ").replace(/^[/ ]+/, "");
  return name.slice(0, LONGEST_NAME).trim() || "Untitled";
}

function freeName(name, all) {
  let free = name;
  for (let number = 2; all.some((one) => isSame(one.name, free)); number += 1) free = `${name} ${number}`;
  return free;
}

function isSame(one, other) {
  return one.toLowerCase() === other.toLowerCase();
}

function byName(one, other) {
  return one.name.localeCompare(other.name);
}

function write(prompts) {
  try {
    localStorage.setItem(KEY, JSON.stringify(prompts));
  } catch (error) {
    throw new Error(`This browser could not keep the prompt: ${error.message}`);
  }
}
