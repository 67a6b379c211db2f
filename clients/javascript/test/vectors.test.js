/** The vectors of the wire: this client agrees with each, as the training node's codec does. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fromBytes, sizeOf } from "../src/arrays.js";
import { decode, Encoder, pack } from "../src/codec.js";
import { act } from "../src/heads.js";
import { readInvite } from "../src/invite.js";
import { Limits } from "../src/limits.js";
import { isName } from "../src/names.js";
import {
  checkProtocol, kwargsAt, readControl, readDelta, readPointer, readSigned, readSpec, readWeights,
  recordedAt, stageOf, Verifier,
} from "../src/published.js";
import { decodeEntry } from "./decode.js";

const FOLDER = new URL("../../../tests/vectors/", import.meta.url);
const read = (name) => JSON.parse(readFileSync(new URL(`${name}.json`, FOLDER), "utf8"));
const bytes = ({ data }) =>
  data.hex === undefined ? readFileSync(new URL(data.file, FOLDER)) : Buffer.from(data.hex, "hex");
const runs = Object.fromEntries(read("runs").map((run) => [run.name, run]));
const settings = read("settings");
let seen = 0;

function each(family, check) {
  for (const vector of read(family)) {
    seen += 1;
    test(`${family}: ${vector.name}`, () => {
      if (vector.valid) check(vector);
      else assert.throws(() => check(vector), vector.reason ? { reason: vector.reason } : Error);
    });
  }
}

function nested(array, shape) {
  if (!shape.length) return Number(array[0]);
  const size = shape.slice(1).reduce((product, side) => product * side, 1);
  return Array.from({ length: shape[0] }, (_, row) =>
    nested(array.subarray(row * size, (row + 1) * size), shape.slice(1)));
}

/** Return a message in the form of the vectors. */
function told(message, { spec, extras, memory }, leaf) {
  if (message.kind !== "fragment") return message;
  const { steps, ...rest } = message;
  const part = (arrays, leaves, rows) => Object.fromEntries(
    Object.entries(arrays).map(([name, array]) => {
      const shape = rows === null ? leaves[name].shape : [rows, ...leaves[name].shape];
      const values = nested(array, shape);
      return [name, leaves[name].dtype === "|b1" ? booleans(values) : values];
    }),
  );
  return {
    ...rest, obs: part(message.obs, spec.obs, steps + 1), reward: nested(message.reward, [steps]),
    action: nested(message.action, [steps, ...leaf.shape]),
    intervened: message.intervened && booleans(nested(message.intervened, [steps])),
    extras: part(message.extras, extras, steps), memory: part(message.memory, memory, null),
  };
}

const booleans = (values) => (Array.isArray(values) ? values.map(booleans) : Boolean(values));

each("entries", (vector) => {
  const run = runs[vector.run];
  const spec = readSpec(bytes(run));
  const limits = new Limits(spec, run.head);
  const encoder = new Encoder(spec);
  const messages = decodeEntry(bytes(vector), spec);
  for (const message of messages) limits.check(message);
  assert.equal(messages.length, vector.count);
  const again = pack(messages.map((message) => encoder.message(message)));
  if (vector.exact) assert.deepEqual(again, bytes(vector));
  const leaf = encoder.layout.action;
  for (const found of [messages, decodeEntry(again, spec)]) {
    const rows = found.slice(0, vector.messages.length).map((message) => told(message, spec, leaf));
    assert.deepEqual(rows, vector.messages);
  }
});

each("runs", (vector) => {
  const spec = readSpec(bytes(vector));
  assert.equal(spec.published_crc, vector.crc);
  assert.deepEqual(spec.spec.obs, vector.spec.spec.obs);
});

each("weights", (vector) => {
  const program = { weights: settings.program };
  const arrays = readWeights(bytes(vector), vector.pointer, program);
  for (const [name, leaf] of Object.entries(program.weights)) {
    const values = nested(fromBytesOf(arrays[name], leaf), leaf.shape);
    assert.deepEqual(leaf.dtype === "|b1" ? booleans(values) : values, vector.arrays[name]);
  }
});

/** Return the values of an array of weights, whose booleans take a byte each. */
function fromBytesOf(data, leaf) {
  return fromBytes(data, leaf.dtype === "|b1" ? "|u1" : leaf.dtype, sizeOf(leaf));
}

each("deltas", (vector) => {
  const program = { weights: settings.program };
  const { pointer } = vector;
  const whole = { generation: pointer.generation, ...pointer.delta.base };
  const base = readWeights(bytes({ data: vector.base }), whole, program);
  const arrays = readDelta(bytes(vector), base, pointer, program);
  for (const [name, leaf] of Object.entries(program.weights)) {
    const values = nested(fromBytesOf(arrays[name], leaf), leaf.shape);
    assert.deepEqual(leaf.dtype === "|b1" ? booleans(values) : values, vector.arrays[name]);
  }
});

each("schedules", (vector) => {
  const { environment } = readSpec(bytes(vector));
  for (const { pointer, begun, kwargs, recorded } of vector.stages) {
    const stage = stageOf(environment, readPointer(Buffer.from(pointer, "hex")).knobs);
    assert.equal(stage, begun);
    assert.deepEqual(kwargsAt(environment, stage), kwargs);
    assert.deepEqual(recordedAt(environment, stage), recorded);
  }
});

each("pointers", (vector) => {
  assert.deepEqual(readPointer(readSigned(bytes(vector)).data), vector.pointer);
});

each("signatures", (vector) => {
  new Verifier(settings.public_key).check(vector.kind, readSigned(bytes(vector)));
});

each("invites", (vector) => assert.deepEqual(readInvite(vector.line), vector.invite));

each("names", (vector) => {
  if (!isName(vector.text)) throw new Error("no name");
});

each("controls", (vector) => assert.equal(readControl(bytes(vector)), vector.op));

each("versions", (vector) => {
  const { protocol, oldest_protocol: oldest } = decode(bytes(vector));
  checkProtocol(protocol, oldest);
});

each("heads", (vector) => {
  const outputs = Object.fromEntries(
    Object.entries(vector.outputs).map(([name, values]) => [name, Float32Array.from(values)]));
  const mask = vector.mask && Uint8Array.from(vector.mask, Number);
  const { action, logp } = act(vector.head, vector.spec, outputs, {
    mask, greedy: true, epsilon: 0, atRandom: 0, random: Math.random,
  });
  const expected = [vector.action].flat();
  action.forEach((value, at) => assert.ok(Math.abs(value - expected[at]) < 1e-6, `${action}`));
  assert.equal(logp === undefined, vector.extras.logp === undefined);
  if (logp !== undefined) assert.ok(Math.abs(logp - vector.extras.logp) < 1e-5, `${logp}`);
});

test("there are enough vectors", () => assert.ok(seen > 200, `${seen}`));
