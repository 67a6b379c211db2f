// The board of contributors: what each client has played, in this run or in all.
import { address, get } from "./api.js";
import { count, h, number, say } from "./dom.js";

const columns = [
  ["Rank", (row) => count(row.rank)],
  ["Client", (row) => row.client],
  ["Env steps", (row) => count(row.env_steps)],
  ["Share", (row) => `${number(100 * row.share)} %`],
  ["Episodes", (row) => count(row.episodes)],
  ["Hours", (row) => number(row.hours)],
  ["Uptime", (row) => `${number(100 * row.uptime)} %`],
  ["Runs", (row) => count(row.runs)],
];
const most = 200; // rows on the page; the file holds all

export function contributors(context) {
  let scope = "run";
  const body = h("tbody", {});
  const note = h("p", { class: "faint small" });
  const file = h("a", { class: "button quiet", download: "contributors.csv" }, "CSV");
  const choose = (name, text) => h("button", { type: "button", class: "quiet", "aria-pressed": String(name === scope), onclick: () => { scope = name; for (const [other, button] of Object.entries(buttons)) button.setAttribute("aria-pressed", String(other === scope)); update(); } }, text);
  const buttons = { run: choose("run", "This run"), all: choose("all", "All runs") };
  const element = h("section", { class: "card flush", "aria-labelledby": "board-title", hidden: true },
    h("div", { class: "row spread board-head" }, h("h2", { id: "board-title" }, "Contributors"), h("div", { class: "row" }, buttons.run, buttons.all, file)),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of contributors" },
      h("table", { class: "wide" }, h("caption", { class: "hidden" }, "What each client has played"), h("thead", {}, h("tr", {}, columns.map(([name]) => h("th", { scope: "col" }, name)))), body)), note);

  let due = 0;
  const update = async () => {
    if (!context.run) return;
    due = Date.now() + 10_000;
    const asked = scope;
    const rows = await get("contributors", { run: context.run, scope });
    if (asked !== scope) return;
    element.hidden = rows.length === 0;
    file.href = address("contributors", { run: context.run, scope, format: "csv" });
    body.replaceChildren(...rows.slice(0, most).map((row) => h("tr", {}, columns.map(([name, cell], i) => h(i === 1 ? "th" : "td", { "data-name": name, scope: i === 1 ? "row" : undefined }, cell(row))))));
    say(note, rows.length > most ? `The first ${count(most)} of ${count(rows.length)}; the file holds all. ` : "");
    note.append("Hours and uptime are those in which a client played, up to its last finished episode.");
  };
  update();
  return { element, update: () => (Date.now() > due ? update() : undefined) };
}
