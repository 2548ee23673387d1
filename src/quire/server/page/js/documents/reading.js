// Documents by their content: which program they are of, their text, and why one has none. The
// terminal's reader (quire/cli/chat/documents) gives the same text of the same file.
import { DAMAGED, LOCKED, openArchive, related } from "./archive.js";
import { openDocumentText } from "./open_document.js";
import { sheetsText } from "./sheets.js";
import { slidesText } from "./slides.js";
import { wordText } from "./word.js";

const COMPOUND = [0xd0, 0xcf, 0x11, 0xe0];
const SAVE = "save it as .docx, .odt or PDF";
const ANOTHER = `it is of another program; ${SAVE}`;
const COMPOUND_STREAMS = [
  ["EncryptedPackage", LOCKED],
  ["WordDocument", `it is of Word before 2007; ${SAVE}`],
  ["Workbook", "it is of Excel before 2007; save it as .xlsx or CSV"],
  ["PowerPoint Document", "it is of PowerPoint before 2007; save it as .pptx or PDF"],
];
const OPEN_DOCUMENTS = {
  __proto__: null,
  presentation: "it is a presentation of OpenDocument; save it as .pptx or PDF",
  spreadsheet: "it is a workbook of OpenDocument; save it as .xlsx or CSV",
};

/** The text of a Word or OpenDocument text, of a presentation or a workbook. Throws an Error that says
 * what is wrong with the file `name`, and what to do. */
export async function documentText(file, name) {
  try {
    const start = new Uint8Array(await file.slice(0, COMPOUND.length).arrayBuffer());
    if (COMPOUND.every((byte, index) => start[index] === byte)) {
      throw new Error(whyCompound(new Uint8Array(await file.arrayBuffer())));
    }
    return await textOf(await openArchive(file));
  } catch (error) {
    const why = error.name === "Error" ? error.message : DAMAGED;
    throw new Error(`${name} cannot be read: ${why}.`);
  }
}

/** Why a file is refused that is of Microsoft's format before zip archives. */
function whyCompound(bytes) {
  const text = new TextDecoder("latin1").decode(bytes);
  const wide = (word) => [...word].map((letter) => `${letter}\0`).join("");
  const found = COMPOUND_STREAMS.find(([word]) => text.includes(wide(word)));
  return found?.[1] ?? `it is of an older program; ${SAVE}`;
}

const READERS = {
  __proto__: null,
  document: wordText,
  presentation: slidesText,
  workbook: sheetsText,
};

async function textOf(archive) {
  if (archive.has("content.xml") && archive.has("mimetype")) return textOfOpenDocument(archive);
  const part = await related(archive, "", "officeDocument");
  if (part === null || !archive.has(part)) throw new Error(whyArchive(archive));
  if (part.endsWith(".bin")) throw new Error("it is a binary workbook; save it as .xlsx or CSV");
  const root = await archive.xml(part);
  const read = READERS[root.localName];
  if (!read) throw new Error(ANOTHER);
  return read(archive, part, root);
}

async function textOfOpenDocument(archive) {
  const type = new TextDecoder("latin1").decode(await archive.read("mimetype"));
  const kind = type.trim().split(".").pop();
  if (archive.has("META-INF/manifest.xml")) {
    const manifest = await archive.read("META-INF/manifest.xml");
    if (new TextDecoder("latin1").decode(manifest).includes("encryption-data"))
      throw new Error(LOCKED);
  }
  if (!kind.startsWith("text")) throw new Error(OPEN_DOCUMENTS[kind] ?? ANOTHER);
  return openDocumentText(archive);
}

function whyArchive(archive) {
  const names = [...archive.entries.keys()];
  if (names.some((name) => name.endsWith(".iwa")) || archive.has("Index.zip")) {
    return "it is of Pages, Numbers or Keynote; export it as Word or PDF";
  }
  if (archive.has("[Content_Types].xml")) return DAMAGED;
  return "it is an archive; attach what is in it";
}
