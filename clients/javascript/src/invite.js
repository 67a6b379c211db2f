import * as zlib from "node:zlib";
import { ConfigError } from "./errors.js";
import { checkedName } from "./names.js";

const PREFIX = "soulsai1:";
const LONGEST = 16_384;
const FIELDS = ["url", "run", "client", "password", "ca", "key"];

/** Return the invite in a line, which a mail program may have broken. */
export function readInvite(text) {
  const line = text.replace(/\s+/g, "");
  if (!line.startsWith(PREFIX) || line.length > LONGEST) {
    throw new ConfigError(`not an invite, which is one line like ${PREFIX}...`);
  }
  const raw = Buffer.from(line.slice(PREFIX.length), "base64url");
  const data = raw.subarray(4);
  if (!data.length || raw.readUInt32BE(0) !== checksum(data)) {
    throw new ConfigError("a part of the invite is missing; copy the whole line");
  }
  const invite = { ca: "", key: "", ...JSON.parse(data.toString()) };
  const texts = FIELDS.every((name) => typeof invite[name] === "string");
  if (!texts || Object.keys(invite).length !== FIELDS.length) {
    throw new ConfigError("the invite is of another version; update this client");
  }
  checkedName("the invite's run", invite.run);
  checkedName("the invite's client", invite.client);
  readUrl(invite.url);
  return invite;
}

/** Return `{tls, host, port}` of an address. */
export function readUrl(url) {
  const found = /^(rediss?):\/\/(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+)(?::(\d{1,5}))?\/?$/.exec(url);
  if (!found) throw new ConfigError(`${url}: not an address like rediss://host:6380`);
  const host = found[2].replace(/^\[|\]$/g, "");
  return { tls: found[1] === "rediss", host, port: Number(found[3] ?? 6379) };
}

/** Return whether nobody on the network can read the connection. */
export function staysPrivate({ tls, host }) {
  return tls || host === "localhost" || host === "::1" || /^127\./.test(host);
}

let _table = null;

/** Return the CRC-32 of bytes; Node has it since version 22.2. */
function checksum(bytes) {
  if (zlib.crc32) return zlib.crc32(bytes);
  _table ??= Uint32Array.from({ length: 256 }, (_, byte) => {
    let value = byte;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
    return value;
  });
  let crc = 0xffffffff;
  for (const byte of bytes) crc = _table[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
