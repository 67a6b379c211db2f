/** The map from a policy's outputs to actions, as docs/wire.md has it. */

import { largestAction } from "./limits.js";

const UNBOUNDED = 1e30;
const LARGEST = 3.4028234663852886e38; // of single precision

/** Return a standard normal number. */
function normal(random) {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

const gumbel = (random) => -Math.log(-Math.log(random() || Number.MIN_VALUE));

/** Draw how an episode is played: `{greedy, epsilon}`. */
export function explore(head, knobs, random, evaluate = true) {
  const evaluation = random();
  const u = random();
  if (evaluate && evaluation < head.eval_fraction && (knobs.random ?? 0) < 1) {
    return { greedy: true, epsilon: 0 };
  }
  if (head.kind !== "epsilon_greedy") return { greedy: false, epsilon: 0 };
  return { greedy: false, epsilon: head.epsilon_base ** (1 + head.epsilon_alpha * u) };
}

/**
 * Choose the action of one environment.
 *
 * Returns `{action, logp}`: choices and then numbers as they travel, and the log-probability of
 * stochastic heads (else undefined). `mask` may be null; a component without a valid choice takes
 * the first.
 */
export function act(head, spec, outputs, { mask, greedy, epsilon, atRandom, random }) {
  const uniform = !greedy && random() < Math.max(epsilon, atRandom);
  if (head.kind === "epsilon_greedy") {
    const scores = uniform ? Float64Array.from(outputs.q, random) : outputs.q;
    return { action: components(spec, scores, mask, best), logp: undefined };
  }
  if (head.kind === "categorical") return categorical(spec, outputs.logits, mask, greedy, uniform, random);
  const numbers = gaussian(head, spec, outputs, greedy, uniform, random);
  if (head.kind !== "hybrid") return numbers;
  const chosen = categorical(spec, outputs.logits, mask, greedy, uniform, random);
  return { action: [...chosen.action, ...numbers.action], logp: chosen.logp + numbers.logp };
}

function components(spec, scores, mask, choose) {
  const action = [];
  let first = 0;
  for (const size of spec.sizes) {
    const valid = mask ? mask.subarray(first, first + size) : null;
    action.push(choose(scores.subarray(first, first + size), valid));
    first += size;
  }
  return action;
}

function best(scores, valid) {
  let found = 0;
  let most = -Infinity;
  for (let at = 0; at < scores.length; at++) {
    if ((!valid || valid[at]) && scores[at] > most) {
      most = scores[at];
      found = at;
    }
  }
  return found;
}

function categorical(spec, logits, mask, greedy, uniform, random) {
  let logp = 0;
  const action = components(spec, logits, mask, (scores, valid) => {
    const allowed = valid && valid.some(Boolean) ? valid : null;
    const given = Float64Array.from(scores, (score, at) =>
      allowed && !allowed[at] ? -Infinity : uniform ? 0 : score,
    );
    const most = Math.max(...given);
    const total = Math.log(given.reduce((sum, score) => sum + Math.exp(score - most), 0));
    const chosen =
      valid && !allowed ? 0 : best(greedy ? given : given.map((s) => s + gumbel(random)), allowed);
    logp += given[chosen] - most - total;
    return chosen;
  });
  return { action, logp: Math.fround(logp) };
}

function gaussian(head, spec, outputs, greedy, uniform, random) {
  const most = largestAction(head, spec);
  const action = [];
  let logp = 0;
  for (let at = 0; at < outputs.mean.length; at++) {
    const unit = unitOf(spec, at);
    if (uniform) {
      const drawn = unit.bounded ? 2 * random() - 1 : normal(random);
      const own = head.kind === "gaussian";
      const density = unit.bounded ? -Math.log(2) : -0.5 * drawn * drawn - 0.5 * Math.log(2 * Math.PI);
      logp += density - (own ? Math.log(Math.max(unit.size, 1e-12)) : 0);
      action.push(clip(own ? unit.centre + unit.size * drawn : drawn, most));
      continue;
    }
    const noise = greedy ? 0 : normal(random);
    let value = outputs.mean[at] + Math.exp(outputs.log_std[at]) * noise;
    logp -= 0.5 * noise * noise + outputs.log_std[at] + 0.5 * Math.log(2 * Math.PI);
    if (head.kind === "squashed") {
      // log(1 - tanh(x)^2) in a form that stays finite for large x
      logp -= 2 * (Math.log(2) - value - logAddExp(0, -2 * value));
      value = Math.tanh(value);
    }
    action.push(clip(value, most));
  }
  return { action: action.map(Math.fround), logp: Math.fround(Math.max(-LARGEST, Math.min(LARGEST, logp))) };
}

const clip = (value, most) => Math.min(Math.max(value, -most), most);

function logAddExp(a, b) {
  const most = Math.max(a, b);
  return most + Math.log(Math.exp(a - most) + Math.exp(b - most));
}

/** Return centre, size and bounds of one number of a box. */
function unitOf(spec, at) {
  const low = Math.max(spec.low[at], -LARGEST);
  const high = Math.min(spec.high[at], LARGEST);
  const hasLow = low > -UNBOUNDED;
  const hasHigh = high < UNBOUNDED;
  const bounded = hasLow && hasHigh;
  const single = hasLow ? low : hasHigh ? high : 0;
  return {
    low, high, bounded,
    centre: bounded ? 0.5 * low + 0.5 * high : single,
    size: bounded ? 0.5 * high - 0.5 * low : 1,
  };
}

/**
 * Return an action as the environment takes it: an index, an array of choices, an array of numbers
 * within their bounds, or choices and then numbers.
 */
export function toEnvironment(head, spec, action) {
  if (spec.kind === "discrete") return action[0];
  if (spec.kind === "multidiscrete") return [...action];
  const choices = spec.sizes.length;
  return Array.from(action, (value, at) => {
    if (at < choices) return value;
    const unit = unitOf(spec, at - choices);
    const scaled = head.kind === "gaussian" ? value : unit.centre + unit.size * value;
    return Math.min(Math.max(scaled, unit.low), unit.high);
  });
}
