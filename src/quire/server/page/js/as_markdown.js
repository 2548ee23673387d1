// A conversation as Markdown, for other programs and for readers: the versions that are shown.
import { sizeText } from "./files.js";
import { shownPath } from "./tree.js";

/** The text of a file; answers stand in it as the model wrote them. */
export function asMarkdown(conversation) {
  const { title, system, created } = conversation;
  const day = new Date(created).toISOString().slice(0, 10);
  const head = [`# ${oneLine(title) || "Untitled"}`, `*${day}, from quire*`];
  if (system.trim()) head.push("## System", system.trim());
  const messages = shownPath(conversation).flatMap(message);
  return `${[...head, ...messages].join("\n\n")}\n`;
}

/** A name for the file, without what file systems refuse. */
export function fileName(conversation, ending) {
  const words = oneLine(conversation.title).replace(/[^\p{L}\p{N}]+/gu, "-");
  const name = words.replace(/^-+|-+$/g, "").slice(0, 60) || "conversation";
  return `${name}.${ending}`;
}

function message(node) {
  if (node.role === "tool") return [`## Result of ${oneLine(node.name)}`, fenced(node.text)];
  if (node.role === "user") return ["## You", ...node.files.map(attached), ...said(node.text)];
  const calls = node.calls.flatMap((call) => [
    `Calls \`${oneLine(call.name)}\`:`,
    fenced(call.arguments, "json"),
  ]);
  return [`## ${oneLine(node.model) || "Answer"}`, ...thought(node), ...said(node.text), ...calls];
}

function said(text) {
  return text ? [text.trimEnd()] : [];
}

function attached({ name, size }) {
  return `*Attached: ${oneLine(name)}, ${sizeText(size)}*`;
}

/** Folded where Markdown is shown as on the web, and readable elsewhere. */
function thought({ reasoning }) {
  if (!reasoning) return [];
  return ["<details><summary>Thought</summary>", reasoning.trim(), "</details>"];
}

/** Code within a fence that is longer than all in it. */
function fenced(text, language = "") {
  const longest = Math.max(2, ...Array.from(text.matchAll(/`+/g), ([ticks]) => ticks.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}${language}\n${text}\n${fence}`;
}

function oneLine(text) {
  return text.replace(/\s+/g, " ").trim();
}
