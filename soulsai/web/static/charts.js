// Curves, drawn by uPlot in the colours of the page.
import { colour, count, duration, h, number, short } from "./dom.js";

const heights = { large: 340, small: 150 };


const axisFormats = {
  env_steps: (values) => values.map(short),
  episode: (values) => values.map(short),
  relative: (values) => values.map((value) => duration(value)),
};

export const axisNames = { env_steps: "env steps", episode: "episodes", time: "time", relative: "time since the start" };

export function place(x, value) {
  if (value === null || value === undefined) return "";
  if (x === "time") return new Date(1000 * value).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
  return x === "relative" ? duration(value) : `${x === "episode" ? "episode" : "env step"} ${count(value)}`;
}

// A range that shows a constant as a line in its middle, and never stretches a few values over a wide axis.
function honest(plot, low, high) {
  if (low === null || high === null) return [0, 1];
  if (low === 0 && high === 0) return [0, 1]; // of a share or a count, which are never below
  if (low === high) { const pad = Math.abs(low) / 10 || 1; return [low - pad, high + pad]; }
  const pad = 0.08 * (high - low);
  return [low - pad, high + pad];
}

function axis(x, large, unit) {
  const label = (text) => (large && text ? { label: text, labelSize: 18, labelFont: "12px system-ui, sans-serif" } : {});
  const shared = { stroke: colour("faint"), font: "12px system-ui, sans-serif", grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false } };
  return [
    { ...shared, values: axisFormats[x] && ((plot, values) => axisFormats[x](values)), space: 70, size: 30, grid: { show: false }, ...label(x === "time" ? "" : axisNames[x]) },
    { ...shared, values: (plot, values) => values.map(short), space: large ? 46 : 34, size: 52, ...label(unit) },
  ];
}

// A colour of the page (#rrggbb) that lets so many percent of what is below it be covered.
function clear(name, share) {
  return colour(name) + Math.round(2.55 * share).toString(16).padStart(2, "0");
}

function serie(curve, rows) {
  const stroke = colour(curve.colour);
  const shared = { label: curve.name, show: curve.show ?? true };
  if (curve.kind === "points") {
    const fill = clear(curve.colour, 38);
    return { ...shared, paths: () => null, points: { show: true, size: rows < 400 ? 5 : 3, width: 0, fill, stroke: fill } };
  }
  if (curve.kind === "edge") return { ...shared, stroke: "transparent", width: 0, spanGaps: true, points: { show: false } };
  return { ...shared, stroke, width: curve.width ?? 2, spanGaps: true, dash: curve.dash, points: { show: false } };
}

// One chart in its place. `curves` name what is drawn of the columns after the first; an "edge" that follows a lower
// one bounds a band. `marks` gives places worth a star.
export class Chart {
  constructor(place, { x, curves, size = "small", log = false, label, unit, marks, onmove }) {
    this.place = place;
    this.options = { x, curves, size, log, label, unit, marks, onmove };
    this.data = null;
    this.plot = null;
    this.box = h("div", { class: `chart ${size}`, role: "img", "aria-label": label });
    place.append(this.box);
    this.watcher = new ResizeObserver(() => this.fit());
    this.watcher.observe(this.box);
  }

  show(data) {
    this.data = data;
    if (!this.plot) this.draw();
    else this.plot.setData(data, !this.zoomed);
    const last = this.options.curves.map((curve, i) => [curve, data[i + 1]?.at(-1)]).find(([curve, value]) => curve.kind === undefined && value !== null && value !== undefined);
    if (last) this.box.setAttribute("aria-label", `${this.options.label}: ${number(last[1])} at last`);
  }

  draw() {
    const { x, curves, size, log, unit, marks, onmove } = this.options;
    this.plot?.destroy();
    const bands = curves.flatMap((curve, i) => (curve.band ? [{ series: [i + 1, i], fill: clear(curve.colour, 16) }] : []));
    const hooks = {
      setScale: [(plot, key) => { if (key === "x") this.zoomed = this.data[0].length > 1 && (plot.scales.x.min > this.data[0][0] || plot.scales.x.max < this.data[0].at(-1)); }],
      setCursor: [(plot) => onmove?.(plot.cursor.idx)],
      draw: [(plot) => marks && stars(plot, marks())],
    };
    const options = {
      width: this.width, height: heights[size], padding: [10, 20, 0, 0], legend: { show: false }, bands, hooks,
      scales: { x: { time: x === "time" }, y: log ? { distr: 3 } : { range: honest } },
      series: [{}, ...curves.map((curve) => serie(curve, this.data?.[0].length ?? 0))], axes: axis(x, size === "large", unit),
      cursor: { sync: { key: x, setSeries: false }, points: { show: size === "large", size: 7, width: 2, fill: () => colour("card") }, y: false, drag: { x: true, y: false, dist: 8 } },
      focus: { alpha: 0.3 },
    };
    this.box.replaceChildren();
    this.zoomed = false;
    this.plot = new uPlot(options, this.data ?? [[]], this.box);
  }

  get width() { return Math.max(200, Math.floor(this.box.clientWidth)); }

  fit() {
    if (this.plot && this.plot.width !== this.width) this.plot.setSize({ width: this.width, height: heights[this.options.size] });
  }

  // Take the newest value at or before a place: curves of one chart do not share all of theirs.
  value(curve, index) {
    const column = this.data?.[curve + 1] ?? [];
    for (let i = index ?? column.length - 1; i >= 0; i -= 1) if (column[i] !== null && column[i] !== undefined) return column[i];
    return null;
  }

  toggle(curve, shown) {
    this.options.curves[curve].show = shown;
    this.plot?.setSeries(curve + 1, { show: shown });
  }

  async save(name) {
    const { canvas } = this.plot.ctx;
    const copy = h("canvas", { width: canvas.width, height: canvas.height });
    const context = copy.getContext("2d");
    context.fillStyle = colour("card");
    context.fillRect(0, 0, copy.width, copy.height);
    context.drawImage(canvas, 0, 0);
    const blob = await new Promise((done) => copy.toBlob(done, "image/png"));
    const url = URL.createObjectURL(blob);
    h("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  close() {
    this.watcher.disconnect();
    this.plot?.destroy();
    this.plot = null;
  }
}

function stars(plot, marks) {
  const context = plot.ctx;
  for (const mark of marks) {
    if (mark.x === undefined || mark.x < plot.scales.x.min || mark.x > plot.scales.x.max) continue;
    const x = plot.valToPos(mark.x, "x", true);
    const y = plot.valToPos(mark.y, "y", true);
    const size = 7 * devicePixelRatio;
    context.save();
    context.beginPath();
    for (let i = 0; i < 10; i += 1) {
      const far = i % 2 ? size * 0.45 : size;
      context.lineTo(x + far * Math.sin((i * Math.PI) / 5), y - far * Math.cos((i * Math.PI) / 5));
    }
    context.closePath();
    context.fillStyle = colour("best");
    context.strokeStyle = colour("card");
    context.lineWidth = devicePixelRatio;
    context.fill();
    context.stroke();
    context.restore();
  }
}
