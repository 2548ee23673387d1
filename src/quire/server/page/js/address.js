// The page's address names what is shown: nothing for a new conversation, #CONVERSATION, or
// #CONVERSATION/MESSAGE. Ids are random, and no browser sends what follows the #.

const NO_CONVERSATION =
  "This address names no conversation of this browser: it was deleted, or is kept elsewhere.";
const NO_MESSAGE = "This address names a message that is not in its conversation.";

/** The address of a conversation, or of one of its messages. */
export function addressOf(conversation, node = null) {
  const ids = node ? [conversation.id, node.id] : [conversation.id];
  return `#${ids.map(encodeURIComponent).join("/")}`;
}

/** The page's address with a new conversation. */
export function blankAddress() {
  return location.pathname + location.search;
}

/** The ids that the present address names: none, a conversation's, or that and a message's. */
function named() {
  const ids = location.hash.slice(1).split("/");
  try {
    return ids.map(decodeURIComponent).filter(Boolean);
  } catch {
    return ids; // not written by this page, so that it will not be found
  }
}

/** Keeps the address and the shown conversation equal: each follows the other. */
export class Addresses {
  #shown = null; // the conversation of the present address

  /** `reveal(node)` brings a shown message into view; `notify(text)` tells what is not there. */
  constructor(session, { reveal, notify }) {
    Object.assign(this, { session, reveal, notify });
    for (const event of ["list", "opened"]) session.addEventListener(event, () => this.#write());
    session.addEventListener("asked", () => this.#leaveMessage());
    addEventListener("hashchange", () => this.#read());
    if (session.isBegun)
      this.#write(); // by who was quicker than the store
    else this.#read();
  }

  /** Show what the address names. */
  #read() {
    const { session } = this;
    const [id, message] = named();
    const found = id ? session.open(id) : null;
    if (!found && session.isBegun) session.create();
    if (id && !found) this.notify(NO_CONVERSATION);
    this.#write();
    if (!found || !message) return;
    const node = session.showMessage(message);
    if (node) this.reveal(node);
    else {
      this.notify(NO_MESSAGE);
      this.#leaveMessage();
    }
  }

  /** Name what is shown: as a new step of the history, unless the old one leads nowhere. */
  #write() {
    const { current, isBegun } = this.session;
    const wanted = isBegun ? addressOf(current) : "";
    const fits = wanted ? `${location.hash}/`.startsWith(`${wanted}/`) : !location.hash;
    const isStep = current !== this.#shown && this.#leadsSomewhere();
    this.#shown = current;
    if (fits) return;
    history[isStep ? "pushState" : "replaceState"](null, "", wanted || blankAddress());
  }

  #leadsSomewhere() {
    const [id] = named();
    return !id || this.session.conversations.some((conversation) => conversation.id === id);
  }

  /** What was just asked is read at the end, also after a reload. */
  #leaveMessage() {
    const { current } = this.session;
    if (named().length > 1) history.replaceState(null, "", addressOf(current));
  }
}
