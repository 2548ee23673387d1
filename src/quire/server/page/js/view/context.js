// The line below the message field: how full the model's context is, once that matters.
import { show } from "../dom.js";

const TOLD = 0.5; // the part of the context from which on its use is told
const SOON = 0.9; // … and from which on little more fits

/** Keeps the text of an element, which is there for something else before. */
export function tellContext(session, element) {
  const usual = element.textContent;
  const draw = () => {
    const used = usedPart(session);
    show(element, used?.text ?? usual);
    element.classList.toggle("problem", (used?.part ?? 0) >= SOON);
  };
  for (const event of ["thread", "settings"]) session.addEventListener(event, draw);
}

/** {part, text}; null if it is little, or not known: the server counts the tokens of each answer. */
function usedPart({ path, model }) {
  const most = model?.max_model_len;
  const usage = path.findLast(({ usage }) => usage)?.usage;
  const used = usage ? usage.prompt + usage.completion : 0;
  if (!most || used < most * TOLD) return null;
  const part = Math.min(1, used / most);
  const shown = (number) => number.toLocaleString("en");
  const text = `The context is ${Math.round(part * 100)} % full: ${shown(used)} of ${shown(most)} tokens.`;
  return { part, text };
}
