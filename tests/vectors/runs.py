"""The runs of the vectors: small spaces of every kind, each with the head of its policy."""

import zlib

import msgspec

from soulsai.types import (
    OLDEST_PROTOCOL,
    PROTOCOL,
    ActionSpec,
    EnvironmentOffer,
    Head,
    Leaf,
    RunSpec,
    Spec,
)

FLOATS = Leaf((4,), "<f4")
GREEDY = Head("epsilon_greedy")
CHOICE = ActionSpec("discrete", sizes=(3,))


def _run(name: str, obs: dict[str, Leaf], action: ActionSpec, head: Head, **more):
    spec = RunSpec(
        run=f"vectors-{name}",
        protocol=PROTOCOL,
        oldest_protocol=OLDEST_PROTOCOL,
        environment=EnvironmentOffer("Vectors-v0", largest_reward=1000.0),
        spec=Spec(obs, action),
        algorithm="dqn",
        program_sha256="0" * 64,
        fragment_steps=16,
        **more,
    )
    # Not of the spec's bytes, which a new field with a default would change
    return msgspec.structs.replace(spec, published_crc=zlib.crc32(name.encode())), head


LOGP = {"logp": Leaf((), "<f4")}
RUNS = {
    "plain": _run("plain", {"obs": FLOATS}, CHOICE, GREEDY),
    "mask": _run("mask", {"obs": FLOATS, "mask": Leaf((3,), "|b1")}, CHOICE, GREEDY),
    "ppo": _run(
        "ppo",
        {"obs": FLOATS},
        CHOICE,
        Head("categorical"),
        extras=LOGP,
        memory={"hidden": Leaf((2,), "<f4")},
    ),
    "multi": _run(
        "multi",
        {"obs": FLOATS, "mask": Leaf((5,), "|b1")},
        ActionSpec("multidiscrete", (2,), (3, 2)),
        Head("categorical"),
        extras=LOGP,
    ),
    "box": _run(
        "box",
        {"obs": FLOATS},
        ActionSpec("box", (2,), low=(-2.0, 0.0), high=(2.0, 1.0)),
        Head("squashed"),
    ),
    "gaussian": _run(
        "gaussian",
        {"obs": FLOATS},
        ActionSpec("box", (2,), low=(-2.0, -1e38), high=(2.0, 1e38)),
        Head("scaled_gaussian"),
        extras=LOGP,
    ),
    "hybrid": _run(
        "hybrid",
        {"obs": FLOATS},
        ActionSpec("hybrid", (4,), (3, 2), (-1.0, -1.0), (1.0, 1.0)),
        Head("hybrid"),
        extras=LOGP,
    ),
    "steered": _run("steered", {"obs": FLOATS}, CHOICE, GREEDY, interventions=True),
    "many": _run("many", {"obs": FLOATS}, ActionSpec("discrete", sizes=(300,)), GREEDY),
    "most": _run("most", {"obs": FLOATS}, ActionSpec("discrete", sizes=(70_000,)), GREEDY),
    "dtypes": _run(
        "dtypes",
        {
            "bits": Leaf((3, 3), "|b1"),
            "bytes": Leaf((5,), "|u1"),
            "signed": Leaf((3,), "|i1"),
            "u2": Leaf((), "<u2"),
            "i2": Leaf((2,), "<i2"),
            "u4": Leaf((), "<u4"),
            "i4": Leaf((1, 2), "<i4"),
            "u8": Leaf((), "<u8"),
            "i8": Leaf((), "<i8"),
            "f2": Leaf((3,), "<f2"),
            "f8": Leaf((), "<f8"),
        },
        CHOICE,
        GREEDY,
    ),
    "categories": _run("categories", {"room": Leaf((2,), "|u1", categories=6)}, CHOICE, GREEDY),
    "stack": _run("stack", {"eye": Leaf((4, 32, 32), "|u1", low=0.0, high=255.0)}, CHOICE, GREEDY),
    "channels": _run(
        "channels", {"eye": Leaf((40, 32, 3), "|u1", low=0.0, high=255.0)}, CHOICE, GREEDY
    ),
}
