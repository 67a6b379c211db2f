/** One named array of every step; `dtype` is NumPy's, little-endian, such as "<f4" or "|u1". */
export interface Leaf {
  shape: number[];
  dtype: string;
  categories?: number;
}

/** The space of actions; see docs/wire.md. */
export interface ActionSpec {
  kind: "discrete" | "multidiscrete" | "box" | "hybrid";
  shape?: number[];
  sizes?: number[];
  low?: number[];
  high?: number[];
}

export type Numbers = number | ArrayLike<number> | ArrayLike<bigint> | Numbers[];

/** The numbers of an environment whose run has one leaf `obs`, or of each leaf by its name. */
export type Observation = Numbers | { [leaf: string]: Numbers };

/** An index; or choices; or numbers; or choices and then numbers. */
export type Action = number | number[];

export interface Outcome {
  observation: Observation;
  reward: number;
  terminated?: boolean;
  truncated?: boolean;
  /** Numbers of the last step that the run's `info_keys` name become metrics. */
  info?: { [key: string]: number };
}

/** An environment; both methods may return promises. An error thrown begins a new episode. */
export interface Environment {
  /** If given, compared with the run's before anything is played. */
  spaces?: { obs: { [leaf: string]: Leaf }; action: ActionSpec };
  /**
   * Takes the run's `environment.kwargs`, before the first episode and between two whenever a stage of
   * `environment.schedule` begins. A run with a schedule needs it.
   */
  configure?(kwargs: { [name: string]: unknown }): void | Promise<void>;
  reset(): Observation | Promise<Observation>;
  step(action: Action): Outcome | Promise<Outcome>;
}

export interface Server {
  url: string;
  run: string;
  client: string;
  /** Empty: the server has no users. */
  password: string;
  /** The user; by default that of an enrolled client. */
  user?: string;
  /** Certificate of the server's authority, in PEM. */
  ca?: string;
  /** Public key of the training node; unsigned data are then refused. */
  key?: string;
  /** Connect to other machines without TLS. */
  insecure?: boolean;
}

export interface Options {
  /** The line of an invite; or `server`. */
  invite?: string;
  server?: Server;
  /** Played side by side. */
  environments: Environment[];
  /** The ids of environments that you are willing to play; a server cannot ask for others. */
  ids: string[];
  /** Ends the client. */
  signal?: AbortSignal;
  /** Uniform numbers from 0 to 1, of exploration. */
  random?: () => number;
  /** Bytes of experience kept while there is no server; then the oldest goes. */
  outboxBytes?: number;
  log?: (line: string) => void;
}

/** What a client has done: env steps taken, and of these, dropped before they were sent. */
export interface Totals {
  steps: number;
  dropped: number;
  episodes: number;
}

/** Play for a run, and for those that follow it, until it ends or `signal` says so. */
export function play(options: Options): Promise<Totals>;

export interface Invite {
  url: string;
  run: string;
  client: string;
  password: string;
  ca: string;
  key: string;
}

export function readInvite(line: string): Invite;

export const PROTOCOL: number;

export class SoulsError extends Error {}
export class ConfigError extends SoulsError {}
export class ProtocolError extends SoulsError {}
export class Rejected extends SoulsError {
  reason: string;
}
export class WireError extends SoulsError {}
export class Unreachable extends WireError {}
export class NoRun extends WireError {}
export class AccessDenied extends WireError {}
export class Forged extends AccessDenied {}
export class Superseded extends WireError {}
