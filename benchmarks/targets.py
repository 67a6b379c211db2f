"""What is to be learnt, how well, and with which settings beyond the defaults."""

from msgspec import Struct
from msgspec.structs import replace

from benchmarks.faults import Faults
from soulsai.errors import ConfigError

POSITIONS = "benchmarks.environments:cartpole_positions"
BREAKOUT = "benchmarks.environments:breakout"


class Target(Struct, frozen=True):
    """One thing to learn, and how well it must be learnt.

    ``overrides`` are all that differs from the default settings; each is named in
    benchmarks/README.md with its reason.
    """

    name: str
    environment: str
    algorithm: str
    steps: int
    bar: float = float("-inf")  # of the IQM over seeds
    floor: float = float("-inf")  # of the worst seed
    clients: int = 4
    overrides: tuple[str, ...] = ()
    along: int = 0  # updates between checkpoints that are evaluated, too; 0: only the final one
    faults: Faults = Faults()
    steered: str = ""  # environment of the first ``steered_clients``, which steers itself at times
    steered_clients: int = 0

    @property
    def own_clients(self) -> bool:
        """Whether ``soulsai train`` starts the clients."""
        return self.faults == Faults() and not self.steered_clients

    @property
    def environments(self) -> list[str]:
        """The environment of each client."""
        others = self.clients - self.steered_clients
        return [self.steered] * self.steered_clients + [self.environment] * others


CALM = Target(
    "T2-calm", "CartPole-v1", "ppo", 150_000, bar=475, floor=400, clients=8, along=2
)  # fmt: skip
MISFORTUNE = Faults(
    kill_seconds=5.0,
    slow_clients=1,
    slow_seconds=0.1,
    late_share=0.05,
    late_seconds=10.0,
    twice_share=0.02,
)
TARGETS = {
    target.name: target
    for target in (
        Target("T1", "CartPole-v1", "dqn", 50_000, bar=475, floor=400, along=1500),
        replace(CALM, name="T2", faults=MISFORTUNE),
        CALM,
        Target("T3", "LunarLander-v3", "dqn", 150_000, bar=200, floor=120, along=5000),
        Target("T4", "Pendulum-v1", "sac", 20_000, bar=-170, floor=-250, along=1000),
        Target(
            "T5",
            BREAKOUT,
            "dqn",
            1_000_000,
            bar=12,
            floor=8,
            overrides=("dqn.lr=2.5e-4", "dqn.batch_size=32", "dqn.replay_ratio=0.25"),
            along=10_000,
        ),
        Target("T6", "Taxi-v4", "dqn", 200_000, bar=7.5, floor=6, along=10_000),
        Target(
            "T7",
            "LunarLander-v3",
            "ppo",
            1_000_000,
            bar=200,
            floor=120,
            clients=8,
            overrides=("ppo.gamma=0.999", "ppo.gae_lambda=0.98"),
            along=20,
        ),
        Target(
            "recurrent", POSITIONS, "ppo", 300_000, bar=450, overrides=("ppo.memory=64",), along=8
        ),
    )
}  # fmt: skip


def target(name: str) -> Target:
    """Return a named target, or one made from ``ENV:ALGORITHM:STEPS``."""
    if name in TARGETS:
        return TARGETS[name]
    rest, _, steps = name.rpartition(":")
    environment, _, algorithm = rest.rpartition(":")
    if not environment or not algorithm or not steps.isdecimal():
        known = ", ".join(TARGETS)
        raise ConfigError(f"--targets: {name!r} is none of {known}, nor ENV:ALGORITHM:STEPS")
    return Target(name, environment, algorithm, int(steps))
