// Syntax highlighting; a language's grammar is loaded when it is first needed.
import hljs from "../vendor/highlight.min.js";
import { sanitized } from "./markdown.js";

const LANGUAGES = new Set(
  (
    "bash c cpp csharp css diff dockerfile go ini java javascript json kotlin lua makefile markdown php " +
    "python r ruby rust shell sql swift typescript xml yaml"
  ).split(" "),
);
const ALIASES = {
  "c#": "csharp",
  "c++": "cpp",
  cc: "cpp",
  console: "shell",
  cs: "csharp",
  docker: "dockerfile",
  golang: "go",
  h: "c",
  hpp: "cpp",
  html: "xml",
  js: "javascript",
  jsonc: "json",
  jsx: "javascript",
  kt: "kotlin",
  make: "makefile",
  md: "markdown",
  mjs: "javascript",
  patch: "diff",
  py: "python",
  rb: "ruby",
  rs: "rust",
  sh: "bash",
  svg: "xml",
  toml: "ini",
  ts: "typescript",
  tsx: "typescript",
  yml: "yaml",
  zsh: "bash",
};
const WITHIN = { markdown: ["xml"], php: ["xml"], shell: ["bash"], xml: ["css", "javascript"] };
const LONGEST = 50_000; // characters; longer code stays plain

const loading = new Map();

/** Highlight a `code` element of class `language-...`, at once if its grammar is loaded; where none
 * can be loaded, since the server is gone, it stays plain. */
export async function colour(code) {
  const named = /\blanguage-(\S+)/.exec(code.className)?.[1].toLowerCase();
  const language = ALIASES[named] ?? named;
  if (!LANGUAGES.has(language) || code.textContent.length > LONGEST) return;
  if (!hljs.getLanguage(language) && !(await load(language))) return;
  const { value } = hljs.highlight(code.textContent, { language, ignoreIllegals: true });
  code.replaceChildren(sanitized(value));
}

/** Resolves to whether the grammar is there; one that could not be loaded is tried again later. */
function load(language) {
  if (!loading.has(language)) {
    const failed = () => {
      loading.delete(language);
      return false;
    };
    loading.set(
      language,
      fetchGrammars(language).then(() => true, failed),
    );
  }
  return loading.get(language);
}

async function fetchGrammars(language) {
  await Promise.all((WITHIN[language] ?? []).map(load));
  const grammar = await import(`../vendor/languages/${language}.min.js`);
  hljs.registerLanguage(language, grammar.default);
}
