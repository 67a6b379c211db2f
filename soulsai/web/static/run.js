// The progress of a run: its figures, its reward, and all other metrics.
import { address, Feed, get } from "./api.js";
import { axisNames, Chart, place } from "./charts.js";
import { count, counted, duration, h, number, say, short, unused } from "./dom.js";

const windows = [1, 5, 10, 20, 50, 100, 200, 500, 1000];
const curves = [
  { name: "exploring episodes", colour: "exploring", kind: "points", metric: "reward" },
  { name: "low", colour: "exploring", kind: "edge", metric: "reward_low" },
  { name: "high", colour: "exploring", kind: "edge", metric: "reward_high", band: true },
  { name: "exploring", colour: "exploring", metric: "reward_mean" },
  { name: "greedy episodes", colour: "greedy", kind: "points", metric: "reward" },
  { name: "low", colour: "greedy", kind: "edge", metric: "reward_low" },
  { name: "high", colour: "greedy", kind: "edge", metric: "reward_high", band: true },
  { name: "greedy", colour: "greedy", metric: "reward_mean" },
  { name: "episodes that a person took over", colour: "intervened", kind: "points", metric: "reward" },
  { name: "low", colour: "intervened", kind: "edge", metric: "reward_low" },
  { name: "high", colour: "intervened", kind: "edge", metric: "reward_high", band: true },
  { name: "taken over", colour: "intervened", metric: "reward_mean" },
];
const episodeKinds = { exploring: "exploring", greedy: "greedy", intervened: "taken over by a person" };
const part = curves.length / Object.keys(episodeKinds).length; // curves of one kind
const metrics = curves.slice(0, part).map((curve) => curve.metric);
const quiet = ["reward", "epsilon", "greedy", "version", "seconds", "updates", "duplicates", "lost", "dropped", "queued", "rejected"];
const names = {
  steps: "Episode length", reward_per_step: "Reward per env step", greedy_steps: "Greedy env steps", terminated: "Terminated share", env_steps_per_second: "Env steps per second",
  updates_per_second: "Updates per second", lag: "Policy lag", replay_ratio: "Replay ratio", clients: "Clients",
  lr: "Learning rate", td_error: "TD error", q_mean: "Mean Q value", beta: "Importance exponent β", skipped: "Skipped updates",
  grad_norm: "Gradient norm", replay_size: "Replay size", kl: "KL divergence", explained_variance: "Explained variance",
  demonstrations: "Demonstrations", demonstration_share: "Share of demonstrations", demonstration_agreement: "Agreement with demonstrations",
  demonstrations_left_out: "Demonstrations left out", clone_loss: "Loss of cloning", clone_weight: "Weight of cloning", imitation_loss: "Loss of imitation",
  imitation_weight: "Weight of imitation", conservative_penalty: "Conservative penalty", intervened: "Env steps chosen by a person",
  clip: "Clip range", clip_fraction: "Clipped share", ratio: "Probability ratio",
};

const kept = JSON.parse(localStorage.getItem("curves") ?? "{}");
const choice = { x: axisNames[kept.x] ? kept.x : "env_steps", window: windows.includes(kept.window) ? kept.window : 20, points: kept.points ?? true };
const keep = () => localStorage.setItem("curves", JSON.stringify(choice));

export function run(context) {
  const hero = figures(context);
  const main = reward(context, () => rest.restart());
  const rest = others(context);
  main.restart().then(rest.restart); // what is looked at first comes first
  const element = h("div", { class: "stack" }, hero.element, main.element, rest.element);
  let running = false;
  let again = false;
  // One refresh at a time; what came meanwhile makes for one more.
  const update = async (head) => {
    hero.update(head);
    if (running) { again = true; return; }
    running = true;
    try {
      do { again = false; await Promise.all([main.update(context.head), rest.update(context.head)]); } while (again);
    } finally { running = false; }
  };
  hero.update(context.head);
  return { element, update, recolour: () => { main.redraw(); rest.redraw(); }, close: () => { main.close(); rest.close(); } };
}

// The score of the best model, and of what it is the mean. Ended runs have the score only.
function bestText(best, score) {
  if (!best) return typeof score === "number" ? `best model ${number(score)}` : "";
  const episodes = best.evaluated ? counted(best.evaluated, "evaluation episodes") : best.greedy ? "greedy episodes" : "episodes";
  return `best model ${number(best.score)}, mean of ${episodes}`;
}

function figures(context) {
  const label = h("p", { class: "label" });
  const value = h("span", { class: "value" });
  const trend = h("span", { class: "trend", title: "against the mean of as many episodes before these" });
  const best = h("p", { class: "faint" });
  const steps = h("span", { class: "strong" });
  const left = h("span", { class: "faint" });
  const bar = h("progress", { max: 1, value: 0, "aria-label": "env steps of those planned" });
  const tiles = h("dl", { class: "tiles" });
  const element = h("section", { class: "card hero", "aria-label": "Where it stands" },
    h("div", { class: "headline" }, label, h("p", {}, value, trend), best),
    h("div", { class: "progress" }, h("p", { class: "row spread" }, steps, left), bar, tiles));
  const fields = new Map();
  const tile = (name, text, warn) => {
    if (!fields.has(name)) {
      const field = h("dd", {});
      fields.set(name, field);
      tiles.append(h("div", {}, h("dt", {}, name), field));
    }
    say(fields.get(name), text);
    fields.get(name).className = warn ? "warn" : "";
  };
  const update = (head) => {
    const row = context.row;
    const status = head?.status ?? row;
    if (!status) return;
    const endless = status.reward_mean === null && typeof status.reward_per_step === "number";
    say(label, endless ? "Reward per env step, as no episode has ended" : "Mean reward, last 100 episodes");
    say(value, number(endless ? status.reward_per_step : status.reward_mean));
    const slope = status.reward_trend;
    say(trend, slope === null || slope === undefined ? "" : `${slope >= 0 ? "▲" : "▼"} ${number(Math.abs(slope))}`);
    trend.className = `trend ${slope >= 0 ? "up" : "down"}`;
    say(best, bestText(head?.best, row?.best));
    const total = status.max_env_steps;
    say(steps, `${count(status.env_steps)}${total ? ` of ${count(total)}` : ""} env steps`);
    const rate = status.env_steps_per_second;
    say(left, total && rate && status.phase !== "ended" ? `${duration((total - status.env_steps) / rate)} left` : duration(status.seconds));
    bar.value = total ? Math.min(1, status.env_steps / total) : 0;
    bar.hidden = !total;
    tile("Episodes", count(Math.max(head?.episode ?? 0, status.episodes)));
    tile("Updates", short(status.updates));
    if (!head?.status) return;
    const rejected = Object.values(status.rejected).reduce((sum, one) => sum + one, 0);
    tile("Env steps/s", number(rate));
    tile("Updates/s", number(status.updates_per_second));
    tile("Replay ratio", number(status.replay_ratio));
    tile("Lag, versions", number(status.lag));
    tile("Clients", count(head.clients), head.clients === 0);
    tile("Rejected messages", count(rejected));
    tile("Lost, env steps", count(status.lost), status.lost > 0);
    tile("Dropped, env steps", count(status.dropped), status.dropped > 0);
    tile("Checkpoint", status.checkpoint && status.checkpoint_age !== null ? `${duration(status.checkpoint_age)} ago` : status.checkpoint || "none yet");
  };
  return { element, update };
}

function reward(context, changed) {
  let feeds = [];
  let chart = null;
  const readout = h("p", { class: "readout", "aria-hidden": "true" });
  const note = h("p", { class: "faint small" });
  const stage = h("div", { class: "stage" });
  const csv = h("a", { class: "button quiet", download: "reward.csv" }, "CSV");
  const figure = h("a", { class: "button quiet", target: "_blank", rel: "noopener" }, "Figure");
  const smoothing = h("input", { type: "range", id: "window", min: 0, max: windows.length - 1, value: windows.indexOf(choice.window) });
  const span = h("output", { for: "window" }, `${choice.window}`);
  const dots = h("input", { type: "checkbox", checked: choice.points });
  const axes = h("div", { class: "segments", role: "radiogroup", "aria-label": "What the curves are drawn over" },
    Object.entries({ env_steps: "Env steps", episode: "Episodes", time: "Time", relative: "Relative" }).map(([x, text]) =>
      h("label", {}, h("input", { type: "radio", name: "x", value: x, checked: choice.x === x, onchange: () => { choice.x = x; restart(); changed(); } }), h("span", {}, text))));
  smoothing.addEventListener("input", () => say(span, `${windows[smoothing.value]}`));
  smoothing.addEventListener("change", () => { choice.window = windows[smoothing.value]; restart(); changed(); });
  dots.addEventListener("change", () => { choice.points = dots.checked; keep(); points(); });
  const entries = [];
  const legend = h("ul", { class: "legend" }, Object.entries(episodeKinds).map(([kind, text], i) => {
    const button = h("button", { type: "button", "aria-pressed": "true" }, h("i", { class: `swatch ${kind}` }), `${text}, mean ± deviation`);
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", shown);
      for (let c = i * part; c < (i + 1) * part; c += 1) chart?.toggle(c, shown && (curves[c].kind !== "points" || choice.points));
    });
    entries.push(h("li", { hidden: kind === "intervened" }, button)); // shown with the first of them
    return entries[i];
  }), h("li", {}, h("span", { class: "key" }, h("i", { class: "star" }, "★"), "best model")));
  const element = h("section", { class: "card", "aria-labelledby": "reward-title" },
    h("div", { class: "row spread" }, h("h2", { id: "reward-title" }, "Reward per episode"), readout),
    h("div", { class: "row tools" }, axes, h("label", { class: "range" }, "Mean of ", smoothing, h("span", {}, span, " episodes")), h("label", { class: "check" }, dots, "Single episodes")),
    stage, h("div", { class: "row spread" }, legend,
      h("div", { class: "row" }, note, h("button", { class: "quiet", type: "button", onclick: () => chart?.save("reward.png") }, "PNG"), csv, figure)));

  let starred; // the time of the best model that the chart shows
  const marks = () => {
    const best = context.head?.best;
    starred = best?.time;
    if (!best?.env_steps) return [];
    const x = { env_steps: best.env_steps, episode: best.episodes, time: best.time, relative: undefined }[choice.x];
    return [{ x, y: best.score }];
  };
  const draw = () => {
    const columns = feeds.map((feed) => feed.columns());
    if (!columns.some((column) => column[0].length)) {
      chart?.close();
      chart = null;
      stage.replaceChildren(unused("The first episode has not ended yet; the reward per env step is drawn below."));
      return;
    }
    if (!chart) {
      stage.replaceChildren();
      chart = new Chart(stage, { x: choice.x, size: "large", label: "Reward per episode", unit: "reward", marks, onmove: read,
        curves: curves.map((curve) => ({ ...curve, show: curve.kind !== "points" || choice.points })) });
    }
    chart.show(uPlot.join(columns));
    entries.forEach((entry, i) => { if (feeds[i].rows.length) entry.hidden = false; });
    const rows = feeds.reduce((sum, feed) => sum + feed.rows.length, 0);
    const episodes = Math.max(...feeds.flatMap((feed) => feed.rows.slice(-1).map((row) => row.episode)));
    say(note, rows < episodes ? `${count(rows)} points for ${counted(episodes, "episodes")}` : counted(episodes, "episodes"));
    read(null);
  };
  const read = (index) => {
    if (!chart) return;
    const parts = entries.map((_, i) => (i + 1) * part - 1).map((curve) => [curves[curve].name, chart.value(curve, index)]).filter(([, value]) => value !== null);
    say(readout, [index === null ? "" : place(choice.x, chart.data[0][index]), ...parts.map(([name, value]) => `${name} ${number(value)}`)].filter(Boolean).join(" · "));
  };
  const points = () => curves.forEach((curve, i) => { if (curve.kind === "points") chart?.toggle(i, choice.points); });
  const restart = async () => {
    keep();
    const query = { run: context.run, metrics, x: choice.x, window: choice.window };
    csv.href = address("series", { ...query, x: choice.x === "relative" ? "time" : choice.x, max_points: 5000, format: "csv" });
    figure.href = address(`runs/${encodeURIComponent(context.run)}/figure.png`);
    const mine = Object.keys(episodeKinds).map((kind) => new Feed({ ...query, kind }));
    feeds = mine;
    if (!context.run) return draw();
    await Promise.all(mine.map((feed) => feed.load()));
    if (feeds !== mine) return;
    chart?.close();
    chart = null;
    draw();
  };
  const update = async (head) => {
    if (!head || !feeds?.length) return;
    const mine = feeds;
    const fresh = await Promise.all(mine.map((feed) => feed.more()));
    if (feeds === mine && (fresh.some(Boolean) || head.best?.time !== starred)) draw();
  };
  const redraw = () => chart?.draw();
  return { element, restart, update, redraw, close: () => { feeds = null; chart?.close(); chart = null; } };
}

function others(context) {
  const parts = { episodes: h("div", { class: "grid" }), training: h("div", { class: "grid" }) };
  const headings = { episodes: "Episodes", training: "Training" };
  const sections = Object.entries(parts).map(([name, grid]) => h("section", { "aria-labelledby": `${name}-title`, hidden: true }, h("h2", { id: `${name}-title` }, headings[name]), grid));
  const element = h("div", { class: "stack" }, sections);
  let groups = [];
  let known = "";
  let closed = false;

  const restart = async () => {
    const run = context.run;
    if (!run) return;
    const list = (await get("metrics", { run })).filter((metric) => !quiet.includes(metric.name));
    if (closed || run !== context.run) return;
    known = list.map((metric) => metric.name).join();
    groups.forEach((group) => group.close());
    groups = Object.keys(parts).map((source) => group(context, source, list.filter((metric) => metric.source === source).slice(0, 19), parts[source]));
    await Promise.all(groups.map((one) => one.load()));
    groups.forEach((one, i) => { sections[i].hidden = one.empty; });
  };
  let listed = performance.now(); // when it was asked which metrics there are
  const update = async (head) => {
    if (!head) return;
    await Promise.all(groups.map((one) => one.update()));
    groups.forEach((one, i) => { sections[i].hidden = one.empty; });
    if (performance.now() - listed > 5000) {
      listed = performance.now();
      const list = (await get("metrics", { run: context.run })).filter((metric) => !quiet.includes(metric.name));
      if (list.map((metric) => metric.name).join() !== known) await restart();
    }
  };
  return { element, restart, update, redraw: () => groups.forEach((one) => one.redraw()), close: () => { closed = true; groups.forEach((one) => one.close()); groups = []; } };
}

function group(context, source, list, grid) {
  const suffix = source === "episodes" ? "_mean" : "";
  const x = source === "training" && choice.x === "episode" ? "env_steps" : choice.x;
  const points = Math.min(5000, 300 * Math.max(1, list.length));
  const feed = new Feed({ run: context.run, metrics: list.map((metric) => metric.name + suffix), x, window: Math.max(choice.window, 20), max_points: points });
  const cards = list.map((metric, i) => card(metric, i, x));
  const draw = () => {
    const [axis, ...columns] = feed.columns();
    const seen = cards.filter((one, i) => columns[i]?.some((value) => value !== null));
    if (grid.childElementCount !== seen.length) grid.replaceChildren(...seen.map((one) => one.element));
    seen.forEach((one) => {
      const rows = columns[one.index].map((value, i) => [axis[i], value]).filter(([, value]) => value !== null);
      one.show([rows.map(([at]) => at), rows.map(([, value]) => value)]);
    });
  };
  return {
    get empty() { return grid.childElementCount === 0; },
    load: async () => { if (list.length) { await feed.load(); draw(); } },
    update: async () => { if (list.length && (await feed.more())) draw(); },
    redraw: () => cards.forEach((one) => one.redraw()),
    close: () => { cards.forEach((one) => one.close()); grid.replaceChildren(); },
  };
}

function card(metric, index, x) {
  const title = names[metric.name] ?? metric.name.replaceAll("_", " ");
  const value = h("span", { class: "now" });
  const stage = h("div", { class: "stage" });
  const about = h("details", { class: "about" }, h("summary", {}, h("h3", { title: metric.description }, title)), h("p", { class: "small faint" }, metric.description));
  const head = h("div", { class: "row spread" }, about, value);
  const element = h("article", { class: "card small" }, head, stage);
  let chart = null;
  let log = false;
  let data = null;
  const read = (at) => {
    const now = chart?.value(0, at);
    if (now !== null && now !== undefined) say(value, counted(now, metric.unit));
  };
  const make = () => {
    chart?.close();
    chart = new Chart(stage, { x, log, label: title, curves: [{ name: title, colour: "exploring", width: 1.6 }], onmove: read });
    chart.show(data);
    read(null);
  };
  const button = h("button", { type: "button", class: "quiet tiny", "aria-pressed": "false", hidden: true, onclick: () => { log = !log; button.setAttribute("aria-pressed", log); make(); } }, "log");
  head.insertBefore(button, value);
  return {
    element, index,
    show: (columns) => {
      data = columns;
      button.hidden = metric.source !== "training" || !columns[1].every((one) => one > 0);
      if (!chart || (log && button.hidden)) { log = log && !button.hidden; make(); } else { chart.show(data); read(null); }
    },
    redraw: () => chart?.draw(),
    close: () => { chart?.close(); chart = null; stage.replaceChildren(); },
  };
}
