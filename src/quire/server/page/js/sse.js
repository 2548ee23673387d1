// Parses server-sent events from a stream of bytes.

/** The data of each event, in order; comments and other fields are skipped. */
export async function* readEvents(body) {
  const lines = new LineSplitter();
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      for (const line of done ? lines.flush() : lines.add(value)) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      }
      if (done) return;
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/** Splits chunks of text into lines, which end with \n, \r\n or \r. */
export class LineSplitter {
  #rest = "";

  add(text) {
    this.#rest += text;
    const open = this.#rest.endsWith("\r") ? 1 : 0; // its \n may be in the next chunk
    const whole = this.#rest.slice(0, this.#rest.length - open);
    const lines = whole.split(/\r\n|\n|\r/);
    this.#rest = lines.pop() + this.#rest.slice(this.#rest.length - open);
    return lines;
  }

  /** The rest at the end. An event without an empty line after it does not count. */
  flush() {
    const lines = this.#rest.split(/\r\n|\n|\r/);
    this.#rest = "";
    return lines;
  }
}
