// Files that can be attached, by their kinds and contents.
import { later } from "./later.js";
import { textOf } from "./texts.js";

const BY_NAME = {
  png: "image/png",
  jpg: "image/jpeg",
  jpeg: "image/jpeg",
  gif: "image/gif",
  webp: "image/webp",
  bmp: "image/bmp",
  avif: "image/avif",
  wav: "audio/wav",
  mp3: "audio/mpeg",
  flac: "audio/flac",
  ogg: "audio/ogg",
  opus: "audio/ogg",
  m4a: "audio/mp4",
  aac: "audio/aac",
  mp4: "video/mp4",
  webm: "video/webm",
  mov: "video/quicktime",
  mkv: "video/x-matroska",
  avi: "video/x-msvideo",
};
const KINDS = ["image", "audio", "video"];
// The type of files that are text, or that no model sees.
const BY_CONTENT = ["image/svg+xml", "video/mp2t", "audio/x-mpegurl", "audio/mpegurl"];
const MOST_TEXT = 20_000_000; // bytes
const MOST_PDF = 100_000_000;
const MOST_DOCUMENT = 100_000_000;

const pdfs = later(() => import("./pdfs.js"));
const documents = later(() => import("./documents/reading.js"));

/** {kind, type, name, size, content, text, pages} of a File: `content` is the Blob to keep, `text` what
 * is read of a text, a document or a PDF. Throws an Error that says why it cannot be attached. */
export async function readFile(file) {
  const name = file.name || "This";
  const ending = name.split(".").pop().toLowerCase();
  if (/^hei[cf]$/.test(ending) || /^image\/hei[cf]/.test(file.type)) {
    throw new Error(`${name} is a picture in HEIC, which few programs read: save it as JPEG.`);
  }
  const type = mediaType(file, ending);
  if (type) {
    const named = file.name || `pasted.${type.split("/")[1]}`;
    return { kind: type.split("/")[0], type, name: named, size: file.size, content: file };
  }
  if (file.size === 0) throw new Error(`${name} is empty.`);
  const start = await bytesOf(file.slice(0, 1024), name);
  if (begins(start, DOCUMENTS)) return written(file, name);
  return isPdf(start) ? pdf(file, name) : plainText(file, name, start);
}

function mediaType({ type }, ending) {
  const told = KINDS.includes(type.split("/")[0]) ? type.split(";")[0] : BY_NAME[ending];
  return BY_CONTENT.includes(told) ? null : told;
}

async function bytesOf(blob, name) {
  try {
    return new Uint8Array(await blob.arrayBuffer());
  } catch {
    throw new Error(`${name} could not be read. Is it a folder?`);
  }
}

function isPdf(bytes) {
  return new TextDecoder("latin1").decode(bytes).includes("%PDF-");
}

async function pdf(file, name) {
  if (file.size > MOST_PDF) throw tooLarge(file, name, MOST_PDF);
  const { readPdf } = await pdfs();
  const { pages, text } = await readPdf(file, name);
  return {
    kind: "pdf",
    type: "application/pdf",
    name,
    size: file.size,
    content: file,
    text,
    pages,
  };
}

/** A document of an office program, as a text: that of its text alone. */
async function written(file, name) {
  if (file.size > MOST_DOCUMENT) throw tooLarge(file, name, MOST_DOCUMENT);
  const { documentText } = await documents();
  const text = await documentText(file, name);
  if (!text) throw new Error(`${name} holds no text.`);
  const content = new Blob([text], { type: "text/plain" });
  return { kind: "text", type: "text/plain", name, size: content.size, content, text };
}

async function plainText(file, name, start) {
  if (begins(start, BINARY)) throw unread(name);
  if (file.size > MOST_TEXT) throw tooLarge(file, name, MOST_TEXT);
  const text = textOf(await bytesOf(file, name));
  if (text === null) throw unread(name);
  const content = new Blob([text], { type: "text/plain" });
  return { kind: "text", type: "text/plain", name, size: file.size, content, text };
}

const DOCUMENTS = [
  [0x50, 0x4b, 3, 4],
  [0xd0, 0xcf, 0x11, 0xe0],
]; // ZIP, and what Microsoft had before
const BINARY = [
  [0x1f, 0x8b],
  [0x7f, 0x45, 0x4c, 0x46],
]; // gzip, ELF

function begins(start, signs) {
  return signs.some((sign) => sign.every((byte, index) => start[index] === byte));
}

function unread(name) {
  return new Error(
    `${name} is no text, document, PDF, picture, sound or video. Unpack an archive.`,
  );
}

function tooLarge(file, name, most) {
  return new Error(`${name} has ${sizeText(file.size)}: at most ${sizeText(most)} are read.`);
}

/** A data URL of a Blob, under the type that the page knows it by. */
export function toDataUrl(blob, type = blob.type) {
  const named = blob.type === type ? blob : new Blob([blob], { type });
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("A file could not be read."));
    reader.readAsDataURL(named);
  });
}

/** The Blob of a base64 data URL, without a request: the page's policy allows none to data:. */
export function fromDataUrl(url) {
  const match = /^data:([\w.+/-]*);base64,(.*)$/s.exec(url);
  if (!match) throw new Error("A file in it is no base64 data URL.");
  const bytes = Uint8Array.from(atob(match[2]), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: match[1] });
}

export function sizeText(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1e6) return `${Math.round(bytes / 1e3)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}
