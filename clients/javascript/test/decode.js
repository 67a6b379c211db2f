/** Decoding of entries, which only the training node does; the vectors are checked with it. */

import { decodeMulti } from "@msgpack/msgpack";
import { fromBytes } from "../src/arrays.js";
import { BODY, ENTRY_BYTES, FIELDS, HEAD, KINDS, MAX_MESSAGES, RAW_BYTES } from "../src/codec.js";
import { Rejected } from "../src/errors.js";
import { Layout, padded, rolled } from "../src/layout.js";

const KIND_OF = Object.fromEntries(Object.entries(KINDS).map(([name, kind]) => [kind, name]));
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/;
const SHORTEST = { episode: 10, heartbeat: 9, hello: 6 };

/** Return the messages of an entry; throw Rejected unless their form is valid. */
export function decodeEntry(data, spec) {
  if (data.length < 8 || data.length > ENTRY_BYTES) throw new Rejected("size", `${data.length}`);
  const [framing, flags, count, size] = [
    data.readUInt8(0), data.readUInt8(1), data.readUInt16LE(2), data.readUInt32LE(4),
  ];
  if (framing !== 1 || flags > 1 || count < 1 || count > MAX_MESSAGES) {
    throw new Rejected("frame", `framing ${framing}, flags ${flags}, ${count} messages`);
  }
  if (size > RAW_BYTES) throw new Rejected("size", `${size} unpacked`);
  const raw = flags ? inflate(data.subarray(8), size) : data.subarray(8);
  if (raw.length !== size) throw new Rejected("length", `${raw.length} of ${size}`);
  const layout = new Layout(spec);
  const messages = [];
  let at = 0;
  for (let number = 0; number < count; number++) {
    if (raw.length - at < HEAD) throw new Rejected("length", "a message is cut off");
    const length = raw.readUInt32LE(at + 4);
    const header = raw.readUInt16LE(at + 8);
    if (length % 8 || HEAD + header > length || length > raw.length - at) {
      throw new Rejected("length", `a message of ${length}`);
    }
    if (raw.readUInt32LE(at) !== layout.crc) throw new Rejected("run", "another spec");
    messages.push(message(raw.subarray(at, at + length), header, layout));
    at += length;
  }
  if (at !== raw.length) throw new Rejected("length", "bytes after the last message");
  return messages;
}

function message(data, header, layout) {
  const kind = KIND_OF[data.readUInt8(10)];
  if (kind === "fragment") return fragment(data, header, layout);
  if (data.length !== padded(HEAD + header)) throw new Rejected("length", "padding");
  if (!kind) throw new Rejected("kind", `${data.readUInt8(10)}`);
  const values = list(data.subarray(HEAD, HEAD + header));
  const names = FIELDS[kind];
  if (values.length < SHORTEST[kind] || values.length > names.length) throw bad("fields");
  const found = { kind, kwargs: {} };
  if (kind === "hello") delete found.kwargs;
  values.forEach((value, index) => {
    check(names[index], value);
    found[names[index]] = value;
  });
  return found;
}

const bad = (what) => new Rejected("header", what);

function list(bytes) {
  let values;
  try {
    values = [...decodeMulti(bytes)];
    // The package decodes broken UTF-8 as it comes.
    for (const raw of decodeMulti(bytes, { rawStrings: true })) raw.forEach?.(checkText);
  } catch (error) {
    throw bad(error.message);
  }
  if (values.length !== 1 || !Array.isArray(values[0])) throw bad("not one array");
  return values[0];
}

const UTF8 = new TextDecoder("utf-8", { fatal: true });

function checkText(value) {
  if (value instanceof Uint8Array) UTF8.decode(value);
}

const COUNTS = ["generation", "version", "episode", "steps", "episodes", "dropped", "queued",
  "restarts", "protocol", "environments", "crc"];

function check(name, value) {
  const number = typeof value === "number";
  if (COUNTS.includes(name)) {
    if (!number || !Number.isInteger(value) || value < 0 || value >= 2 ** 48) throw bad(name);
  } else if (["reward", "seconds", "epsilon"].includes(name)) {
    if (!number) throw bad(name);
  } else if (["terminated", "greedy", "waiting"].includes(name)) {
    if (typeof value !== "boolean") throw bad(name);
  } else if (["run", "software", "environment", "trouble"].includes(name)) {
    const most = name === "trouble" ? 200 : 256;
    if (typeof value !== "string" || [...value].length > most) throw bad(name);
    if (name === "trouble" && CONTROL.test(value)) throw bad(name);
  } else {
    checkMap(name, value);
  }
}

function checkMap(name, value) {
  const entries = typeof value === "object" && value && !Array.isArray(value) ? Object.entries(value) : null;
  if (!entries || entries.length > (name === "info" ? 32 : 16)) throw bad(name);
  for (const [key, inner] of entries) {
    if (name === "faults") {
      if (!/^[a-z]{1,16}$/.test(key)) throw bad(name);
      check("steps", inner);
    } else if (name === "info") {
      if (key.length > 64 || typeof inner !== "number") throw bad(name);
    } else if (key.length > 64 || (typeof inner === "object" && inner !== null)) throw bad(name);
  }
}

function fragment(data, header, layout) {
  if (header !== 36) throw bad(`a header of ${header}`);
  const flags = data.readUInt8(46);
  const epsilon = data.readDoubleLE(20);
  const known = 7 | (layout.stacks.size ? 8 : 0) | (layout.spec.interventions ? 16 : 0);
  if (flags & ~known || !(epsilon >= 0 && epsilon <= 1)) throw bad("flags or epsilon");
  const steps = data.readUInt16LE(44);
  const { columns, size } = layout.plan(steps, Boolean(flags & 8), Boolean(flags & 16));
  if (data.length !== BODY + size) throw new Rejected("length", `${steps} steps`);
  const found = {
    kind: "fragment", steps, epsilon, clock: Number(data.readBigUInt64LE(12)),
    episode: data.readUInt32LE(28), start: data.readUInt32LE(32),
    generation: data.readUInt32LE(36), version: data.readUInt32LE(40),
    terminated: Boolean(flags & 1), truncated: Boolean(flags & 2), greedy: Boolean(flags & 4),
    obs: {}, extras: {}, memory: {}, intervened: null,
  };
  for (const { part, name, leaf, rows, count, length, offset, stack } of columns) {
    const start = BODY + offset;
    let array = fromBytes(data.subarray(start, start + length), leaf.dtype, count);
    if (stack) array = rolled(stack, array, rows);
    if (name) found[part][name] = array;
    else found[part] = array;
  }
  return found;
}

/** Return the content of an LZ4 block that has exactly `size` bytes. */
function inflate(block, size) {
  const out = Buffer.alloc(size);
  let [at, to] = [0, 0];
  const fail = () => { throw new Rejected("lz4", "a broken block"); };
  const rest = (length) => {
    if (length < 15) return length;
    for (;;) {
      if (at >= block.length) fail();
      length += block[at];
      if (block[at++] !== 255) return length;
    }
  };
  for (;;) {
    if (at >= block.length) fail();
    const token = block[at++];
    const literals = rest(token >> 4);
    if (at + literals > block.length || to + literals > size) fail();
    block.copy(out, to, at, at + literals);
    at += literals;
    to += literals;
    if (at === block.length) return out.subarray(0, to);
    if (at + 2 > block.length) fail();
    const offset = block.readUInt16LE(at);
    at += 2;
    const match = 4 + rest(token & 15);
    if (!offset || offset > to || to + match > size) fail();
    for (let index = 0; index < match; index++, to++) out[to] = out[to - offset];
  }
}
