"""Admission measured: what it costs to check a batch from a stranger in full.

Entries hold one batch each, and many are read together, as from many clients.
"""

import time
from collections.abc import Iterator

import numpy as np

from benchmarks.figure import Figure, at_most
from soulsai.training_node.admission import Admission
from soulsai.types import (
    OLDEST_PROTOCOL,
    PROTOCOL,
    ActionSpec,
    EnvironmentOffer,
    Fragment,
    Head,
    Leaf,
    RunSpec,
    Spec,
)
from soulsai.wire.codec import decode_entry, encode_message, pack
from soulsai.wire.protocols import Entry, Position

STEPS, FLOATS, CHOICES = 32, 74, 20
LIMIT = 150.0  # microseconds per fragment
ROUNDS, EACH = 15, 200


def measure() -> Iterator[Figure]:
    """Yield the median price of decoding and judging one fragment with a mask."""
    leaves = {"obs": Leaf((FLOATS,), "<f4"), "mask": Leaf((CHOICES,), "|b1")}
    spec = RunSpec(
        run="bench",
        protocol=PROTOCOL,
        oldest_protocol=OLDEST_PROTOCOL,
        environment=EnvironmentOffer("bench"),
        spec=Spec(leaves, ActionSpec("discrete", sizes=(CHOICES,))),
        algorithm="dqn",
        program_sha256="",
    )
    rng = np.random.default_rng(0)
    prices = []
    for _ in range(ROUNDS):
        admission = Admission(
            spec,
            Head("epsilon_greedy"),
            lambda entry: decode_entry(entry, spec),
            marks={},
            newest=(1, 1),
            now=time.time,
        )
        entries = [
            Entry("bench", Position(1, n + 1), pack([encode_message(_fragment(n, rng), spec)]))
            for n in range(EACH)
        ]
        began = time.process_time()
        together = admission.decoded(entries)  # as the node does with the entries of one read
        judged = map(admission.admit, entries, together)
        steps = sum(arrival.steps for arrival in judged)
        prices.append((time.process_time() - began) / EACH)
        if steps != EACH * STEPS:
            raise RuntimeError(f"{steps} steps of {EACH * STEPS} were let in")
    price = float(np.median(prices)) * 1e6
    name = f"admission: a batch of {STEPS} steps of {FLOATS} floats and a mask"
    yield at_most(name, price, "us", LIMIT)


def _fragment(number: int, rng: np.random.Generator) -> Fragment:
    return Fragment(
        client="bench",
        epoch=1,
        episode=number,
        start=0,
        clock=number * STEPS,
        generation=1,
        version=1,
        obs={
            "obs": rng.standard_normal((STEPS + 1, FLOATS)).astype("<f4"),
            "mask": np.ones((STEPS + 1, CHOICES), bool),
        },
        action=rng.integers(CHOICES, size=STEPS).astype("|u1"),
        reward=rng.standard_normal(STEPS).astype("<f4"),
        terminated=False,
        truncated=False,
        epsilon=0.1,
    )
