// The list of conversations.
import { addressOf, blankAddress } from "../address.js";
import { arrange, h, icon, iconButton } from "../dom.js";
import { written } from "./dialogs.js";
import { notify } from "./notices.js";

const DAY = 86_400_000;

export class Sidebar {
  #query = "";

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
    const found = session.conversations.filter((each) => this.#fits(each));
    this.search.hidden = session.conversations.length < 2;
    const groups = Map.groupBy ? Map.groupBy(found, groupOf) : new Map([["Conversations", found]]);
    const shown = [...groups].map(([name, conversations]) => this.#group(name, conversations));
    if (!found.length)
      shown.push(
        h("p", { class: "note" }, this.#query ? "Nothing found." : "No conversations yet."),
      );
    arrange(this.list, shown);
  }

  #fits(conversation) {
    const query = this.#query;
    if (!query || conversation.title.toLowerCase().includes(query)) return true;
    return conversation.nodes.some((node) => node.text.toLowerCase().includes(query));
  }

  #group(name, conversations) {
    const items = conversations.map((conversation) => this.#item(conversation));
    return h("section", {}, h("h2", {}, name), h("ul", {}, items));
  }

  #item(conversation) {
    const { session } = this;
    const title = conversation.title || "Untitled";
    const current = conversation === session.current ? "page" : null;
    const name = h("a", {
      class: "title",
      href: addressOf(conversation),
      "aria-current": current,
      title,
      onclick: (event) => isElsewhere(event) || this.close(),
    });
    name.append(h("span", { dir: "auto" }, title));
    if (session.runs(conversation))
      name.append(h("i", { class: "running", title: "An answer is coming" }));
    return h(
      "li",
      { class: current ? "current" : "" },
      name,
      iconButton("edit", `Rename ${title}`, () => this.#rename(conversation, title)),
      iconButton("trash", `Delete ${title}`, () => this.#remove(conversation, title)),
    );
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

function groupOf({ updated }) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (updated >= today) return "Today";
  if (updated >= today - DAY) return "Yesterday";
  return updated >= today - 7 * DAY ? "This week" : "Earlier";
}
