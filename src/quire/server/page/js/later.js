// What a first view does not need: modules that are loaded when they are first asked for.

export const UNREACHABLE = "The server cannot be reached. Does it still run?";
const PAUSE = 30; // ms before what can wait, where the browser tells of no idle moments

/** A function that resolves to what `load` imports, which is loaded once. Where it cannot be, it throws
 * an Error with a text for people, and is loaded the next time. */
export function later(load) {
  let loading = null;
  return () => {
    loading ??= loaded(load).catch(() => {
      loading = null;
      throw new Error(UNREACHABLE);
    });
    return loading;
  };
}

/** Firefox never asks again for a module that could not be loaded once, or that imports such a one: this
 * sees first whether the server is there. */
async function loaded(load) {
  const { ok } = await fetch(import.meta.url, { method: "HEAD", cache: "no-store" });
  if (!ok) throw new Error(UNREACHABLE);
  return load();
}

/** Load what a button shows when somebody is about to press it, so that it is there at once. */
export function early(button, load) {
  const start = () => load().catch(() => {}); // who presses it is told
  for (const event of ["pointerenter", "focus"]) {
    button.addEventListener(event, start, { once: true });
  }
  return button;
}

/** Call `act` in an idle moment. */
export function whenIdle(act) {
  if (globalThis.requestIdleCallback) requestIdleCallback(() => act());
  else setTimeout(act, PAUSE);
}
