// Syntax highlighting; it is loaded with the first code, a language's grammar when it is first needed.
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

// What a language shows at the beginning of a line, for code without a name. In doubt it stays plain.
const SIGNS = [
  ["bash", /^#!.*\b(?:ba|da|z)?sh\b/],
  ["python", /^#!.*\bpython/],
  ["shell", /^\$ \w/],
  ["xml", /^<(?:!doctype|\?xml|html)\b/i],
  ["diff", /^(?:diff --git |--- \S.*\n\+\+\+ )/m],
  ["cpp", /^#include [<"]/m],
  ["go", /^package \w+\n/],
  ["rust", /^(?:pub )?fn \w+.*\{$|^use \w+::/m],
  ["python", /^(?:from [\w.]+ import |import [\w.]+(?: as \w+)?$|(?:async )?def \w+\(.*:$)/m],
  ["java", /^(?:public |final |abstract )+(?:class|interface|enum) \w+.*\{$/m],
  [
    "javascript",
    /^(?:import .* from ["']|(?:export )?(?:async )?function\b|(?:const|let) \S+ = )/m,
  ],
  ["sql", /^(?:SELECT|INSERT INTO|CREATE TABLE|UPDATE \w+ SET|ALTER TABLE)\b/i],
];

let hljs = null;
const loading = new Map();

/** Highlight a `code` element of class `language-...`, or of a guessed one, at once if its grammar is
 * loaded; where none can be loaded, since the server is gone, it stays plain. */
export async function colour(code) {
  if (code.textContent.length > LONGEST) return;
  const named = /\blanguage-(\S+)/.exec(code.className)?.[1].toLowerCase();
  const language = named ? (ALIASES[named] ?? named) : guessed(code.textContent);
  if (!LANGUAGES.has(language)) return;
  if (!hljs?.getLanguage(language) && !(await load(language))) return;
  const { value } = hljs.highlight(code.textContent, { language, ignoreIllegals: true });
  code.replaceChildren(sanitized(value));
}

function guessed(text) {
  const start = text.trimStart();
  if (/^[[{]/.test(start) && isJson(start)) return "json";
  return SIGNS.find(([, sign]) => sign.test(start))?.[0];
}

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
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
  hljs ??= (await import("../vendor/highlight.min.js")).default;
  await Promise.all((WITHIN[language] ?? []).map(load));
  const grammar = await import(`../vendor/languages/${language}.min.js`);
  hljs.registerLanguage(language, grammar.default);
}
