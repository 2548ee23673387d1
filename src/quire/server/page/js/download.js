// Gives a Blob to the browser to be saved as a file.
import { h } from "./dom.js";

const READ = 60_000; // ms after which the browser has read it

export function download(blob, name) {
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), READ);
}
