"""``python -m tests.gpu``: updates on a GPU are those of the processor, and their rates.

Two learners begin with the same weights and the same experience, one on each device; after a few
updates their weights are compared. Then each goes on for some seconds. Updates are not compiled.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat
from typing import Any

import msgspec
import torch

from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.algorithms.ppo.settings import PPOSettings
from soulsai.algorithms.sac.learner import SAC
from soulsai.algorithms.sac.settings import SACSettings
from soulsai.errors import ConfigError
from soulsai.types import Leaf, Spec
from tests.contract.algorithm_cases import BOX, FOUR, Case, case, make, stream

COMPARED, OFF = 8, 2e-3  # updates, and the largest difference of a weight after them
STEPS = 2400
AXES = 2  # numbers of an action of SAC
SECONDS = 2.0  # in which updates are counted

VECTOR, IMAGES = {"obs": Leaf((8,), "<f4")}, {"eye": Leaf((84, 84, 4), "|u1")}
# Equal batches on both: priorities would turn rounding into other draws.
REPLAY: dict[str, Any] = {"prioritized": False, "learning_starts": 200, "replay_ratio": 1000.0}
Q = DQNSettings(**REPLAY, capacity=1000, adam_eps=1e-3)
SOFT = SACSettings(**REPLAY, capacity=1000, adam_eps=1e-3)
ON = PPOSettings(batch_steps=128, minibatch=64, deadline=1e6, eval_fraction=0.0)
SMALL = msgspec.structs.replace(Q, batch_size=32)
CASES = {
    "dqn, layers": case("dqn", Spec(VECTOR, FOUR), dqn=Q),
    "dqn, Nature CNN": case(
        "dqn", Spec(IMAGES, FOUR), dqn=msgspec.structs.replace(SMALL, vision="nature")
    ),
    "dqn, IMPALA": case(
        "dqn", Spec(IMAGES, FOUR), dqn=msgspec.structs.replace(SMALL, vision="impala")
    ),
    "sac, layers": case("sac", Spec(VECTOR, BOX), sac=SOFT),
    "ppo, layers": case("ppo", Spec(VECTOR, FOUR), ppo=ON),
}


def learners(chosen: Case, device: str) -> tuple[Any, Any]:
    """Return two equal learners, on the processor and on a device."""
    made = []
    for name in ("cpu", device):
        training = msgspec.structs.replace(chosen.config.training, device=name)
        config = msgspec.structs.replace(chosen.config, training=training)
        made.append(make(Case(config, chosen.spec)))
    ours, theirs = made
    for name, part in ours.parts.items():
        if isinstance(part, torch.nn.Module):
            theirs.parts[name].load_state_dict(part.state_dict())
    if isinstance(theirs, SAC):  # devices draw different numbers
        generator = torch.Generator()
        generator.set_state(ours._generator.get_state())
        theirs._noise = lambda rows: torch.randn(rows, AXES, generator=generator).to(device)
    return ours, theirs


def updates(learner: Any, chosen: Case) -> Iterator[object]:
    """Yield after each update, from the same experience every time."""
    groups: Iterable[Any] = stream(chosen, STEPS)
    if chosen.config.algorithm.name != "ppo":  # which learns only from what is new
        groups = chain(groups, repeat([]))
    return learner.learn(groups)


def rate(running: Iterator[object]) -> float:
    """Return the updates per second of those that are left, or of some seconds."""
    began, done = time.perf_counter(), 0
    for _ in running:
        done += 1
        if time.perf_counter() - began > SECONDS:
            break
    return done / (time.perf_counter() - began)


def main() -> int:
    """Compare all cases; return 1 if one differs."""
    parser = argparse.ArgumentParser(prog="tests.gpu")
    parser.add_argument("--device", default="cuda", help="cpu to try these tests without a GPU")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    broken = 0
    for name, chosen in CASES.items():
        try:
            both = learners(chosen, device)
        except ConfigError as error:
            sys.exit(f"tests.gpu: no GPU: {error}")
        if next(both[1].policy.parameters()).device.type != torch.device(device).type:
            sys.exit(f"tests.gpu: {name}: the networks are not on {device}")
        running = [updates(learner, chosen) for learner in both]
        for one in running:
            count = sum(1 for _ in islice(one, COMPARED))
        pairs = zip(*(learner.policy.state_dict().values() for learner in both), strict=True)
        off = max(float((a - b.cpu()).abs().max()) for a, b in pairs)
        broken += off > OFF
        word = "MISS" if off > OFF else "ok  "
        print(f"{word} {name}: {off:.1g} off after {count} updates (<= {OFF:g})", flush=True)
        ours, theirs = map(rate, running)
        print(f"     {name}: {theirs:.3g} updates/s on {device}, {ours:.3g} on the processor")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
