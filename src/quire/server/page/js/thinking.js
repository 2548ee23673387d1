// Whether the model thinks before it answers, and how much: request options of the conversation, which
// the settings show too. Nothing else is kept of it.

const NAMES = ["enable_thinking", "reasoning_effort"];

/** {on, effort} as they hold in the current conversation: `on` is null where the model decides itself, and
 * `effort` where nothing is set. */
export function thinkingOf(session) {
  return holding(session, session.optionsOf(true));
}

/** Turn thoughts on or off in the current conversation. */
export function switchThinking(session) {
  const on = !thinkingOf(session).on;
  const here = without(NAMES, session.optionsOf(true));
  if (holding(session, here).on !== on) {
    // The server refuses a switch and an effort that contradict each other.
    const { effort } = holding(session, here);
    if (effort !== null && (effort !== "none") !== on) here.reasoning_effort = null;
    here.enable_thinking = on;
  }
  session.setOptionsHere(here);
}

/** Have the current conversation ask for an effort; null leaves it to the model. */
export function setEffort(session, effort) {
  const here = without(["reasoning_effort"], session.optionsOf(true));
  if (effort !== null || "reasoning_effort" in session.optionsOf(false)) here.reasoning_effort = effort;
  session.setOptionsHere(here);
}

/** What holds where the current conversation has the options `here`. */
function holding(session, here) {
  const [given, effort] = NAMES.map((name) => ({ ...session.optionsOf(false), ...here })[name] ?? null);
  const byEffort = effort === null ? (session.model?.thinking?.default ?? null) : effort !== "none";
  return { on: given ?? byEffort, effort };
}

function without(names, options) {
  return Object.fromEntries(Object.entries(options).filter(([name]) => !names.includes(name)));
}
