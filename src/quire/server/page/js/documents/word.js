// The text of a Word document (Office Open XML), as it is read once all changes are accepted.
import { attribute, branch, checkDepth, child, childrenOf, number, relations } from "./archive.js";
import { Blocks, cleaned, link, MOST_COLUMNS, note } from "./blocks.js";
import { headingLevel, isOn, WordLists, WordStyles } from "./word_styles.js";

// What stands around blocks, rows and cells, and is none itself.
const AROUND = ["sdt", "sdtContent", "customXml", "smartTag", "ins", "moveTo", "body"];
const WITHOUT_TEXT = ["del", "moveFrom", "delText", "rPr", "pPr", "sdtPr", "rt", "rubyPr"];
const SIGNS = { __proto__: null, tab: "\t", ptab: "\t", br: "\n", cr: "\n", noBreakHyphen: "-" };
const DRAWN = ["drawing", "pict", "object"];
const MATHS = {
  __proto__: null,
  f: "(num)/(den)",
  sSup: "e^(sup)",
  sSub: "e_(sub)",
  sSubSup: "e_(sub)^(sup)",
  rad: "√(e)",
};
const ADDRESS = /^\s*HYPERLINK\s+(?:"([^"]*)"|([^\s"\\]\S*))/i;
const MOST_FIELDS = 200; // within one another

/** The text of a document whose main part is `part`, with `root` for its root element. */
export async function wordText(archive, part, root) {
  const known = await relations(archive, part);
  const partOf = new Map([...known.values()]);
  const xml = (kind) => archive.xmlIfAny(partOf.get(kind));
  const styles = new WordStyles(await xml("styles"));
  const lists = new WordLists(await xml("numbering"), styles);
  const footnote = notesOf(await xml("footnotes"));
  const endnote = notesOf(await xml("endnotes"));
  const body = child(root, "body");
  return new Reading({ known, styles, lists, notes: { footnote, endnote } }).read(body);
}

/** Reads a document once: numbers and notes are counted. */
class Reading {
  #noted = [];
  #fields = []; // those that are open: {code, line and start: where its result begins}
  #boxes = [];
  #isHidden = false;

  constructor(parts) {
    Object.assign(this, parts);
  }

  read(body) {
    const blocks = new Blocks();
    if (body) this.#readBlocks(body, blocks, 0);
    // A note may refer to another.
    for (let index = 0; index < this.#noted.length; index += 1) {
      const within = new Blocks();
      this.#readBlocks(this.#noted[index], within, 0);
      blocks.add(note(index + 1, within.text));
    }
    return blocks.text;
  }

  #readBlocks(parent, blocks, depth) {
    let line = [];
    for (const one of flat(parent, depth)) {
      if (one.localName === "tbl") this.#readTable(one, blocks, depth + 1);
      else if (one.localName === "p") {
        this.#readLine(one, line, depth + 1);
        if (!goesOn(one)) {
          this.#addParagraph(one, line.join(""), blocks);
          line = [];
        }
        this.#readBoxes(blocks, depth + 1);
      }
    }
    blocks.add(line.join(""));
  }

  /** Text boxes stand behind the paragraph that holds them. */
  #readBoxes(blocks, depth) {
    const boxes = this.#boxes;
    this.#boxes = [];
    for (const box of boxes) this.#readBlocks(box, blocks, depth);
  }

  // --- paragraphs

  #addParagraph(paragraph, text, blocks) {
    const properties = child(paragraph, "pPr");
    const style = attribute(child(properties, "pStyle"), "val");
    const { level, label } = this.#label(properties, style);
    const outline = attribute(child(properties, "outlineLvl"), "val");
    const heading = outline === null ? this.styles.heading(style) : headingLevel(outline);
    if (heading !== null) {
      blocks.heading(heading, ["", "-"].includes(label) ? text : `${label} ${text}`);
    } else if (label) blocks.item(level, label, text);
    else blocks.add(text);
  }

  #label(properties, style) {
    const numbered = child(properties, "numPr");
    let id = attribute(child(numbered, "numId"), "val");
    let level = attribute(child(numbered, "ilvl"), "val");
    const byStyle = this.styles.listOf(style);
    if (id === null && byStyle) {
      id = byStyle.id;
      level = level || byStyle.level || String(this.lists.levelOf(id, byStyle.style));
    }
    if (id === null) return { level: 0, label: "" };
    return { level: number(level), label: this.lists.label(id, number(level)) };
  }

  // --- what stands in a line

  #readLine(paragraph, line, depth) {
    const style = attribute(child(paragraph, "pPr", "pStyle"), "val");
    const before = this.#isHidden;
    this.#isHidden = this.styles.isHidden(style);
    this.#readInline(paragraph, line, depth);
    this.#isHidden = before;
    for (const one of this.#fields) one.line ??= line; // a code whose end is missing hides no other
  }

  #readInline(parent, line, depth) {
    checkDepth(depth);
    for (const one of childrenOf(parent)) {
      const name = one.localName;
      if (name === "r") this.#readRun(one, line, depth + 1);
      else if (name === "t") this.#say(line, cleaned(one.textContent));
      else if (name in SIGNS) this.#say(line, SIGNS[name]);
      else if (name === "sym") this.#say(line, symbol(attribute(one, "char")));
      else if (name === "instrText") {
        if (this.#fields.length) this.#fields.at(-1).code += one.textContent;
      } else if (name === "fldChar") this.#passFieldSign(attribute(one, "fldCharType"), line);
      else if (name === "footnoteReference") this.#refer(this.notes.footnote, one, line);
      else if (name === "endnoteReference") this.#refer(this.notes.endnote, one, line);
      else if (name === "hyperlink" || name === "fldSimple") this.#readLink(one, line, depth + 1);
      else if (DRAWN.includes(name)) this.#findBoxes(one, depth + 1);
      else if (name === "AlternateContent") this.#readInline(branch(one), line, depth + 1);
      else if (name in MATHS) this.#readMaths(one, MATHS[name], line, depth + 1);
      else if (!WITHOUT_TEXT.includes(name)) this.#readInline(one, line, depth + 1);
    }
  }

  #readRun(run, line, depth) {
    const properties = child(run, "rPr");
    const isHidden = isOn(child(properties, "vanish"));
    const style = attribute(child(properties, "rStyle"), "val");
    const before = this.#isHidden;
    this.#isHidden = isHidden ?? (before || this.styles.isHidden(style));
    this.#readInline(run, line, depth);
    this.#isHidden = before;
  }

  /** Add to a line, unless it is hidden, or part of a field's code. */
  #say(line, text) {
    if (!this.#isHidden && this.#fields.every((one) => one.line)) line.push(text);
  }

  #passFieldSign(kind, line) {
    if (kind === "begin" && this.#fields.length < MOST_FIELDS) {
      this.#fields.push({ code: "", line: null, start: 0 });
    } else if (kind === "separate" && this.#fields.length) {
      Object.assign(this.#fields.at(-1), { line, start: line.length });
    } else if (kind === "end" && this.#fields.length) {
      const ended = this.#fields.pop();
      if (ended.line !== line) return; // it is of several paragraphs
      const text = line.splice(ended.start).join("");
      line.push(link(text, addressOf(ended.code)));
    }
  }

  #readLink(element, line, depth) {
    const within = [];
    this.#readInline(element, within, depth);
    const code = attribute(element, "instr");
    line.push(link(within.join(""), code === null ? this.#target(element) : addressOf(code)));
  }

  #target(element) {
    const [kind, address] = this.known.get(attribute(element, "id") ?? "") ?? [];
    return kind === "hyperlink" ? address : null;
  }

  #refer(notes, reference, line) {
    const id = attribute(reference, "id") ?? "";
    if (!notes.has(id)) return;
    this.#noted.push(notes.get(id));
    notes.delete(id);
    this.#say(line, `[^${this.#noted.length}]`);
  }

  #findBoxes(parent, depth) {
    checkDepth(depth);
    for (const one of childrenOf(parent)) {
      if (one.localName === "txbxContent") this.#boxes.push(one);
      else this.#findBoxes(one.localName === "AlternateContent" ? branch(one) : one, depth + 1);
    }
  }

  /** A formula in one line. */
  #readMaths(element, form, line, depth) {
    for (const [piece] of form.matchAll(/[a-z]+|[^a-z]+/g)) {
      const part = child(element, piece);
      if (part) this.#readInline(part, line, depth);
      else if (!/[a-z]/.test(piece)) this.#say(line, piece);
    }
  }

  // --- tables

  #readTable(table, blocks, depth) {
    const rows = [];
    for (const row of flat(table, depth)) {
      const properties = child(row, "trPr");
      if (row.localName !== "tr" || child(properties, "del")) continue;
      const before = number(attribute(child(properties, "gridBefore"), "val"));
      const cells = Array(Math.min(Math.max(before, 0), MOST_COLUMNS)).fill("");
      for (const cell of flat(row, depth)) {
        if (cell.localName === "tc") this.#readCell(cell, cells, depth + 1);
      }
      rows.push(cells);
    }
    blocks.table(rows);
  }

  #readCell(cell, cells, depth) {
    const properties = child(cell, "tcPr");
    const merged = child(properties, "vMerge");
    const within = new Blocks({ isCell: true });
    if (!merged || attribute(merged, "val") === "restart") this.#readBlocks(cell, within, depth);
    const span = number(attribute(child(properties, "gridSpan"), "val"), 1);
    const further = Math.max(Math.min(span, MOST_COLUMNS) - 1, 0);
    cells.push(within.text, ...Array(further).fill(""));
  }
}

/** Children, those of what stands around them too. */
function* flat(parent, depth) {
  checkDepth(depth);
  for (const one of childrenOf(parent)) {
    if (one.localName === "AlternateContent") yield* flat(branch(one), depth + 1);
    else if (AROUND.includes(one.localName)) yield* flat(one, depth + 1);
    else yield one;
  }
}

/** Whether the next paragraph follows in the same line: its own end is deleted, or it is a large
 * initial. */
function goesOn(paragraph) {
  const properties = child(paragraph, "pPr");
  const initial = attribute(child(properties, "framePr"), "dropCap");
  return child(properties, "rPr", "del") !== null || ["drop", "margin"].includes(initial);
}

function notesOf(root) {
  return new Map(childrenOf(root).map((one) => [attribute(one, "id") ?? "", one]));
}

function addressOf(code) {
  const match = ADDRESS.exec(code);
  return match && (match[1] || match[2] || null);
}

/** A sign of a font; those of symbol fonts have places of their own, and no letters. */
function symbol(code) {
  if (code === null || !/^[0-9A-Fa-f]{1,4}$/.test(code)) return "";
  const value = Number.parseInt(code, 16);
  const isLetter = (32 <= value && value < 0xd800) || (0xf900 <= value && value < 0xfffe);
  return isLetter ? String.fromCharCode(value) : "";
}
