// The user's settings for all conversations, in localStorage. null: the server's own default.

const KEY = "quire.settings";

export const DEFAULTS = Object.freeze({
  model: "",
  system: "",
  temperature: null,
  top_p: null,
  max_tokens: null,
  seed: null,
  thinking: "default", // or "on", "off"
  tools: "",
  theme: "auto", // or "light", "dark"
  sidebar: true,
});

/** The settings, with defaults for all that are not stored or not readable. */
export function loadSettings() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY)) ?? {};
    const known = Object.entries(kept).filter(([name]) => name in DEFAULTS);
    return { ...DEFAULTS, ...Object.fromEntries(known) };
  } catch {
    return { ...DEFAULTS };
  }
}

export function saveSettings(settings) {
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // without storage, settings last until the page is closed
  }
}
