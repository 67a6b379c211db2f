// Elements, numbers and times as text. Text is only ever set as text, never as markup.

export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (value === true) element.setAttribute(name, "");
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// Set text only where it changed, so that nobody's selection is lost and no screen reader repeats it.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const whole = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en-GB", { notation: "compact", maximumFractionDigits: 2 });

export const count = (value) => (value === null || value === undefined ? "–" : whole.format(value));
export const short = (value) => (Math.abs(value) < 10_000 ? number(value) : compact.format(value));

export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return whole.format(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  const digits = size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return String(Number(value.toFixed(digits))).replace("-", "−");
}

// A number with its unit, which is a word in the plural.
export function counted(value, unit) {
  const one = value === 1 && /[a-z]s$/.test(unit);
  return `${number(value)}${unit ? ` ${one ? unit.slice(0, -1) : unit}` : ""}`;
}

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB"];
  let index = 0;
  while (value >= 1000 && index < units.length - 1) { value /= 1000; index += 1; }
  return `${value.toFixed(index && value < 100 ? 1 : 0)} ${units[index]}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const exact = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

const second = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" });

export function when(iso, shown = day) {
  const time = new Date(iso);
  if (!iso || Number.isNaN(time.getTime())) return h("span", {}, "–");
  return h("time", { datetime: iso, title: exact.format(time) }, shown.format(time));
}

export const whenExactly = (iso) => when(iso, second);

export function runName(row) {
  const time = new Date(row.started);
  const start = Number.isNaN(time.getTime()) ? row.run : day.format(time);
  const tail = row.run.split("_").at(-1);
  return [start, row.environment, row.algorithm, tail].filter(Boolean).join(" · ");
}

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

export const unused = (text) => h("p", { class: "empty" }, text);
