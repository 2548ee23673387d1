// Rules for markdown-it, by which no word of an answer is dropped and formulas stay as they are.
//
// The terminal reads answers by the same rules (cli/chat/markdown_parser.py), but for footnotes and
// tasks, which are shown there as they were written.

const DEEPEST = 80; // quotes and lists within each other; markdown-it drops what is 100 deep
const OPENER = /\\\(|\\\[|\\begin\{([A-Za-z]+\*?)\}/y;
const DOLLARS = /\$\$(?:\\.|[^$\\])+\$\$|\$(?![\s$])(?:\\.|[^$\\])*?(?:\\.|[^$\\\s])\$(?!\d)/sy;
const DISPLAY = /\\\[|\$\$|\\begin\{([A-Za-z]+\*?)\}/y;
const CLOSERS = { "\\(": "\\)", "\\[": "\\]", $$: "$$" };
const NOTE = /\[\^([\w-]{1,32})\]/y;
const NOTE_TEXT = /\[\^([\w-]{1,32})\]:[ \t]+(?=\S)/y;
const TASK = /^\[[ xX]\] /;

export function addRules(markdown) {
  const { block, core, inline, renderer, utils } = markdown;
  const [table] = block.ruler.getRules(""); // markdown-it's own, the first of its rules
  block.ruler.at("table", withAllCells(table), { alt: ["paragraph", "reference"] });
  const ended = { alt: ["paragraph", "reference", "blockquote", "list"] };
  block.ruler.before("table", "math", mathBlock, ended);
  block.ruler.before("math", "too_deep", tooDeep);
  block.ruler.before("reference", "note_text", noteText, ended);
  inline.ruler.before("escape", "math", math);
  inline.ruler.before("link", "note", note);
  core.ruler.push("tasks", tasks);
  renderer.rules.math = (tokens, index) =>
    `<span class="math">${utils.escapeHtml(tokens[index].content)}</span>`;
  renderer.rules.note = (tokens, index) =>
    `<sup class="note-mark">${utils.escapeHtml(tokens[index].content)}</sup>`;
  renderer.rules.task = (tokens, index) => `<span class="box">${tokens[index].content}</span> `;
}

// --- formulas: their backslashes are no escapes, their stars no emphasis, their lines no lists

function math(state, silent) {
  const end = mathEnd(state.src, state.pos, state.posMax);
  if (end === null) return false;
  if (!silent) state.push("math", "", 0).content = state.src.slice(state.pos, end);
  state.pos = end;
  return true;
}

/** Where the formula ends that starts here; one that is not closed (yet) goes on to the end. */
function mathEnd(text, start, limit) {
  if (text[start] === "$") {
    const dollars = matchAt(DOLLARS, text, start);
    return dollars && start + dollars[0].length <= limit ? start + dollars[0].length : null;
  }
  // A closing mark alone belongs to a formula that begins in another paragraph.
  if (text.startsWith("\\)", start) || text.startsWith("\\]", start)) return start + 2;
  const opener = matchAt(OPENER, text, start);
  if (!opener) return null;
  const closer = closerOf(opener);
  const end = text.indexOf(closer, start + opener[0].length);
  return end < 0 || end + closer.length > limit ? limit : end + closer.length;
}

function matchAt(pattern, text, start) {
  pattern.lastIndex = start;
  return pattern.exec(text);
}

function closerOf([opener, environment]) {
  return CLOSERS[opener] ?? `\\end{${environment}}`;
}

/** A paragraph that begins with a displayed formula: no line of that ends it. */
function mathBlock(state, start, end, silent) {
  if (state.sCount[start] - state.blkIndent >= 4) return false;
  const opener = matchAt(DISPLAY, lineOf(state, start), 0);
  if (!opener) return false;
  if (silent) return true;
  const closer = closerOf(opener);
  let last = start;
  for (let from = opener[0].length; !lineOf(state, last).includes(closer, from); from = 0) {
    const next = last + 1;
    if (next >= end || state.isEmpty(next) || state.sCount[next] < state.blkIndent) break;
    last = next;
  }
  pushParagraph(state, start, last + 1);
  return true;
}

// --- footnotes, which stand where their text is written, and tasks

/** A number, or the name of a footnote whose text is known: "[^abc]" may be of an expression. */
function note(state, silent) {
  const found = matchAt(NOTE, state.src, state.pos);
  if (!found) return false;
  const [mark, name] = found;
  if (!/^\d+$/.test(name) && !state.env.notes?.has(name)) return false;
  if (!silent) state.push("note", "", 0).content = name;
  state.pos += mark.length;
  return true;
}

/** "[^1]: text", up to an empty line or the next block. */
function noteText(state, start, end, silent) {
  if (state.sCount[start] - state.blkIndent >= 4) return false;
  const found = matchAt(NOTE_TEXT, lineOf(state, start), 0);
  if (!found) return false;
  if (silent) return true;
  const [mark, name] = found;
  (state.env.notes ??= new Set()).add(name);
  const stops = state.md.block.ruler.getRules("paragraph");
  let next = start + 1;
  while (
    next < end &&
    !state.isEmpty(next) &&
    !stops.some((rule) => rule(state, next, end, true))
  ) {
    next += 1;
  }
  const [open, text] = pushParagraph(state, start, next);
  open.attrs = [["class", "footnote"]];
  text.content = text.content.slice(mark.length);
  const shown = Object.assign(new state.Token("note", "", 0), { content: name, level: text.level });
  state.tokens.splice(state.tokens.indexOf(text), 0, shown);
  return true;
}

/** "- [ ] text" with a box, also while the text is written. */
function tasks({ tokens, Token }) {
  tokens.forEach((token, index) => {
    const item = tokens[index - 2];
    if (token.type !== "inline" || item?.type !== "list_item_open") return;
    const [first] = token.children;
    if (first?.type !== "text" || !TASK.test(first.content)) return;
    item.attrJoin("class", "task");
    const box = new Token("task", "", 0);
    box.content = first.content[1] === " " ? "☐" : "☑";
    first.content = first.content.slice(4);
    token.children.unshift(box);
  });
}

// --- what markdown-it would drop

/** A table; cells that a row has beyond the header's are added to the row's last cell. */
function withAllCells(table) {
  return (state, start, end, silent) => {
    const first = state.tokens.length;
    if (!table(state, start, end, silent)) return false;
    const tokens = state.tokens.slice(first);
    const width = tokens.filter(({ type }) => type === "th_open").length;
    let row = null;
    let last = null;
    for (const token of tokens) {
      if (token.type === "tr_open") row = token;
      else if (token.type === "inline") last = token;
      else if (token.type === "tr_close") {
        const more = cellsOf(lineOf(state, row.map[0])).slice(width);
        last.content = [last.content, ...more].join(" | ");
      }
    }
    return true;
  };
}

function cellsOf(line) {
  const cells = line.trim().split(/(?<!\\)\|/);
  if (cells[0] === "") cells.shift();
  if (cells.at(-1) === "") cells.pop();
  return cells.map((cell) => cell.replaceAll("\\|", "|").trim());
}

/** What is nested deeper than anyone reads is plain text. */
function tooDeep(state, start, end, silent) {
  if (silent || state.level < DEEPEST) return false;
  pushParagraph(state, start, end);
  return true;
}

function lineOf(state, line) {
  return state.src.slice(state.bMarks[line] + state.tShift[line], state.eMarks[line]);
}

function pushParagraph(state, start, end) {
  const open = Object.assign(state.push("paragraph_open", "p", 1), { map: [start, end] });
  const inline = state.push("inline", "", 0);
  const content = state.getLines(start, end, state.blkIndent, false).trim();
  Object.assign(inline, { content, map: [start, end], children: [] });
  state.push("paragraph_close", "p", -1);
  state.line = end;
  return [open, inline];
}
