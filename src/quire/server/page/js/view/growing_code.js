// A long code block while it is written. A block is drawn anew with each piece of it, which takes too
// long for code of thousands of lines: this one only grows, in parts that the browser lays out once.
// It is drawn and coloured as a whole when it is complete.
import { h } from "../dom.js";
import { harmless } from "../harmless.js";

const LONG = 4000; // characters; shorter code is drawn anew, and so coloured, while it is written
const PART = 4000; // characters after which a new part begins

export class GrowingCode {
  /** `code` shows the end of `text`, which began with the fence `mark`; null if that is short. */
  static of(code, text, mark) {
    return code && code.textContent.length > LONG ? new GrowingCode(code, text, mark) : null;
  }

  constructor(code, text, mark) {
    Object.assign(this, { code, mark, length: text.length });
    this.line = lineStart(text, text.length);
    this.part = document.createTextNode("");
    code.append(this.part);
  }

  /** Show a longer text; false if more than the code may have changed. */
  grow(text) {
    const mayClose = text
      .slice(this.line)
      .split("\n")
      .some((line) => this.#mayClose(line));
    if (mayClose || !this.part.isConnected) return false; // or it was coloured meanwhile
    let from = this.length;
    if (this.part.length > PART) {
      const end = text.indexOf("\n", from) + 1;
      if (end > 0) {
        this.#add(text.slice(from, end));
        this.#begin();
        from = end;
      }
    }
    this.#add(text.slice(from));
    this.length = text.length;
    this.line = lineStart(text, text.length);
    return true;
  }

  #mayClose(line) {
    return line.trimStart().startsWith(this.mark);
  }

  #add(text) {
    this.part.appendData(harmless(text));
  }

  /** Begin a new part, on a line of its own. */
  #begin() {
    const part = h("span", { class: "code-part" });
    this.part = document.createTextNode("");
    part.append(this.part);
    this.code.append(part);
  }
}

function lineStart(text, at) {
  return text.lastIndexOf("\n", at - 1) + 1;
}
