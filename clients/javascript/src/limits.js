/** The limits of the numbers in messages, checked before they are sent (docs/wire.md). */

import { isFloat, sizeOf } from "./arrays.js";
import { Rejected } from "./errors.js";
import { OLDEST_PROTOCOL, PROTOCOL } from "./published.js";

const LARGEST_COUNT = 2 ** 48;
const LARGEST_OBSERVATION = 1e18;
const LARGEST_NUMBER = 1e30;
const UNBOUNDED = 1e30;
const ROUNDING = 1e-6;
const MOST_ENVIRONMENTS = 256;

/** Return the largest number of a box action as it travels. */
export function largestAction(head, action) {
  if (head.kind === "squashed") return 1;
  if (head.kind !== "gaussian") return 1e6;
  const bounds = [...action.low, ...action.high].map(Math.abs).filter((bound) => bound < UNBOUNDED);
  return Math.max(1e6, 100 * Math.max(0, ...bounds));
}

/** The limits of one run; `check` throws Rejected for a message beyond them. */
export class Limits {
  constructor(spec, head) {
    this._spec = spec;
    this._action = spec.spec.action;
    this._leaves = Object.entries(spec.spec.obs);
    this._epsilon = head.kind === "epsilon_greedy" ? head.epsilon_base : 0;
    this._bound = Math.fround(largestAction(head, this._action));
    this._reward = spec.environment.largest_reward;
  }

  check(message) {
    if (message.kind === "fragment") this._fragment(message);
    else if (message.kind === "episode") this._episode(message);
    else if (message.kind === "hello") this._hello(message);
  }

  _fragment(fragment) {
    if (Math.max(fragment.clock, fragment.start, fragment.episode) >= LARGEST_COUNT) {
      throw new Rejected("counter", `clock ${fragment.clock}, start ${fragment.start}`);
    }
    const most = fragment.greedy ? 0 : this._epsilon;
    if (!(fragment.epsilon <= most)) {
      throw new Rejected("epsilon", `${fragment.epsilon} of ${most} at most`);
    }
    for (const [name, leaf] of this._leaves) {
      if (isFloat(leaf)) inRange(name, fragment.obs[name]);
    }
    for (const [name, leaf] of this._leaves) {
      const categories = leaf.categories ?? 0;
      if (categories && fragment.obs[name].some((value) => value >= categories || value < 0)) {
        throw new Rejected("category", `${name} beyond ${categories} categories`);
      }
    }
    const largest = Math.fround(this._reward);
    for (const reward of fragment.reward) {
      if (!(Math.abs(reward) <= largest)) {
        throw new Rejected("reward", `not finite or beyond ${this._reward}`);
      }
    }
    for (const part of [fragment.extras, fragment.memory]) {
      for (const [name, values] of Object.entries(part)) finite(name, values);
    }
    this._actions(fragment);
  }

  _actions({ action, obs, steps }) {
    const { kind, sizes, low } = this._action;
    const choices = sizes.length;
    const width = action.length / steps;
    const mask = obs.mask;
    const all = mask ? sizeOf(this._spec.spec.obs.mask) : 0;
    for (let row = 0; row < steps; row++) {
      const first = row * width;
      for (let at = choices; at < width && low.length; at++) {
        if (!(Math.abs(action[first + at]) <= this._bound)) {
          throw new Rejected("action", `not finite or beyond ${this._bound}`);
        }
      }
      let start = 0;
      for (let component = 0; component < choices; component++) {
        const chosen = action[first + component];
        const size = sizes[component];
        if (!Number.isInteger(chosen) || chosen < 0 || chosen >= size) {
          throw new Rejected("action", `${chosen} of ${size} choices of a ${kind} action`);
        }
        if (mask) {
          const valid = mask.subarray(row * all + start, row * all + start + size);
          if (!valid[chosen] && valid.some(Boolean)) {
            throw new Rejected("mask", "an action that the mask forbids");
          }
        }
        start += size;
      }
    }
  }

  _episode(episode) {
    const numbers = [episode.reward, episode.seconds, episode.epsilon];
    for (const number of [...numbers, ...Object.values(episode.info)]) {
      if (!(Math.abs(number) <= LARGEST_NUMBER)) {
        throw new Rejected("episode", `a number is not finite or beyond ${LARGEST_NUMBER}`);
      }
    }
    const { reward, steps, seconds, epsilon } = episode;
    if (epsilon < 0 || epsilon > 1) throw new Rejected("episode", `epsilon ${epsilon}`);
    if (steps < 1 || steps >= LARGEST_COUNT || seconds < 0) {
      throw new Rejected("episode", `${steps} steps in ${seconds} s`);
    }
    if (Math.abs(reward) > this._reward * steps * (1 + ROUNDING)) {
      throw new Rejected("episode", `reward ${reward} in ${steps} steps`);
    }
  }

  _hello(hello) {
    if (hello.run !== this._spec.run || hello.crc !== this._spec.published_crc) {
      throw new Rejected("run", `${hello.run} with spec ${hello.crc}`);
    }
    if (hello.protocol < OLDEST_PROTOCOL || hello.protocol > PROTOCOL) {
      throw new Rejected("protocol", `${hello.protocol}`);
    }
    if (hello.environments < 1 || hello.environments > MOST_ENVIRONMENTS) {
      throw new Rejected("hello", `${hello.environments} environments`);
    }
  }
}

function inRange(name, values) {
  for (const value of values) {
    if (!(Math.abs(value) <= LARGEST_OBSERVATION)) {
      finite(name, values);
      throw new Rejected("range", `${name} has numbers beyond ${LARGEST_OBSERVATION}`);
    }
  }
}

function finite(name, values) {
  for (const value of values) {
    if (!Number.isFinite(Number(value))) {
      throw new Rejected("finite", `${name} has numbers that are not finite`);
    }
  }
}
