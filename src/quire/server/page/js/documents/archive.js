// The zip archive of a document: the parts that are asked for, within limits, and their XML.

const MOST_ENTRIES = 10_000;
const MOST_DIRECTORY = 4_000_000; // bytes
const MOST_XML = 30_000_000; // bytes of all parts that are read, unpacked
const DEEPEST = 200; // elements within one another that are read

const END = 0x06054b50;
const END_SIZE = 22;
const LONGEST_COMMENT = 65_535;
const ENTRY = 0x02014b50;
const LOCAL = 0x04034b50;
const ENCRYPTED = 1;
const STORED = 0;
const DEFLATED = 8;

export const DAMAGED = "it is damaged";
export const LOCKED = "it is locked with a password; save it without one";

// The page's policy asks for trusted texts. Nothing of what is parsed here is shown, loaded or run.
const policy = globalThis.trustedTypes?.createPolicy("quire-documents", {
  createHTML: (text) => text,
});

/** The archive of a Blob. Throws an Error: it is damaged, or beyond the limits. */
export async function openArchive(file) {
  const start = Math.max(0, file.size - END_SIZE - LONGEST_COMMENT);
  const tail = await viewOf(file.slice(start));
  const end = endOf(tail);
  if (end < 0) throw new Error(DAMAGED);
  const [size, offset] = [tail.getUint32(end + 12, true), tail.getUint32(end + 16, true)];
  if (tail.getUint16(end + 10, true) > MOST_ENTRIES || size > MOST_DIRECTORY) {
    throw new Error(`it has more than ${MOST_ENTRIES.toLocaleString("en")} parts`);
  }
  // What stands before the archive's first byte moves all places.
  const shift = start + end - size - offset;
  if (shift < 0) throw new Error(DAMAGED);
  const directory = await viewOf(file.slice(offset + shift, offset + shift + size));
  return new Archive(file, entriesOf(directory), shift);
}

class Archive {
  #left = MOST_XML;

  constructor(file, entries, shift) {
    Object.assign(this, { file, entries, shift });
  }

  has(name) {
    return this.entries.has(name);
  }

  /** A part's bytes, unpacked; its size is looked at before. */
  async read(name) {
    const entry = this.entries.get(name);
    if (!entry) throw new Error(DAMAGED);
    if (entry.flags & ENCRYPTED) throw new Error(LOCKED);
    if (![STORED, DEFLATED].includes(entry.method)) throw new Error(DAMAGED);
    this.#left -= entry.size;
    if (this.#left < 0) {
      throw new Error(`its text unpacks to more than ${MOST_XML.toLocaleString("en")} bytes`);
    }
    const at = entry.offset + this.shift;
    const head = await viewOf(this.file.slice(at, at + 30));
    if (head.byteLength < 30 || head.getUint32(0, true) !== LOCAL) throw new Error(DAMAGED);
    const from = at + 30 + head.getUint16(26, true) + head.getUint16(28, true);
    const packed = this.file.slice(from, from + entry.packed);
    const bytes = await unpacked(packed, entry);
    if (bytes === null || crc32(bytes) !== entry.crc) throw new Error(DAMAGED);
    return bytes;
  }

  /** A part's root element. An office program writes no document type. */
  async xml(name) {
    const text = decoded(await this.read(name));
    if (text.includes("<!DOCTYPE")) throw new Error(DAMAGED);
    const trusted = policy?.createHTML(text) ?? text;
    const parsed = new DOMParser().parseFromString(trusted, "application/xml");
    if (parsed.getElementsByTagNameNS("*", "parsererror").length) throw new Error(DAMAGED);
    return parsed.documentElement;
  }

  /** A part's root element; null where there is no such part. */
  async xmlIfAny(name) {
    return this.has(name) ? this.xml(name) : null;
  }
}

async function viewOf(blob) {
  return new DataView(await blob.arrayBuffer());
}

function endOf(tail) {
  for (let at = tail.byteLength - END_SIZE; at >= 0; at -= 1) {
    if (tail.getUint32(at, true) === END) return at;
  }
  return -1;
}

function entriesOf(directory) {
  const entries = new Map();
  let at = 0;
  while (at + 46 <= directory.byteLength && directory.getUint32(at, true) === ENTRY) {
    const [name, extra, comment] = [28, 30, 32].map((place) =>
      directory.getUint16(at + place, true),
    );
    const flags = directory.getUint16(at + 8, true);
    const bytes = new Uint8Array(
      directory.buffer,
      at + 46,
      Math.min(name, directory.byteLength - at - 46),
    );
    entries.set(new TextDecoder(flags & 0x800 ? "utf-8" : "latin1").decode(bytes), {
      flags,
      method: directory.getUint16(at + 10, true),
      crc: directory.getUint32(at + 16, true),
      packed: directory.getUint32(at + 20, true),
      size: directory.getUint32(at + 24, true),
      offset: directory.getUint32(at + 42, true),
    });
    at += 46 + name + extra + comment;
  }
  if (at !== directory.byteLength) throw new Error(DAMAGED);
  return entries;
}

/** The bytes of an entry, no more than the directory tells; null where they are not those. */
async function unpacked(packed, { method, size }) {
  const stream = packed.stream();
  const reader = (
    method === STORED ? stream : stream.pipeThrough(new DecompressionStream("deflate-raw"))
  ).getReader();
  const bytes = new Uint8Array(size);
  let length = 0;
  try {
    for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
      if (length + value.length > size) {
        reader.cancel().catch(() => {});
        return null;
      }
      bytes.set(value, length);
      length += value.length;
    }
  } catch {
    return null;
  }
  return length === size ? bytes : null;
}

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = (value >>> 1) ^ (value & 1 ? 0xedb88320 : 0);
  return value;
});

function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = (value >>> 8) ^ CRC[(value ^ byte) & 255];
  return ~value >>> 0;
}

const MARKS = [
  { mark: [0xff, 0xfe], encoding: "utf-16le" },
  { mark: [0xfe, 0xff], encoding: "utf-16be" },
];

function decoded(bytes) {
  const marked = MARKS.find(({ mark }) => mark.every((byte, index) => bytes[index] === byte));
  try {
    return new TextDecoder(marked?.encoding ?? "utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Error(DAMAGED);
  }
}

// --- elements, by their names without namespaces: Word's are two sets of the same names

/** The first child of a name, its first child of the next one, and so on; null where there is none. */
export function child(element, ...path) {
  let found = element ?? null;
  for (const name of path) {
    found = found?.firstElementChild ?? null;
    while (found && found.localName !== name) found = found.nextElementSibling;
  }
  return found;
}

export function childrenOf(element) {
  const children = [];
  for (let one = element?.firstElementChild; one; one = one.nextElementSibling) children.push(one);
  return children;
}

/** Refuse what is nested deeper than documents are. */
export function checkDepth(depth) {
  if (depth > DEEPEST) throw new Error("its parts are nested too deeply");
}

/** An attribute by its name without namespace; null where there is none. */
export function attribute(element, name) {
  if (!element) return null;
  for (const one of element.attributes) {
    if (one.localName === name && one.prefix !== "xmlns") return one.value;
  }
  return null;
}

/** The id by which an element names what its part refers to: one of a namespace, not its own. */
export function reference(element) {
  for (const one of element?.attributes ?? []) {
    if (one.localName === "id" && one.namespaceURI) return one.value;
  }
  return null;
}

/** The first of several forms of the same content: the others are for older programs. */
export function branch(alternatives) {
  return alternatives.firstElementChild ?? alternatives;
}

/** A whole number of at most nine digits, or the default. */
export function number(text, otherwise = 0) {
  return text !== null && /^[+-]?[0-9]{1,9}$/.test(text) ? Number(text) : otherwise;
}

/** What a part refers to, by ids: [the last word of its type, its part or address]. */
export async function relations(archive, part) {
  const slash = part.lastIndexOf("/");
  const [folder, name] = [part.slice(0, Math.max(slash, 0)), part.slice(slash + 1)];
  const root = await archive.xmlIfAny(`${folder && `${folder}/`}_rels/${name}.rels`);
  const found = new Map();
  for (const one of childrenOf(root)) {
    const kind = (attribute(one, "Type") ?? "").split("/").pop();
    let target = attribute(one, "Target") ?? "";
    if (attribute(one, "TargetMode") !== "External") {
      target = target.startsWith("/") ? target.slice(1) : joined(folder, target);
    }
    found.set(attribute(one, "Id") ?? "", [kind, target]);
  }
  return found;
}

/** The first part of a kind that a part refers to. */
export async function related(archive, part, kind) {
  const all = [...(await relations(archive, part)).values()];
  return all.find(([one]) => one === kind)?.[1] ?? null;
}

function joined(folder, target) {
  const names = folder ? folder.split("/") : [];
  for (const name of target.split("/")) {
    if (name === "..") names.pop();
    else if (name !== ".") names.push(name);
  }
  return names.join("/");
}
