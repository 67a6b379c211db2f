/** The check of a stranger's ONNX graph, and the weights put into it. */

import { bytesOf, sizeOf } from "./arrays.js";
import { WireError } from "./errors.js";

const PLACE = "weights";
const MOST_NODES = 10_000;
const MOST_BYTES = 16_000_000;
const DEEPEST = 4;
const text = (bytes) => Buffer.from(bytes).toString("utf8");

class Refused extends WireError {}

/** Yield `[number, value]` of each protobuf field; a value is bytes, an integer or null. */
function* fields(data) {
  let at = 0;
  const varint = (longest) => {
    let value = 0n;
    for (let position = 0; position < longest && at < data.length; position++) {
      const byte = data[at++];
      value |= BigInt(byte & 127) << BigInt(7 * position);
      if (byte < 128) return value;
    }
    throw new Refused("the graph is cut off");
  };
  while (at < data.length) {
    const start = at;
    const tag = Number(varint(5));
    const kind = tag & 7;
    let value = null;
    if (kind === 0) value = varint(10);
    else if (kind === 2) {
      const size = Number(varint(5));
      value = data.subarray(at, at + size);
      at += size;
    } else if (kind === 1 || kind === 5) at += kind === 1 ? 8 : 4;
    else throw new Refused("the graph has a field of an unknown kind");
    if (at > data.length || tag >>> 3 === 0) throw new Refused("the graph is cut off");
    yield [tag >>> 3, value, data.subarray(start, at)];
  }
}

function message(value) {
  if (!(value instanceof Uint8Array)) throw new Refused("the graph has a field of another kind");
  return value;
}

/** Throw WireError for a graph that could read files, or that is too large. */
export function checkGraph(graph, external) {
  if (graph.length > MOST_BYTES) throw new Refused(`the graph has ${graph.length} bytes`);
  if (text(graph.subarray(4, 8)) === "ORTM") throw new Refused("the graph is not of ONNX");
  const state = { external, nodes: 0 };
  for (const [number, value] of fields(graph)) {
    if (number === 7) checkBody(message(value), 0, state);
    else if (number === 20 || number === 25) throw new Refused("the graph has functions or training");
  }
}

function checkBody(data, level, state) {
  if (level > DEEPEST) throw new Refused("the graph is nested too deeply");
  for (const [number, value] of fields(data)) {
    if (number === 1) checkNode(message(value), level, state);
    else if (number === 5) checkTensor(message(value), level === 0, state);
    else if (number === 15) throw new Refused("the graph has sparse tensors");
  }
}

function checkNode(data, level, state) {
  if (++state.nodes > MOST_NODES) throw new Refused(`the graph has more than ${MOST_NODES} nodes`);
  for (const [number, value] of fields(data)) {
    if (number === 7 && !["", "ai.onnx"].includes(text(message(value)))) {
      throw new Refused(`the graph has a node of the domain ${text(value)}`);
    }
    if (number === 5) checkAttribute(message(value), level, state);
  }
}

function checkAttribute(data, level, state) {
  for (const [number, value] of fields(data)) {
    if (number === 5 || number === 10) checkTensor(message(value), false, state);
    else if (number === 6 || number === 11) checkBody(message(value), level + 1, state);
    else if (number === 22 || number === 23) throw new Refused("the graph has sparse tensors");
  }
}

function checkTensor(data, isInitializer, { external }) {
  const names = [];
  const places = [];
  let isExternal = false;
  for (const [number, value] of fields(data)) {
    if (number === 8) names.push(text(message(value)));
    else if (number === 13) places.push(entry(message(value)));
    else if (number === 14) isExternal ||= value !== 0n;
  }
  if (!isExternal && !places.length) return;
  if (!isInitializer || names.length !== 1 || !(names[0] in external)) {
    throw new Refused("the graph names a file for a tensor that is no weight");
  }
  const locations = places.filter(([key]) => key === "location");
  if (locations.length !== 1 || locations[0][1] !== PLACE) {
    throw new Refused("the graph names another file as the place of its weights");
  }
  if (places.some(([key]) => !["location", "offset", "length"].includes(key))) {
    throw new Refused("the graph gives its weights something unknown");
  }
}

function entry(data) {
  const found = {};
  for (const [number, value] of fields(data)) found[number] = text(message(value));
  return [found[1], found[2]];
}

/** Return a field of bytes that come in parts. */
function field(number, parts) {
  const head = [];
  for (let value of [number * 8 + 2, parts.reduce((sum, part) => sum + part.length, 0)]) {
    while (value > 127) {
      head.push((value % 128) | 128);
      value = Math.floor(value / 128);
    }
    head.push(value);
  }
  return [Buffer.from(head), ...parts];
}

/**
 * Split a checked graph around its external initialisers.
 *
 * `weights` are the leaves of the initialisers by name. Returns the graph in parts, of which each
 * `{name, length}` stands for the bytes of a weight.
 */
export function splitGraph(graph, weights) {
  const parts = [];
  for (const [number, value, whole] of fields(graph)) {
    parts.push(...(number === 7 ? field(7, splitBody(value, weights)) : [whole]));
  }
  return parts;
}

function splitBody(body, weights) {
  const parts = [];
  for (const [number, value, whole] of fields(body)) {
    parts.push(...(number === 5 ? field(5, splitTensor(value, weights)) : [whole]));
  }
  return parts;
}

function splitTensor(data, weights) {
  const kept = [];
  let name = "";
  let isExternal = false;
  for (const [number, value, whole] of fields(data)) {
    if (number === 8) name = text(value);
    if (number === 13 || number === 14) isExternal = true;
    else kept.push(whole);
  }
  if (!isExternal) return [data];
  const leaf = weights[name];
  return [...kept, ...field(9, [{ name, length: sizeOf(leaf) * bytesOf(leaf) }])];
}
