// The rules for what is loaded when it is first needed: a module that imports this one has them.
import { h } from "../dom.js";

const href = new URL("../../css/later.css", import.meta.url).href;

await new Promise((resolve) => {
  // Without them it works as well.
  document.head.append(h("link", { rel: "stylesheet", href, onload: resolve, onerror: resolve }));
});
