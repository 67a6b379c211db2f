"""The settings of soft actor-critic."""

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta

from soulsai.algorithms.settings import ReplaySettings, is_custom
from soulsai.types import Count, Fraction, Natural, Positive


class SACSettings(ReplaySettings, frozen=True, forbid_unknown_fields=True):
    """Soft actor-critic with truncated quantile critics, for continuous actions."""

    learner = "soulsai.algorithms.sac.learner:SAC"
    actions = ("box",)
    needs_bounds = True
    fixed = (
        *("hidden", "layer_norm", "network", "feature_extractor", "critics", "quantiles"),
        "normalize_obs",
    )

    hidden: tuple[Count, ...] = (256, 256)  # widths of the hidden layers of actor and critics
    layer_norm: bool = True  # normalise each hidden layer of the critics
    # layers: plain MLPs; or a network of your own, as module:Class or file.py:Class, of which the
    # actor and each critic are one
    network: str = "layers"
    # module:Class from observations to features, one for the actor and one for the critics; empty:
    # vision encoders
    feature_extractor: str = ""
    critics: Count = 2  # critics; targets take the mean of their lowest quantiles
    # quantiles of the return per critic; 1: only its mean, which is plain SAC
    quantiles: Count = 25
    # highest quantiles per critic that targets leave out, against too high estimates
    drop: Natural = 2
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0  # dropout in the critics; DroQ: 0.01; 0: none
    n_step: Count = 1  # env steps of rewards in a target before the value of the next state
    gamma: Annotated[float, Meta(gt=0, le=1)] = 0.99  # discount of rewards per env step
    lr: Positive = 3e-4  # learning rate of Adam
    adam_eps: Positive = 1e-8  # epsilon of Adam
    batch_size: Count = 256  # transitions per gradient step
    replay_ratio: Positive = 1.0  # gradient steps per new env step; DroQ: 20
    policy_delay: Count = 2  # gradient steps of the critics per step of the actor; DroQ: 20
    # hold: clients wait for a slow learner; free: nobody waits; lockstep: they alternate
    pace: Literal["hold", "free", "lockstep"] = "hold"
    # with hold: env steps that all clients together may be ahead of the learner
    slack_steps: Count = 500
    # updates that are owed and done in one go: their batches are drawn together, and priorities
    # change after the last of them; with images one at a time
    updates_per_call: Count = 4
    capacity: Count = 300_000  # transitions in replay; the oldest give way
    replay_folder: str = ""  # folder for replay on disk, when memory is short; empty: in memory
    # store each observation once, not again as the next one of an earlier transition
    share_observations: bool = True
    learning_starts: Natural = 1_000  # env steps of uniform random actions before the first update
    # share of the critics that moves into their targets in each update
    target_ema: Annotated[float, Meta(gt=0, le=1)] = 0.005
    # initial entropy coefficient (alpha); tuned automatically afterwards
    temperature: Positive = 1.0
    entropy_per_dim: float = -1.0  # target entropy per action dimension, in nats
    prioritized: bool = False  # replay transitions with a large error more often
    priority_alpha: Fraction = 0.6  # with prioritized: strength of the preference; 0: none
    # with prioritized: correction for it at first; grows to 1 over the planned steps
    priority_beta: Fraction = 0.4
    eval_fraction: Fraction = 0.05  # share of episodes played greedily, to measure the policy
    normalize_obs: bool = True  # scale observations to mean 0 and deviation 1
    # factor of rewards in the loss; choose it so that they are about 1
    reward_scale: Positive = 1.0

    def problems(self) -> Iterator[str]:
        """Yield each combination of settings that cannot work."""
        yield from ReplaySettings.problems(self)
        if self.drop >= self.quantiles > 1:
            yield f"drop: {self.drop} of {self.quantiles} quantiles leaves none"
        if self.dropout and is_custom(self.network):
            yield "dropout: needs our own layers; set it to 0, or leave out network"
