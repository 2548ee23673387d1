// The text of a file, told by its content, whatever its name is.

const MARKS = [
  { mark: [0xef, 0xbb, 0xbf], encoding: "utf-8" },
  { mark: [0xff, 0xfe], encoding: "utf-16le" },
  { mark: [0xfe, 0xff], encoding: "utf-16be" },
];
const FOREIGN = 0.3; // the most letters beyond ASCII in a text of one byte a letter
const CONTROL = /[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]/; // not those of lines, tabs, pages and colours

/** The text of some bytes, or null: they are no text. */
export function textOf(bytes) {
  const marked = MARKS.find(({ mark }) => mark.every((byte, index) => bytes[index] === byte));
  const text = decoded(bytes, marked?.encoding ?? "utf-8") ?? (marked ? null : western(bytes));
  return text === null || CONTROL.test(text) ? null : text.replace(/\r\n?/g, "\n");
}

function decoded(bytes, encoding) {
  try {
    return new TextDecoder(encoding, { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** Older files of western languages. */
function western(bytes) {
  const foreign = bytes.reduce((count, byte) => count + (byte > 127), 0);
  return foreign <= bytes.length * FOREIGN ? decoded(bytes, "windows-1252") : null;
}

/** A text as a part of a message: its name, and the text between marks that it has none of. */
export function quoted(name, text) {
  const runs = (text.match(/^`{3,}/gm) ?? []).map((run) => run.length);
  const fence = "`".repeat(Math.max(2, ...runs) + 1);
  return `${name}:\n\n${fence}\n${text.replace(/\n$/, "")}\n${fence}`;
}

/** About how many tokens a text has, where the server does not say. */
export function estimated(text) {
  return Math.ceil(new TextEncoder().encode(text).length / 4);
}
