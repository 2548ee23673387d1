// The message field and its attached files.
import { h, icon, iconButton } from "../dom.js";
import { ACCEPTED } from "../files.js";
import { isComposing, isTouched } from "../keys.js";
import { fileChip } from "./media.js";

export class Composer {
  #files = [];
  #attached = Promise.resolve(); // resolves once all files so far are stored, one after another

  constructor(session, form, { notify, editLast }) {
    Object.assign(this, { session, form, notify, editLast });
    this.field = h("textarea", {
      id: "composer-text",
      rows: 1,
      placeholder: "Write a message",
      dir: "auto",
      "aria-label": "Message",
    });
    this.chips = h("ul", { class: "chips", "aria-label": "Attached files", hidden: true });
    this.picker = h("input", {
      type: "file",
      accept: ACCEPTED,
      multiple: true,
      hidden: true,
      tabIndex: -1,
    });
    this.button = h("button", { class: "send" });
    const attach = iconButton("attach", "Attach images, sounds or videos", () =>
      this.picker.click(),
    );
    form.append(
      this.chips,
      this.field,
      h("div", { class: "row" }, attach, this.picker, this.button),
    );
    this.#listen();
    this.#openDraft(session.current);
  }

  focus() {
    this.field.focus();
  }

  /** Send the message, or stop a running answer. */
  draw() {
    if (this.conversation !== this.session.current) this.#openDraft(this.session.current);
    const running = this.session.isRunning;
    const label = running ? "Stop the answer" : "Send";
    this.button.classList.toggle("stop", running);
    this.button.replaceChildren(icon(running ? "stop" : "send"));
    Object.assign(this.button, { title: label, disabled: !running && this.#isEmpty });
    this.button.setAttribute("aria-label", label);
  }

  /** Attach files; those of unknown kinds are reported and left out. */
  attach(files) {
    const conversation = this.conversation;
    this.#attached = this.#attached.then(() => this.#keepAll(files, conversation));
  }

  get #isEmpty() {
    return !this.field.value.trim() && !this.#files.length;
  }

  #listen() {
    const { field, form, picker } = this;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.session.isRunning) this.session.stop();
      else this.#send();
    });
    field.addEventListener("input", () => {
      this.#keepDraft();
      this.draw();
    });
    field.addEventListener("keydown", (event) => this.#key(event));
    field.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (!files.length) return;
      event.preventDefault();
      this.attach(files);
    });
    picker.addEventListener("change", () => {
      this.attach([...picker.files]);
      picker.value = "";
    });
    this.session.addEventListener("thread", () => this.draw());
    this.session.addEventListener("list", () => this.draw());
  }

  #key(event) {
    if (isComposing(event)) return; // its keys are the input method's
    if (event.key === "Enter" && !event.shiftKey && !isTouched()) {
      event.preventDefault();
      if (!this.session.isRunning) this.#send();
    } else if (event.key === "ArrowUp" && !event.altKey && this.#isEmpty) {
      event.preventDefault();
      this.editLast();
    }
  }

  /** Add the files to the draft of the conversation that they were attached in. */
  async #keepAll(files, conversation) {
    for (const file of files) {
      try {
        const kept = await this.session.keepFile(file);
        if (conversation === this.conversation) this.#setFiles([...this.#files, kept]);
        else this.#addToDraft(conversation, kept);
      } catch (error) {
        this.notify(error.message);
      }
    }
    this.focus();
  }

  #addToDraft(conversation, file) {
    const { drafts } = this.session;
    const key = this.session.draftKey(conversation);
    const { text, files } = drafts.get(key);
    drafts.set(key, { text, files: [...files, file] });
  }

  async #send() {
    const conversation = this.conversation;
    await this.#attached;
    const left = conversation !== this.conversation || this.session.isRunning;
    if (left || this.#isEmpty) return;
    const text = this.field.value;
    const files = this.#files;
    this.field.value = "";
    this.#setFiles([]);
    this.session.send(text, files);
  }

  #setFiles(files) {
    this.#files = files;
    this.#keepDraft();
    this.#drawChips();
  }

  #drawChips() {
    const take = (file) => () => {
      this.#setFiles(this.#files.filter((other) => other !== file));
      this.focus();
    };
    this.chips.replaceChildren(
      ...this.#files.map((file) => fileChip(file, this.session.store, take(file))),
    );
    this.chips.hidden = !this.#files.length;
    this.draw();
  }

  #keepDraft() {
    const { drafts } = this.session;
    const key = this.session.draftKey(this.conversation);
    const draft = { text: this.field.value, files: this.#files };
    if (draft.text || draft.files.length) drafts.set(key, draft);
    else drafts.delete(key);
  }

  #openDraft(conversation) {
    this.conversation = conversation;
    const { text, files } = this.session.drafts.get(this.session.draftKey(conversation));
    this.field.value = text;
    this.#files = files;
    this.#drawChips();
  }
}

/** Files dropped anywhere on the page are attached. */
export function acceptDrops(composer, target = document.documentElement) {
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  let depth = 0;
  const mark = (by) => {
    depth = by === 0 ? 0 : Math.max(0, depth + by);
    target.classList.toggle("dropping", depth > 0);
  };
  target.addEventListener("dragenter", (event) => carriesFiles(event) && mark(1));
  target.addEventListener("dragleave", (event) => carriesFiles(event) && mark(-1));
  target.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  target.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    mark(0);
    composer.attach([...event.dataTransfer.files]);
  });
}
