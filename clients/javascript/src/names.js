import { ConfigError } from "./errors.js";

const NAME = /^[a-z0-9][a-z0-9_-]{0,63}$/;
const DEVICE = /^(con|prn|aux|nul|(com|lpt)\d)$/;

/** Return whether a text may name a run or a client, and so become part of a key. */
export function isName(text) {
  return NAME.test(text) && !DEVICE.test(text);
}

/** Return a name; throw ConfigError, which says what it is of, if it is none. */
export function checkedName(of, name) {
  if (!isName(name)) {
    throw new ConfigError(
      `${of}: ${JSON.stringify(name)} is not a name; use 1 to 64 of a-z, 0-9, _ and -, ` +
        "beginning with a letter or digit",
    );
  }
  return name;
}

/** The keys and channels of one run that a client uses. */
export class Keys {
  constructor(run, client) {
    this.prefix = `soulsai:{${checkedName("run", run)}}:`;
    this.spec = `${this.prefix}spec`;
    this.program = `${this.prefix}program`;
    this.manifest = `${this.prefix}manifest`;
    this.model = `${this.prefix}model`;
    this.control = `${this.prefix}control`;
    this.notice = `${this.prefix}notice:${checkedName("client", client)}`;
    this.received = `${this.prefix}received:${client}`;
    this.experience = `${this.prefix}exp:${client}`;
  }

  /** Return the key of one piece of one version's weights. */
  piece(generation, version, number) {
    return `${this.prefix}model:${generation}-${version}:${number}`;
  }

  /** Return the key of one piece of the delta of one version's weights. */
  deltaPiece(generation, version, number) {
    return `${this.prefix}model:${generation}-${version}:d${number}`;
  }
}
