// The saved models of a run, their scores and their files.
import { address, get } from "./api.js";
import { Chart, place } from "./charts.js";
import { evaluations } from "./evaluations.js";
import { bytes, count, h, number, say, unused, when } from "./dom.js";

const curves = [{ name: "exploring", colour: "exploring" }, { name: "greedy", colour: "greedy", kind: "points" }];
const names = { best: "Best model", manual: "Quicksave", checkpoint: "Checkpoint" };

export function models(context) {
  const stage = h("div", { class: "stack" });
  const played = versions(context);
  const evaluated = evaluations(context);
  const element = h("div", { class: "stack" }, stage, evaluated.element, played.element);
  let seen = "";

  const update = async () => {
    if (!context.run) { stage.replaceChildren(unused("There is no run yet.")); return; }
    const list = await get("models", { run: context.run });
    const state = JSON.stringify([Boolean(context.operator && context.head?.status), list.map((model) => [model.model, model.time, model.score, model.fault])]);
    if (state === seen) return;
    seen = state;
    const best = list.find((model) => model.kind === "best");
    const rest = list.filter((model) => model.kind !== "best");
    stage.replaceChildren(...[
      best && prize(context, best, update),
      rest.length ? table(context, rest, update) : null,
      list.length ? null : unused("Nothing is saved yet. The first checkpoint comes by itself; a quicksave when you like."),
    ].filter(Boolean));
  };
  const both = () => Promise.all([update(), evaluated.update(), played.update()]);
  let due = 0;
  both();
  return { element, update: () => (Date.now() > due ? ((due = Date.now() + 2000), both()) : undefined), recolour: () => { played.recolour(); evaluated.recolour(); }, close: () => { played.close(); evaluated.close(); } };
}

// The mean reward of the episodes of each version of the weights.
function versions(context) {
  const stage = h("div", { class: "stage" });
  const readout = h("p", { class: "readout", "aria-hidden": "true" });
  const legend = h("ul", { class: "legend" }, curves.map((curve) => h("li", {}, h("span", { class: "key" }, h("i", { class: `swatch ${curve.colour}` }), curve.name))));
  const element = h("section", { class: "card", "aria-labelledby": "versions-title", hidden: true },
    h("div", { class: "row spread" }, h("h2", { id: "versions-title" }, "Mean reward by version, over env steps"), readout), stage, legend);
  let rows = [];
  let chart = null;
  const read = (index) => {
    const row = rows[index];
    say(readout, row ? [place("env_steps", row.env_steps), `version ${count(row.version)}`, `exploring ${number(row.reward_mean)}`, `greedy ${number(row.greedy_mean)}`].join(" · ") : "");
  };
  const draw = () => {
    chart ??= new Chart(stage, { x: "env_steps", label: "Mean reward by version", curves, onmove: read });
    chart.show(["env_steps", "reward_mean", "greedy_mean"].map((name) => rows.map((row) => row[name])));
  };
  return {
    element,
    update: async () => {
      if (!context.run) return;
      const found = await get("versions", { run: context.run });
      rows = found.sort((one, other) => one.env_steps - other.env_steps);
      element.hidden = rows.length < 2;
      if (!element.hidden) draw();
    },
    recolour: () => chart?.draw(),
    close: () => chart?.close(),
  };
}

function link(run, model, name) {
  return address(`runs/${encodeURIComponent(run)}/models/${encodeURIComponent(model)}${name ? `/${encodeURIComponent(name)}` : ".tar"}`);
}

function prize(context, model, update) {
  const { run } = context;
  const policy = model.files.find((file) => file.name === "policy.onnx");
  return h("section", { class: "card prize", "aria-labelledby": "best-title" },
    h("div", {}, h("h2", { id: "best-title", class: "label" }, "Best model"), h("p", { class: "value" }, number(model.score)),
      h("p", { class: "faint" }, `version ${count(model.version)}${model.env_steps === null ? "" : ` at ${count(model.env_steps)} env steps`}, saved `, when(model.time))),
    h("div", { class: "row end" }, policy ? h("a", { class: "button primary", href: link(run, model.model, "policy.onnx"), download: "" }, `Download policy.onnx`) : null,
      context.operator && context.head?.status ? h("button", { type: "button", class: "quiet", onclick: () => context.ask("forget_best", "", update) }, "Forget") : null),
    fault(model), digests(model));
}

function table(context, list, update) {
  const { run } = context;
  const promote = (model) => h("button", { type: "button", class: "quiet", "aria-label": `Promote ${model.model}`, onclick: () => context.ask("promote", model.model, update) }, "Promote");
  const rows = list.map((model) => h("tr", {},
    h("th", { scope: "row", "data-name": "Model" }, `${names[model.kind]}${model.kind === "checkpoint" ? ` ${model.model}` : ""}`, fault(model)),
    h("td", { "data-name": "Saved" }, when(model.time)),
    h("td", { "data-name": "Env steps" }, count(model.env_steps)),
    h("td", { "data-name": "Updates" }, count(model.updates)),
    h("td", { "data-name": "Score" }, h("strong", {}, number(model.score))),
    h("td", { "data-name": "Size" }, bytes(model.bytes)),
    h("td", { "data-name": "Download" }, h("div", { class: "row" },
      model.files.some((file) => file.name === "policy.onnx") ? h("a", { class: "button", href: link(run, model.model, "policy.onnx"), download: "", "aria-label": `policy.onnx of ${model.model}` }, "policy.onnx") : null,
      h("a", { class: "button quiet", href: link(run, model.model), download: "", "aria-label": `all files of ${model.model}` }, "All files"),
      context.operator && context.head?.status && !model.fault ? promote(model) : null)),
    h("td", { "data-name": "SHA-256" }, digests(model))));
  return h("section", { class: "card flush", "aria-label": "Checkpoints" }, h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of checkpoints" },
    h("table", { class: "wide" }, h("caption", { class: "hidden" }, "Saved states of this run"),
      h("thead", {}, h("tr", {}, ["Model", "Saved", "Env steps", "Updates", "Score", "Size", "Download", "SHA-256"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, rows))));
}

function fault(model) {
  return model.fault ? h("p", { class: "wrong" }, model.fault) : null;
}

function digests(model) {
  const shown = h("span", { class: "copied", role: "status" });
  const copy = async (digest) => { await navigator.clipboard.writeText(digest); say(shown, "copied"); };
  return h("details", { class: "digests" }, h("summary", {}, `${model.files.length} files`), h("ul", {}, model.files.map((file) => h("li", {},
    h("span", {}, `${file.name}, ${bytes(file.bytes)}`), h("code", {}, file.sha256),
    navigator.clipboard ? h("button", { type: "button", class: "quiet tiny", onclick: () => copy(file.sha256), "aria-label": `Copy the SHA-256 of ${file.name}` }, "copy") : null))), shown);
}
