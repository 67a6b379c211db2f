// What happened, newest first: who asked for what, and what came of it.
import { get } from "./api.js";
import { h, unused, whenExactly } from "./dom.js";

const kinds = { command: "Commands", checkpoint: "Checkpoints", best: "Best models", client: "Clients", phase: "Phases", node: "Nodes", notice: "Notices" };

export function events(context) {
  let wanted = "";
  const list = h("ol", { class: "events", "aria-label": "Events" });
  const none = unused("Nothing has happened yet.");
  const filter = h("select", { id: "kind", onchange: (event) => { wanted = event.target.value; load(); } },
    h("option", { value: "" }, "Everything"), Object.entries(kinds).map(([kind, text]) => h("option", { value: kind }, text)));
  const element = h("section", { class: "card", "aria-labelledby": "events-title" },
    h("div", { class: "row spread" }, h("h2", { id: "events-title" }, "Events"), h("label", { class: "field" }, "Show ", filter)), list, none);
  const text = (event) => (event.kind === "best" ? event.text.replace(/ -(?=\d)/, " −") : event.text);
  const line = (event) => h("li", { class: event.kind, "data-number": event.number }, whenExactly(event.time),
    h("span", { class: "kind" }, event.kind), h("span", { class: "text" }, text(event)), event.who ? h("span", { class: "who faint" }, event.who) : null);
  let rows = [];
  const draw = () => {
    // While it learns, one best model follows the other: of all that do, the newest will do.
    const news = (event, i) => event.kind !== "best" || rows[i - 1]?.kind !== "best";
    const shown = rows.filter((event, i) => (wanted ? event.kind === wanted : news(event, i))).slice(0, 500);
    list.replaceChildren(...shown.map(line));
    none.hidden = shown.length > 0;
  };
  const load = async () => {
    rows = context.run ? await get("events", { run: context.run, limit: 1000 }) : [];
    draw();
  };
  const log = (event) => {
    if (!context.live || rows.some((row) => row.number === event.number)) return;
    rows.unshift(event);
    draw();
  };
  load();
  return { element, log };
}
