/** Sends experience and heartbeats, and fetches weights, beside the loop that plays. */

import { Encoder, pack } from "./codec.js";
import { AccessDenied, NoRun, Rejected, Superseded, Unreachable, WireError } from "./errors.js";
import { Limits } from "./limits.js";
import { Policy, Program } from "./policy.js";

const ENTRY_BYTES = 16_000; // at which an entry is sent without waiting for more
const ENTRY_MILLISECONDS = 20;
const POLL_MILLISECONDS = 1000;
const IMPATIENT_MILLISECONDS = 250; // the same, while the player waits
const DAMAGED_MILLISECONDS = 5000;
const GRACE_MILLISECONDS = 2000;
const KEPT_BYTES = 16_000_000; // of entries that are not confirmed
const PUSH_BYTES = 256_000;
const MOST_MESSAGES = 128;
const [FIRST_DELAY, LAST_DELAY] = [100, 3000];

/** A bounded queue of framed messages; when it is full, the oldest fragments go first. */
export class Outbox {
  constructor(limit) {
    this.dropped = 0; // env steps
    this.bytes = 0;
    this._limit = limit;
    this._queue = [];
  }

  get length() {
    return this._queue.length;
  }

  get since() {
    return this._queue[0]?.since;
  }

  put(data, steps, since) {
    this._queue.push({ data, steps, since });
    this.bytes += data.length;
    while (this.bytes > this._limit) {
      const at = Math.max(0, this._queue.findIndex((message) => message.steps > 0));
      const [oldest] = this._queue.splice(at, 1);
      this.bytes -= oldest.data.length;
      this.dropped += oldest.steps;
    }
  }

  /** Remove and return the oldest messages: one, and more up to `most` bytes. */
  take(most) {
    const taken = [];
    let size = 0;
    while (this._queue.length && taken.length < MOST_MESSAGES) {
      size += this._queue[0].data.length;
      if (taken.length && size > most) break;
      const { data } = this._queue.shift();
      taken.push(data);
      this.bytes -= data.length;
    }
    return taken;
  }
}

export class Uplink {
  constructor(wire, spec, program, { epoch, hello, outboxBytes, log }) {
    this.instructions = { pointer: null, policy: null, paused: false, over: "" };
    this.progress = {
      steps: 0, episodes: 0, version: 0, discarded: 0, restarts: 0, waiting: true, faults: {},
      trouble: "", kwargs: {},
    };
    this._wire = wire;
    this._spec = spec;
    this._program = new Program(program);
    this._epoch = epoch;
    this._seq = 0;
    this._encoder = new Encoder(spec);
    this._limits = new Limits(spec, program.head);
    this._outbox = new Outbox(outboxBytes);
    this._unconfirmed = [{ seq: 0, id: `${epoch}-0`, data: hello }];
    this._inDoubt = [];
    this._pushed = 0; // the last seq ever pushed
    this._broken = false;
    this._closing = false;
    this._log = log;
    this._delay = FIRST_DELAY;
    this._retryAt = 0;
    this._beatAt = 0;
    this._pollAt = 0;
    this._tried = "";
    this._damagedAt = Infinity;
    this._wakers = [];
    this._waiters = [];
    wire.onModel = () => { this._pollAt = 0; this._wake(); };
    wire.onControl = (op) => this._onControl(op);
  }

  /** Start in the background. */
  start() {
    this._running = this._run();
    this._running.catch(() => this._instruct({ over: "error" }));
  }

  /** Send what is queued for at most two seconds, and end; throw the error that ended the work. */
  async close() {
    this._closing = true;
    this._wake();
    await this._running;
  }

  /** Return the env steps taken and dropped, and the episodes finished, of this session. */
  done() {
    const { steps, episodes, discarded } = this.progress;
    return { steps, episodes, dropped: discarded + this._outbox.dropped };
  }

  /** Queue a fragment or an episode, unless the training node would refuse it. */
  send(message) {
    const steps = message.kind === "fragment" ? message.steps : 0;
    try {
      this._limits.check(message);
    } catch (error) {
      if (!(error instanceof Rejected)) throw error;
      this.progress.discarded += steps;
      this.progress.trouble = `not sent: ${error.message}`;
      this._log(`not sent, as the training node would refuse it: ${error.message}`);
      return;
    }
    const before = this._outbox.bytes;
    this._outbox.put(this._encoder.message(message), steps, performance.now());
    if (!before || (before < ENTRY_BYTES && this._outbox.bytes >= ENTRY_BYTES)) this._wake();
  }

  /** Wait until the instructions are others than `known`, or some milliseconds. */
  wait(known, milliseconds) {
    if (this.instructions !== known) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this._waiters.push(() => { clearTimeout(timer); resolve(); });
    });
  }

  _instruct(changes) {
    this.instructions = { ...this.instructions, ...changes };
    for (const resolve of this._waiters.splice(0)) resolve();
  }

  _onControl(op) {
    if (op === "stop") this._instruct({ over: "stop" });
    else if (this.instructions.paused !== (op === "pause")) this._instruct({ paused: op === "pause" });
    this._pollAt = 0;
    this._readNotice = true;
    this._wake();
  }

  _wake() {
    this._woken = true;
    for (const resolve of this._wakers.splice(0)) resolve();
  }

  async _sleep(milliseconds) {
    if (!this._woken && milliseconds > 0) {
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, milliseconds);
        this._wakers.push(() => { clearTimeout(timer); resolve(); });
      });
    }
    this._woken = false;
  }

  async _run() {
    while (!this._closing && this.instructions.over !== "run") {
      await this._sleep(this._due() - performance.now());
      await this._round();
    }
    const deadline = performance.now() + GRACE_MILLISECONDS;
    this._beatAt = 0;
    while (this.instructions.over !== "run" && performance.now() < deadline) {
      await this._round(true);
      if (!this._outbox.length && !this._inDoubt.length) return;
      await this._sleep(Math.min(this._retryAt, deadline) - performance.now());
    }
  }

  _due() {
    if (this._retryAt > performance.now()) return this._retryAt;
    const due = Math.min(this._beatAt, this._pollDue());
    if (this._outbox.since === undefined) return due;
    const full = this._outbox.bytes >= ENTRY_BYTES;
    return Math.min(due, this._outbox.since + (full ? 0 : ENTRY_MILLISECONDS));
  }

  _pollDue() {
    return this._pollAt + (this.progress.waiting ? IMPATIENT_MILLISECONDS : POLL_MILLISECONDS);
  }

  async _round(last = false) {
    if (performance.now() < this._retryAt) return;
    try {
      if (await this._wire.connect()) {
        this._pollAt = 0;
        this._delay = FIRST_DELAY;
      }
      await this._push(last);
      if (!last && performance.now() >= this._pollDue()) await this._poll();
    } catch (error) {
      if (error instanceof AccessDenied || error instanceof Superseded) throw error;
      if (!(error instanceof WireError)) throw error;
      this._broken ||= error instanceof Unreachable;
      if (error instanceof Unreachable) this._wire.close();
      this._retryAt = performance.now() + Math.random() * this._delay;
      this._delay = Math.min(2 * this._delay, LAST_DELAY);
      this._log(`waiting: ${error.message}`);
    }
  }

  async _push(last) {
    if (this._broken) {
      for (const piece of pieces(this._unconfirmed)) await this._wire.push(piece, true);
      this._broken = false;
    }
    if (this._inDoubt.length) await this._send();
    const now = performance.now();
    const beat = now >= this._beatAt;
    const { since, bytes } = this._outbox;
    const due = since !== undefined && (last || now >= since + ENTRY_MILLISECONDS || bytes >= ENTRY_BYTES);
    if (!beat && !due) return;
    let size = 0;
    for (let first = true; size < PUSH_BYTES; first = false) {
      const messages = this._outbox.take(ENTRY_BYTES);
      if (beat && first) messages.push(this._encoder.message(this._heartbeat()));
      if (!messages.length) break;
      const data = pack(messages);
      this._seq += 1;
      this._inDoubt.push({ seq: this._seq, id: `${this._epoch}-${this._seq}`, data });
      size += data.length;
    }
    await this._send();
    if (beat) this._beatAt = now + Math.max(100, 1000 * this._spec.heartbeat_seconds);
  }

  async _send() {
    const entries = this._inDoubt;
    const again = entries[0].seq <= this._pushed;
    this._pushed = Math.max(this._pushed, entries.at(-1).seq);
    await this._wire.push(entries, again);
    this._inDoubt = [];
    this._unconfirmed.push(...entries);
    let kept = this._unconfirmed.reduce((sum, { data }) => sum + data.length, 0);
    while (kept > KEPT_BYTES) kept -= this._unconfirmed.shift().data.length;
  }

  _heartbeat() {
    const { discarded, ...progress } = this.progress;
    return {
      kind: "heartbeat", ...progress, dropped: discarded + this._outbox.dropped,
      queued: this._outbox.length, trouble: printable(progress.trouble),
    };
  }

  async _poll() {
    this._pollAt = performance.now(); // before, so that a hint in the meantime is not lost
    const [pointer, received] = await Promise.all([this._wire.pointer(), this._wire.received()]);
    if (received) {
      const [epoch, seq] = received;
      if (epoch >= this._epoch) {
        const upto = epoch > this._epoch ? Infinity : seq;
        this._unconfirmed = this._unconfirmed.filter((entry) => entry.seq > upto);
      }
    }
    if (this._readNotice) await this._tell();
    const known = this.instructions.pointer;
    if (!pointer || !known || pointer.generation !== known.generation) await this._checkRun();
    if (!pointer || this.instructions.over) return;
    if (pointer.run !== this._spec.run) {
      this._instruct({ over: "run" });
      return;
    }
    const name = `${pointer.generation}-${pointer.version}`;
    const isNewer = !known || pointer.generation > known.generation ||
      (pointer.generation === known.generation && pointer.version > known.version);
    const again = name === this._tried && performance.now() >= this._damagedAt;
    if ((isNewer && name !== this._tried) || again) await this._fetch(pointer, name);
  }

  async _tell() {
    this._readNotice = false;
    const notice = await this._wire.notice();
    if (notice !== (this._notice ?? "")) {
      this._log(notice ? `kept out by the training node: ${notice}` : "let in again");
    }
    this._notice = notice;
  }

  async _checkRun() {
    try {
      const spec = await this._wire.spec();
      if (spec.published_crc !== this._spec.published_crc) this._instruct({ over: "run" });
    } catch (error) {
      if (!(error instanceof NoRun)) throw error;
    }
  }

  async _fetch(pointer, name) {
    this._tried = name;
    this._damagedAt = Infinity;
    try {
      const arrays = await this._wire.weights(pointer, this._program);
      const policy = await Policy.load(this._program, arrays, pointer, this._spec);
      this._instruct({ pointer, policy });
    } catch (error) {
      if (error instanceof Unreachable || error instanceof AccessDenied) {
        this._tried = "";
        throw error;
      }
      if (!(error instanceof WireError)) throw error;
      this._log(error.message);
      this._damagedAt = performance.now() + DAMAGED_MILLISECONDS;
      this._instruct({ pointer });
    }
  }
}

/** Return a text as one line of printable letters. */
export function printable(text) {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\s]+/g, " ").slice(0, 200);
}

function* pieces(entries) {
  let piece = [];
  let size = 0;
  for (const entry of entries) {
    if (piece.length && size + entry.data.length > PUSH_BYTES) {
      yield piece;
      [piece, size] = [[], 0];
    }
    piece.push(entry);
    size += entry.data.length;
  }
  if (piece.length) yield piece;
}
