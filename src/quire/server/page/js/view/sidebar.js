// The list of conversations.
import { addressOf, blankAddress } from "../address.js";
import { announce, arrange, h, icon, iconButton } from "../dom.js";
import { written } from "./dialogs.js";
import { notify } from "./notices.js";

const DAY = 86_400_000;
const BEFORE = 24; // characters of a message that are shown before what was searched
const AFTER = 80;

export class Sidebar {
  #query = "";
  #groups = new Map(); // name -> its section
  #items = new WeakMap(); // conversation -> its item

  constructor(session, element, close) {
    Object.assign(this, { session, element, close });
    this.list = h("div", { class: "conversations" });
    this.search = h("input", {
      type: "search",
      placeholder: "Search",
      dir: "auto",
      "aria-label": "Search the conversations",
    });
    this.search.addEventListener("input", () => {
      this.#query = this.search.value.trim().toLowerCase();
      this.draw();
    });
    const create = (event) => {
      if (isElsewhere(event)) return;
      event.preventDefault();
      session.create();
      close();
    };
    const button = h(
      "a",
      { class: "new", href: blankAddress(), onclick: create },
      icon("plus"),
      h("span", {}, "New conversation"),
    );
    element.querySelector(".sidebar-body").append(button, this.search, this.list);
    session.addEventListener("list", () => this.draw());
    this.draw();
  }

  draw() {
    const { session } = this;
    const places = new Map(session.listed.map((each) => [each, this.#place(each)]));
    const found = [...places.keys()].filter((each) => places.get(each));
    this.search.hidden = session.conversations.length < 2;
    const groups = Map.groupBy ? Map.groupBy(found, groupOf) : new Map([["Conversations", found]]);
    const shown = [...groups].map(([name, all]) => this.#group(name, all, places));
    if (!found.length)
      shown.push(
        h("p", { class: "note" }, this.#query ? "Nothing found." : "No conversations yet."),
      );
    arrange(this.list, shown);
  }

  /** Where a conversation has what is searched: {node, at} in a message, or its title without a node;
   * null if nowhere. */
  #place({ title, nodes }) {
    const query = this.#query;
    if (!query || title.toLowerCase().includes(query)) return { node: null };
    for (const node of nodes) {
      const at = node.text.toLowerCase().indexOf(query);
      if (at >= 0) return { node, at };
    }
    return null;
  }

  #group(name, conversations, places) {
    const section = this.#groups.get(name) ?? h("section", {}, h("h2", {}, name), h("ul"));
    this.#groups.set(name, section);
    const items = conversations.map((each) => this.#keptItem(each, places.get(each)));
    arrange(section.querySelector("ul"), items);
    return section;
  }

  /** What looks as before stays, so that it keeps the focus, and is not replaced while it is pressed. */
  #keptItem(conversation, place) {
    const item = this.#item(conversation, place);
    const before = this.#items.get(conversation);
    if (before?.isEqualNode(item)) return before;
    this.#items.set(conversation, item);
    return item;
  }

  #item(conversation, { node, at }) {
    const { session } = this;
    const title = conversation.title || "Untitled";
    const current = conversation === session.current ? "page" : null;
    const name = h("a", {
      class: "title",
      href: addressOf(conversation, node),
      "aria-current": current,
      title,
      onclick: (event) => isElsewhere(event) || this.close(),
    });
    name.append(h("span", { dir: "auto" }, title));
    if (session.runs(conversation))
      name.append(h("i", { class: "running", title: "An answer is coming" }));
    if (node) name.append(excerpt(node.text, at, this.#query.length));
    return h(
      "li",
      { class: current ? "current" : "" },
      name,
      this.#pinButton(conversation, title),
      iconButton("edit", `Rename ${title}`, () => this.#rename(conversation, title)),
      iconButton("trash", `Delete ${title}`, () => this.#remove(conversation, title)),
    );
  }

  #pinButton(conversation, title) {
    const { pinned = false, id } = conversation;
    const label = `${pinned ? "Unpin" : "Pin"} ${title}`;
    const pin = () => {
      this.session.pin(conversation, !pinned);
      const button = this.list.querySelector(`[data-pin="${id}"]`); // it has been made anew
      button?.closest("li").querySelector("a").focus(); // which has its buttons shown
      button?.focus();
      announce(pinned ? `“${title}” is no longer pinned.` : `“${title}” is pinned.`);
    };
    return iconButton(pinned ? "unpin" : "pin", label, pin, { data: { pin: id } });
  }

  async #rename(conversation, title) {
    const name = await written("Rename the conversation", "Title", title);
    if (name !== null) this.session.rename(conversation, name.trim());
  }

  async #remove(conversation, title) {
    const restore = await this.session.remove(conversation);
    notify(`“${title}” was deleted.`, { label: "Undo", act: restore });
    if (document.activeElement === document.body) this.list.querySelector("a")?.focus();
  }
}

/** Whether a click opens its link in another tab or window. */
function isElsewhere({ ctrlKey, metaKey, shiftKey }) {
  return ctrlKey || metaKey || shiftKey;
}

/** A piece of a text, with what was searched marked in it. */
function excerpt(text, at, length) {
  const line = (piece) => piece.replace(/\s+/g, " ");
  const start = Math.max(0, at - BEFORE);
  const before = (start ? "…" : "") + line(text.slice(start, at)).trimStart();
  const found = h("mark", {}, line(text.slice(at, at + length)));
  const after = line(text.slice(at + length, at + length + AFTER));
  return h("span", { class: "excerpt", dir: "auto" }, before, found, after);
}

function groupOf({ pinned = false, updated }) {
  if (pinned) return "Pinned";
  const today = new Date().setHours(0, 0, 0, 0);
  if (updated >= today) return "Today";
  if (updated >= today - DAY) return "Yesterday";
  return updated >= today - 7 * DAY ? "This week" : "Earlier";
}
