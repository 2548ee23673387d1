// The page's entry point: makes all parts and connects them.
import { Addresses } from "./address.js";
import { Api } from "./api.js";
import { copyFormulas } from "./clipboard.js";
import { iconButton } from "./dom.js";
import { listen, shortcuts } from "./keys.js";
import { early, later, whenIdle } from "./later.js";
import { Session } from "./session.js";
import { loadSettings } from "./settings.js";
import { openStore } from "./store.js";
import { loadProse } from "./view/answer_text.js";
import { acceptDrops, Composer } from "./view/composer.js";
import { tellContext } from "./view/context.js";
import { askKey, showShortcuts } from "./view/dialogs.js";
import { Header } from "./view/header.js";
import { notify, placeNotices, tell } from "./view/notices.js";
import { Sidebar } from "./view/sidebar.js";
import { Thread } from "./view/thread.js";

const narrow = matchMedia("(max-width: 52rem)");
const darkSystem = matchMedia("(prefers-color-scheme: dark)");
const TRY_AGAIN = 2000; // ms, while the server is loading or away
const settings = later(() => import("./view/settings.js"));
const share = later(() => import("./view/share.js"));
const think = later(() => import("./view/think.js"));
const promptList = later(() => import("./view/prompt_list.js"));
const at = (id) => document.getElementById(id);

async function start() {
  const session = new Session(new Api(askKey), await openStore(), loadSettings());
  const sidebar = sidebarSwitch(session);
  const thread = new Thread(session, at("thread"), at("jump"));
  const composer = new Composer(session, at("composer"), { notify, editLast: () => thread.edit() });
  new Sidebar(session, at("sidebar"), sidebar.choose);
  new Header(session, at("title"), at("model"));
  tellContext(session, at("fine"));
  acceptDrops(composer);
  offerThinking(session, composer);
  offerPrompts(session, composer);
  at("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address stays that of the conversation
    composer.focus();
  });
  session.addEventListener("problem", ({ detail }) => notify(detail));
  session.addEventListener("settings", () => showTheme(session.settings.theme));
  session.addEventListener("opened", () => narrow.matches || composer.focus());
  session.addEventListener("thread", () => keepFocus(composer));
  const table = shortcuts(actions(session, thread, composer, sidebar));
  listen(table);
  document.addEventListener("copy", copyFormulas);
  fillBars(session, sidebar, table);
  composer.focus();
  loadProseInTime(session);
  await session.load();
  if (location.hash) await loadProse(); // so that its conversation is drawn whole, and nothing moves
  thread.draw();
  new Addresses(session, { notify, reveal: (node) => thread.reveal(node) });
  session.tidy();
  await loadModels(session);
  if (!session.path.length) thread.draw();
}

/** Load what draws answers before there is one: with the first key of a question, or, where there are
 * conversations that may be opened, in an idle moment. */
function loadProseInTime(session) {
  at("composer").addEventListener("input", () => loadProse(), { once: true });
  session.addEventListener("list", () => session.conversations.length && whenIdle(loadProse));
}

/** The switch for thoughts, once a model is chosen that has one. */
function offerThinking(session, composer) {
  let offered = false;
  const offer = (view) => view.offerThinking(session, composer.tools);
  session.addEventListener("settings", () => {
    if (offered || !session.model?.thinking) return;
    offered = true;
    think().then(offer, () => (offered = false)); // with the next change
  });
}

/** Saved prompts, by their button or by a slash in the empty field. */
function offerPrompts(session, { form, field, tools }) {
  let list = null;
  const open = (how) =>
    promptList().then(({ PromptList }) => {
      list ??= new PromptList(session, { form, field }, button);
      how(list);
    }, tell);
  const button = iconButton("prompts", "Saved prompts (/)", () => open((all) => all.toggle()));
  tools.before(early(button, promptList));
  field.addEventListener("input", ({ data }) => {
    // A long text is not read with each key.
    if (data === "/" && field.value === "/") open((all) => all.openTyped());
  });
}

/** Focus the message field if the focused element was removed. */
function keepFocus(composer) {
  const lost = document.activeElement === document.body;
  if (lost && !narrow.matches && getSelection().isCollapsed) composer.focus();
}

/** The models, as soon as the server has loaded them. */
async function loadModels(session) {
  let told = null;
  let problem = null;
  for (;;) {
    try {
      await session.loadModels();
      told?.end();
      return;
    } catch (error) {
      if (error.message === problem) told.wait();
      else {
        told?.end();
        [told, problem] = [notify(error.message), error.message];
      }
      if (error.status !== 0 && error.status !== 503) return;
      await new Promise((resolve) => setTimeout(resolve, TRY_AGAIN));
    }
  }
}

function actions(session, thread, composer, sidebar) {
  const free = () => document.querySelector("dialog[open]") === null;
  const whenFree = (act) => () => free() && act();
  return {
    escape: () => {
      if (!free()) return false; // the dialog closes itself
      if (narrow.matches && sidebar.isOpen) return sidebar.close();
      return session.isRunning ? session.stop() : false;
    },
    focus: () => composer.focus(),
    create: whenFree(() => session.create()),
    above: whenFree(() => session.step(-1)),
    below: whenFree(() => session.step(1)),
    retry: whenFree(() => retryLast(session)),
    goOn: whenFree(() => session.goOn()),
    think: whenFree(() => at("think")?.click()),
    sidebar: whenFree(() => sidebar.toggle()),
    share: whenFree(() => openShare(session)),
    settings: whenFree(() => openSettings(session)),
    theme: () => switchTheme(session),
    help: whenFree(() => showShortcuts(shortcuts({}))),
  };
}

function openSettings(session) {
  settings().then((view) => view.openSettings(session), tell);
}

/** The conversation that is shown as this is asked for, and no other by the time the module has come. */
function openShare(session) {
  if (!session.isBegun) return;
  const { current } = session;
  share().then((view) => session.current === current && view.openShare(session), tell);
}

function retryLast(session) {
  const last = session.path.at(-1);
  if (last?.role === "assistant") session.retry(last);
}

function fillBars(session, sidebar, table) {
  const toggle = () => sidebar.toggle();
  at("bar-start").append(
    iconButton("menu", "Conversations (Alt+B)", toggle, { id: "menu", "aria-controls": "sidebar" }),
  );
  const shareButton = iconButton("share", "Export (Alt+E)", () => openShare(session), { id: "share" });
  const drawShare = () => (shareButton.disabled = !session.isBegun);
  for (const event of ["list", "opened"]) session.addEventListener(event, drawShare);
  drawShare();
  const settingsButton = iconButton("settings", "Settings (Alt+S)", () => openSettings(session), {
    id: "settings",
  });
  at("bar-end").append(
    early(shareButton, share),
    iconButton("moon", "Dark or light (Alt+D)", () => switchTheme(session), { id: "theme" }),
    iconButton("keys", "Keyboard (?)", () => showShortcuts(table), { id: "help" }),
    early(settingsButton, settings),
  );
  sidebar.draw();
}

/** The sidebar: beside the thread on a wide page, above it on a narrow one. */
function sidebarSwitch(session) {
  let isOpen = !narrow.matches && session.settings.sidebar;
  const draw = () => {
    document.documentElement.classList.toggle("with-sidebar", isOpen);
    at("sidebar").inert = !isOpen;
    at("main").inert = isOpen && narrow.matches;
    at("menu")?.setAttribute("aria-expanded", String(isOpen));
    placeNotices();
  };
  const turn = (open) => {
    document.documentElement.classList.add("moving"); // only what the user moves is seen to move
    isOpen = open;
    if (!narrow.matches) session.set({ sidebar: open });
    draw();
    if (open && narrow.matches) at("sidebar").querySelector("a, button").focus();
  };
  const close = () => turn(false);
  narrow.addEventListener("change", () => {
    isOpen = !narrow.matches && session.settings.sidebar;
    draw();
  });
  at("shade").addEventListener("click", close);
  draw();
  const choose = () => narrow.matches && close();
  return {
    close,
    choose,
    draw,
    toggle: () => turn(!isOpen),
    get isOpen() {
      return isOpen;
    },
  };
}

function switchTheme(session) {
  const { theme } = session.settings;
  const dark = theme === "dark" || (theme === "auto" && darkSystem.matches);
  session.set({ theme: dark ? "light" : "dark" });
}

function showTheme(theme) {
  const root = document.documentElement;
  if (theme === "auto") delete root.dataset.theme;
  else root.dataset.theme = theme;
}

start();
