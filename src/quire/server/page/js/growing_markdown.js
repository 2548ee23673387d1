// Markdown while it is written. What can no longer change is rendered once, the rest each time.
import { KINDS } from "./growing_blocks.js";
import { markdown, rendered } from "./markdown.js";

/** Renders a growing text.
 *
 * Only a text's last blocks (paragraph, list, code, ...) can still change, so that a frame renders
 * these alone, however long the text is. Of a long list, table or paragraph only the last part can.
 */
export class GrowingMarkdown {
  #env = {};
  #done = 0; // length of the text in settled blocks and parts
  #block = null; // the block of which parts are settled, with its `start` in the text
  #notGuessed = -1; // where a block starts of which parts were wrongly taken for settled

  /** The mark of a code block at the text's end that is not closed yet, or null. */
  openFence = null;

  /** {settled, open}: fragments, of which `open` is rendered again next time. `settledJoins` and
   * `openJoins` say that the fragment begins with more of the block before it, `restarts` that this
   * block has become another one, and all of it is here again. `ended`: the text is complete. */
  read(text, ended = false) {
    const head = this.#block?.head ?? "";
    const rest = text.slice(this.#done);
    const tokens = markdown.parse(head + rest, this.#env);
    const linesBefore = head.split("\n").length - 1;
    const startOf = (line) => lineStart(text, this.#done, line - linesBefore);
    // A start is certain once its first line is complete: a "*" may still become emphasis. A table's is
    // with its second line, which says how many columns there are.
    const isCertain = ({ type, map: [line] }) =>
      text.indexOf("\n", startOf(type === "table_open" ? line + 1 : line)) >= 0;
    const last = tokens.findLastIndex(
      (token) => token.level === 0 && token.nesting >= 0 && isCertain(token),
    );
    const joins = this.#block !== null;
    if (joins && !this.#goesOn(tokens, rest, ended || last > 0)) return this.#restart(text, ended);
    this.openFence = openFence(tokens.at(-1), startOf, text);
    if (last > 0) {
      const settled = rendered(tokens.slice(0, last), this.#env);
      const open = rendered(tokens.slice(last), this.#env);
      this.#done = startOf(tokens[last].map[0]);
      this.#block = null;
      return { settled, open, settledJoins: joins, openJoins: false };
    }
    const split = ended ? null : this.#split(tokens, rest, isCertain, startOf);
    if (!split) {
      const open = rendered(tokens, this.#env);
      return { settled: null, open, settledJoins: false, openJoins: joins };
    }
    this.#block = Object.assign(split.block, { start: this.#block?.start ?? this.#done });
    this.#done = split.at;
    const [settled, open] = [split.settled, split.open].map((each) => rendered(each, this.#env));
    return { settled, open, settledJoins: joins, openJoins: true };
  }

  /** Whether parts of a block were taken for settled that may prove not to be. */
  get guesses() {
    return this.#block?.isGuessed ?? false;
  }

  /** Whether a link's target or a footnote may follow its mark, so that all must be rendered again at
   * the end. */
  get hasReferences() {
    const { references = {}, notes = new Set() } = this.#env;
    return Object.keys(references).length + notes.size > 0;
  }

  /** Start over, since a link's target may have been read before it was complete. */
  forget() {
    this.#done = 0;
    this.#env = {};
    this.#block = null;
  }

  #goesOn(tokens, rest, isOver) {
    return !(isOver && this.guesses) && this.#block.continues(tokens, rest);
  }

  #restart(text, ended) {
    if (this.guesses) this.#notGuessed = this.#block.start;
    this.#done = this.#block.start;
    this.#block = null;
    return { ...this.read(text, ended), restarts: true };
  }

  /** The last block, which is the only one, in a settled part and the rest; null if it is short. */
  #split(tokens, rest, isCertain, startOf) {
    const before = this.#block;
    const source = { rest, isCertain, startOf, done: this.#done, env: this.#env };
    const mayGuess = (before?.start ?? this.#done) !== this.#notGuessed;
    for (const Kind of KINDS) {
      const split = Kind.split(tokens, source, before, mayGuess);
      if (split) return split;
    }
    return null;
  }
}

function openFence(token, startOf, text) {
  if (token?.type !== "fence" || token.level > 0) return null;
  const [first, end] = token.map;
  const { markup } = token;
  const isIndented = !text.startsWith(markup, startOf(first)); // its lines lose their indent
  const last = text.slice(startOf(end - 1)).trimStart();
  return isIndented || (end - 1 > first && last.startsWith(markup)) ? null : markup;
}

function lineStart(text, from, lines) {
  let at = from;
  for (let line = 0; line < lines; line += 1) at = text.indexOf("\n", at) + 1;
  return at;
}
