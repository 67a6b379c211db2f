"""The findings of ``soulsai doctor``: the state, the sentence and the remedy of each."""

from typing import Any, Literal

from msgspec import Struct

State = Literal["ok", "warning", "failure"]

_SEE_LOG = "see the server's log"
_UPGRADE = "pip install --upgrade soulsai"
_INIT = "on the server: `soulsai secrets init`"

# By check and case. An empty remedy belongs to the state "ok".
_TEXTS: dict[str, tuple[State, str, str]] = {
    "settings.client": ("failure", "{error}", "see `soulsai client --help`"),
    "settings.server": (
        "failure", "{error}", "name the server: --redis redis://localhost:6379"),
    "software.missing": ("failure", "{names}: not installed", "pip install {package}"),
    "software.ok": ("ok", "{names}", ""),
    "disk.closed": ("failure", "{place} cannot be written",
                    "let this user write to {place}, or name another folder"),
    "disk.full": ("failure", "{free} GB free for {purpose} in {folder}",
                  "make room: nothing more can be saved"),
    "disk.low": ("warning", "{free} GB free for {purpose} in {folder}",
                 "make room, or save less (checkpoint.keep, checkpoint.replay)"),
    "disk.ok": ("ok", "{free} GB free for {purpose} in {folder}", ""),
    "secrets.readable": ("warning", "others on this machine may read {names}",
                         "chmod 700 {folder}; chmod 600 {files}"),
    "secrets.short": (
        "warning", "{names}: short enough to be guessed",
        "remove {first} and let `soulsai secrets init` make one, here and for the clients"),
    "secrets.ok": ("ok", "{count} in {folder}, readable by nobody else", ""),
    "encryption.none": (
        "warning", "{url}: others on the way can read all messages and the password",
        "use rediss://; make certificates with `soulsai secrets init --host NAME`"),
    "address.sentinel": ("ok", "{url}: the sentinels are contacted for each connection", ""),
    "address.socket": ("failure", "{url}: {reason}",
                       "the socket ends with its run; see `soulsai runs` for runs in progress"),
    "address.name": ("failure", "{url}: {reason}",
                     "the name is unknown: correct its spelling, or use the address in numbers"),
    "address.refused": ("failure", "{url}: {reason}",
                        "the machine is there, but no server listens at that port: start it"),
    "address.away": ("failure", "{url}: {reason}",
                     "open the port in firewalls and routers on the way"),
    "address.ok": ("ok", "{url} answers in {ms} ms", ""),
    "certificate.plain": (
        "failure", "no TLS at {host}:{port}: {reason}",
        "the port may be the unencrypted one; the server's operator knows the TLS port"),
    "certificate.expired": ("failure", "{reason}",
                            f"compare the clocks; then renew it {_INIT}"),
    "certificate.name": ("failure", "{reason}",
                         f"{_INIT[:-1]} --host {{host}}`, or use the name in the certificate"),
    "certificate.unknown": (
        "failure", "{reason}",
        "take ca.pem from the server's secrets as redis.ca_file, or get a new invite"),
    "certificate.soon": ("warning", "valid for {host} for {days} days, {version}",
                         f"renew it {_INIT}, then restart the server"),
    "certificate.ok": ("ok", "valid for {host} for {days} days, {version}", ""),
    "password.none": ("failure", "{error}",
                      "put redis.secret into the folder of secrets (--secrets), or use an invite"),
    "password.client": (
        "failure", "{error}",
        "compare redis.secret with the server's; an invite may be revoked: get a new one"),
    "password.node": ("failure", "{error}", "{role}.secret must be that of the server's users.acl; "
                      "`soulsai secrets init` makes both"),
    "password.fault": ("failure", "{error}", _SEE_LOG),
    "password.ok": ("ok", "the password is right", ""),
    "rights.fault": ("failure", "{error}", _SEE_LOG),
    "rights.denied": ("failure", "may not {commands}",
                      f"{_INIT}, give it the new users.acl and restart it{{renew}}"),
    "rights.all": ("warning", "this password may do anything on the server",
                   f"the server has one password only; give it users {_INIT}"),
    "rights.earlier_invite": ("warning", "an invite of an earlier release: may not read {keys}",
                              "give it a new one: `soulsai enroll {client} --renew`"),
    "rights.earlier_users": ("warning", "users of an earlier release: may not read {keys}",
                             f"{_INIT}, give it the new users.acl and restart it"),
    "rights.every_run": ("warning", "this invite opens every run on the server",
                         "give it a new one: `soulsai enroll {client} --renew`"),
    "rights.ok": ("ok", "all that it needs, and no more", ""),
    "speed.fault": ("failure", "{error}",
                    "the connection breaks under load; examine the network, or use a cable"),
    "speed.slow": ("warning", "{ms} ms for an answer, {rate} MB/s there and back",
                   "clients will act with old weights; use a nearer server, or a faster network"),
    "speed.ok": ("ok", "{ms} ms for an answer, {rate} MB/s there and back", ""),
    "clock.unknown": ("warning", "the server's time is not known: {error}",
                      f"renew its users {_INIT}"),
    "clock.wrong": (
        "warning", "this machine is {seconds} s {direction} the server",
        "set the clock (NTP): certificates seem expired or not yet valid, and logs mislead"),
    "clock.ok": ("ok", "within {seconds} s of the server's", ""),
    "server.fault": ("failure", "{error}", _SEE_LOG),
    "server.old": ("failure", "{version} cannot separate the rights of readers and writers",
                   "use Redis or Valkey 7.0 or later"),
    "server.holes": ("warning", "{version} has known security holes",
                     "use {mended} or later; strangers connect to this server"),
    "server.ok": ("ok", "{version}", ""),
    "streams.foreign": ("warning", "{count} streams of runs that no training node has published",
                        "delete them: `soulsai revoke --foreign`"),
    "streams.ok": ("ok", "all streams are of published runs", ""),
    "memory.policy": ("failure", "a full server drops arbitrary keys ({policy})",
                      "set maxmemory-policy noeviction: any other may drop the weights"),
    "memory.unlimited": ("warning", "the server may take all memory of its machine",
                         "set maxmemory to three quarters of the server's share"),
    "memory.ok": ("ok", "{used} of {limit} GB are used", ""),
    "durability.none": ("warning", "a crash of the server loses experience that is not yet learnt",
                        "set appendonly yes, appendfsync everysec"),
    "durability.fault": ("failure", "the server cannot write its log",
                         "make room on its disk; then see the server's log"),
    "durability.ok": ("ok", "experience survives a crash of the server", ""),
    "signature.fault": ("failure", "{error}", "restore the key, or remove it and invite anew"),
    "signature.none": ("warning", "the messages of the training node are not signed",
                       "`soulsai secrets init`, then give clients new invites"),
    "signature.signs": ("ok", "the training node signs; its key is {public}", ""),
    "signature.forged": ("failure", "{error}",
                         "use the invite of this server; trust no other server's"),
    "signature.unpinned": (
        "warning", "no key is known: anyone who can write to {url} decides about the run",
        "use an invite (`soulsai enroll`), or copy manifest.pub beside redis.secret"),
    "signature.ok": ("ok", "the run is signed with the known key", ""),
    "run.none": ("warning", "{error}", "start `soulsai training-node`; clients wait for it"),
    "run.fault": ("failure", "{error}", "restart the training node, which publishes again"),
    "run.unreachable": ("failure", "{error}", "see the findings above"),
    "run.away": ("warning", "no training node is alive under {name}",
                 "start `soulsai training-node`, if you want one to learn"),
    "run.alive": ("ok", "{run}: {phase} on {environment}, {clients}", ""),
    "run.ok": ("ok", "{run}: {algorithm} on {environment}", ""),
    "protocol.fault": ("failure", "{error}", f"{_UPGRADE}, on the side that is older"),
    "protocol.later": ("warning", "{text}", _UPGRADE),
    "protocol.ok": ("ok", "{ours}, the server's {oldest} to {newest}", ""),
    "environment.spec": (
        "failure", "{error}",
        "mend that, or set environment.spec_file, which `soulsai check-env ID --save` makes on a "
        "client's side"),
    "environment.server": ("ok", "{id}: {leaves} to learn from", ""),
    "environment.untrusted": ("failure", "{error}", "if you trust it: --env {id}"),
    "environment.values": ("failure", "{error}", "the run and this client must agree"),
    "environment.broken": ("failure", "{error}",
                           "install its packages; `soulsai check-env {id}` says more"),
    "environment.leaks": ("warning", "{error}", "it may leave processes behind at its end"),
    "environment.differs": (
        "failure", "{id} is not that of the run: {difference}",
        "use the server's version of it, or let the server play this one"),
    "environment.ok": ("ok", "{id} has the spaces of the run", ""),
    "game.missing": ("failure", "{fact}", "{remedy}"),
    "game.ok": ("ok", "{id} can start on this PC", ""),
    "policy.untried": ("ok", "{runtime}; there is no policy to try yet", ""),
    "policy.none": ("warning", "{runtime}; nothing is published yet",
                    "wait for the training node's first version; clients wait, too"),
    "policy.fault": ("failure", "{runtime}: {error}", "pip install --upgrade onnxruntime"),
    "policy.ok": ("ok", "{runtime} acts with version {version} in {ms} ms", ""),
}  # fmt: skip


class CheckResult(Struct, frozen=True):
    """The finding of one check, with its remedy unless the state is ``ok``."""

    check: str
    state: State
    said: str
    mend: str = ""

    def line(self) -> str:
        """Return the finding for a reader."""
        text = f"{self.state:8} {self.check:21} {self.said}"
        return f"{text}\n{'':30} -> {self.mend}" if self.mend else text


def finding(key: str, check: str = "", **values: Any) -> CheckResult:
    """Return a finding.

    Args:
        key: Check and case, such as ``disk.full``.
        check: The name of the check, if it is not the first part of the key.
        values: The values in the sentence and in the remedy.
    """
    state, said, mend = _TEXTS[key]
    name = check or key.partition(".")[0]
    return CheckResult(name, state, said.format(**values), mend.format(**values))
