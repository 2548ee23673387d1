// The text of a presentation (.pptx), slide by slide, with the speaker's notes.
import {
  attribute,
  branch,
  checkDepth,
  child,
  childrenOf,
  number,
  reference,
  relations,
} from "./archive.js";
import { Blocks, cleaned, link } from "./blocks.js";

const TITLES = ["title", "ctrTitle"];
const BESIDE = ["sldNum", "dt", "ftr", "hdr", "sldImg"]; // places for what is on every slide
const LISTED = [null, "body", "obj"]; // places whose paragraphs are items unless they say otherwise

/** The text of all slides. */
export async function slidesText(archive, part, presentation) {
  const blocks = new Blocks();
  const related = await relations(archive, part);
  for (const [at, one] of childrenOf(child(presentation, "sldIdLst")).entries()) {
    const [, target] = related.get(reference(one) ?? "") ?? [];
    if (!archive.has(target)) continue;
    const root = await archive.xml(target);
    const links = await relations(archive, target);
    const partOfNotes = [...links.values()].find(([kind]) => kind === "notesSlide")?.[1];
    const notes = await archive.xmlIfAny(partOfNotes);
    new Slide(root, links, notes).read(at + 1, blocks);
  }
  return blocks.text;
}

/** One slide, with what is said to it. */
class Slide {
  constructor(root, links, notes) {
    this.shapes = [...shapesOf(root, 0)];
    this.notes = notes ? [...shapesOf(notes, 0)] : [];
    this.links = links;
    this.blocks = new Blocks();
  }

  /** Add the text of the slide, which is the one of this number; nothing where it has none. */
  read(at, blocks) {
    const title = this.#lines(this.shapes, TITLES).join(" ").trim();
    for (const shape of this.shapes) {
      if (shape.localName === "tbl") this.#readTable(shape);
      else if (![...TITLES, ...BESIDE].includes(placeOf(shape))) this.#readShape(shape);
    }
    const lines = this.#lines(this.notes, ["body"]);
    if (lines.some((line) => line.trim())) this.blocks.add(["Notes:", ...lines].join("\n"));
    const { text } = this.blocks;
    if (!title && !text) return;
    blocks.heading(1, title ? `Slide ${at}: ${title}` : `Slide ${at}`);
    blocks.add(text);
  }

  #lines(shapes, places) {
    const wanted = shapes.filter((shape) => places.includes(placeOf(shape)));
    return wanted.flatMap(paragraphsOf).map((paragraph) => this.#line(paragraph));
  }

  #readShape(shape) {
    const isList = child(shape, "nvSpPr", "nvPr", "ph") && LISTED.includes(placeOf(shape));
    for (const paragraph of paragraphsOf(shape)) {
      const properties = child(paragraph, "pPr");
      const signs = childrenOf(properties).map((one) => one.localName);
      const isItem = signs.includes("buChar") || signs.includes("buAutoNum");
      const line = this.#line(paragraph);
      if (isItem || (isList && !signs.includes("buNone"))) {
        this.blocks.item(number(attribute(properties, "lvl")), "-", line);
      } else this.blocks.add(line);
    }
  }

  #readTable(table) {
    const rows = childrenOf(table).filter((row) => row.localName === "tr");
    const cells = (row) => childrenOf(row).filter((cell) => cell.localName === "tc");
    this.blocks.table(rows.map((row) => cells(row).map((cell) => this.#cell(cell))));
  }

  #cell(cell) {
    if (attribute(cell, "hMerge") === "1" || attribute(cell, "vMerge") === "1") return "";
    return paragraphsOf(cell)
      .map((paragraph) => this.#line(paragraph))
      .join("\n");
  }

  #line(paragraph) {
    return childrenOf(paragraph)
      .map((one) => this.#piece(one, one.localName))
      .join("");
  }

  #piece(one, name) {
    if (name === "r" || name === "fld") {
      const words = cleaned(child(one, "t")?.textContent ?? "");
      const target = child(one, "rPr", "hlinkClick");
      const [kind, address] = this.links.get(reference(target) ?? "") ?? [];
      return link(words, kind === "hyperlink" ? address : null);
    }
    if (name === "br") return "\n";
    if (name !== "m" && name !== "AlternateContent") return "";
    const texts = branch(one).getElementsByTagNameNS("*", "t"); // a formula
    return cleaned([...texts].map((text) => text.textContent).join(""));
  }
}

/** Shapes with text, and tables, in their order. */
function* shapesOf(parent, depth) {
  checkDepth(depth);
  for (const one of childrenOf(parent)) {
    if (["sp", "tbl"].includes(one.localName)) yield one;
    else yield* shapesOf(one.localName === "AlternateContent" ? branch(one) : one, depth + 1);
  }
}

function placeOf(shape) {
  return attribute(child(shape, "nvSpPr", "nvPr", "ph"), "type");
}

function paragraphsOf(parent) {
  return childrenOf(child(parent, "txBody")).filter((one) => one.localName === "p");
}
