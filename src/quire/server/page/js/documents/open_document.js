// The text of an OpenDocument text (.odt), as LibreOffice writes it.
import { attribute, checkDepth, child, childrenOf, number } from "./archive.js";
import { Blocks, cleaned, link, MOST_COLUMNS, note } from "./blocks.js";
import { Counters, LEVELS, LONGEST_LABEL, written } from "./numbering.js";

const WITHOUT_TEXT = [
  "tracked-changes",
  "annotation",
  "hidden-text",
  "hidden-paragraph",
  "ruby-text",
  "note-citation",
  "forms",
  "sequence-decls",
];
const DRAWN = [
  "frame",
  "custom-shape",
  "g",
  "rect",
  "ellipse",
  "circle",
  "polygon",
  "path",
  "line",
  "polyline",
  "connector",
  "caption",
  "control",
];
const FORMS = new Map([
  ["a", "lowerLetter"],
  ["A", "upperLetter"],
  ["i", "lowerRoman"],
  ["I", "upperRoman"],
  ["", "none"],
]);
const BULLETS = ["list-level-style-bullet", "list-level-style-image"];
const ROWS = ["table-header-rows", "table-rows", "table-row-group"];
const MOST_BLANKS = 1000;

/** The text of a document. */
export async function openDocumentText(archive) {
  const content = await archive.xml("content.xml");
  return new Reading(await archive.xmlIfAny("styles.xml"), content).read();
}

/** Reads a document once: numbers and notes are counted. */
class Reading {
  #outlined = new Counters();
  #counters = new Map(); // style -> Counters
  #notes = [];
  #boxes = [];

  constructor(common, content) {
    const styles = [...childrenOf(common), ...childrenOf(content)].flatMap(childrenOf);
    const lists = styles.filter((one) => one.localName === "list-style");
    this.lists = new Map(lists.map((one) => [attribute(one, "name") ?? "", levelsOf(one)]));
    const hides = (one) => attribute(child(one, "text-properties"), "display") === "none";
    this.hidden = new Set(styles.filter(hides).map((one) => attribute(one, "name")));
    this.outline = levelsOf(styles.find((one) => one.localName === "outline-style"));
    this.body = child(content, "body", "text");
  }

  read() {
    const blocks = new Blocks();
    if (this.body) this.#readBlocks(this.body, blocks, 0);
    for (let index = 0; index < this.#notes.length; index += 1) {
      const within = new Blocks();
      this.#readBlocks(this.#notes[index], within, 0);
      blocks.add(note(index + 1, within.text));
    }
    return blocks.text;
  }

  #readBlocks(parent, blocks, depth) {
    checkDepth(depth);
    for (const one of childrenOf(parent)) {
      const name = one.localName;
      if (name === "p" || name === "h") this.#readParagraph(one, blocks, depth);
      else if (name === "list") this.#readList(one, null, 0, blocks, depth + 1);
      else if (name === "table") this.#readTable(one, blocks, depth + 1);
      else if (!WITHOUT_TEXT.includes(name)) this.#readBlocks(one, blocks, depth + 1); // sections, frames
    }
  }

  #readParagraph(element, blocks, depth, level = 0, label = "") {
    const text = this.#line(element, depth);
    if (element.localName === "h") {
      const outline = number(attribute(element, "outline-level"), 1);
      const mark = label || this.#outlineLabel(element, outline);
      blocks.heading(outline, ["", "-"].includes(mark) ? text : `${mark} ${text}`);
    } else if (label) blocks.item(level, label, text);
    else blocks.add(text);
    const boxes = this.#boxes;
    this.#boxes = [];
    for (const box of boxes) this.#readBlocks(box, blocks, depth + 1);
  }

  #outlineLabel(heading, level) {
    if (attribute(heading, "is-list-header") === "true" || !this.outline.has(level - 1)) return "";
    return labelOf(this.outline, this.#outlined, level - 1);
  }

  // --- lists

  #readList(element, around, level, blocks, depth) {
    checkDepth(depth);
    const style = attribute(element, "style-name") || around || "";
    const goesOn = attribute(element, "continue-numbering") === "true";
    if (style !== around && !goesOn && attribute(element, "continue-list") === null) {
      this.#counters.set(style, new Counters());
    }
    for (const one of childrenOf(element)) {
      if (["list-item", "list-header"].includes(one.localName)) {
        this.#readItem(one, style, Math.min(level, LEVELS - 1), blocks, depth + 1);
      }
    }
  }

  #readItem(item, style, level, blocks, depth) {
    if (!this.#counters.has(style)) this.#counters.set(style, new Counters());
    const counters = this.#counters.get(style);
    const start = attribute(item, "start-value");
    let isLabelled = item.localName === "list-header";
    for (const one of childrenOf(item)) {
      if (one.localName === "list") this.#readList(one, style, level + 1, blocks, depth + 1);
      else if (!["p", "h"].includes(one.localName)) continue;
      else if (isLabelled) this.#readParagraph(one, blocks, depth);
      else {
        if (start !== null) counters.values[level] = number(start, 1) - 1;
        const label = labelOf(this.lists.get(style) ?? new Map(), counters, level);
        this.#readParagraph(one, blocks, depth, level, label);
        isLabelled = true;
      }
    }
  }

  // --- what stands in a line

  #line(element, depth) {
    const line = [];
    if (!this.hidden.has(attribute(element, "style-name"))) this.#readInline(element, line, depth);
    return line.join("");
  }

  #readInline(parent, line, depth) {
    checkDepth(depth);
    let text = "";
    for (const one of parent.childNodes) {
      if (one.nodeType === Node.TEXT_NODE || one.nodeType === Node.CDATA_SECTION_NODE) {
        text += one.data;
      } else if (one.nodeType === Node.ELEMENT_NODE) {
        say(line, text);
        text = "";
        this.#readWithin(one, one.localName, line, depth + 1);
      }
    }
    say(line, text);
  }

  #readWithin(one, name, line, depth) {
    if (name === "s") {
      const blanks = number(attribute(one, "c"), 1);
      line.push(" ".repeat(Math.min(Math.max(blanks, 0), MOST_BLANKS)));
    } else if (name === "tab") line.push("\t");
    else if (name === "line-break") line.push("\n");
    else if (name === "note") this.#refer(child(one, "note-body"), line);
    else if (name === "a") {
      const within = [];
      this.#readInline(one, within, depth);
      const address = attribute(one, "href") ?? "";
      line.push(link(within.join(""), address.startsWith("#") ? null : address));
    } else if (DRAWN.includes(name)) this.#boxes.push(one);
    else if (!WITHOUT_TEXT.includes(name) && !this.hidden.has(attribute(one, "style-name"))) {
      this.#readInline(one, line, depth);
    }
  }

  #refer(body, line) {
    if (!body) return;
    this.#notes.push(body);
    line.push(`[^${this.#notes.length}]`);
  }

  // --- tables

  #readTable(table, blocks, depth) {
    const rows = [];
    for (const row of rowsOf(table, depth)) {
      const cells = [];
      for (const cell of childrenOf(row)) {
        if (!["table-cell", "covered-table-cell"].includes(cell.localName)) continue;
        const within = new Blocks({ isCell: true });
        this.#readBlocks(cell, within, depth + 1);
        const times = number(attribute(cell, "number-columns-repeated"), 1);
        cells.push(...Array(Math.min(Math.max(times, 1), MOST_COLUMNS)).fill(within.text));
      }
      rows.push(cells);
    }
    blocks.table(rows);
  }
}

function* rowsOf(parent, depth) {
  checkDepth(depth);
  for (const one of childrenOf(parent)) {
    if (one.localName === "table-row") yield one;
    else if (ROWS.includes(one.localName)) yield* rowsOf(one, depth + 1);
  }
}

/** The levels of a list's style, from 0 on. */
function levelsOf(style) {
  const found = childrenOf(style).filter((one) => attribute(one, "level") !== null);
  return new Map(found.map((one) => [number(attribute(one, "level"), 1) - 1, one]));
}

/** A level; the first one stands for those that are not told. */
function levelAt(levels, level) {
  return levels.get(level) ?? levels.get(0);
}

function labelOf(levels, counters, wanted) {
  const one = levelAt(levels, wanted);
  const level = Math.min(Math.max(wanted, 0), LEVELS - 1);
  counters.advance(level, number(attribute(one, "start-value"), 1));
  if (!one || BULLETS.includes(one.localName)) return "-";
  const shown = number(attribute(one, "display-levels"), 1);
  const numbers = [];
  for (let at = Math.max(0, level - shown + 1); at <= level; at += 1) {
    numbers.push(written(valueOf(levels, counters, at), formOf(levelAt(levels, at))));
  }
  const text = numbers.filter(Boolean).join(".");
  if (!text) return "";
  const label = `${attribute(one, "num-prefix") ?? ""}${text}${attribute(one, "num-suffix") ?? ""}`;
  return label.slice(0, LONGEST_LABEL).trim();
}

function valueOf(levels, counters, level) {
  return counters.values[level] ?? number(attribute(levelAt(levels, level), "start-value"), 1);
}

function formOf(level) {
  return FORMS.get(attribute(level, "num-format") ?? "") ?? "decimal";
}

/** Blanks and line breaks of the file are one blank, and none before a text: others are elements. */
function say(line, text) {
  if (!text) return;
  const words = cleaned(text).replace(/ +/g, " ");
  line.push(line.length ? words : words.replace(/^ /, ""));
}
