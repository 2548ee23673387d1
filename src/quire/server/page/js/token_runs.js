// The tokens of an answer with their probabilities. They are many times as large as its text, so that
// they are kept beside the conversation, as files of JSON, and read when somebody wants to see them.
//
// A run is what one chunk brought: {from, to: the part of the answer's text, tokens: [token]}.
// token: [spelling, log-probability, [[spelling, log-probability] of the most likely ones]].
// A spelling is a text or, where that holds only a part of a character, the bytes.
import { newId } from "./tree.js";

export const RUNS_TYPE = "application/vnd.quire.tokens+json";
const MOST = 500; // tokens in a file, or a few more

/** Gathers the runs of an answer that is written. */
export class TokenRuns {
  #runs = [];
  #count = 0; // of their tokens

  /** `keep(id, blob)` stores a file; the answer `node` has its id at once. */
  constructor(node, keep) {
    Object.assign(this, { node, keep });
  }

  /** Take the tokens of a chunk, whose text begins at `from`. */
  add(chunk, from) {
    const listed = chunk.choices?.[0]?.logprobs?.content ?? [];
    if (!listed.length) return;
    this.#runs.push({ from, to: this.node.text.length, tokens: listed.map(asToken) });
    this.#count += listed.length;
    if (this.#count >= MOST) this.flush();
  }

  flush() {
    if (!this.#runs.length) return;
    const blob = new Blob([JSON.stringify(this.#runs)], { type: RUNS_TYPE });
    const id = newId();
    this.#runs = [];
    this.#count = 0;
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
