// The cells of a workbook (.xlsx): a sheet's rows are lines, with tabs between the cells.
import { attribute, child, childrenOf, DAMAGED, number, reference, relations } from "./archive.js";
import { Blocks, cleaned, tooLong } from "./blocks.js";

const MOST_COLUMNS = 16_384;
const MOST_SEPARATORS = 5_000_000;
const REFERENCE = /^([A-Z]{1,3})[0-9]*$/;
const VALUE = /^[+-]?[0-9]{1,20}(\.[0-9]{1,20})?(E[+-]?[0-9]{1,3})?$/i;
const LITERAL = /"[^"]*"|\\.|\[[^\]]*\]/g;
const ELAPSED = /\[[hms]+\]/i;
const LAST_DAY = 2_958_466;
const SECONDS = 86_400;
const DAY = 86_400_000; // ms

/** The text of all sheets that are not hidden. */
export async function sheetsText(archive, part, workbook) {
  const blocks = new Blocks();
  const related = await relations(archive, part);
  const partOf = new Map([...related.values()]);
  const strings = await archive.xmlIfAny(partOf.get("sharedStrings"));
  const styles = await archive.xmlIfAny(partOf.get("styles"));
  const book = {
    strings: childrenOf(strings).map(stringOf),
    dates: dateStyles(styles),
    shift: ["1", "true"].includes(attribute(child(workbook, "workbookPr"), "date1904")) ? 1462 : 0,
  };
  for (const one of childrenOf(child(workbook, "sheets"))) {
    if (["hidden", "veryHidden"].includes(attribute(one, "state"))) continue;
    const [kind, target] = related.get(reference(one) ?? "") ?? [];
    const root = kind === "worksheet" ? await archive.xmlIfAny(target) : null;
    if (!root) continue;
    blocks.heading(1, attribute(one, "name") ?? "");
    blocks.add(linesOf(rowsOf(root, book)));
  }
  return blocks.text;
}

/** The cells that are not empty, by columns, of each row that has any. */
function rowsOf(sheet, book) {
  const rows = childrenOf(child(sheet, "sheetData")).map((row) => {
    const cells = new Map();
    let column = -1;
    for (const cell of childrenOf(row)) {
      column = columnOf(attribute(cell, "r"), column + 1);
      const text = textOf(cell, book).trim();
      if (text) cells.set(column, text);
    }
    return cells;
  });
  return rows.filter((cells) => cells.size);
}

function textOf(cell, { strings, dates, shift }) {
  const kind = attribute(cell, "t");
  if (kind === "inlineStr") return stringOf(child(cell, "is"));
  const value = child(cell, "v")?.textContent ?? "";
  if (kind === "s") return strings[number(value, -1)] ?? "";
  if (kind === "b") return value === "1" ? "TRUE" : "FALSE";
  if ((kind === null || kind === "n") && VALUE.test(value)) {
    const isDate = dates.has(number(attribute(cell, "s")));
    return isDate ? dateText(Number(value), shift) || value : numberText(value);
  }
  return cleaned(value);
}

function linesOf(rows) {
  const first = rows.reduce((least, cells) => Math.min(least, ...cells.keys()), MOST_COLUMNS);
  const widths = rows.map((cells) => Math.max(...cells.keys()) + 1 - first);
  if (widths.reduce((sum, width) => sum + width - 1, 0) > MOST_SEPARATORS) throw tooLong();
  const line = (cells, width) =>
    Array.from({ length: width }, (_, at) => cells.get(first + at) ?? "").join("\t");
  return rows.map((cells, index) => line(cells, widths[index])).join("\n");
}

/** A cell's column, from 0 on; without a name it is the next one. */
function columnOf(name, otherwise) {
  const match = REFERENCE.exec(name ?? "");
  let column = otherwise;
  if (match) {
    column = -1;
    for (const letter of match[1]) column = (column + 1) * 26 + letter.charCodeAt(0) - 65;
  }
  if (column >= MOST_COLUMNS) throw new Error(DAMAGED);
  return column;
}

/** A text with its runs, without what tells how it is pronounced. */
function stringOf(element) {
  const runs = childrenOf(element).map((one) => (one.localName === "r" ? child(one, "t") : one));
  const texts = runs.filter((one) => one?.localName === "t").map((one) => one.textContent);
  return cleaned(texts.join("").replaceAll("_x000D_", ""));
}

/** The cells' styles that show dates or times. */
function dateStyles(styles) {
  const own = new Set();
  for (const one of childrenOf(child(styles, "numFmts"))) {
    const code = (attribute(one, "formatCode") ?? "").slice(0, 255);
    const isDate = !ELAPSED.test(code) && /[ymdhs]/i.test(code.replace(LITERAL, ""));
    if (isDate) own.add(number(attribute(one, "numFmtId")));
  }
  const forms = childrenOf(child(styles, "cellXfs")).map((one) =>
    number(attribute(one, "numFmtId")),
  );
  return new Set(forms.flatMap((form, at) => (own.has(form) || isDateOfExcel(form) ? [at] : [])));
}

/** Whether this is a format of dates or times that Excel has of its own. */
function isDateOfExcel(form) {
  const ranges = [
    [14, 22],
    [27, 36],
    [45, 45],
    [47, 47],
    [50, 58],
  ];
  return ranges.some(([first, last]) => first <= form && form <= last);
}

/** A day and a time, which Excel counts from the last day of 1899 on; null if it is none. */
function dateText(counted, shift) {
  const value = counted + shift;
  if (!(0 <= value && value < LAST_DAY)) return null;
  const days = Math.floor(value);
  const seconds = Math.floor((value - days) * SECONDS + 0.5);
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const time = parts.map((one) => String(one).padStart(2, "0")).join(":");
  if (days === 0) return time;
  // Excel has a 29th of February 1900.
  const first = Date.UTC(1899, 11, days > 60 ? 30 : 31);
  const day = new Date(first + days * DAY).toISOString().slice(0, 10);
  return seconds ? `${day} ${time}` : day;
}

/** A number with the 15 digits that Excel shows of it, and without an exponent. */
function numberText(text) {
  const value = Number(text);
  const isShort = text.length <= 15 && !/e/i.test(text);
  if (isShort || !(1e-6 <= Math.abs(value) && Math.abs(value) < 1e15)) return text;
  return String(Number(value.toPrecision(15)));
}
