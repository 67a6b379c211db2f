import assert from "node:assert/strict";
import { test } from "node:test";
import { fromHalf, toHalf } from "../src/arrays.js";
import { AccessDenied, ConfigError, WireError } from "../src/errors.js";
import { checkOffer } from "../src/client.js";
import { checkGraph } from "../src/graph.js";
import { act, explore, toEnvironment } from "../src/heads.js";
import { Player } from "../src/player.js";
import { Outbox, printable } from "../src/uplink.js";
import { ClientWire } from "../src/wire.js";

/** Return uniform numbers that are always the same (mulberry32). */
function seeded(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const DISCRETE = { kind: "discrete", shape: [], sizes: [3], low: [], high: [] };
const BOX = { kind: "box", shape: [1], sizes: [], low: [-2], high: [2] };

test("every half comes back", () => {
  for (let bits = 0; bits < 65536; bits++) {
    const value = fromHalf(bits);
    if (!Number.isNaN(value)) assert.equal(toHalf(value), bits);
  }
  assert.equal(toHalf(65519.99), 0x7bff);
  assert.equal(toHalf(65520), 0x7c00);
  assert.equal(toHalf(1 + 2 ** -11), 0x3c00, "ties go to even");
});

test("a full outbox drops the oldest fragments, and episodes last", () => {
  const outbox = new Outbox(30);
  outbox.put(Buffer.alloc(10), 0, 0);
  for (const steps of [5, 6, 7]) outbox.put(Buffer.alloc(10), steps, 0);
  assert.equal(outbox.dropped, 5);
  assert.equal(outbox.bytes, 30);
  assert.equal(outbox.take(15).length, 1, "two would be over 15 bytes");
  assert.equal(outbox.take(20).length, 2);
  assert.equal(outbox.bytes, 0);
});

test("choices follow the softmax, and their log-probability is of it", () => {
  const random = seeded(1);
  const logits = Float32Array.of(0, 1, 2);
  const total = Math.exp(0) + Math.E + Math.exp(2);
  const counts = [0, 0, 0];
  for (let number = 0; number < 20_000; number++) {
    const { action, logp } = act({ kind: "categorical" }, DISCRETE, { logits }, {
      mask: null, greedy: false, epsilon: 0, atRandom: 0, random,
    });
    counts[action[0]] += 1;
    assert.ok(Math.abs(logp - (action[0] - Math.log(total))) < 1e-5);
  }
  counts.forEach((count, choice) => {
    const share = Math.exp(choice) / total;
    assert.ok(Math.abs(count / 20_000 - share) < 5 * Math.sqrt((share * (1 - share)) / 20_000));
  });
});

test("numbers have the mean and the deviation of the policy, and their density", () => {
  const random = seeded(2);
  const outputs = { mean: Float32Array.of(0.5), log_std: Float32Array.of(Math.log(0.25)) };
  let [sum, squares] = [0, 0];
  for (let number = 0; number < 20_000; number++) {
    const { action: [value], logp } = act({ kind: "scaled_gaussian" }, BOX, outputs, {
      mask: null, greedy: false, epsilon: 0, atRandom: 0, random,
    });
    const z = (value - 0.5) / 0.25;
    assert.ok(Math.abs(logp - (-0.5 * z * z - Math.log(0.25) - 0.5 * Math.log(2 * Math.PI))) < 1e-4);
    sum += value;
    squares += value * value;
  }
  const mean = sum / 20_000;
  assert.ok(Math.abs(mean - 0.5) < 0.01);
  assert.ok(Math.abs(Math.sqrt(squares / 20_000 - mean * mean) - 0.25) < 0.01);
});

test("random actions come as often as epsilon says, and never where the mask forbids", () => {
  const random = seeded(3);
  const mask = Uint8Array.of(1, 0, 1);
  let others = 0;
  for (let number = 0; number < 20_000; number++) {
    const { action: [choice] } = act(
      { kind: "epsilon_greedy" }, DISCRETE, { q: Float32Array.of(9, 99, 1) },
      { mask, greedy: false, epsilon: 0.2, atRandom: 0, random },
    );
    assert.notEqual(choice, 1);
    others += choice === 2;
  }
  assert.ok(Math.abs(others / 20_000 - 0.1) < 0.01);
});

test("episodes cover the range of epsilon, and the share that is greedy", () => {
  const random = seeded(4);
  const head = { kind: "epsilon_greedy", epsilon_base: 0.4, epsilon_alpha: 7, eval_fraction: 0.05 };
  const drawn = Array.from({ length: 5000 }, () => explore(head, {}, random));
  const share = drawn.filter(({ greedy }) => greedy).length / drawn.length;
  assert.ok(Math.abs(share - 0.05) < 0.02);
  for (const { greedy, epsilon } of drawn) {
    assert.ok(greedy ? epsilon === 0 : epsilon <= 0.4 && epsilon >= 0.4 ** 8);
  }
  assert.ok(drawn.every(() => !explore(head, { random: 1 }, random).greedy));
});

test("an action is scaled and clipped for the environment", () => {
  assert.deepEqual(toEnvironment({ kind: "squashed" }, BOX, [0.5]), [1]);
  assert.deepEqual(toEnvironment({ kind: "scaled_gaussian" }, BOX, [9]), [2]);
  assert.equal(toEnvironment({ kind: "categorical" }, DISCRETE, [2]), 2);
});

test("a graph that names a file, or is cut off, is refused", () => {
  const tensor = Buffer.concat([
    Buffer.from([0x42, 1]), Buffer.from("w"), // name
    Buffer.from([0x70, 1]), // external
    Buffer.from([0x6a, 21, 0x0a, 8]), Buffer.from("location"), Buffer.from([0x12, 9]), Buffer.from("/etc/host"),
  ]);
  const graph = Buffer.concat([Buffer.from([0x3a, tensor.length + 2, 0x2a, tensor.length]), tensor]);
  assert.throws(() => checkGraph(graph, { w: {} }), /another file/);
  assert.throws(() => checkGraph(graph, {}), /no weight/);
  assert.throws(() => checkGraph(graph.subarray(0, -1), { w: {} }), WireError);
  assert.throws(() => checkGraph(Buffer.from([0xa2, 1, 0]), {}), /functions/);
});

test("a run of another environment, or with other spaces, is refused", () => {
  const spec = {
    environment: { id: "Line-v0", schedule: [] },
    spec: { obs: { obs: { shape: [1], dtype: "<f4" } }, action: DISCRETE },
  };
  checkOffer(spec, ["Line-v0"], [{ spaces: spec.spec }, {}]);
  assert.throws(() => checkOffer(spec, ["CartPole-v1"], []), ConfigError);
  const other = { obs: { obs: { shape: [2], dtype: "<f4" } }, action: DISCRETE };
  assert.throws(() => checkOffer(spec, ["Line-v0"], [{ spaces: other }]), ConfigError);
  const staged = { ...spec, environment: { id: "Line-v0", schedule: [{ env_step: 1, kwargs: {} }] } };
  checkOffer(staged, ["Line-v0"], [{ configure() {} }]);
  assert.throws(() => checkOffer(staged, ["Line-v0"], [{}]), /give the environment a method configure/);
});

test("the stages of a schedule hold from the next episode on, and stand in its record", async () => {
  const spec = {
    spec: { obs: { obs: { shape: [1], dtype: "<f4" } }, action: DISCRETE },
    fragment_steps: 64, fragment_seconds: 60, extras: {}, memory: {},
    environment: {
      kwargs: { length: 2, wind: 0 }, max_episode_steps: 0, info_keys: [], client_kwargs: [],
      schedule: [{ env_step: 10, kwargs: { length: 3 } }, { env_step: 20, kwargs: { wind: 5 } }],
    },
  };
  const game = {
    given: [], failures: 1, steps: 0,
    configure(kwargs) {
      if (kwargs.wind && this.failures--) throw new Error("not ready");
      this.given.push(kwargs);
    },
    reset() {
      this.left = this.given.at(-1).length;
      return [0];
    },
    step() {
      this.steps += 1; // a stage that begins in the middle of an episode waits for its end
      if (this.steps === 1) uplink.instructions = stage(1);
      if (this.steps === 4) uplink.instructions = stage(2);
      return { observation: [0], reward: 1, terminated: --this.left === 0 };
    },
  };
  const policy = { generation: 1, version: 1, freshMemory: () => ({}), act: async () => ({ q: Float32Array.of(1, 0, 0) }) };
  const stage = (number) => ({ pointer: { quota: null, knobs: { stage: number } }, policy, paused: false, over: "" });
  const sent = [];
  const uplink = {
    instructions: stage(0), progress: { steps: 0, episodes: 0, faults: {}, restarts: 0, discarded: 0 },
    wait: () => new Promise((resolve) => setTimeout(resolve, 1)),
    send(message) {
      sent.push(message);
    },
  };
  const head = { kind: "epsilon_greedy", epsilon_base: 0, epsilon_alpha: 1, eval_fraction: 0, noise: [] };
  const player = new Player([game], spec, head, uplink, { random: seeded(5), log() {} });
  const done = () => sent.filter(({ kind }) => kind === "episode").length >= 4;
  await player.run(() => done() || uplink.progress.restarts > 1);
  const episodes = sent.filter(({ kind }) => kind === "episode");
  assert.deepEqual(episodes.map(({ steps }) => steps), [2, 3, 2, 2]);
  assert.deepEqual(episodes.map(({ kwargs }) => kwargs), [
    { length: 2, wind: 0 }, { length: 3, wind: 0 }, { length: 2, wind: 5 }, { length: 2, wind: 5 },
  ]);
  assert.deepEqual(game.given, [{ length: 2, wind: 0 }, { length: 3, wind: 0 }, { length: 2, wind: 5 }]);
  assert.equal(uplink.progress.faults.crash, 1, "a stage that fails is tried again");
  assert.deepEqual(uplink.progress.kwargs, { length: 2, wind: 5 });
});

test("an address of another machine is encrypted, unless the user insists", () => {
  const server = { url: "redis://192.0.2.1:6379", run: "r", client: "c", password: "p" };
  assert.throws(() => new ClientWire(server), ConfigError);
  new ClientWire({ ...server, insecure: true });
  new ClientWire({ ...server, url: "redis://127.0.0.1:6379" });
  assert.ok(new AccessDenied("x") instanceof WireError);
});

test("trouble is one printable line", () => {
  assert.equal(printable("a\u001b[2J\nb\t c"), "a [2J b c");
  assert.equal(printable("x".repeat(500)).length, 200);
});
