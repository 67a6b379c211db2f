/** The data that the training node publishes: spec, program, pointer, weights, controls. */

import { createHash, createPublicKey, verify } from "node:crypto";
import { inflateSync } from "node:zlib";
import { bytesOf, fromBytes, fromHalf, isFloat, sizeOf, toBytes, zeros } from "./arrays.js";
import { decode } from "./codec.js";
import { Forged, ProtocolError, WireError } from "./errors.js";
import { padded } from "./layout.js";

export const PROTOCOL = 2;
export const OLDEST_PROTOCOL = 2;
export const PIECE_BYTES = 2 ** 20;
const MOST_STAGES = 64; // of a schedule
const [MOST_VALUES, LONGEST_NAME, LONGEST_TEXT] = [16, 64, 100]; // of arguments in the record
const UNPRINTABLE = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u;

// A run's id becomes a folder elsewhere.
const RUN = /^(?!(con|prn|aux|nul|com\d|lpt\d)(\.|$))(?![.-])[A-Za-z0-9_.-]{1,200}(?<!\.)$/i;
const SPKI = Buffer.from("302a300506032b6570032100", "hex"); // of an Ed25519 key

const isText = (value) => typeof value === "string";
const isMap = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isDtype = (value) => value === "float32" || value === "float16";
const isCount = (value) => Number.isInteger(value) && value >= 0;

function need(condition, what) {
  if (!condition) throw new WireError(`not a ${what}`);
}

/** Return the SHA-256 of bytes in hexadecimal. */
export function digest(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Return the run spec in bytes, after a check of the protocol; absent fields have defaults. */
export function readSpec(bytes) {
  const raw = decode(bytes);
  need(isMap(raw) && Number.isInteger(raw.protocol) && Number.isInteger(raw.oldest_protocol), "spec");
  checkProtocol(raw.protocol, raw.oldest_protocol);
  need(isText(raw.run) && RUN.test(raw.run) && isMap(raw.spec) && isMap(raw.spec.obs), "spec");
  need(isCount(raw.published_crc) && raw.published_crc > 0, "spec with a crc");
  const environment = {
    kwargs: {}, count: 1, max_episode_steps: 0, info_keys: [], realtime: false,
    largest_reward: 1e6, client_kwargs: [], schedule: [], ...raw.environment,
  };
  need(isMap(environment.kwargs) && Array.isArray(environment.client_kwargs), "spec");
  need(Array.isArray(environment.schedule), "spec with a schedule");
  environment.schedule = environment.schedule.map((stage) => {
    need(isMap(stage) && isCount(stage.env_step) && isMap(stage.kwargs ?? {}), "spec with a schedule");
    return { kwargs: {}, ...stage };
  });
  const action = { shape: [], sizes: [], low: [], high: [], ...raw.spec.action };
  const spec = {
    fragment_steps: 64, fragment_seconds: 1, heartbeat_seconds: 1, stream_entries: 4096,
    extras: {}, memory: {}, interventions: false, ...raw, environment, spec: { obs: raw.spec.obs, action },
  };
  const leaves = [spec.spec.obs, spec.extras, spec.memory].flatMap(Object.values);
  for (const leaf of leaves) bytesOf(leaf);
  return spec;
}

/** Throw ProtocolError unless a server's protocols include ours. */
export function checkProtocol(theirs, oldest) {
  if (oldest > PROTOCOL || theirs < OLDEST_PROTOCOL) {
    const side = oldest > PROTOCOL ? "update this client" : "update the server";
    throw new ProtocolError(
      `the server speaks protocol ${oldest} to ${theirs} and this client ${PROTOCOL}; ${side}`,
    );
  }
}

/** Return the program in bytes. */
export function readProgram(bytes) {
  const raw = decode(bytes);
  need(isMap(raw) && raw.graph instanceof Uint8Array && isMap(raw.weights), "program");
  need(Array.isArray(raw.inputs) && Array.isArray(raw.outputs) && isMap(raw.head), "program");
  const head = {
    epsilon_base: 0.4, epsilon_alpha: 7, eval_fraction: 0.05, noise: [], ...raw.head,
  };
  return { memory: {}, ...raw, head };
}

/** Return `{data, signature}` in bytes. */
export function readSigned(bytes) {
  const raw = decode(bytes);
  need(isMap(raw) && raw.data instanceof Uint8Array, "signed value");
  return { data: raw.data, signature: raw.signature ?? new Uint8Array() };
}

/** Return the pointer in bytes. */
export function readPointer(bytes) {
  const raw = decode(bytes);
  need(isMap(raw) && isText(raw.run) && RUN.test(raw.run), "pointer");
  need([raw.generation, raw.version, raw.bytes].every(isCount) && isText(raw.sha256), "pointer");
  const pointer = { dtype: "float32", quota: null, knobs: {}, delta: null, ...raw };
  need(isDtype(pointer.dtype), "pointer");
  if (pointer.delta !== null) {
    need(isMap(pointer.delta) && isCount(pointer.delta.bytes) && isMap(pointer.delta.base), "pointer");
    const base = { dtype: "float32", ...pointer.delta.base };
    need([base.version, base.bytes].every(isCount) && isText(base.sha256), "pointer");
    need(isDtype(base.dtype), "pointer");
    pointer.delta = { ...pointer.delta, base };
  }
  return pointer;
}

/** Return the number of stages of the run's schedule that have begun, by a pointer's knobs. */
export function stageOf({ schedule }, knobs) {
  const stage = knobs.stage ?? 0;
  return stage >= 0 && stage <= MOST_STAGES ? Math.min(Math.trunc(stage), schedule.length) : 0;
}

/** Return the environment's arguments once so many stages have begun: those of the last replace the run's. */
export function kwargsAt({ kwargs, schedule }, stage) {
  return { ...kwargs, ...(stage ? schedule[stage - 1].kwargs : {}) };
}

/** Return the arguments at a stage that the record of an episode has, in a bounded form. */
export function recordedAt(environment, stage) {
  const values = { ...kwargsAt(environment, stage), max_episode_steps: environment.max_episode_steps };
  const scheduled = environment.schedule.flatMap(({ kwargs }) => Object.keys(kwargs));
  const named = [...new Set([...environment.client_kwargs, ...scheduled])].filter(
    (name) => name in values && !UNPRINTABLE.test(name) && [...name].length <= LONGEST_NAME);
  return Object.fromEntries(named.slice(0, MOST_VALUES).map((name) => [name, bounded(values[name])]));
}

function bounded(value) {
  const isPlain = value === null || typeof value === "boolean" || typeof value === "number";
  if (isPlain) return value;
  const text = isText(value) ? value : JSON.stringify(value);
  return [...text].slice(0, LONGEST_TEXT).map((letter) => (UNPRINTABLE.test(letter) ? "?" : letter)).join("");
}

/** Return the word of a control. */
export function readControl(bytes) {
  const raw = decode(bytes);
  need(isMap(raw) && ["pause", "resume", "stop"].includes(raw.op), "control");
  return raw.op;
}

/** Checks signatures against a pinned public key. */
export class Verifier {
  constructor(text) {
    const raw = Buffer.from(text.replace(/^ed25519:/, ""), "base64url");
    if (!text.startsWith("ed25519:") || raw.length !== 32) {
      throw new Forged("the run's public key is not a key like ed25519:<43 letters>");
    }
    this._key = createPublicKey({ key: Buffer.concat([SPKI, raw]), format: "der", type: "spki" });
  }

  /** Throw Forged unless the signature of data of that kind is valid. */
  check(kind, { data, signature }) {
    const framed = Buffer.concat([Buffer.from(`soulsai 1 ${kind}\0`), data]);
    if (!verify(null, framed, this._key, signature)) {
      throw new Forged(`the signature of the run's ${kind} is missing or wrong; nothing of it is used`);
    }
  }
}

/** Return the dtype in which an array is sent: with `float16`, matrices of floats are halves. */
function wireDtype(leaf, dtype) {
  return dtype === "float16" && isFloat(leaf) && leaf.shape.length > 1 ? "<f2" : leaf.dtype;
}

/** Return the bytes of a program's weights. */
export function weightsBytes(program, dtype) {
  let size = 0;
  for (const leaf of Object.values(program.weights)) {
    size += padded(sizeOf(leaf) * bytesOf({ ...leaf, dtype: wireDtype(leaf, dtype) }));
  }
  return size;
}

/** Return the bytes of each array in the program's own dtype, after all checks. */
export function readWeights(bytes, pointer, program) {
  const name = `${pointer.generation}-${pointer.version}`;
  if (bytes.length !== pointer.bytes || digest(bytes) !== pointer.sha256) {
    throw new WireError(`weights ${name} arrived damaged`);
  }
  if (bytes.length !== weightsBytes(program, pointer.dtype)) {
    throw new WireError(`weights ${name} are of another program`);
  }
  const arrays = {};
  let at = 0;
  for (const [key, leaf] of Object.entries(program.weights)) {
    const dtype = wireDtype(leaf, pointer.dtype);
    const length = sizeOf(leaf) * bytesOf({ ...leaf, dtype });
    const part = bytes.subarray(at, at + length);
    arrays[key] = dtype === leaf.dtype ? part : widened(part, leaf);
    at += padded(length);
  }
  return arrays;
}

const isMatrix = (leaf) => leaf.dtype === "<f4" && leaf.shape.length > 1;

/**
 * Return the bytes of each array of a version, from its delta and the arrays of an earlier one.
 * The digest is that of the whole version, so it covers both.
 */
export function readDelta(bytes, base, pointer, program) {
  const name = `${pointer.generation}-${pointer.version}`;
  const leaves = Object.entries(program.weights);
  const rest = (leaf) => sizeOf(leaf) / (leaf.shape[0] || 1);
  const lengthOf = (leaf) =>
    isMatrix(leaf) ? leaf.shape[0] * (4 + rest(leaf)) : sizeOf(leaf) * bytesOf(leaf);
  const size = leaves.reduce((sum, [, leaf]) => sum + lengthOf(leaf), 0);
  let raw;
  try {
    raw = inflateSync(bytes, { maxOutputLength: size + 1 });
  } catch (error) {
    throw new WireError(`a delta of weights ${name} is damaged: ${error.message}`);
  }
  if (raw.length !== size) throw new WireError(`a delta of weights ${name} has another length`);
  const arrays = {};
  const hash = createHash("sha256");
  let at = 0;
  for (const [key, leaf] of leaves) {
    const part = raw.subarray(at, at + lengthOf(leaf));
    arrays[key] = isMatrix(leaf) ? moved(base[key], part, leaf, rest(leaf)) : part;
    hash.update(arrays[key]).update(new Uint8Array(padded(arrays[key].length) - arrays[key].length));
    at += part.length;
  }
  if (pointer.dtype !== "float32" || hash.digest("hex") !== pointer.sha256) {
    throw new WireError(`weights ${name} arrived damaged`);
  }
  return arrays;
}

/** Return `base + scale * number` of each row, rounded to a single float after each operation. */
function moved(base, part, leaf, width) {
  const rows = leaf.shape[0];
  const scale = fromBytes(part, "<f4", rows);
  const numbers = fromBytes(part.subarray(4 * rows), "|i1", rows * width);
  const array = fromBytes(base, "<f4", rows * width);
  for (let at = 0; at < array.length; at++) {
    array[at] += Math.fround(scale[Math.floor(at / width)] * numbers[at]);
  }
  return toBytes(array, "<f4");
}

function widened(part, leaf) {
  const array = zeros(leaf);
  for (let at = 0; at < array.length; at++) array[at] = fromHalf(part[2 * at] | (part[2 * at + 1] << 8));
  return toBytes(array, leaf.dtype);
}
