// The evaluations of a run: their curve, and the episodes that were recorded, one or two at a time.
import { address, get } from "./api.js";
import { Chart, place } from "./charts.js";
import { count, h, number, say, short } from "./dom.js";

const curves = [
  { name: "low", colour: "greedy", kind: "edge" },
  { name: "95 % interval", colour: "greedy", kind: "edge", band: true },
  { name: "mean", colour: "greedy" },
];
const scoreNames = { q: "Q", probability: "probability", mean: "mean" };

export function evaluations(context) {
  const stage = h("div", { class: "stage" });
  const readout = h("p", { class: "readout", "aria-hidden": "true" });
  const legend = h("ul", { class: "legend" }, ["mean", "95 % interval"].map((name) => h("li", {}, h("span", { class: "key" }, h("i", { class: "swatch greedy" }), name))));
  const title = h("h2", { id: "evaluation-title" }, "Evaluation");
  const note = h("p", { class: "faint small" });
  const curve = h("section", { class: "card", "aria-labelledby": "evaluation-title", hidden: true }, h("div", { class: "row spread" }, title, readout), stage, legend, note);
  const watch = theatre(context);
  const element = h("div", { class: "stack" }, curve, watch.element);
  let rows = [];
  let chart = null;
  let seen = "";

  const read = (index) => {
    const row = rows[index];
    say(readout, row ? [place("env_steps", row.env_steps), `version ${row.generation}-${count(row.version)}`, `${number(row.mean)} (${number(row.low)} to ${number(row.high)})`, `${count(row.episodes)} episodes`, row.regressed ? "far worse than the best" : row.verdict].join(" · ") : "");
  };
  const bests = () => rows.filter((row) => row.verdict === "best" || row.verdict === "first").map((row) => ({ x: row.env_steps, y: row.mean }));
  const draw = () => {
    chart ??= new Chart(stage, { x: "env_steps", label: "Mean of an evaluation with its interval", curves, marks: bests, onmove: read });
    chart.show(["env_steps", "low", "high", "mean"].map((name) => rows.map((row) => row[name])));
  };

  const update = async () => {
    if (!context.run) return;
    const [found, recorded] = await Promise.all([get("evaluations", { run: context.run, max_points: 400 }), get("recordings", { run: context.run })]);
    const state = JSON.stringify([context.run, found.length, found.at(-1)?.number, recorded.length, recorded[0]?.number]);
    if (state === seen) return;
    seen = state;
    rows = found;
    curve.hidden = rows.length === 0;
    const last = rows.reduce((one, other) => (one && one.number > other.number ? one : other), null);
    say(note, last ? `${count(last.episodes)} episodes each${last.by === "clients" ? ", played by clients" : " on the same seeds"}, by ${last.metric}. Stars are models that were the best.` : "");
    if (!curve.hidden) draw();
    watch.show(recorded);
  };
  return { element, update, recolour: () => chart?.draw(), close: () => { chart?.close(); watch.close(); } };
}

// One or two recorded episodes side by side.
function theatre(context) {
  const first = viewer(context, "Episode");
  const second = viewer(context, "Compare with");
  const both = h("button", { type: "button", onclick: () => { first.play(); second.play(); } }, "Play both");
  const pair = h("button", { type: "button", class: "quiet", "aria-pressed": "false", onclick: () => side(second.element.hidden) }, "Side by side");
  const element = h("section", { class: "card", "aria-labelledby": "watch-title", hidden: true },
    h("div", { class: "row spread" }, h("h2", { id: "watch-title" }, "Watch it play"), h("div", { class: "row" }, pair, both)),
    h("div", { class: "viewers" }, first.element, second.element));
  const side = (shown) => {
    second.element.hidden = both.hidden = !shown;
    pair.setAttribute("aria-pressed", String(shown));
    if (shown) second.load();
  };
  side(false);
  return {
    element,
    show: (rows) => {
      element.hidden = rows.length === 0;
      first.fill(rows, 0);
      // The oldest model on the same seed is what the newest one is compared with.
      const same = rows.findLastIndex((row) => row.seed === rows[0]?.seed);
      second.fill(rows, Math.max(0, same));
      if (rows.length) first.load();
    },
    close: () => { first.close(); second.close(); },
  };
}

function viewer(context, name) {
  const id = `watch-${name.replaceAll(" ", "-").toLowerCase()}`;
  const choice = h("select", { id, onchange: () => load(true) });
  const video = h("video", { controls: true, muted: true, playsinline: true, preload: "metadata", "aria-label": `${name}: video` });
  video.muted = true;
  const slider = h("input", { type: "range", min: 0, max: 0, value: 0, step: 1, "aria-label": `${name}: step`, oninput: () => go(Number(slider.value)) });
  const back = h("button", { type: "button", class: "quiet icon", "aria-label": `${name}: step back`, onclick: () => go(step - 1) }, "◀");
  const on = h("button", { type: "button", class: "quiet icon", "aria-label": `${name}: step on`, onclick: () => go(step + 1) }, "▶");
  const told = h("p", { class: "small", role: "status" });
  const bars = h("ul", { class: "scores", "aria-label": `${name}: the policy's view of each action` });
  const fault = h("p", { class: "wrong small", hidden: true });
  const element = h("div", { class: "viewer" }, h("label", { for: id }, name), choice, video, h("div", { class: "row stepper" }, back, slider, on), told, bars, fault);
  let rows = [];
  let trace = null;
  let loaded = "";
  let step = 0;
  let sums = [0];
  let asked = 0;

  const last = () => (trace ? trace.rewards.length : 0);
  const row = () => rows[choice.selectedIndex];
  const file = (which) => `runs/${encodeURIComponent(context.run)}/recordings/${encodeURIComponent(row().model)}/${encodeURIComponent(row()[which])}`;

  const tell = () => {
    if (!trace) { say(told, ""); bars.replaceChildren(); return; }
    const acted = step < last();
    say(told, [`step ${count(step)} of ${count(last())}`, `return so far ${number(sums[step])}`,
      step > 0 ? `reward ${number(trace.rewards[step - 1])}` : null,
      acted ? `action ${trace.actions[step].map(number).join(", ")}` : trace.terminated ? "terminated" : "the end",
      acted && trace.values.length ? `value ${number(trace.values[step])}` : null].filter(Boolean).join(" · "));
    const scores = acted ? trace.scores[step] : [];
    const known = scores.filter((score) => score !== null);
    const low = trace.scores_are === "probability" ? 0 : Math.min(...known, 0);
    const high = trace.scores_are === "probability" ? 1 : Math.max(...known, low + 1e-6);
    const chosen = trace.sizes.length === 1 ? trace.actions[step]?.[0] : -1;
    bars.replaceChildren(...scores.map((score, i) => h("li", { class: i === chosen ? "chosen" : "" },
      h("span", {}, `action ${i}`), score === null ? h("span", { class: "faint" }, "not allowed") : h("meter", { min: low, max: high, value: score, "aria-label": `${scoreNames[trace.scores_are]} of action ${i}` }),
      h("span", { class: "number" }, score === null ? "" : short(score)))));
  };
  const follow = () => {
    if (!trace || (video.paused && asked)) return;
    const shown = Math.min(last(), Math.floor(video.currentTime * trace.fps + 0.01));
    if (shown !== step) { step = shown; slider.value = step; tell(); }
  };
  const go = (wanted) => {
    if (!trace) return;
    video.pause();
    step = Math.max(0, Math.min(last(), wanted));
    slider.value = step;
    asked += 1;
    video.currentTime = (Math.min(step, trace.frames - 1) + 0.5) / trace.fps;
    tell();
  };
  video.addEventListener("play", () => { asked = 0; });
  video.addEventListener("timeupdate", follow);
  video.addEventListener("error", () => { if (video.getAttribute("src")) { fault.hidden = false; say(fault, "This browser cannot play the video; the steps can be read all the same."); } });
  const frames = () => { follow(); if (trace) video.requestVideoFrameCallback?.(frames); };

  const load = async (anew = false) => {
    if (!row() || element.hidden) return;
    const wanted = `${context.run} ${row().model} ${row().seed}`;
    if (wanted === loaded && !anew) return;
    loaded = wanted;
    fault.hidden = true;
    trace = null;
    step = 0;
    video.src = address(file("video"));
    const found = await get(file("trace"));
    if (loaded !== wanted) return;
    trace = found;
    sums = [0];
    for (const reward of trace.rewards) sums.push(sums.at(-1) + reward);
    slider.max = last();
    slider.value = 0;
    tell();
    video.requestVideoFrameCallback?.(frames);
  };
  return {
    element,
    load: () => load(),
    play: () => { asked = 0; video.currentTime = 0; video.play().catch(() => {}); },
    close: () => { video.removeAttribute("src"); video.load(); trace = null; },
    fill: (found, preferred) => {
      const before = row() ? `${row().model} ${row().seed}` : "";
      rows = found;
      choice.replaceChildren(...rows.map((each) => h("option", {}, `version ${each.generation}-${each.version} · mean ${number(each.mean)} · seed ${each.seed}`)));
      const again = rows.findIndex((each) => `${each.model} ${each.seed}` === before);
      choice.selectedIndex = again >= 0 ? again : preferred;
    },
  };
}
