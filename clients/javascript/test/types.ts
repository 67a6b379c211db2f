// Compiled by `npm run types`, never run: the types fit an environment as a user writes it.
import { AccessDenied, play, type Environment, type Totals } from "soulsai-client";

class Line implements Environment {
  spaces = {
    obs: { obs: { shape: [1], dtype: "<f4" } },
    action: { kind: "discrete" as const, sizes: [2] },
  };
  place = 0;

  configure({ start = 0 }: { start?: number }) {
    this.place = start;
  }

  reset() {
    this.place = 0;
    return [this.place];
  }

  async step(action: number) {
    this.place += action ? 1 : -1;
    return { observation: Float32Array.of(this.place), reward: -Math.abs(this.place) };
  }
}

export async function run(invite: string): Promise<Totals | undefined> {
  try {
    return await play({ invite, environments: [new Line() as Environment], ids: ["Line-v0"] });
  } catch (error) {
    if (error instanceof AccessDenied) return undefined;
    throw error;
  }
}
