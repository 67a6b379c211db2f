/** The loop that plays: act, step, cut fragments, and change the weights between them. */

import { assign, bytesOf, sizeOf, zeros } from "./arrays.js";
import { ConfigError } from "./errors.js";
import { actionLeaf } from "./layout.js";
import { act, explore, toEnvironment } from "./heads.js";
import { kwargsAt, recordedAt, stageOf } from "./published.js";

const MOST_BYTES = 1_500_000; // of a fragment
const GREEDY_STEPS = 1000; // beyond, and beyond four times the longest episode, it goes on exploring
const WAIT_MILLISECONDS = 100;
const REWARD = { shape: [], dtype: "<f4" };
const AGAIN = [100, 5000]; // milliseconds until a broken environment is reset again, first and most

/** Return the steps of a fragment: those of the spec, fewer if steps are large. */
export function capacity(spec) {
  const leaves = [...Object.values(spec.spec.obs), actionLeaf(spec.spec.action), REWARD,
    ...Object.values(spec.extras)];
  const row = leaves.reduce((sum, leaf) => sum + sizeOf(leaf) * bytesOf(leaf), 0);
  if (2 * row > MOST_BYTES) throw new ConfigError(`one step takes ${row} bytes`);
  return Math.max(1, Math.min(spec.fragment_steps, Math.floor(MOST_BYTES / row) - 1));
}

/** One environment, the columns of its fragment, and the state of its episode. */
class Seat {
  constructor(environment, spec) {
    this.environment = environment;
    this.capacity = capacity(spec);
    this.leaves = spec.spec.obs;
    this.columns = {};
    this.obs = {};
    for (const [name, leaf] of Object.entries(this.leaves)) {
      this.columns[name] = zeros(leaf, this.capacity + 1);
      this.obs[name] = zeros(leaf);
    }
    this.width = sizeOf(actionLeaf(spec.spec.action));
    this.action = zeros(actionLeaf(spec.spec.action), this.capacity);
    this.reward = new Float32Array(this.capacity);
    this.extras = {};
    for (const [name, leaf] of Object.entries(spec.extras)) this.extras[name] = zeros(leaf, this.capacity);
    this.before = {}; // the memory before the fragment
    this.memory = {};
    this.length = 0;
    this.policy = null;
    this.stage = null; // of the schedule, by which the environment is configured
    this.playing = false;
    this.failures = 0;
    this.readyAt = 0;
  }

  /** Read an observation into the row after the newest step. */
  read(observation) {
    for (const [name, leaf] of Object.entries(this.leaves)) {
      const isOnly = name === "obs" && !(observation && typeof observation === "object" && "obs" in observation);
      const values = isOnly ? observation : observation[name];
      const size = sizeOf(leaf);
      const flat = Array.isArray(values) ? values.flat(Infinity) : values;
      const count = typeof flat === "object" ? flat?.length : 1;
      if (count !== size) throw new ConfigError(`observation ${name} has ${count} numbers instead of ${size}`);
      assign(this.columns[name], this.length * size, flat);
      this.obs[name] = this.columns[name].subarray(this.length * size, (this.length + 1) * size);
    }
  }

  /** Return the steps since the last cut as a fragment; its arrays are views. */
  cut(clock, ending) {
    const steps = this.length;
    const part = (array, rows) => array.subarray(0, (array.length / this.capacity) * rows);
    const obs = {};
    for (const [name, leaf] of Object.entries(this.leaves)) {
      obs[name] = this.columns[name].subarray(0, (steps + 1) * sizeOf(leaf));
    }
    return {
      kind: "fragment", steps, clock, episode: this.episode, start: this.start,
      generation: this.used.generation, version: this.used.version, obs,
      action: part(this.action, steps), reward: this.reward.subarray(0, steps),
      extras: Object.fromEntries(Object.entries(this.extras).map(([k, a]) => [k, part(a, steps)])),
      memory: this.before, greedy: this.greedy, epsilon: this.epsilon, ...ending,
    };
  }

  /** Begin the next fragment with the last observation. */
  resume() {
    for (const [name, leaf] of Object.entries(this.leaves)) {
      const size = sizeOf(leaf);
      this.columns[name].copyWithin(0, this.length * size, (this.length + 1) * size);
      this.obs[name] = this.columns[name].subarray(0, size);
    }
    this.start += this.length;
    this.length = 0;
  }
}

export class Player {
  constructor(environments, spec, head, uplink, { random, log }) {
    this._spec = spec;
    this._head = head;
    this._uplink = uplink;
    this._random = random;
    this._log = log;
    this._seats = environments.map((environment) => new Seat(environment, spec));
    this._instructions = null;
    this._usedSteps = 0; // since the newest pointer arrived
    this._cut = 0; // env steps in fragments
    this._episodes = 0;
    this._longest = spec.environment.max_episode_steps ?? 0;
  }

  /** Play until `stopped()` or the end of the run; return the reason. */
  async run(stopped) {
    for (;;) {
      if (this._uplink.instructions !== this._instructions) this._follow(this._uplink.instructions);
      const { over, policy, paused } = this._instructions;
      if (stopped() || over) break;
      if (!policy || paused || this._isSpent()) await this._hold();
      else await this._round();
    }
    if (this._instructions.over !== "run") this._cutAll();
    return this._instructions.over;
  }

  _follow(instructions) {
    if (instructions.pointer !== this._instructions?.pointer) this._usedSteps = 0;
    this._instructions = instructions;
    this._uplink.progress.waiting = !instructions.policy || this._isSpent();
    for (const seat of this._seats) if (seat.playing && !seat.length) this._takeNewest(seat);
  }

  _isSpent() {
    const quota = this._instructions.pointer?.quota;
    return quota !== null && quota !== undefined && this._usedSteps >= quota;
  }

  async _hold() {
    this._uplink.progress.waiting = !this._instructions.policy || this._isSpent();
    this._cutAll();
    await this._uplink.wait(this._instructions, WAIT_MILLISECONDS);
  }

  async _round() {
    let stepped = false;
    for (const seat of this._seats) {
      if (this._isSpent()) return;
      if (!seat.playing && performance.now() < seat.readyAt) continue;
      stepped = true;
      try {
        if (!seat.playing) await this._begin(seat);
        await this._step(seat);
        seat.failures = 0;
      } catch (error) {
        if (error instanceof ConfigError) throw error;
        this._leave(seat, error);
      }
    }
    if (!stepped) await this._uplink.wait(this._instructions, WAIT_MILLISECONDS);
  }

  /** Let an environment take the arguments of the stage that has begun, between two episodes. */
  async _configure(seat) {
    const { environment } = this._spec;
    const stage = stageOf(environment, this._instructions.pointer?.knobs ?? {});
    if (seat.stage === stage) return;
    await seat.environment.configure?.(kwargsAt(environment, stage));
    seat.stage = stage;
    seat.kwargs = this._uplink.progress.kwargs = recordedAt(environment, stage);
    if (environment.schedule.length) this._log(`schedule stage=${stage} values=${JSON.stringify(seat.kwargs)}`);
  }

  async _begin(seat) {
    await this._configure(seat);
    seat.length = 0;
    seat.read(await seat.environment.reset());
    seat.memory = this._instructions.policy.freshMemory();
    this._explore(seat, true);
    for (const name of seat.greedy ? [] : this._head.noise) {
      const row = seat.memory[name];
      for (let at = 0; at < row.length; at++) row[at] = gauss(this._random);
    }
    seat.episode = this._episodes++;
    seat.start = seat.steps = seat.total = 0;
    seat.newest = [0, 0];
    this._use(seat, null);
    seat.began = performance.now();
    seat.playing = true;
    this._takeNewest(seat);
  }

  _explore(seat, evaluate) {
    const knobs = this._instructions.pointer?.knobs ?? {};
    Object.assign(seat, explore(this._head, knobs, this._random, evaluate));
    seat.atRandom = Math.max(seat.epsilon, seat.greedy ? 0 : (knobs.random ?? 0));
  }

  _takeNewest(seat) {
    if (seat.greedy && seat.steps >= Math.max(GREEDY_STEPS, 4 * this._longest)) this._explore(seat, false);
    const pinned = seat.greedy && seat.steps > 0;
    if (!pinned || !seat.policy) this._use(seat, this._instructions.policy);
    const { generation, version } = seat.policy;
    this._uplink.progress.version = version;
    if (generation > seat.newest[0] || (generation === seat.newest[0] && version > seat.newest[1])) {
      seat.newest = [generation, version];
    }
    seat.used = { generation, version };
    seat.before = Object.fromEntries(Object.entries(seat.memory).map(([k, a]) => [k, a.slice()]));
  }

  /** Give a seat a policy, and free the memory of the one that nobody uses any more. */
  _use(seat, policy) {
    const before = seat.policy;
    seat.policy = policy;
    if (before && before !== this._instructions.policy && !this._seats.some((other) => other.policy === before)) {
      before.release();
    }
  }

  async _step(seat) {
    const { action: spec } = this._spec.spec;
    const outputs = await seat.policy.act(seat.obs, seat.memory);
    const { action, logp } = act(this._head, spec, outputs, {
      mask: seat.obs.mask ?? null, greedy: seat.greedy, epsilon: seat.epsilon,
      atRandom: this._instructions.pointer.knobs.random ?? 0, random: this._random,
    });
    if (!seat.length) seat.deadline = performance.now() + 1000 * this._spec.fragment_seconds;
    const outcome = await seat.environment.step(toEnvironment(this._head, spec, action));
    const { observation, reward, terminated = false, truncated = false, info = {} } = outcome;
    const at = seat.length++;
    try {
      seat.read(observation);
    } catch (error) {
      seat.length = at;
      throw error;
    }
    assign(seat.action, at * seat.width, action);
    seat.reward[at] = reward;
    if (seat.extras.logp) seat.extras.logp[at] = logp;
    seat.total += reward;
    seat.steps += 1;
    this._usedSteps += 1;
    this._uplink.progress.steps += 1;
    if (terminated || truncated) this._end(seat, { terminated, truncated }, info);
    else if (seat.length >= seat.capacity || performance.now() >= seat.deadline) {
      this._send(seat);
      this._takeNewest(seat);
    }
  }

  _send(seat, ending = { terminated: false, truncated: false }) {
    const fragment = seat.cut(this._cut, ending);
    this._cut += fragment.steps;
    this._uplink.send(fragment);
    seat.resume();
  }

  _end(seat, ending, info) {
    this._send(seat, ending);
    this._longest = Math.max(this._longest, seat.steps);
    const keys = this._spec.environment.info_keys.filter((key) => Number.isFinite(info[key]));
    this._uplink.send({
      kind: "episode", generation: seat.newest[0], version: seat.newest[1], episode: seat.episode,
      reward: seat.total, steps: seat.steps, seconds: (performance.now() - seat.began) / 1000,
      terminated: ending.terminated, greedy: seat.greedy, epsilon: seat.atRandom,
      info: Object.fromEntries(keys.map((key) => [key, info[key]])), kwargs: seat.kwargs,
    });
    this._uplink.progress.episodes += 1;
    seat.playing = false;
  }

  /** Abandon an episode whose environment has failed. */
  _leave(seat, error) {
    const { progress } = this._uplink;
    progress.discarded += seat.length;
    progress.restarts += 1;
    progress.faults = { ...progress.faults, crash: (progress.faults.crash ?? 0) + 1 };
    progress.trouble = String(error?.message ?? error);
    this._log(`the environment failed: ${progress.trouble}`);
    seat.length = 0;
    seat.playing = false;
    seat.readyAt = performance.now() + Math.min(AGAIN[1], AGAIN[0] * 2 ** Math.min(seat.failures++, 10));
  }

  _cutAll() {
    for (const seat of this._seats) {
      if (!seat.playing || !seat.length) continue;
      this._send(seat);
      if (this._instructions.policy) this._takeNewest(seat);
    }
  }
}

function gauss(random) {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}
