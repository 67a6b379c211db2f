/** One version of a policy in ONNX Runtime. */

import { InferenceSession, Tensor } from "onnxruntime-node";
import { zeros } from "./arrays.js";
import { WireError } from "./errors.js";
import { checkGraph, splitGraph } from "./graph.js";

const TENSORS = {
  "|b1": "bool", "|u1": "uint8", "|i1": "int8", "<u2": "uint16", "<i2": "int16", "<u4": "uint32",
  "<i4": "int32", "<u8": "uint64", "<i8": "int64", "<f4": "float32", "<f8": "float64",
};

/** The program of a run, from which a policy is made for each version. */
export class Program {
  constructor(program) {
    Object.assign(this, program);
    this._parts = null;
  }

  /** Return the graph with the bytes of one version's weights; throw WireError for an unsafe graph. */
  withWeights(arrays) {
    if (!this._parts) {
      checkGraph(this.graph, this.weights);
      this._parts = splitGraph(this.graph, this.weights);
    }
    return Buffer.concat(this._parts.map((part) => (part.name ? arrays[part.name] : part)));
  }
}

export class Policy {
  /** Return a policy after a trial on zeros; throw WireError if it cannot act. */
  static async load(program, arrays, pointer, spec) {
    const name = `weights ${pointer.generation}-${pointer.version}`;
    try {
      // Each version is a session, and the optimisations beyond the basic ones cost more than they save.
      const session = await InferenceSession.create(program.withWeights(arrays), {
        executionProviders: ["cpu"], graphOptimizationLevel: "basic", intraOpNumThreads: 1, interOpNumThreads: 1,
        enableCpuMemArena: false, enableMemPattern: false, logSeverityLevel: 4,
      });
      const policy = new Policy(session, program, pointer, spec);
      const memory = policy.freshMemory();
      const obs = Object.fromEntries(program.inputs.map((key) => [key, zeros(spec.spec.obs[key])]));
      const outputs = await policy.act(obs, memory);
      for (const [key, values] of Object.entries({ ...outputs, ...memory })) {
        if (!values?.every?.((value) => Number.isFinite(Number(value)))) {
          throw new WireError(`${key} is missing or not finite`);
        }
      }
      return policy;
    } catch (error) {
      throw new WireError(`${name} cannot act: ${String(error.message ?? error).slice(0, 200)}`);
    }
  }

  constructor(session, program, pointer, spec) {
    this.generation = pointer.generation;
    this.version = pointer.version;
    this.knobs = pointer.knobs;
    this._session = session;
    this._program = program;
    this._obs = spec.spec.obs;
    this._names = [
      ...program.outputs, ...Object.keys(program.memory).map((name) => `next_memory_${name}`),
    ];
  }

  /** Return the memory at the start of an episode. */
  freshMemory() {
    const leaves = Object.entries(this._program.memory);
    return Object.fromEntries(leaves.map(([name, leaf]) => [name, zeros(leaf)]));
  }

  /** Return the outputs for one observation; the memory is renewed in place. */
  async act(obs, memory) {
    const feeds = {};
    for (const name of this._program.inputs) feeds[name] = tensor(this._obs[name], obs[name]);
    for (const [name, leaf] of Object.entries(this._program.memory)) {
      feeds[`memory_${name}`] = tensor(leaf, memory[name]);
    }
    const results = await this._session.run(feeds, this._names);
    for (const name of Object.keys(memory)) memory[name].set(results[`next_memory_${name}`].data);
    return Object.fromEntries(this._program.outputs.map((name) => [name, results[name].data]));
  }

  release() {
    return this._session.release();
  }
}

function tensor(leaf, values) {
  const kind = TENSORS[leaf.dtype];
  if (!kind) throw new WireError(`ONNX Runtime takes no ${leaf.dtype} from JavaScript`);
  return new Tensor(kind, values, [1, ...leaf.shape]);
}
