// The chosen colours and the sidebar, before the first paint; as a plain script, so that nothing flashes
// or moves when the modules are there.
{
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem("quire.settings")) ?? {};
  } catch {
    // nothing was chosen, or there is no storage
  }
  const root = document.documentElement;
  if (kept.theme === "light" || kept.theme === "dark") root.dataset.theme = kept.theme;
  const wide = !matchMedia("(max-width: 52rem)").matches;
  root.classList.toggle("with-sidebar", wide && kept.sidebar !== false);
  // A conversation is shown as soon as its answers can be drawn: without waiting for the other modules.
  if (location.hash) import("./view/prose.js").catch(() => {}); // the page tells of it, and tries again
}
