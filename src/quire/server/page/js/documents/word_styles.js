// What a Word document's styles and lists say of its paragraphs: headings, hidden text, labels.
import { attribute, child, childrenOf, number } from "./archive.js";
import { Counters, LEVELS, LONGEST_LABEL, written } from "./numbering.js";

const MOST_BASED = 20; // styles that a style is based on, one on another

/** Whether a switch is on; null where it is not there. */
export function isOn(element) {
  return element ? !["0", "false", "off"].includes(attribute(element, "val")) : null;
}

/** The level of a heading that is so far down in the outline; null where it is no heading. */
export function headingLevel(outline) {
  const level = number(outline, 9);
  return 0 <= level && level < 9 ? level + 1 : null;
}

/** The styles of paragraphs and runs, each based on another. */
export class WordStyles {
  #styles = new Map();
  #found = new Map(); // what is known of a style

  constructor(root) {
    for (const one of childrenOf(root)) {
      if (one.localName === "style") this.#styles.set(attribute(one, "styleId") ?? "", one);
    }
    for (const name of this.#styles.keys()) {
      const chain = this.#chain(name);
      const [level, isHidden, list] = [findHeading(chain), findHidden(chain), findList(chain)];
      this.#found.set(name, { level, isHidden, list });
    }
  }

  /** The level of a heading of this style; null if it is none. */
  heading(style) {
    return this.#found.get(style)?.level ?? null;
  }

  /** Whether text of this style is hidden. */
  isHidden(style) {
    return this.#found.get(style)?.isHidden ?? false;
  }

  /** {style: which brings the list, id: the list's, level: null where none is told}, or null. */
  listOf(style) {
    return this.#found.get(style)?.list ?? null;
  }

  #chain(style) {
    const chain = [];
    let name = style;
    while (chain.length < MOST_BASED && this.#styles.has(name)) {
      chain.push([name, this.#styles.get(name)]);
      name = attribute(child(this.#styles.get(name), "basedOn"), "val");
    }
    return chain;
  }
}

function findHeading(chain) {
  for (const [, one] of chain) {
    const name = attribute(child(one, "name"), "val") ?? "";
    if (name.toLowerCase() === "title") return 1;
    const outline = attribute(child(one, "pPr", "outlineLvl"), "val");
    if (outline !== null) return headingLevel(outline);
    const match = /^heading ([1-9])$/i.exec(name);
    if (match) return Number(match[1]);
  }
  return null;
}

function findHidden(chain) {
  const switches = chain.map(([, one]) => isOn(child(one, "rPr", "vanish")));
  return switches.find((one) => one !== null) ?? false;
}

function findList(chain) {
  for (const [style, one] of chain) {
    const numbered = child(one, "pPr", "numPr");
    const id = attribute(child(numbered, "numId"), "val");
    if (id !== null) return { style, id, level: attribute(child(numbered, "ilvl"), "val") };
  }
  return null;
}

/** The labels of items, counted in the order in which they are asked for. */
export class WordLists {
  #lists = new Map(); // id -> {levels, counters: shared with others, starts: of levels that begin anew}

  constructor(root, styles) {
    const named = (kind, id) =>
      new Map(
        childrenOf(root)
          .filter((one) => one.localName === kind)
          .map((one) => [attribute(one, id), one]),
      );
    const [abstract, lists] = [named("abstractNum", "abstractNumId"), named("num", "numId")];
    const kindOf = (list) => attribute(child(list, "abstractNumId"), "val");
    const shared = new Map();
    for (const [id, one] of lists) {
      let kind = kindOf(one);
      const style = attribute(child(abstract.get(kind), "numStyleLink"), "val");
      const other = style === null ? null : styles.listOf(style);
      if (other) kind = kindOf(lists.get(other.id));
      if (!shared.has(kind)) shared.set(kind, new Counters());
      const list = {
        levels: levelsOf(abstract.get(kind)),
        counters: shared.get(kind),
        starts: new Map(),
      };
      override(list, one);
      this.#lists.set(id ?? "", list);
    }
  }

  /** The level of a list that a style stands for. */
  levelOf(id, style) {
    const levels = [...(this.#lists.get(id)?.levels ?? [])];
    return levels.find(([, one]) => attribute(child(one, "pStyle"), "val") === style)?.[0] ?? 0;
  }

  /** The next label of a level: a hyphen for all bullets, nothing where there is none. */
  label(id, wanted) {
    const list = this.#lists.get(id);
    if (!list) return "";
    const level = Math.min(Math.max(wanted, 0), LEVELS - 1);
    const one = list.levels.get(level);
    let start = number(attribute(child(one, "start"), "val"), 1);
    if (list.starts.has(level)) {
      list.counters.values[level] = null;
      start = list.starts.get(level);
      list.starts.delete(level);
    }
    list.counters.advance(level, start);
    if (formOf(one) === "bullet") return "-";
    const text = (attribute(child(one, "lvlText"), "val") ?? "").slice(0, LONGEST_LABEL);
    return text.replace(/%([1-9])/g, (_, digit) => numberOf(list, Number(digit) - 1, one)).trim();
  }
}

/** A level's number within the label of another. */
function numberOf(list, level, within) {
  const one = list.levels.get(level);
  const value = list.counters.values[level] ?? number(attribute(child(one, "start"), "val"), 1);
  return written(value, isOn(child(within, "isLgl")) ? "decimal" : formOf(one));
}

function formOf(level) {
  return attribute(child(level, "numFmt"), "val") || "decimal";
}

function levelsOf(parent) {
  const found = childrenOf(parent).filter((one) => one.localName === "lvl");
  return new Map(found.map((one) => [number(attribute(one, "ilvl")), one]));
}

function override(list, element) {
  for (const one of childrenOf(element)) {
    if (one.localName !== "lvlOverride") continue;
    const start = attribute(child(one, "startOverride"), "val");
    if (start !== null) list.starts.set(number(attribute(one, "ilvl")), number(start, 1));
    for (const [level, other] of levelsOf(one)) list.levels.set(level, other);
  }
}
