/** The columns of a fragment, and stacks of frames of which each frame travels once. */

import { bytesOf, sizeOf } from "./arrays.js";
import { Rejected } from "./errors.js";

const REWARD = { shape: [], dtype: "<f4" };
const MARK = { shape: [], dtype: "|b1" }; // a step that a person chose
const LEAST_BYTES = 1024; // of a frame that is worth sending once

/** Return the next multiple of 8. */
export function padded(size) {
  return Math.ceil(size / 8) * 8;
}

/** Return the leaf of an action. */
export function actionLeaf(action) {
  if (action.low.length) return { shape: action.shape, dtype: "<f4" };
  const largest = Math.max(...action.sizes);
  return { shape: action.shape, dtype: largest <= 256 ? "|u1" : largest <= 65536 ? "<u2" : "<u4" };
}

/** Return the place and the kind of the frames of a leaf that stacks large ones, or null. */
export function stackOf(leaf) {
  const { shape } = leaf;
  if (bytesOf(leaf) !== 1 || leaf.categories || (shape.length !== 3 && shape.length !== 4)) {
    return null;
  }
  let stack;
  if (shape.length === 4) {
    stack = { depth: shape[0], pixels: shape[1] * shape[2] * shape[3], last: false };
  } else if (shape[2] < shape[0]) {
    stack = { depth: shape[2], pixels: shape[0] * shape[1], last: true };
  } else {
    stack = { depth: shape[0], pixels: shape[1] * shape[2], last: false };
  }
  return stack.depth > 1 && stack.pixels >= LEAST_BYTES ? stack : null;
}

/** The layout of one run's fragments. */
export class Layout {
  constructor(spec) {
    this.spec = spec;
    this.crc = spec.published_crc;
    this.action = actionLeaf(spec.spec.action);
    this.stacks = new Map();
    for (const [name, leaf] of Object.entries(spec.spec.obs)) {
      const stack = stackOf(leaf);
      if (stack) this.stacks.set(name, stack);
    }
    this._plans = new Map();
  }

  /** Return `{columns, size}` of a fragment; with `rolls`, stacks are sent as frames, and with `marked`, interventions. */
  plan(steps, rolls, marked = false) {
    const key = 4 * steps + (rolls ? 1 : 0) + (marked ? 2 : 0);
    let plan = this._plans.get(key);
    if (!plan) {
      const most = this.spec.fragment_steps;
      if (!(steps >= 1 && steps <= most)) {
        throw new Rejected("steps", `${steps} steps in a fragment of 1 to ${most}`);
      }
      plan = this._plan(steps, rolls, marked);
      this._plans.set(key, plan);
    }
    return plan;
  }

  _plan(steps, rolls, marked) {
    const columns = [];
    let end = 0;
    const add = (part, name, leaf, rows, stack = null) => {
      const count = stack ? (rows + stack.depth - 1) * stack.pixels : rows * sizeOf(leaf);
      const bits = leaf.dtype === "|b1";
      const length = bits ? Math.ceil(count / 8) : count * bytesOf(leaf);
      columns.push({ part, name, leaf, rows, count, length, offset: end, stack });
      end += padded(length);
    };
    const { spec } = this;
    for (const [name, leaf] of Object.entries(spec.spec.obs)) {
      add("obs", name, leaf, steps + 1, rolls ? (this.stacks.get(name) ?? null) : null);
    }
    add("action", "", this.action, steps);
    add("reward", "", REWARD, steps);
    for (const [name, leaf] of Object.entries(spec.extras)) add("extras", name, leaf, steps);
    for (const [name, leaf] of Object.entries(spec.memory)) add("memory", name, leaf, 1);
    if (marked) add("intervened", "", MARK, steps);
    return { columns, size: end };
  }

  /** Return whether the frames of a fragment's stacks can be sent instead of the stacks. */
  rolls(fragment) {
    if (!this.stacks.size) return false;
    for (const [name, stack] of this.stacks) {
      if (!rolls(stack, fragment.obs[name], fragment.steps + 1)) return false;
    }
    return true;
  }
}

/** Return one frame of one row of stacks. */
function frame(stack, array, row, number) {
  const first = row * stack.depth * stack.pixels;
  if (!stack.last) {
    return array.subarray(first + number * stack.pixels, first + (number + 1) * stack.pixels);
  }
  const pixels = new array.constructor(stack.pixels);
  for (let at = 0; at < stack.pixels; at++) pixels[at] = array[first + at * stack.depth + number];
  return pixels;
}

function rolls(stack, array, rows) {
  for (let row = 1; row < rows; row++) {
    for (let older = 0; older < stack.depth - 1; older++) {
      const now = frame(stack, array, row, older);
      const before = frame(stack, array, row - 1, older + 1);
      if (!now.every((pixel, at) => pixel === before[at])) return false;
    }
  }
  return true;
}

/** Return the frames of stacks that roll, oldest first. */
export function unrolled(stack, array, rows) {
  const frames = new array.constructor((rows + stack.depth - 1) * stack.pixels);
  for (let number = 0; number < stack.depth; number++) {
    frames.set(frame(stack, array, 0, number), number * stack.pixels);
  }
  for (let row = 1; row < rows; row++) {
    frames.set(frame(stack, array, row, stack.depth - 1), (row + stack.depth - 1) * stack.pixels);
  }
  return frames;
}

/** Return the stacks of frames; inverts `unrolled`. */
export function rolled(stack, frames, rows) {
  const array = new frames.constructor(rows * stack.depth * stack.pixels);
  for (let row = 0; row < rows; row++) {
    const first = row * stack.depth * stack.pixels;
    for (let number = 0; number < stack.depth; number++) {
      const from = (row + number) * stack.pixels;
      for (let at = 0; at < stack.pixels; at++) {
        const to = stack.last ? at * stack.depth + number : number * stack.pixels + at;
        array[first + to] = frames[from + at];
      }
    }
  }
  return array;
}
