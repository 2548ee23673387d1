// Before the first paint: the theme that was chosen. A plain script, so that nothing flashes.
try {
  const { theme } = JSON.parse(localStorage.getItem("quire.settings")) ?? {};
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // none was chosen, or this browser keeps nothing
}
