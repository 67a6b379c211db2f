// Runs side by side: seeds of one experiment as a band, experiments as curves, and where their settings differ.
import { get } from "./api.js";
import { Chart, place } from "./charts.js";
import { count, h, number, runName, say, unused } from "./dom.js";

const most = 8;

export function compare(context, query) {
  const asked = (query.get("runs") ?? "").split(",").filter((run) => context.runs.some((row) => row.run === run));
  const alike = context.runs.filter((row) => row.environment === context.row?.environment && row.algorithm === context.row?.algorithm);
  const chosen = new Set(asked.length ? asked : alike.slice(0, 8).map((row) => row.run));
  const choice = { metric: "reward_mean", x: "env_steps", group: true };
  const stage = h("div", { class: "stage" });
  const legend = h("ul", { class: "legend" });
  const readout = h("p", { class: "readout", "aria-hidden": "true" });
  const differences = h("section", { class: "card flush", "aria-labelledby": "diff-title", hidden: true });
  const metrics = h("select", { id: "metric", onchange: (event) => { choice.metric = event.target.value; load(); } }, h("option", { value: "reward_mean" }, "reward"));
  const axes = h("select", { id: "axis", onchange: (event) => { choice.x = event.target.value; load(); } }, Object.entries({ env_steps: "env steps", episode: "episodes", time: "time since the start" }).map(([x, text]) => h("option", { value: x }, text)));
  const group = h("input", { type: "checkbox", checked: true, onchange: (event) => { choice.group = event.target.checked; load(); } });
  const list = h("ul", { class: "picks" }, context.runs.map((row) => {
    const box = h("input", { type: "checkbox", checked: chosen.has(row.run), onchange: (event) => {
      if (event.target.checked) chosen.add(row.run); else chosen.delete(row.run);
      load();
    } });
    return h("li", {}, h("label", { class: "check" }, box, h("span", {}, runName(row), h("small", { class: "faint" }, ` seed ${row.seed ?? "?"}, ${count(row.env_steps)} env steps, reward ${number(row.reward_mean)}`))));
  }));
  const element = h("div", { class: "stack" }, h("div", { class: "columns" },
    h("section", { class: "card", "aria-labelledby": "runs-title" }, h("h2", { id: "runs-title" }, "Runs"), context.runs.length ? list : unused("There is no run yet.")),
    h("section", { class: "card", "aria-labelledby": "compare-title" }, h("div", { class: "row spread" }, h("h2", { id: "compare-title" }, "Side by side"), readout),
      h("div", { class: "row tools" }, h("label", { class: "field" }, "Metric ", metrics), h("label", { class: "field" }, "Over ", axes), h("label", { class: "check" }, group, "Group seeds")), stage, legend)), differences);
  let chart = null;
  let shown = null;

  const load = async () => {
    if (!chosen.size) { clearChart("Choose a run."); return; }
    const runs = [...chosen].slice(0, 20);
    const answer = await get("compare", { runs: runs.join(","), metric: choice.metric, x: choice.x, group: choice.group, max_points: 300 });
    shown = answer;
    draw(answer);
    differ(answer);
  };
  const clearChart = (text) => { chart?.close(); chart = null; legend.replaceChildren(); stage.replaceChildren(unused(text)); differences.hidden = true; };
  const draw = (answer) => {
    const groups = answer.groups.filter((one) => one.rows.length).slice(0, most);
    if (!groups.length) { clearChart("None of these runs has such numbers."); return; }
    chart?.close();
    stage.replaceChildren();
    const curves = groups.flatMap((one, i) => [
      { name: "low", colour: `c${i}`, kind: "edge" }, { name: "high", colour: `c${i}`, kind: "edge", band: one.runs.length > 1 }, { name: title(one), colour: `c${i}` },
    ]);
    const x = choice.x === "time" ? "relative" : choice.x;
    chart = new Chart(stage, { x, size: "large", label: `${choice.metric} of ${groups.length} experiments`, curves, onmove: (index) => read(groups, x, index) });
    chart.show(uPlot.join(groups.map((one) => [one.rows.map((row) => row.x), ...["low", "high", "median"].map((name) => one.rows.map((row) => row[name]))])));
    legend.replaceChildren(...groups.map((one, i) => h("li", {}, h("span", { class: "key" }, h("i", { class: `swatch c${i}` }), title(one)))));
  };
  const title = (one) => {
    const row = context.runs.find((candidate) => candidate.run === one.runs[0]);
    const name = row ? runName(row) : one.runs[0];
    return one.runs.length > 1 ? `${row?.environment} · ${row?.algorithm} · ${one.runs.length} seeds, median and quartiles` : name;
  };
  const read = (groups, x, index) => {
    if (index === null || index === undefined) { say(readout, ""); return; }
    say(readout, [place(x, chart.data[0][index]), ...groups.map((one, i) => number(chart.value(3 * i + 2, index)))].join(" · "));
  };
  const differ = (answer) => {
    differences.hidden = answer.differences.length === 0;
    if (differences.hidden) return;
    const runs = Object.keys(answer.differences[0].values);
    const name = (run) => { const row = context.runs.find((one) => one.run === run); return row ? runName(row) : run; };
    differences.replaceChildren(h("h2", { id: "diff-title" }, "Settings that differ"), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of settings that differ" },
      h("table", {}, h("caption", { class: "hidden" }, "Settings that differ between these runs"),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Setting"), runs.map((run) => h("th", { scope: "col" }, name(run))))),
        h("tbody", {}, answer.differences.map((one) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, one.setting)), runs.map((run) => h("td", {}, h("code", {}, JSON.stringify(one.values[run]) ?? "–")))))))));
  };
  const fillMetrics = async () => {
    if (!context.run) return;
    const found = await get("metrics", { run: context.run });
    metrics.replaceChildren(...found.filter((metric) => !["greedy", "version"].includes(metric.name)).map((metric) => {
      const value = metric.source === "episodes" ? `${metric.name}_mean` : metric.name;
      return h("option", { value, selected: value === choice.metric }, metric.name.replaceAll("_", " "));
    }));
  };
  fillMetrics();
  load();
  return { element, recolour: () => shown && draw(shown), close: () => chart?.close() };
}
