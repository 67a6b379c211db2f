/** CartPole as Gymnasium has it, in JavaScript: `node examples/cartpole.js lab.invite [COUNT]`. */

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { play } from "../src/index.js";

const [GRAVITY, POLE, FORCE, TAU] = [9.8, 0.5, 10, 0.02]; // POLE is half of its length
const [MASS_CART, MASS_POLE] = [1, 0.1];
const MASS = MASS_CART + MASS_POLE;
const [MOST_ANGLE, MOST_PLACE] = [(12 * 2 * Math.PI) / 360, 2.4];

export class CartPole {
  spaces = {
    obs: { obs: { shape: [4], dtype: "<f4" } },
    action: { kind: "discrete", sizes: [2] },
  };

  reset() {
    this.state = Float64Array.from({ length: 4 }, () => 0.1 * Math.random() - 0.05);
    this.steps = 0;
    return this.state;
  }

  step(action) {
    const [place, speed, angle, turn] = this.state;
    const force = action === 1 ? FORCE : -FORCE;
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    const common = (force + MASS_POLE * POLE * turn * turn * sin) / MASS;
    const bend = (GRAVITY * sin - cos * common) / (POLE * (4 / 3 - (MASS_POLE * cos * cos) / MASS));
    const push = common - (MASS_POLE * POLE * bend * cos) / MASS;
    this.state = Float64Array.of(
      place + TAU * speed, speed + TAU * push, angle + TAU * turn, turn + TAU * bend,
    );
    this.steps += 1;
    const terminated = Math.abs(this.state[0]) > MOST_PLACE || Math.abs(this.state[2]) > MOST_ANGLE;
    return { observation: this.state, reward: 1, terminated, truncated: this.steps >= 500 };
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [file, count = "1"] = process.argv.slice(2);
  const stop = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"]) process.on(name, () => stop.abort());
  const environments = Array.from({ length: Number(count) }, () => new CartPole());
  try {
    const totals = await play({
      invite: readFileSync(file, "utf8"), environments, ids: ["CartPole-v1"], signal: stop.signal,
    });
    process.stdout.write(`${JSON.stringify(totals)}\n`);
  } catch (error) {
    process.stderr.write(`soulsai: ${error.message}\n`);
    process.exitCode = 1;
  }
}
