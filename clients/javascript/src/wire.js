/** A client's side of the wire: its own stream, and the data of the run. */

import { Redis } from "ioredis";
import { AccessDenied, ConfigError, Forged, NoRun, Superseded, Unreachable, WireError } from "./errors.js";
import { readUrl, staysPrivate } from "./invite.js";
import { Keys } from "./names.js";
import {
  digest, PIECE_BYTES, readControl, readDelta, readPointer, readProgram, readSigned, readSpec, readWeights,
  Verifier, weightsBytes,
} from "./published.js";
import { decode } from "./codec.js";

const SMALL_BYTES = 2 ** 20;
const PROGRAM_BYTES = 64 * 2 ** 20;
const MILLISECONDS = 5000; // to connect, and for an answer
const OLD_ID = "equal or smaller";
const REFUSED = /^(WRONGPASS|NOAUTH|NOPERM)/;
const UNTRUSTED = /CERT|SELF_SIGNED|ALTNAME|unable to (get|verify)/i;

/** Return one of our errors for any error of the connection. */
function translated(error, url) {
  const text = String(error?.message ?? error);
  if (error instanceof WireError) return error;
  if (REFUSED.test(text)) return new AccessDenied(`${url} refuses this client: ${text}`);
  if (UNTRUSTED.test(error?.code ?? "") || /certificate/i.test(text)) {
    return new AccessDenied(`${url}: the server's certificate is not trusted: ${text}`);
  }
  if (error?.name === "ReplyError") return new WireError(`${url}: ${text}`);
  return new Unreachable(`${url}: ${text || "no connection"}`);
}

export class ClientWire {
  /** Prepare for the server of an invite; the first call connects. */
  constructor({ url, run, client, user, password, ca, key, insecure = false }) {
    const address = readUrl(url);
    if (!insecure && !staysPrivate(address)) {
      throw new ConfigError(`${url} is not encrypted; use rediss://, or allow it with insecure`);
    }
    this.url = url;
    this.keys = new Keys(run, client);
    this._base = { name: "", arrays: {} }; // the last version that came whole
    this._pointer = { data: Buffer.alloc(0), value: null }; // the last one read, and what it says
    this.onControl = () => {};
    this.onModel = () => {};
    this._verifier = key ? new Verifier(key) : null;
    this._entries = 4096;
    this._options = {
      host: address.host, port: address.port, username: user ?? `c-${client}`,
      password: password || undefined, connectionName: `soulsai:client:${client}`,
      lazyConnect: true, enableReadyCheck: false, enableOfflineQueue: false,
      autoResubscribe: false, retryStrategy: () => null, maxRetriesPerRequest: 0,
      connectTimeout: MILLISECONDS, commandTimeout: MILLISECONDS, disableClientInfo: true,
      ...(address.tls ? { tls: { ca: ca || undefined, servername: address.host, minVersion: "TLSv1.2" } } : {}),
    };
    if (!password) delete this._options.username;
    this._redis = null;
    this._listener = null;
  }

  /** Connect if there is no connection; return whether a new one was made. */
  async connect() {
    if (this._redis?.status === "ready" && this._listener?.status === "ready") return false;
    this.close();
    try {
      [this._redis, this._listener] = [await this._open(), await this._open()];
      this._listener.on("messageBuffer", (channel, data) => {
        if (channel.toString() === this.keys.model) this.onModel();
        else this._control(data);
      });
      await this._listener.subscribe(this.keys.model, this.keys.control);
      const last = await this._fetch(this.keys.control, SMALL_BYTES);
      if (last.length) this._control(last);
    } catch (error) {
      this.close();
      throw translated(error, this.url);
    }
    return true;
  }

  async _open() {
    const redis = new Redis(this._options);
    let problem = null;
    redis.on("error", (error) => { problem = error; });
    try {
      await redis.connect();
    } catch (error) {
      redis.disconnect();
      throw problem ?? error;
    }
    return redis;
  }

  _control(data) {
    try {
      this.onControl(readControl(data));
    } catch {
      // Nobody but the node writes there; a control that cannot be read changes nothing.
    }
  }

  close() {
    this._redis?.disconnect();
    this._listener?.disconnect();
    this._redis = this._listener = null;
  }

  async _call(...words) {
    if (!this._redis) throw new Unreachable(`${this.url}: no connection`);
    try {
      return await this._redis.callBuffer(...words);
    } catch (error) {
      throw translated(error, this.url);
    }
  }

  /** Return a string of the server, in bounded pieces. */
  async _fetch(key, limit) {
    const pieces = [];
    let size = 0;
    for (;;) {
      const piece = await this._call("GETRANGE", key, size, size + PIECE_BYTES - 1);
      pieces.push(piece);
      size += piece.length;
      if (size > limit) throw new WireError(`${key} is over ${limit} bytes`);
      if (piece.length < PIECE_BYTES) return Buffer.concat(pieces);
    }
  }

  /** Return the run's spec, after a check of its signature. */
  async spec() {
    const data = await this._fetch(this.keys.spec, SMALL_BYTES);
    if (!data.length) throw new NoRun("no training run is published under this name yet");
    const spec = readSpec(data);
    if (this._verifier) {
      const bytes = await this._fetch(this.keys.manifest, SMALL_BYTES);
      if (!bytes.length) throw new Forged("the signature of the run's manifest is missing");
      const signed = readSigned(bytes);
      this._verifier.check("manifest", signed);
      if (decode(signed.data).spec_sha256 !== digest(data)) {
        throw new WireError("the published spec is not the one that the training node has signed");
      }
    }
    this._entries = spec.stream_entries;
    return spec;
  }

  async program(spec) {
    const data = await this._fetch(this.keys.program, PROGRAM_BYTES);
    if (digest(data) !== spec.program_sha256) {
      throw new WireError("the published program is not the one that the run's spec names");
    }
    return readProgram(data);
  }

  /** Return the newest pointer, or null; without a valid signature it counts as absent. */
  async pointer() {
    const data = await this._fetch(this.keys.model, SMALL_BYTES);
    if (!data.length) return null;
    if (!data.equals(this._pointer.data)) {
      const signed = readSigned(data);
      try {
        this._verifier?.check("pointer", signed);
      } catch (error) {
        if (error instanceof Forged) return null;
        throw error;
      }
      this._pointer = { data, value: readPointer(signed.data) };
    }
    return this._pointer.value;
  }

  /** Return the arrays of one version in bytes, by name. */
  async weights(pointer, program) {
    if (pointer.delta !== null && pointer.delta.bytes < pointer.bytes) {
      try {
        return await this._weightsByDelta(pointer, program);
      } catch (error) {
        if (!(error instanceof WireError) || error instanceof Unreachable) throw error;
        if (error instanceof AccessDenied) throw error;
      }
    }
    return this._wholeWeights(pointer, program);
  }

  /** Return them from a delta, and before it fetch the version it is made to, if we lack that. */
  async _weightsByDelta(pointer, program) {
    const { run, generation, delta } = pointer;
    if (this._base.name !== `${generation}-${delta.base.version}`) {
      await this._wholeWeights({ run, generation, ...delta.base }, program);
    }
    const key = (number) => this.keys.deltaPiece(generation, pointer.version, number);
    return readDelta(await this._pieces(key, delta.bytes), this._base.arrays, pointer, program);
  }

  async _wholeWeights(pointer, program) {
    const { generation, version, bytes, dtype } = pointer;
    if (bytes !== weightsBytes(program, dtype)) {
      throw new WireError(`weights ${generation}-${version} are of another program`);
    }
    const key = (number) => this.keys.piece(generation, version, number);
    const arrays = readWeights(await this._pieces(key, bytes), pointer, program);
    this._base = { name: `${generation}-${version}`, arrays };
    return arrays;
  }

  async _pieces(key, bytes) {
    const pieces = [];
    for (let number = 0; number * PIECE_BYTES < bytes; number++) {
      const piece = await this._call("GETRANGE", key(number), 0, PIECE_BYTES - 1);
      if (!piece.length) throw new WireError("the weights are gone");
      pieces.push(piece);
    }
    return Buffer.concat(pieces);
  }

  /** Return the reason why nothing of this client is learnt from, or an empty text. */
  async notice() {
    return (await this._fetch(this.keys.notice, SMALL_BYTES)).toString();
  }

  /** Return `[epoch, seq]` up to which the training node has all entries, or null. */
  async received() {
    const found = /^(\d+)-(\d+)$/.exec((await this._fetch(this.keys.received, SMALL_BYTES)).toString());
    return found && [Number(found[1]), Number(found[2])];
  }

  _add(id, data) {
    return ["XADD", this.keys.experience, "MAXLEN", "~", this._entries, id, "d", data];
  }

  /** Begin a new epoch with an entry that holds a hello; return the epoch. */
  async hello(data) {
    const [epoch, seq] = (await this._call(...this._add("*", data))).toString().split("-").map(Number);
    if (seq === 0) return epoch;
    await this._call(...this._add(`${epoch + 1}-0`, data)); // the server's clock went back
    return epoch + 1;
  }

  /** Append entries `{id, data}`; with `again`, those that are there already count as stored. */
  async push(entries, again) {
    if (!this._redis) throw new Unreachable(`${this.url}: no connection`);
    const pipeline = this._redis.pipeline();
    for (const { id, data } of entries) pipeline.call(...this._add(id, data));
    let replies;
    try {
      replies = await pipeline.exec();
    } catch (error) {
      throw translated(error, this.url);
    }
    for (const [error] of replies) {
      if (!error) continue;
      if (!String(error.message).includes(OLD_ID)) throw translated(error, this.url);
      if (!again) throw new Superseded("another process plays under this client's name");
    }
  }
}
