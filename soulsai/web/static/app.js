// The frame of the page: the chosen run, its pages, the controls, and the news.
import { get, Refused, send } from "./api.js";
import { clients } from "./clients.js";
import { compare } from "./compare.js";
import { controls } from "./controls.js";
import { h, runName, say } from "./dom.js";
import { events } from "./events.js";
import { models } from "./models.js";
import { follow } from "./news.js";
import { run } from "./run.js";

const pages = { run: [run, "Run"], clients: [clients, "Clients"], models: [models, "Models"], compare: [compare, "Compare"], events: [events, "Events"] };
const $ = (id) => document.getElementById(id);

const state = { session: null, runs: [], chosen: "latest", head: null, page: null, name: "" };

// The context of a page. `run` is an id; `live` is true for the run in progress.
const context = {
  get run() { return state.chosen === "latest" ? (state.head?.run ?? state.runs[0]?.run ?? "") : state.chosen; },
  get live() { return Boolean(state.head?.run) && state.head.run === this.run; },
  get head() { return this.live ? state.head : null; },
  get row() { return state.runs.find((row) => row.run === this.run); },
  get runs() { return state.runs; },
  get operator() { return state.session?.role === "operator"; },
  get enrolls() { return Boolean(state.session?.enroll); },
  ask: (command, name, after) => buttons.askAbout(command, context.run, name, after),
  go: (page, query) => { location.hash = hash(page, query); },
};

function hash(page, query = {}) {
  const words = new URLSearchParams({ ...(state.chosen === "latest" ? {} : { run: state.chosen }), ...query }).toString();
  return `#/${page}${words ? `?${words}` : ""}`;
}

function route() {
  const [path, words] = location.hash.replace(/^#\/?/, "").split("?");
  return { page: pages[path] ? path : "run", query: new URLSearchParams(words ?? "") };
}

function show() {
  if (!state.session?.role) return;
  const { page, query } = route();
  const wanted = query.get("run");
  state.chosen = wanted && state.runs.some((row) => row.run === wanted) ? wanted : "latest";
  state.page?.close?.();
  state.name = page;
  const [make, title] = pages[page];
  document.title = `${title} · soulsai`;
  $("pages").replaceChildren(...Object.entries(pages).map(([name, [, text]]) =>
    h("li", {}, h("a", { href: hash(name), "aria-current": name === page ? "page" : undefined }, text))));
  state.page = make(context, query);
  $("content").replaceChildren(h("h1", { class: "hidden" }, title), state.page.element);
  fillRuns();
  frame();
}

function fillRuns() {
  const options = state.runs.map((row) => h("option", { value: row.run }, `${runName(row)}${row.live ? " · live" : ""}`));
  const select = $("run");
  if (select.childElementCount !== options.length || select.dataset.of !== state.runs.map((row) => row.run).join()) {
    select.replaceChildren(...(options.length ? options : [h("option", { value: "" }, "no run yet")]));
    select.dataset.of = state.runs.map((row) => row.run).join();
  }
  select.value = context.run;
}

function frame() {
  const status = context.head?.status;
  const phase = status?.phase ?? (context.live ? "silent" : context.row?.phase ?? "");
  $("phase").hidden = !phase;
  say($("phase"), phase);
  $("phase").dataset.phase = phase;
  const notice = context.live && !status ? "The training node is silent. What came before is shown; it goes on by itself when the node is back." : status?.notice ?? "";
  $("notice").hidden = !notice;
  say($("notice"), notice);
  buttons.update(context);
}

async function refreshRuns() {
  state.runs = await get("runs");
  fillRuns();
}

let before = "";
function onhead(head) {
  const another = head.run !== before;
  before = head.run;
  state.head = head;
  if (another) refreshRuns().then(show).catch(complain);
  else { frame(); state.page?.update?.(head); }
}

function onstate(now) {
  const text = now === "live" ? "" : "connecting…";
  say($("link"), text);
}

function complain(error) {
  if (error instanceof Refused && error.status === 401) return signIn();
  say($("notice"), error.message);
  $("notice").hidden = false;
}

function signIn() {
  state.page?.close?.();
  state.session = { ...state.session, role: "" };
  const wrong = h("p", { class: "wrong", role: "alert" });
  const token = h("input", { id: "token", type: "password", autocomplete: "current-password", required: true });
  const submit = async (event) => {
    event.preventDefault();
    try {
      state.session = await send("login", { token: token.value.trim() });
      location.reload();
    } catch (error) { say(wrong, error.message); token.select(); }
  };
  $("content").replaceChildren(h("form", { class: "card sign-in", onsubmit: submit },
    h("h1", {}, "Sign in"),
    h("p", { class: "faint" }, "This run is private. Its owner has given you a token, either to look or to control."),
    h("input", { type: "text", autocomplete: "username", value: "soulsai", hidden: true }), h("label", { for: "token" }, "Token"), token, wrong, h("button", { class: "primary", type: "submit" }, "Sign in")));
  token.focus();
}

function switchTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
  state.page?.recolour?.();
}

const buttons = controls($("controls"), $("confirm"), complain);

async function start() {
  const early = localStorage.getItem("open") ? get("runs").catch(() => null) : null; // it was let in the last time, too
  state.session = await get("session");
  $("logout").hidden = !state.session.token_needed || !state.session.role;
  localStorage.setItem("open", state.session.token_needed ? "" : "yes");
  if (!state.session.role) return signIn();
  state.runs = (await early) ?? (await get("runs"));
  before = context.run;
  addEventListener("hashchange", show);
  $("run").addEventListener("change", (event) => {
    state.chosen = event.target.value === state.head?.run ? "latest" : event.target.value;
    context.go(state.name);
    if (location.hash === hash(state.name)) show();
  });
  show();
  const news = follow({ onhead, onlog: (event) => state.page?.log?.(event), onstate });
  addEventListener("pagehide", news.leave);
  addEventListener("pageshow", (event) => { if (event.persisted) news.enter(); });
}

$("theme").addEventListener("click", switchTheme);
$("logout").addEventListener("click", () => send("logout", {}).then(() => location.reload(), complain));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => state.page?.recolour?.());
addEventListener("unhandledrejection", (event) => { event.preventDefault(); complain(event.reason); });
start().catch(complain);
