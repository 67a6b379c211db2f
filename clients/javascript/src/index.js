export { checkOffer, play } from "./client.js";
export {
  AccessDenied, ConfigError, Forged, NoRun, ProtocolError, Rejected, SoulsError, Superseded,
  Unreachable, WireError,
} from "./errors.js";
export { readInvite } from "./invite.js";
export { PROTOCOL } from "./published.js";
