// The user's settings for all conversations, in localStorage.

const KEY = "quire.settings";

export const DEFAULTS = Object.freeze({
  model: "",
  system: "",
  options: {}, // of requests, by name; the model's own default holds for all others
  probabilities: false, // whether they are asked for
  tools: "",
  theme: "auto", // or "light", "dark"
  sidebar: true,
});

/** The settings, with defaults for all that are not stored or not readable. */
export function loadSettings() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY)) ?? {};
    const known = Object.entries(kept).filter(([name]) => name in DEFAULTS);
    return { ...DEFAULTS, options: optionsOf(kept), ...Object.fromEntries(known) };
  } catch {
    return { ...DEFAULTS };
  }
}

/** The options of settings that an earlier version of the page has kept. */
function optionsOf({ thinking = "default", ...kept }) {
  const names = ["temperature", "top_p", "max_tokens", "seed"];
  const options = names
    .filter((name) => Number.isFinite(kept[name]))
    .map((name) => [name, kept[name]]);
  if (thinking !== "default") options.push(["enable_thinking", thinking === "on"]);
  return Object.fromEntries(options);
}

export function saveSettings(settings) {
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // without storage, settings last until the page is closed
  }
}
