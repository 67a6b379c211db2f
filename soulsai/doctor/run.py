"""The run as a client finds it: its protocol, its signature, what it plays, and its policy."""

import time
from collections.abc import Iterator

import onnxruntime

from soulsai.client.actor import Actor
from soulsai.client.environment import AdaptedEnvironment, make
from soulsai.client.environment_offer import check_offer, difference
from soulsai.config.schema import Config
from soulsai.doctor.findings import CheckResult, failure, ok, warning
from soulsai.errors import (
    ConfigError,
    EnvironmentFault,
    Forged,
    NoRun,
    ProtocolError,
    SoulsAIError,
    WireError,
)
from soulsai.types import MASK, PROTOCOL, RunSpec, zeros
from soulsai.wire.protocols import ClientWire
from soulsai.wire.version import ProtocolRange, check_protocol

_ACTS = 50  # that are timed


def examine(config: Config, wire: ClientWire, named: str, *, pinned: bool) -> Iterator[CheckResult]:
    """Examine the run on the server, from its spec to an action; ``named`` as in ``--env``."""
    runtime = f"ONNX Runtime {onnxruntime.__version__}"
    spec = None
    for finding in _published(config, wire, pinned=pinned):
        if isinstance(finding, RunSpec):
            spec = finding
        else:
            yield finding
    if spec is None:
        yield ok("policy", f"{runtime}; no policy to try it with")
        return
    yield environment(config, spec, named)
    yield policy(wire, spec, runtime)


def _published(
    config: Config, wire: ClientWire, *, pinned: bool
) -> Iterator[CheckResult | RunSpec]:
    try:
        spec = wire.spec()
    except NoRun as error:
        yield warning("run", str(error), "start `soulsai training-node`; clients wait for it")
        return
    except ProtocolError as error:
        yield failure("protocol", str(error), "pip install --upgrade soulsai, where it is older")
        return
    except Forged as error:
        yield failure("signature", str(error), "use the invite of this server; trust nobody else's")
        return
    except WireError as error:
        yield failure("run", str(error), "restart the training node, so that it publishes again")
        return
    yield ok("run", f"{spec.run}: {spec.algorithm} on {spec.environment.id}")
    later = check_protocol(ProtocolRange(spec.protocol, spec.oldest_protocol))
    if later:
        yield warning("protocol", later, "pip install --upgrade soulsai")
    else:
        yield ok("protocol", f"{PROTOCOL}, the server's {spec.oldest_protocol} to {spec.protocol}")
    if pinned:
        yield ok("signature", "the run is signed with the key that we know")
    else:
        yield warning(
            "signature",
            f"no key is known: whoever can write to {config.redis.url} decides what is played",
            "use an invite (`soulsai enroll`), or copy manifest.pub beside redis.secret",
        )
    yield spec


def environment(config: Config, spec: RunSpec, named: str = "") -> CheckResult:
    """Examine whether we may play what the run offers, can make it, and find it the same."""
    offer = spec.environment
    try:
        id = check_offer(
            offer,
            named=named,
            listed=config.client.environments,
            own_kwargs=config.environment.kwargs,
        )
    except ConfigError as error:
        return failure("environment", str(error), f"if you trust it: --env {offer.id}")
    try:
        made = AdaptedEnvironment(
            make(id, offer.kwargs, offer.max_episode_steps), id,
            mask_key=offer.mask_key, masked=MASK in spec.spec.obs,
        )  # fmt: skip
    except SoulsAIError as error:
        mend = f"install what it needs; `soulsai check-env {id}` says more"
        return failure("environment", str(error), mend)
    try:
        different = difference(made.spec, spec.spec)
        made.close()
    except EnvironmentFault as error:
        return warning("environment", str(error), "it may leave processes behind when it ends")
    if different:
        mend = "use the same version of it as the server, or let the server play this one"
        return failure("environment", f"{id} is not that of the run: {different}", mend)
    return ok("environment", f"{id} has the spaces of the run")


def policy(wire: ClientWire, spec: RunSpec, runtime: str) -> CheckResult:
    """Examine whether the run's policy acts here, and how fast."""
    try:
        program = wire.program(spec)
        pointer = wire.pointer()
        if pointer is None:
            mend = "wait for the training node's first version; clients wait, too"
            return warning("policy", f"{runtime}; nothing is published yet", mend)
        actor = Actor.load(program, wire.weights(pointer, program), spec.spec)
    except WireError as error:
        return failure("policy", f"{runtime}: {error}", "pip install --upgrade onnxruntime")
    milliseconds = _timed(actor, spec)
    version = f"{pointer.generation}-{pointer.version}"
    return ok("policy", f"{runtime} acts with version {version} in {milliseconds:.2f} ms")


def _timed(actor: Actor, spec: RunSpec) -> float:
    obs = {name: zeros(leaf, 1) for name, leaf in spec.spec.obs.items()}
    memory = {name: zeros(leaf, 1) for name, leaf in actor.memory.items()}
    began = time.perf_counter()
    for _ in range(_ACTS):
        actor(obs, memory)
    return 1e3 * (time.perf_counter() - began) / _ACTS
