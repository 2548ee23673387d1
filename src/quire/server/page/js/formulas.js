// Formulas of an answer, drawn by KaTeX, which is loaded with the first one.
//
// KaTeX makes elements, not markup. It is given no trust, so that it makes no link and loads no image,
// and small limits. What it does not know stays as it was written.

const LONGEST = 5000; // characters
const LIMITS = {
  trust: false,
  strict: "ignore", // else it warns in the console of what is no LaTeX, such as accented letters
  maxExpand: 1000,
  maxSize: 20, // em
};
// A few definitions can ask for millions of letters; links and pictures need trust.
const NOT_DRAWN =
  /\\(?:[egx]?def|(?:future)?let|(?:re)?newcommand|providecommand|global|long|href|url|includegraphics|html\w+)\b/;
const FORMS = [
  { form: /^\\\(([^]+)\\\)$/, displayMode: false },
  { form: /^\\\[([^]+)\\\]$/, displayMode: true },
  { form: /^\$\$([^]+)\$\$$/, displayMode: true },
  { form: /^(\\begin\{([A-Za-z]+\*?)\}[^]+\\end\{\2\})$/, displayMode: true },
  { form: /^\$([^]+)\$$/, displayMode: false },
];
const MONEY = /^\$\s*\d[^\\^_={}]*[A-Za-z]{3}/; // "$5 for me, and 6$"
const DEEPEST = 300; // elements within each other
const KEPT = 500; // drawn formulas: those of a growing paragraph are drawn in each frame

const drawings = new Map(); // source -> element
let loading = null;

/** Draw the formula of an element, at once if KaTeX is loaded; where it cannot be, it stays text. */
export async function draw(element) {
  const source = element.textContent;
  const formula = read(source, element);
  if (!formula) return;
  if (!globalThis.katex && !(await load())) return;
  const drawing = drawn(source, formula);
  if (!drawing) return;
  element.dataset.source = source;
  element.classList.add(formula.displayMode ? "display" : "inline");
  element.replaceChildren(drawing);
}

/** {tex, displayMode} of a formula with its marks, or null: it is not closed yet, or none. */
function read(source, element) {
  if (source.length > LONGEST || NOT_DRAWN.test(source)) return null;
  const { form, displayMode } = FORMS.find(({ form }) => form.test(source)) ?? {};
  if (!form || (!displayMode && source[0] === "$" && isMoney(source, element))) return null;
  return { tex: form.exec(source)[1], displayMode };
}

/** Whether the dollars are those of prices or of names, as in "US$5 or A$6" and "$HOME/$USER". */
function isMoney(source, { previousSibling: before, nextSibling: after }) {
  return MONEY.test(source) || /\w$/.test(before?.data ?? "") || /^\w/.test(after?.data ?? "");
}

function drawn(source, { tex, displayMode }) {
  if (!drawings.has(source)) {
    if (drawings.size >= KEPT) drawings.clear();
    drawings.set(source, make(tex, displayMode));
  }
  return drawings.get(source)?.cloneNode(true);
}

function make(tex, displayMode) {
  try {
    const tree = globalThis.katex.__renderToDomTree(tex, { displayMode, ...LIMITS });
    return styled(tree);
  } catch {
    return null; // no formula that KaTeX knows, or one nested too deep
  }
}

/** KaTeX's tree as an element. The policy allows no style attributes, but styles set by a script. */
function styled(tree) {
  rename(tree);
  const element = tree.toNode();
  for (const each of element.querySelectorAll("[data-style]")) {
    each.style.cssText = each.getAttribute("data-style");
    each.removeAttribute("data-style");
  }
  return element;
}

function rename({ attributes, children = [] }, depth = 0) {
  if (depth > DEEPEST) throw new Error("too deep");
  if (attributes?.style) {
    attributes["data-style"] = attributes.style;
    delete attributes.style;
  }
  for (const child of children) rename(child, depth + 1);
}

/** Resolves to whether KaTeX is there; if it could not be loaded, it is tried again later. */
function load() {
  const failed = () => {
    loading = null;
    return false;
  };
  loading ??= Promise.all([import("../vendor/katex/katex.min.js"), loadStyle()]).then(
    () => true,
    failed,
  );
  return loading;
}

function loadStyle() {
  const link = document.createElement("link");
  const href = new URL("../vendor/katex/katex.min.css", import.meta.url).href;
  Object.assign(link, { rel: "stylesheet", href });
  return new Promise((resolve, reject) => {
    link.onload = resolve;
    link.onerror = () => {
      link.remove();
      reject(new Error("no style"));
    };
    document.head.append(link);
  });
}
