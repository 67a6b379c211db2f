/** An error with one line for a person. */
export class SoulsError extends Error {
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}

/** A setting, an invite or an environment is not as it must be. */
export class ConfigError extends SoulsError {}

/** Client and server have no protocol in common. */
export class ProtocolError extends SoulsError {}

/** The server's data do not follow the protocol, or are not there. */
export class WireError extends SoulsError {}

/** The server cannot be reached now; the same call may succeed later. */
export class Unreachable extends WireError {}

/** There is no run under this name yet. */
export class NoRun extends WireError {}

/** The server refuses the credentials or the call; trying again does not help. */
export class AccessDenied extends WireError {}

/** Published data lack the signature of the expected training node. */
export class Forged extends AccessDenied {}

/** Another process plays under the same name. */
export class Superseded extends WireError {}

/** A message that the training node would refuse; `reason` is the word under which it counts it. */
export class Rejected extends SoulsError {
  constructor(reason, detail) {
    super(`${reason}: ${detail}`);
    this.reason = reason;
  }
}
