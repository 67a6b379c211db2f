// Requests to the node, and rows that grow.

export class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

async function answer(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, body.detail ?? response.statusText);
  return body;
}

export function address(path, query = {}) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) words.append(name, one);
  }
  const tail = words.toString();
  return `api/v1/${path}${tail ? `?${tail}` : ""}`;
}

export async function get(path, query, signal) {
  return answer(await fetch(address(path, query), { signal }));
}

export async function send(path, body) {
  const headers = { "content-type": "application/json", "x-soulsai": "1" };
  return answer(await fetch(address(path), { method: "POST", headers, body: JSON.stringify(body) }));
}

// Rows of some metrics that grow while a run does.
export class Feed {
  constructor(query) {
    this.query = { max_points: 1000, ...query };
    this.rows = [];
  }

  get key() { return this.query.x === "relative" ? "time" : this.query.x; }

  place(row) { return this.key === "time" ? Date.parse(row.time) / 1000 : row[this.key]; }

  async load() {
    this.rows = await get("series", { ...this.query, x: this.key });
    return true;
  }

  // Take in what is new; where it does not simply go on, take all anew.
  async more() {
    const newest = this.rows.reduce((most, row) => Math.max(most, row.episode ?? row.sample ?? 0), 0);
    if (!newest) return this.load();
    const fresh = await get("series", { ...this.query, x: this.key, after: newest });
    if (!fresh.length) return false;
    const last = this.place(this.rows.at(-1));
    if (this.place(fresh[0]) < last || this.rows.length + fresh.length > 1.5 * this.query.max_points) return this.load();
    this.rows.push(...fresh);
    return true;
  }

  // Columns for uPlot: the axis, then the metrics.
  columns() {
    const x = this.rows.map((row) => this.place(row));
    const start = this.query.x === "relative" && x.length ? x[0] : 0;
    return [x.map((value) => value - start), ...this.query.metrics.map((name) => this.rows.map((row) => row[name] ?? null))];
  }
}
