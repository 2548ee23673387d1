// Other tabs of this browser, on the same conversations. Without BroadcastChannel there are none.

const NAME = "quire";
const PATIENCE = 1500; // ms in which a tab says that it writes an answer

/** Events: `saved` {id} and `removed` {ids, null: all} of conversations; `stop` {id} of an answer. */
export class Tabs extends EventTarget {
  #channel = globalThis.BroadcastChannel ? new BroadcastChannel(NAME) : null;
  #waiting = new Map(); // answer id -> function that takes the other tab's yes

  /** `isWriting(id)`: whether this tab writes an answer. */
  constructor(isWriting) {
    super();
    this.isWriting = isWriting;
    this.#channel?.addEventListener("message", ({ data }) => this.#take(data));
  }

  tell(kind, detail) {
    this.#channel?.postMessage({ kind, ...detail });
  }

  /** Whether another tab writes an answer; resolves after a pause in either case. */
  async isWritten(id) {
    if (!this.#channel) return false;
    let written = false;
    this.#waiting.set(id, () => (written = true));
    this.tell("who", { id });
    await new Promise((resolve) => setTimeout(resolve, PATIENCE));
    return written;
  }

  #take({ kind, ...detail }) {
    if (kind === "who") {
      if (this.isWriting(detail.id)) this.tell("writing", detail);
    } else if (kind === "writing") this.#waiting.get(detail.id)?.();
    else this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}
