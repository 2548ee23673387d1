// The text and the pages of PDFs, read by pdf.js in a worker.
import * as pdfjs from "../vendor/pdfjs/pdf.min.mjs";

const VENDOR = new URL("../vendor/pdfjs/", import.meta.url).href;
const WORKER = `${VENDOR}pdf.worker.min.mjs`;
const PATIENCE = 60_000; // ms
const MOST_PAGES = 1000;
const MOST_TEXT = 5_000_000; // characters
const PIXELS = 1_500_000; // of a page's picture
const LARGEST_IMAGE = 50_000_000; // pixels of one within a page
const QUALITY = 0.9;

// The page's policy asks for trusted addresses of scripts: this one is the only one.
const policy = globalThis.trustedTypes?.createPolicy("quire-worker", {
  createScriptURL: () => WORKER,
});

/** {pages: how many, text} of a PDF. Throws an Error that says what is wrong with it. */
export function readPdf(file, name) {
  return opened(file, name, async (pdf) => {
    if (pdf.numPages > MOST_PAGES) {
      throw new Error(`${name} has ${pdf.numPages} pages: at most ${MOST_PAGES} are read.`);
    }
    const texts = [];
    let length = 0;
    for (let number = 1; number <= pdf.numPages; number += 1) {
      const page = await pdf.getPage(number);
      const { items } = await page.getTextContent();
      const text = items.map(({ str = "", hasEOL }) => str + (hasEOL ? "\n" : "")).join("");
      length += text.length;
      if (length > MOST_TEXT) throw new Error(`${name} has too much text to be read.`);
      if (text.trim()) texts.push(`[Page ${number}]\n${text.trim()}`);
      page.cleanup();
    }
    return { pages: pdf.numPages, text: texts.join("\n\n") };
  });
}

/** Pictures of a PDF's first pages, as Blobs. */
export function drawPages(file, name, most) {
  return opened(file, name, async (pdf) => {
    const pictures = [];
    for (let number = 1; number <= Math.min(most, pdf.numPages); number += 1) {
      pictures.push(await drawn(await pdf.getPage(number)));
    }
    return pictures;
  });
}

async function drawn(page) {
  const { width, height } = page.getViewport({ scale: 1 });
  const scale = Math.sqrt(PIXELS / Math.max(width * height, 1));
  const viewport = page.getViewport({ scale });
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(viewport.width));
  canvas.height = Math.max(1, Math.round(viewport.height));
  // Drawn for the screen, it would wait while the tab is in the background.
  await page.render({ canvas, viewport, intent: "print" }).promise;
  page.cleanup();
  return new Promise((resolve, reject) => {
    const take = (blob) =>
      blob ? resolve(blob) : reject(new Error("A page is too large to draw."));
    canvas.toBlob(take, "image/jpeg", QUALITY);
  });
}

/** What `use` makes of a PDF, in a worker of its own, which ends with it. */
async function opened(file, name, use) {
  const port = new Worker(policy?.createScriptURL(WORKER) ?? WORKER, { type: "module" });
  const verbosity = pdfjs.VerbosityLevel.ERRORS;
  const worker = pdfjs.PDFWorker.create({ port, verbosity });
  const task = pdfjs.getDocument({
    data: await file.arrayBuffer(),
    worker,
    cMapUrl: `${VENDOR}cmaps/`,
    wasmUrl: `${VENDOR}wasm/`,
    maxImageSize: LARGEST_IMAGE,
    isEvalSupported: false,
    enableXfa: false,
    verbosity,
  });
  try {
    return await Promise.race([task.promise.then(use), tooLong(name)]);
  } catch (error) {
    throw reason(error, name);
  } finally {
    port.terminate();
    task.destroy().catch(() => {});
  }
}

function tooLong(name) {
  return new Promise((_, reject) => {
    setTimeout(() => reject(new Error(`${name} takes too long to read.`)), PATIENCE);
  });
}

function reason(error, name) {
  if (error.name === "PasswordException") {
    return new Error(`${name} is locked with a password: save it without one.`);
  }
  if (error.name === "InvalidPDFException") return new Error(`${name} is a damaged PDF.`);
  if (error.name === "Error") return error;
  return new Error(`${name} could not be read: ${error.message ?? "the PDF is damaged"}`);
}
