// The message field and its attached files.
import { h, icon, iconButton } from "../dom.js";
import { isComposing, isTouched } from "../keys.js";
import { fileChip, readingChip } from "./media.js";

const LONG = 5000; // characters; a longer text becomes a file when it is pasted
const SLOW = 20_000; // characters; reading and keeping a longer text takes longer than a key may
const PAUSE = 400; // ms without a key, after which a long text is kept

export class Composer {
  #files = [];
  #reading = []; // names of files that are being read
  #length = 0; // of the text when it was last read
  #timer = null; // runs while the text has changed and is not kept yet
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
    this.excess = h("p", { class: "excess", role: "status", hidden: true });
    this.picker = h("input", {
      type: "file",
      multiple: true,
      hidden: true,
      tabIndex: -1,
    });
    this.button = h("button", { class: "send" });
    const attach = iconButton("attach", "Attach files", () => this.picker.click());
    this.tools = h("div", { class: "tools" }); // what else stands below the field
    form.append(
      this.chips,
      this.excess,
      this.field,
      h("div", { class: "row" }, attach, this.picker, this.tools, this.button),
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
    this.button.disabled = !running && this.#isEmpty;
    if (this.button.title === label) return; // a press of an icon that is replaced is lost
    this.button.classList.toggle("stop", running);
    this.button.replaceChildren(icon(running ? "stop" : "send"));
    this.button.title = label;
    this.button.setAttribute("aria-label", label);
  }

  /** Attach files; those that cannot be read are reported and left out. */
  attach(files) {
    for (const file of files) this.#add(file.name, () => this.session.keepFile(file));
    this.focus();
  }

  /** Attach what `read` resolves to, after all files before it. */
  #add(name, read) {
    const conversation = this.conversation;
    const mark = { name, conversation };
    this.#reading.push(mark);
    this.#drawChips();
    this.#attached = this.#attached.then(async () => {
      try {
        this.#keep(await read(), conversation);
      } catch (error) {
        this.notify(error.message);
      }
      this.#reading.splice(this.#reading.indexOf(mark), 1);
      this.#drawChips();
    });
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
    field.addEventListener("input", () => this.#changed());
    field.addEventListener("blur", () => this.#settle());
    addEventListener("pagehide", () => this.#settle());
    field.addEventListener("keydown", (event) => this.#key(event));
    field.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      const text = event.clipboardData?.getData("text/plain") ?? "";
      const isFiles = files.length > 0 && namesOnly(text, files);
      if (!isFiles && text.length < LONG) return;
      event.preventDefault();
      if (isFiles) this.attach(files);
      else this.#addText(text);
    });
    picker.addEventListener("change", () => {
      this.attach([...picker.files]);
      picker.value = "";
    });
    this.session.addEventListener("thread", () => this.draw());
    this.session.addEventListener("list", () => this.draw());
    this.session.addEventListener("settings", () => this.#drawChips()); // another model sees or not
  }

  /** Keep what is written: at once, or, where that takes long, in the next pause. */
  #changed() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#settle(), PAUSE);
    if (this.#length <= SLOW) this.#settle();
  }

  /** Keep what has changed and is not kept yet. */
  #settle() {
    if (this.#timer === null) return;
    this.#keepDraft();
    this.draw();
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

  /** A long text that was pasted; it can be put into the message after all. */
  #addText(text) {
    const name = `pasted-${this.#files.filter(({ pasted }) => pasted).length + 1}.txt`;
    const file = new File([text], name, { type: "text/plain" });
    this.#add(name, async () => ({ ...(await this.session.keepFile(file)), pasted: true }));
  }

  /** Add a file to the draft of the conversation that it was attached in. */
  #keep(file, conversation) {
    if (this.#isHere(conversation)) this.#setFiles([...this.#files, file]);
    else this.#addToDraft(conversation, file);
  }

  /** Whether a conversation's draft is the one that is shown: all new conversations have the same. */
  #isHere(conversation) {
    const { session } = this;
    return session.draftKey(conversation) === session.draftKey(this.conversation);
  }

  /** Put another file, or none, in a file's place. */
  #replace(file, other = null) {
    const files = this.#files.map((one) => (one === file ? other : one));
    this.#setFiles(files.filter((one) => one !== null));
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
    const excess = this.session.excess(files);
    if (excess) return this.notify(excess.text);
    this.field.value = "";
    this.#setFiles([]);
    this.session.send(text, files);
  }

  #setFiles(files) {
    const isMore = files.length > this.#files.length;
    this.#files = files;
    this.#keepDraft();
    this.#drawChips();
    const { scrollWidth: left, scrollHeight: top } = this.chips;
    if (isMore) this.chips.scrollTo({ left, top }); // to the new one
  }

  #drawChips() {
    const { store, model } = this.session;
    const most = model?.max_model_len;
    const excess = this.session.excess(this.#files);
    const chips = this.#files.map((file) => {
      const remove = () => (this.#replace(file), this.focus());
      const isTooMuch = excess?.files.includes(file);
      return fileChip(file, store, remove, { more: this.#choices(file), most, isTooMuch });
    });
    const here = this.#reading.filter(({ conversation }) => this.#isHere(conversation));
    this.chips.replaceChildren(...chips, ...here.map(({ name }) => readingChip(name)));
    this.chips.hidden = !this.chips.children.length;
    this.excess.hidden = excess === null;
    this.excess.textContent = excess?.text ?? "";
    this.draw();
  }

  /** Buttons for what else a file can be. */
  #choices(file) {
    if (file.pasted) {
      return [iconButton("edit", "Put it into the message", () => this.#writeOut(file))];
    }
    if (file.pictures?.length && file.textId) {
      const asText = () => this.#replace(file, { ...file, pictures: [] });
      return [iconButton("file", `${file.name} as text`, asText)];
    }
    if (file.kind !== "pdf" || file.pictures?.length || !this.session.mostImages) return [];
    return [iconButton("picture", `${file.name} as pictures`, () => this.#showPages(file))];
  }

  #showPages(file) {
    this.#replace(file);
    this.#add(file.name, async () => {
      try {
        return await this.session.asPictures(file);
      } catch (error) {
        this.notify(error.message);
        return file;
      }
    });
  }

  async #writeOut(file) {
    const text = await (await this.session.store.file(file.id)).text();
    if (!this.#files.includes(file)) return; // it was taken away, or another conversation is shown
    this.#replace(file);
    this.focus();
    this.field.setRangeText(text, this.field.selectionStart, this.field.selectionEnd, "end");
    this.#keepDraft();
    this.draw();
  }

  #keepDraft() {
    const { drafts } = this.session;
    const key = this.session.draftKey(this.conversation);
    const draft = { text: this.#read(), files: this.#files };
    if (draft.text || draft.files.length) drafts.set(key, draft);
    else drafts.delete(key);
  }

  #read() {
    clearTimeout(this.#timer);
    this.#timer = null;
    const { value } = this.field;
    this.#length = value.length;
    return value;
  }

  #openDraft(conversation) {
    if (this.#timer !== null) this.#keepDraft(); // that of the conversation before
    this.conversation = conversation;
    const { text, files } = this.session.drafts.get(this.session.draftKey(conversation));
    this.field.value = text;
    this.#length = text.length;
    this.#files = files;
    this.#drawChips();
  }
}

/** Whether a text that was copied with files has nothing but their names: office programs give a picture
 * of a text that was copied, file managers the paths of files. */
function namesOnly(text, files) {
  const lines = text.split("\n").map((line) => line.trim());
  return lines.every((line) => !line || files.some(({ name }) => isPathOf(line, name)));
}

function isPathOf(line, name) {
  return [line, line.replaceAll("%20", " ")].some((path) => path.endsWith(name));
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
