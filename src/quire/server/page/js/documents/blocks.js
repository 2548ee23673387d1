// The text of a document, block by block, as Markdown.

const MOST_TEXT = 5_000_000; // characters of a document
export const MOST_COLUMNS = 63; // that a cell may take: Word's own limit
const MOST_LEVEL = 6;

/** Text as it stands in a file, whose tabs and line breaks are elements of their own. */
export function cleaned(text) {
  return text.replace(/[\x7f-\x9f\ufeff]/g, "").replace(/[\t\n\r\u2028\u2029]/g, " ");
}

/** Headings, paragraphs, items of lists and tables, in their order. `isCell`: they stand in a table,
 * which can hold no other. */
export class Blocks {
  #blocks = [];
  #length = 0;

  constructor({ isCell = false } = {}) {
    this.isCell = isCell;
  }

  /** Add a block, unless it is blank; items of lists stand close together. */
  add(text, { isItem = false } = {}) {
    const block = withoutBlankEnds(text);
    if (!block) return;
    this.#length += block.length;
    if (this.#length > MOST_TEXT) throw tooLong();
    this.#blocks.push({ text: block, isItem });
  }

  /** Add a heading, in one line. */
  heading(level, text) {
    const words = text.trim().split(/\s+/).join(" ");
    if (words) this.add(`${"#".repeat(Math.min(Math.max(level, 1), MOST_LEVEL))} ${words}`);
  }

  /** Add an item of a list; its further lines stand below its text. */
  item(level, label, text) {
    if (!text.trim()) return;
    const indent = "  ".repeat(Math.min(Math.max(level, 0), 9));
    const further = `\n${indent}${" ".repeat(label.length + 1)}`;
    const words = text.trim().split("\n").join(further);
    this.add(`${indent}${label} ${words}`, { isItem: true });
  }

  /** Add a table; one of a single column is a frame around its text. */
  table(all) {
    const length = all.flat().reduce((sum, cell) => sum + cell.length, 0);
    if (length > MOST_TEXT) throw tooLong();
    const rows = all.filter((cells) => cells.some((cell) => cell.trim()));
    const width = rows.reduce((most, cells) => Math.max(most, cells.length), 0);
    if (width < 2 || this.isCell) {
      for (const cells of rows) this.add(cells.map((cell) => cell.trim()).join(" / "));
      return;
    }
    const head = [...rows[0], ...Array(width - rows[0].length).fill("")];
    this.add([head, Array(width).fill("---"), ...rows.slice(1)].map(row).join("\n"));
  }

  /** All blocks. */
  get text() {
    const between = (index) => {
      if (index === 0) return "";
      return this.#blocks[index].isItem && this.#blocks[index - 1].isItem ? "\n" : "\n\n";
    };
    return this.#blocks.map(({ text }, index) => between(index) + text).join("");
  }
}

/** The error of a document that has more text than is read. */
export function tooLong() {
  return new Error(`it has more than ${MOST_TEXT.toLocaleString("en")} characters`);
}

function row(cells) {
  return `| ${cells.map(cellText).join(" | ")} |`;
}

function cellText(text) {
  return text.trim().replaceAll("|", "\\|").replace(/\n+ */g, "<br>");
}

/** Without blanks at the ends of lines, and blank lines around. */
function withoutBlankEnds(text) {
  const lines = text.split("\n").map((line) => line.trimEnd());
  const first = lines.findIndex((line) => line);
  return first < 0 ? "" : lines.slice(first, lines.findLastIndex((line) => line) + 1).join("\n");
}

/** A link's text with its address, where the text is not the address. */
export function link(text, address) {
  const words = text.trim();
  if (!address || !words || words === address || `mailto:${words}` === address) return text;
  return `[${text}](${address})`;
}

/** A footnote's text. */
export function note(mark, text) {
  return `[^${mark}]: ${text.trim().split("\n").join("\n    ")}`;
}
