/** Encoding of the messages of a client, as docs/wire.md has them. */

import { decode as decodeMsgpack, Encoder as MsgpackEncoder } from "@msgpack/msgpack";
import { toBytes } from "./arrays.js";
import { WireError } from "./errors.js";
import { Layout, padded, unrolled } from "./layout.js";

export const ENTRY_BYTES = 2_000_000;
export const RAW_BYTES = 16 * 2 ** 20;
export const MAX_MESSAGES = 256;
export const KINDS = { fragment: 1, episode: 2, heartbeat: 3, hello: 4 };
export const HEAD = 12; // of a message
export const BODY = 48; // where the columns of a fragment begin
const FRAMING = 1;
const FRAGMENT_HEADER = 36;

/** The fields of the messages that are MessagePack arrays, in order. */
export const FIELDS = {
  episode: [
    "generation", "version", "episode", "reward", "steps", "seconds", "terminated", "greedy",
    "epsilon", "info", "kwargs",
  ],
  heartbeat: [
    "steps", "episodes", "dropped", "queued", "version", "restarts", "waiting", "faults",
    "trouble", "kwargs",
  ],
  hello: ["run", "protocol", "software", "environment", "environments", "crc"],
};

/** Return the value in bytes of MessagePack; throw WireError if there is none. */
export function decode(bytes) {
  try {
    return decodeMsgpack(bytes);
  } catch (error) {
    throw new WireError(`not MessagePack: ${error.message}`.slice(0, 200));
  }
}

/** Encodes the messages of one run. */
export class Encoder {
  constructor(spec) {
    this.layout = new Layout(spec);
    this._msgpack = new MsgpackEncoder();
  }

  /** Return one framed message. */
  message(message) {
    if (message.kind === "fragment") return this._fragment(message);
    const names = FIELDS[message.kind];
    const header = this._msgpack.encodeSharedRef(names.map((name) => message[name]));
    const whole = Buffer.alloc(padded(HEAD + header.length));
    this._head(whole, header.length, KINDS[message.kind]);
    whole.set(header, HEAD);
    return whole;
  }

  _head(whole, header, kind) {
    whole.writeUInt32LE(this.layout.crc, 0);
    whole.writeUInt32LE(whole.length, 4);
    whole.writeUInt16LE(header, 8);
    whole.writeUInt8(kind, 10);
  }

  _fragment(fragment) {
    const rolls = this.layout.rolls(fragment);
    const marked = Boolean(fragment.intervened);
    if (marked && !this.layout.spec.interventions) throw new WireError("the run takes no interventions");
    const { columns, size } = this.layout.plan(fragment.steps, rolls, marked);
    const whole = Buffer.alloc(BODY + size);
    this._head(whole, FRAGMENT_HEADER, KINDS.fragment);
    whole.writeBigUInt64LE(BigInt(fragment.clock), 12);
    whole.writeDoubleLE(fragment.epsilon, 20);
    whole.writeUInt32LE(fragment.episode, 28);
    whole.writeUInt32LE(fragment.start, 32);
    whole.writeUInt32LE(fragment.generation, 36);
    whole.writeUInt32LE(fragment.version, 40);
    whole.writeUInt16LE(fragment.steps, 44);
    const { terminated, truncated, greedy } = fragment;
    const flags = [terminated, truncated, greedy, rolls, marked].reduce(
      (sum, flag, bit) => sum | (flag ? 1 << bit : 0), 0);
    whole.writeUInt8(flags, 46);
    for (const column of columns) {
      const part = fragment[column.part];
      let array = column.name ? part[column.name] : part;
      if (column.stack) array = unrolled(column.stack, array, column.rows);
      if (array.length !== column.count) {
        throw new WireError(`column ${column.part} ${column.name} has ${array.length} elements`);
      }
      whole.set(toBytes(array, column.leaf.dtype), BODY + column.offset);
    }
    return whole;
  }
}

/** Return one entry with framed messages. */
export function pack(messages) {
  const raw = messages.reduce((sum, message) => sum + message.length, 0);
  if (raw + 8 > ENTRY_BYTES || messages.length < 1 || messages.length > MAX_MESSAGES) {
    throw new WireError(`an entry of ${messages.length} messages and ${raw} bytes is too large`);
  }
  const head = Buffer.alloc(8);
  head.writeUInt8(FRAMING, 0);
  head.writeUInt16LE(messages.length, 2);
  head.writeUInt32LE(raw, 4);
  return Buffer.concat([head, ...messages]);
}
