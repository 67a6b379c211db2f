/** The sessions of a client: find a run, check it, say hello, and play. */

import { readFileSync } from "node:fs";
import { Encoder, pack } from "./codec.js";
import { AccessDenied, ConfigError, NoRun, ProtocolError, WireError } from "./errors.js";
import { readInvite } from "./invite.js";
import { Limits } from "./limits.js";
import { Player } from "./player.js";
import { PROTOCOL } from "./published.js";
import { Uplink } from "./uplink.js";
import { ClientWire } from "./wire.js";

const NO_RUN_MILLISECONDS = 1000;
const LAST_DELAY = 10_000;
const OUTBOX_BYTES = 32_000_000;
const { name, version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/**
 * Play for the run of an invite, and for runs that follow it, until stopped.
 *
 * Options: see index.d.ts.
 */
export async function play({
  invite, server, environments, ids, signal, random = Math.random, outboxBytes = OUTBOX_BYTES,
  log = (line) => process.stderr.write(`soulsai: ${line}\n`),
}) {
  const wire = new ClientWire(invite ? readInvite(invite) : server);
  const stopped = () => signal?.aborted ?? false;
  const totals = { steps: 0, dropped: 0, episodes: 0 };
  const context = { wire, environments, ids, stopped, random, outboxBytes, log, totals };
  try {
    while (!stopped()) if ((await session(context)) !== "run") break;
  } finally {
    wire.close();
  }
  return totals;
}

async function session(context) {
  const { wire, environments, stopped, log } = context;
  const spec = await retry(context, async () => {
    await wire.connect();
    return wire.spec();
  });
  if (!spec) return "";
  checkOffer(spec, context.ids, environments);
  const encoder = new Encoder(spec);
  const hello = {
    kind: "hello", run: spec.run, protocol: PROTOCOL, software: `${name} ${version} (node)`,
    environment: spec.environment.id, environments: environments.length, crc: spec.published_crc,
  };
  const started = await retry(context, async () => {
    await wire.connect();
    if ((await wire.spec()).published_crc !== spec.published_crc) return "run";
    const program = await wire.program(spec);
    new Limits(spec, program.head).check(hello);
    const data = pack([encoder.message(hello)]);
    return { program, hello: data, epoch: await wire.hello(data) };
  });
  if (!started || started === "run") return started ?? "";
  log(`run=${spec.run} environment=${spec.environment.id} count=${environments.length}`);
  const uplink = new Uplink(wire, spec, started.program, { ...context, ...started });
  uplink.start();
  const player = new Player(environments, spec, started.program.head, uplink, context);
  try {
    return await player.run(stopped);
  } finally {
    await uplink.close();
    const { steps, episodes, dropped } = uplink.done();
    context.totals.steps += steps;
    context.totals.episodes += episodes;
    context.totals.dropped += dropped;
  }
}

/** Call until it succeeds; return null when stopped. */
async function retry({ stopped, log }, call) {
  let delay = 100;
  let told = "";
  while (!stopped()) {
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof WireError) || error instanceof AccessDenied) throw error;
      if (error instanceof ProtocolError) throw error;
      if (told !== error.message) log(`waiting: ${(told = error.message)}`);
      await pause(error instanceof NoRun ? Math.random() * NO_RUN_MILLISECONDS : Math.random() * delay);
      delay = Math.min(2 * delay, LAST_DELAY);
    }
  }
  return null;
}

/** Throw ConfigError unless the user plays the run's environment, and it has the run's spaces. */
export function checkOffer(spec, ids, environments) {
  const { id } = spec.environment;
  if (!ids.includes(id)) {
    throw new ConfigError(`the run plays ${id}, and you allow ${ids.join(", ")}`);
  }
  if (spec.environment.schedule.length && !environments.every(({ configure }) => configure)) {
    throw new ConfigError(
      `${id}: the run changes its arguments (environment.schedule); give the environment a method configure(kwargs)`,
    );
  }
  for (const { spaces } of environments) {
    if (!spaces) continue;
    const ours = JSON.stringify(comparable(spaces));
    const theirs = JSON.stringify(comparable(spec.spec));
    if (ours !== theirs) {
      throw new ConfigError(`${id}: is not the environment of the run: ${ours} here, ${theirs} there`);
    }
  }
}

function comparable({ obs, action }) {
  const leaves = Object.entries(obs).map(([name, leaf]) => [name, leaf.shape, leaf.dtype, leaf.categories ?? 0]);
  const { kind, shape = [], sizes = [], low = [], high = [] } = action;
  return [leaves, kind, shape, sizes, low, high];
}
