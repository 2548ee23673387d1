// The keyboard: one table of shortcuts, which the help shows too.

/** Each: the key (`code` with Alt, else `key`), how it is written, what it does. */
export function shortcuts(actions) {
  return [
    { shown: ["Enter"], does: "Send the message" },
    { shown: ["Shift", "Enter"], does: "New line" },
    {
      key: "Escape",
      shown: ["Esc"],
      does: "Stop the answer, or close what is open",
      act: actions.escape,
    },
    { key: "/", shown: ["/"], does: "To the message field", act: actions.focus },
    { shown: ["↑"], does: "In an empty field: edit the last message" },
    { shown: ["/"], does: "In an empty field: saved prompts" },
    { code: "KeyN", shown: ["Alt", "N"], does: "New conversation", act: actions.create },
    { code: "ArrowUp", shown: ["Alt", "↑"], does: "Conversation above", act: actions.above },
    { code: "ArrowDown", shown: ["Alt", "↓"], does: "Conversation below", act: actions.below },
    { code: "KeyR", shown: ["Alt", "R"], does: "Answer again", act: actions.retry },
    { code: "KeyC", shown: ["Alt", "C"], does: "Go on with the answer", act: actions.goOn },
    { code: "KeyT", shown: ["Alt", "T"], does: "Think first, or not", act: actions.think },
    {
      code: "KeyB",
      shown: ["Alt", "B"],
      does: "Show or hide the conversations",
      act: actions.sidebar,
    },
    { code: "KeyE", shown: ["Alt", "E"], does: "Export the conversation", act: actions.share },
    { code: "KeyS", shown: ["Alt", "S"], does: "Settings", act: actions.settings },
    { code: "KeyD", shown: ["Alt", "D"], does: "Dark or light", act: actions.theme },
    { key: "?", shown: ["?"], does: "These shortcuts", act: actions.help },
  ];
}

const touched = matchMedia("(pointer: coarse)");

/** Whether the keyboard is most likely one on glass, which has no Shift+Enter: there, Enter is a new line. */
export function isTouched() {
  return touched.matches;
}

/** Whether a key belongs to a word that an input method is composing. Safari tells of the key that
 * ends it when all is over, by the code 229 alone. */
export function isComposing(event) {
  return event.isComposing || event.keyCode === 229;
}

/** Listen for the shortcuts on the whole page. */
export function listen(table) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || isComposing(event)) return;
    const shortcut = table.find((each) => each.act && fits(each, event));
    if (shortcut && shortcut.act() !== false) event.preventDefault();
  });
}

function fits(shortcut, event) {
  if (shortcut.code) return event.altKey && !event.shiftKey && event.code === shortcut.code;
  if (event.altKey || event.key !== shortcut.key) return false;
  return shortcut.key === "Escape" || !isWriting(event.target);
}

function isWriting(element) {
  return (
    element.matches("input, textarea, select, [contenteditable]") ||
    element.closest("dialog") !== null
  );
}
