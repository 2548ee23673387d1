// Long blocks that are settled part by part while they are written: lists by their items, tables by
// their rows, paragraphs by pieces of their text. What follows the settled parts is read as a block of
// its own, after a `head` that makes it one of the same kind.
import { markdown } from "./markdown.js";

const LONG = 2000; // characters; a shorter block is rendered whole
const OPEN = [500, 1000, 2000, 4000]; // characters of a paragraph that are left open, as few as can be
const GUESSED = 8000; // characters of a paragraph, of which a part is taken for settled in any case

class LongList {
  head = "";

  /** Settle the items before the last one of a list that is the only block. */
  static split(tokens, { rest, isCertain, startOf }) {
    const item = rest.length > LONG ? lastItem(tokens, isCertain) : 0;
    if (item === 0) return null;
    const [opener] = tokens;
    return {
      block: new LongList(opener, looseness(tokens)),
      settled: [...tokens.slice(0, item), tokens.at(-1)],
      open: [opener, ...tokens.slice(item)],
      at: startOf(tokens[item].map[0]),
    };
  }

  constructor({ type, markup }, isLoose) {
    Object.assign(this, { type, markup, isLoose });
  }

  /** Whether the tokens begin with more items of the list, and leave those before as they are. An empty
   * line between two items is one for all of the list, whose paragraphs are then apart. */
  continues(tokens, text) {
    const [opener] = tokens;
    if (opener?.type !== this.type || opener.markup !== this.markup) return false;
    const isLoose = looseness(tokens);
    if (isLoose === null) return this.isLoose || !/\n[ \t]*\n/.test(text); // in doubt all is read again
    if (isLoose === this.isLoose) return true;
    if (isLoose) return false;
    for (const token of paragraphsOf(tokens)) token.hidden = false;
    return true;
  }
}

/** The token of the last item of a list that is the only block and has paragraphs; 0 if there is no
 * item before it. */
function lastItem(tokens, isCertain) {
  const isList = /_list_open$/.test(tokens[0]?.type);
  if (!isList || blockEnd(tokens) < tokens.length - 1 || looseness(tokens) === null) return 0;
  const isItem = (token) => token.type === "list_item_open" && token.level === 1;
  const last = tokens.findLastIndex((token) => isItem(token) && isCertain(token));
  return last > 1 ? last : 0;
}

/** Whether the paragraphs of a list, the first block, are shown as such; null if it has none. */
function looseness(tokens) {
  const [first] = paragraphsOf(tokens);
  return first ? !first.hidden : null;
}

function paragraphsOf(tokens) {
  const isParagraph = ({ type, level }) => level === 2 && /^paragraph_(?:open|close)$/.test(type);
  return tokens.slice(0, blockEnd(tokens)).filter(isParagraph);
}

/** Where the first block ends. */
function blockEnd(tokens) {
  return tokens.findIndex(({ level, nesting }) => level === 0 && nesting < 0);
}

/** Rows depend on the first two lines alone, which say what columns there are. */
class LongTable {
  static split(tokens, { rest, isCertain, startOf, done }, before) {
    const isAlone = tokens[0]?.type === "table_open" && blockEnd(tokens) === tokens.length - 1;
    if (!isAlone || rest.length < LONG) return null;
    const body = tokens.findIndex(({ type }) => type === "tbody_open") + 1;
    const row = tokens.findLastIndex((token) => token.type === "tr_open" && isCertain(token));
    if (body === 0 || row <= body) return null;
    return {
      block: new LongTable(before?.head ?? firstLines(rest, startOf(tokens[0].map[0]) - done)),
      settled: [...tokens.slice(0, row), ...tokens.slice(-2)],
      open: [...tokens.slice(0, body), ...tokens.slice(row)],
      at: startOf(tokens[row].map[0]),
    };
  }

  constructor(head) {
    this.head = head;
  }

  continues([first]) {
    return first.type === "table_open";
  }
}

/** Two lines of a text. */
function firstLines(text, from) {
  return text.slice(from, text.indexOf("\n", text.indexOf("\n", from) + 1) + 1);
}

/** A piece of a paragraph is settled if nothing in it waits for its end, as a "*" or a "[" may. One that
 * waits too long is taken for settled, and the paragraph is read again once it is complete. */
class LongParagraph {
  head = "x"; // before the piece's blank or letter, so that no block begins there

  static split(tokens, { rest, startOf, done, env }, before, mayGuess) {
    const [opener, inline] = tokens;
    const isAlone = opener?.type === "paragraph_open" && tokens.length === 3;
    if (!isAlone || rest.length < LONG) return null;
    const { content } = inline;
    const from = before ? 0 : rest.indexOf(content, startOf(opener.map[0]) - done);
    if (!rest.startsWith(content, from)) return null;
    const end = cut(content, env, mayGuess);
    if (end === null) return null;
    const piece = (text) => [opener, markdown.parseInline(text, env)[0], tokens[2]];
    return {
      block: new LongParagraph(end.isGuessed || (before?.isGuessed ?? false)),
      settled: piece(content.slice(0, end.at)),
      open: piece(content.slice(end.at)),
      at: done + from + end.at,
    };
  }

  constructor(isGuessed) {
    this.isGuessed = isGuessed;
  }

  /** Takes the head away again. */
  continues([first, inline]) {
    if (first.type !== "paragraph_open") return false; // a line below has made it a heading or a table
    inline.content = inline.content.slice(1);
    inline.children[0].content = inline.children[0].content.slice(1);
    return true;
  }
}

/** {at, isGuessed}: where a piece of a paragraph ends; null if it must not be cut yet. */
function cut(text, env, mayGuess) {
  const limits = OPEN.map((open) => text.length - open).filter((limit) => limit > 0);
  const ends = limits.map((limit) => endBefore(text, limit)).filter((at) => at > 0);
  const at = ends.find((end) => isSettled(text.slice(0, end), text[end], env));
  if (at !== undefined) return { at, isGuessed: false };
  const isFormula = /^(?:\$\$|\\\[|\\begin)/.test(text); // its lines may look like blocks
  if (!mayGuess || isFormula || text.length < GUESSED) return null;
  return ends.length ? { at: ends[0], isGuessed: true } : null;
}

const CUTS = /\S(?= \S)|[\p{L}\p{N}](?=[\p{L}\p{N}])/gu;
const REACH = 200; // characters before a place in which a cut is looked for

/** The last place at or before `limit` where words or letters part. */
function endBefore(text, limit) {
  const from = Math.max(0, limit - REACH);
  const found = [...text.slice(from, limit + 2).matchAll(CUTS)];
  const isBlank = ({ 0: letter, index }) => text[from + index + letter.length] === " ";
  const blank = found.findLast(isBlank);
  const last = blank ?? found.at(-1);
  return last ? from + last.index + last[0].length : 0;
}

/** Whether a piece of a paragraph stays as it is, whatever comes after the character `next`. */
function isSettled(piece, next, env) {
  if (/[\\|$]/.test(piece)) return false; // of escapes, tables and formulas
  if (next !== " " && !isWithinWord(piece, next)) return false;
  const { inline } = markdown;
  const state = new inline.State(piece, markdown, env, []);
  inline.tokenize(state);
  for (const pair of inline.ruler2.getRules("")) pair(state);
  if (state.delimiters.some(({ open, end }) => open && end < 0)) return false;
  const texts = state.tokens.filter(({ type }) => type === "text");
  const plain = texts.map(({ content }) => content).join("");
  return !/`|\]\(/.test(plain) && !hasOpenBracket(plain);
}

/** Between two letters beyond ASCII, in what can be no address, mark or entity. */
function isWithinWord(piece, next) {
  const word = piece.slice(piece.search(/\S*$/));
  return next > "\u007f" && /[^\p{ASCII}]$/u.test(word) && !/[&<:@/]/.test(word);
}

function hasOpenBracket(text) {
  let depth = 0;
  for (const [bracket] of text.matchAll(/[[\]]/g)) {
    depth = bracket === "[" ? depth + 1 : Math.max(0, depth - 1);
  }
  return depth > 0;
}

export const KINDS = [LongList, LongTable, LongParagraph];
