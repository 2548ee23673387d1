// Sets the chosen theme before the first paint; as a plain script, so that nothing flashes.
try {
  const { theme } = JSON.parse(localStorage.getItem("quire.settings")) ?? {};
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // none was chosen, or there is no storage
}
