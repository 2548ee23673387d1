// The tokens of an answer with their probabilities. They are many times as large as its text, so that
// they are kept beside the conversation, as files of JSON, and read when somebody wants to see them.
//
// A run is what one chunk brought: {from, to: the part of the answer's text, tokens: [token]}.
// token: [spelling, log-probability, [[spelling, log-probability] of the most likely ones]].
// A spelling is a text or, where that holds only a part of a character, the bytes.
import { newId } from "./tree.js";

export const RUNS_TYPE = "application/vnd.quire.tokens+json";
const MOST = 500; // runs in a file

/** Gathers the runs of an answer that is written. */
export class TokenRuns {
  #runs = [];

  /** `keep(id, blob)` stores a file; the answer `node` has its id at once. */
  constructor(node, keep) {
    Object.assign(this, { node, keep });
  }

  /** Take the tokens of a chunk, whose text begins at `from`. */
  add(chunk, from) {
    const listed = chunk.choices?.[0]?.logprobs?.content ?? [];
    if (!listed.length) return;
    this.#runs.push({ from, to: this.node.text.length, tokens: listed.map(asToken) });
    if (this.#runs.length >= MOST) this.flush();
  }

  flush() {
    if (!this.#runs.length) return;
    const blob = new Blob([JSON.stringify(this.#runs)], { type: RUNS_TYPE });
    const id = newId();
    this.#runs = [];
    this.node.probabilities = [...(this.node.probabilities ?? []), { id, until: null }];
    this.keep(id, blob);
  }
}

function asToken({ token, bytes, logprob, top_logprobs: top = [] }) {
  const rivals = top.map((one) => [spelling(one.token, one.bytes), one.logprob]);
  return [spelling(token, bytes), logprob, rivals];
}

function spelling(text, bytes) {
  return text.includes("\ufffd") && bytes?.length ? bytes : text;
}

/** What is known of the beginning of an answer that the user has changed. */
export function kept({ text, probabilities }, changed) {
  let same = 0;
  while (same < text.length && text[same] === changed[same]) same += 1;
  const until = (before) => Math.min(before ?? Infinity, same);
  return (probabilities ?? []).map((file) => ({ ...file, until: until(file.until) }));
}

/** The runs of an answer, in the order of its text; those that cannot be read are left out. */
export async function readRuns({ text, probabilities }, store) {
  const files = probabilities.map(async ({ id, until }) => {
    const blob = await store.file(id);
    const runs = blob ? parsed(await blob.text()) : [];
    return runs.filter(({ to }) => to <= Math.min(until ?? Infinity, text.length));
  });
  let end = 0;
  return (await Promise.all(files)).flat().filter(({ from, to }) => {
    const follows = from >= end;
    if (follows) end = to;
    return follows;
  });
}

/** The file may be one that was imported. */
function parsed(json) {
  try {
    const runs = JSON.parse(json);
    return Array.isArray(runs) ? runs.filter(isRun) : [];
  } catch {
    return [];
  }
}

function isRun(run) {
  const { from, to, tokens } = run ?? {};
  const isRange = Number.isInteger(from) && Number.isInteger(to) && 0 <= from && from <= to;
  return isRange && Array.isArray(tokens) && tokens.every(isToken);
}

function isToken(token) {
  const isRival = (one) => Array.isArray(one) && isSpelling(one[0]) && Number.isFinite(one[1]);
  return isRival(token) && Array.isArray(token[2]) && token[2].every(isRival);
}

function isSpelling(value) {
  const isByte = (one) => Number.isInteger(one) && 0 <= one && one < 256;
  return typeof value === "string" || (Array.isArray(value) && value.every(isByte));
}

/** The tokens of a run with what each shows of the text: a part, or nothing where it only begins a
 * character. A text may lack blanks at a token's start, and end within a token. */
export function spelt({ tokens }, text) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let at = 0;
  return tokens.map((token) => {
    const written = decoder.decode(bytesOf(token[0]), { stream: true });
    const shown = overlap(written, text.slice(at)) ?? overlap(written.trimStart(), text.slice(at));
    at += shown?.length ?? 0;
    return { token, shown: shown ?? "" };
  });
}

function overlap(written, text) {
  if (text.startsWith(written)) return written;
  return text && written.startsWith(text) ? text : null;
}

function bytesOf(written) {
  return typeof written === "string"
    ? new TextEncoder().encode(written)
    : Uint8Array.from(written);
}
