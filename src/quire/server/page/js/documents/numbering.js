// Numbers of lists and headings, as they are written before them.

export const LEVELS = 9;
export const LONGEST_LABEL = 50;
const LETTERS = "abcdefghijklmnopqrstuvwxyz";
const ROMAN = [
  [1000, "m"],
  [900, "cm"],
  [500, "d"],
  [400, "cd"],
  [100, "c"],
  [90, "xc"],
  [50, "l"],
  [40, "xl"],
  [10, "x"],
  [9, "ix"],
  [5, "v"],
  [4, "iv"],
  [1, "i"],
];

/** The numbers of a list's levels: one that goes on lets those below begin anew. */
export class Counters {
  values = Array(LEVELS).fill(null);

  /** Count an item of a level. */
  advance(level, start) {
    const value = this.values[level];
    this.values[level] = value === null ? start : value + 1;
    this.values.fill(null, level + 1);
  }
}

/** A number in one of the forms that Word has names for; in digits in all others. */
export function written(value, form) {
  if (form === "none") return "";
  if (form === "decimalZero") return String(value).padStart(2, "0");
  if (["lowerLetter", "upperLetter"].includes(form) && 0 < value && value <= 780) {
    const letters = LETTERS[(value - 1) % 26].repeat(Math.floor((value - 1) / 26) + 1);
    return form === "upperLetter" ? letters.toUpperCase() : letters;
  }
  if (["lowerRoman", "upperRoman"].includes(form) && 0 < value && value < 4000) {
    return form === "upperRoman" ? roman(value).toUpperCase() : roman(value);
  }
  return String(value);
}

function roman(value) {
  let [text, left] = ["", value];
  for (const [worth, letters] of ROMAN) {
    text += letters.repeat(Math.floor(left / worth));
    left %= worth;
  }
  return text;
}
