// The clients of a run, and the messages that were not admitted.
import { get } from "./api.js";
import { contributors } from "./contributors.js";
import { count, counted, duration, h, number, say, unused } from "./dom.js";

const columns = [
  ["Client", (row) => h("div", { class: "who-cell" }, h("span", { class: "name" }, row.client), h("span", { class: `state ${row.state} small` }, state(row)), row.held || row.trouble || row.finding ? h("span", { class: "small wrong" }, row.held || trouble(row) || row.finding) : null, plays(row) ? h("span", { class: "small" }, plays(row)) : null)],
  ["Env steps/s", (row, most) => h("span", { class: "bar" }, h("meter", { min: 0, max: most || 1, value: row.steps_per_second, "aria-hidden": "true" }), number(Math.round(row.steps_per_second)))],
  ["Env steps", (row) => count(row.admitted)],
  ["Episodes", (row) => count(row.episodes)],
  ["Mean reward, last 20", (row) => number(row.recent_mean)],
  ["Mean reward, all", (row) => number(row.reward_mean)],
  ["Lag, versions", (row) => count(row.lag)],
  ["Queued", (row) => count(row.queued)],
  ["Rejected", (row) => count(row.rejected)],
  ["Lost", (row) => count(row.lost)],
  ["Dropped", (row) => count(row.dropped)],
  ["Restarts", (row) => count(row.restarts)],
];

// The words of the terminal: a client in step has played all that the learner allows for now.
const states = { active: "active", waiting: "in step", lost: "lost", quarantine: "kept out" };
const state = (row) => (row.seen < 2 ? states[row.state] : `${states[row.state]}, heard ${duration(row.seen)} ago`);

const verbs = { purge: "Purge", pardon: "Pardon", revoke: "Revoke" };

function trouble(row) {
  const faults = Object.entries(row.faults).map(([kind, n]) => `${n} ${kind}`).join(", ");
  return faults ? `${faults}; last: ${row.trouble}` : row.trouble;
}

// The arguments that the run lets this client set for itself.
const plays = (row) => Object.entries(row.kwargs).map(([name, value]) => `${name}=${value}`).join(", ");

export function clients(context) {
  const summary = h("p", { class: "lead" });
  const reasons = h("ul", { class: "chips" });
  const refused = h("section", { class: "card", "aria-labelledby": "refused-title", hidden: true }, h("h2", { id: "refused-title" }, "Messages not admitted"), reasons);
  const body = h("tbody", {});
  const actions = (row) => h("div", { class: "row" }, [row.state === "quarantine" ? "pardon" : "purge", ...(context.enrolls ? ["revoke"] : [])].map((command) =>
    h("button", { type: "button", class: "quiet tiny", "aria-label": `${verbs[command]} ${row.client}`, onclick: () => context.ask(command, row.client, update) }, verbs[command])));
  const name = h("input", { id: "enroll", type: "text", required: true, maxlength: 64, pattern: "[a-z0-9][a-z0-9_\\-]{0,63}", placeholder: "name", autocomplete: "off", title: "a-z, 0-9, _ and -" });
  const enroll = h("form", { class: "row enroll", onsubmit: (event) => { event.preventDefault(); context.ask("enroll", name.value.trim(), () => { name.value = ""; }); } },
    h("label", { for: "enroll" }, "Add a client"), name, h("button", { type: "submit" }, "Enroll"));
  const table = h("table", { class: "wide" }, h("caption", { class: "hidden" }, "Clients of this run"), h("thead", {}, h("tr", {}, columns.map(([name]) => h("th", { scope: "col" }, name)), context.operator ? h("th", { scope: "col" }, h("span", { class: "hidden" }, "Actions")) : null)), body);
  const nobody = unused(context.operator && context.enrolls ? "No client has connected. Enroll one above, and start it with: soulsai client --invite FILE" : "No client has connected.");
  const board = contributors(context);
  const element = h("div", { class: "stack" }, h("div", { class: "row spread" }, summary, context.operator && context.enrolls ? enroll : null), h("section", { class: "card flush", "aria-label": "Clients" }, h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of clients" }, table), nobody), refused, board.element);

  // A row stays the same element while its client plays, so that focus and clicks are kept.
  const lines = new Map();
  const line = (row, most) => {
    const known = lines.get(row.client);
    if (known?.state === row.state && known.live === context.live) {
      columns.forEach(([, cell], i) => { const fresh = cell(row, most); if (typeof fresh === "string") say(known.cells[i], fresh); else known.cells[i].replaceChildren(fresh); });
      return known.element;
    }
    const cells = columns.map(([name, cell], i) => h(i ? "td" : "th", { "data-name": name, scope: i ? undefined : "row" }, cell(row, most)));
    const element = h("tr", { class: row.state }, cells, context.operator ? h("td", { class: "actions-cell" }, context.live ? actions(row) : null) : null);
    lines.set(row.client, { element, cells, state: row.state, live: context.live });
    return element;
  };

  const update = async () => {
    if (!context.run) return;
    const rows = await get("clients", { run: context.run });
    const alive = rows.filter((row) => row.state !== "lost");
    const order = { active: 0, waiting: 1, quarantine: 2, lost: 3 };
    rows.sort((a, b) => order[a.state] - order[b.state] || b.steps_per_second - a.steps_per_second);
    const rate = alive.reduce((sum, row) => sum + row.steps_per_second, 0);
    say(summary, context.live ? `${count(alive.length)} of ${counted(rows.length, "clients")} alive, with ${number(rate)} env steps per second.` : `${counted(rows.length, "clients")} when this run was last heard of.`);
    const most = Math.max(...rows.map((row) => row.steps_per_second), 0);
    enroll.hidden = !context.live;
    const wanted = rows.map((row) => line(row, most));
    if (wanted.length !== body.children.length || wanted.some((element, i) => body.children[i] !== element)) body.replaceChildren(...wanted);
    table.hidden = !rows.length;
    nobody.hidden = rows.length > 0;
    const rejected = Object.entries(context.head?.status?.rejected ?? {});
    refused.hidden = !rejected.length;
    reasons.replaceChildren(...rejected.map(([reason, n]) => h("li", {}, h("strong", {}, count(n)), ` ${reason}`)));
  };
  update();
  return { element, update: () => Promise.all([update(), board.update()]) };
}
