"""The settings of deep Q-learning."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from msgspec import Meta

from soulsai.algorithms.settings import ReplaySettings, is_custom
from soulsai.types import Count, Fraction, Natural, Positive


class DQNSettings(ReplaySettings, frozen=True, forbid_unknown_fields=True):
    """Double, dueling, n-step, prioritised Q-learning (and quantiles of the return)."""

    learner = "soulsai.algorithms.dqn.learner:DQN"
    actions = ("discrete", "multidiscrete")
    fixed = (
        *("hidden", "layer_norm", "network", "feature_extractor", "vision", "dueling"),
        *("quantiles", "sampled", "noisy", "normalize_obs"),
    )
    networks = ("layers", "residual")

    hidden: tuple[Count, ...] = (256, 256)  # widths of the hidden layers
    layer_norm: bool = True  # normalise each hidden layer; helps at high replay ratios
    # layers: a plain MLP; residual: SimBa blocks; or a network of your own, as module:Class or
    # file.py:Class, in place of everything between observation and quantiles
    network: str = "layers"
    # module:Class from observations to features, before the hidden layers; empty: vision encoders
    feature_extractor: str = ""
    # image encoder: auto (by the size of the image), small, minatar, efficient (for 84 x 84 pixels
    # on a processor: a sixth of nature's work), nature or impala
    vision: Literal["auto", "small", "minatar", "efficient", "nature", "impala"] = "auto"
    dueling: bool = True  # separate heads for the value of a state and the advantage of an action
    double: bool = True  # choose the next action by the online network, against too high estimates
    quantiles: Count = 16  # quantiles of the return that are learnt; 1: only its mean
    sampled: bool = False  # draw the levels of the quantiles anew in every update (IQN)
    # Munchausen DQN: weight of the log-policy bonus added to the reward; usual value 0.9, 0 turns
    # it off
    munchausen: Fraction = 0.0
    # with munchausen: temperature of the soft policy, in units of reward
    temperature: Positive = 0.03
    # explore by noise in the last layer, drawn anew for every episode, instead of at random
    noisy: bool = False
    n_step: Count = 3  # env steps of rewards in a target before the value of the next state
    gamma: Annotated[float, Meta(gt=0, le=1)] = 0.99  # discount of rewards per env step
    n_step_first: Natural = 0  # n_step at the beginning; 0: the same throughout
    gamma_first: Fraction = 0.0  # gamma at the beginning; 0: the same throughout
    anneal_steps: Count = 50_000  # env steps over which n_step and gamma change from these
    lr: Positive = 5e-4  # learning rate of Adam
    anneal_lr: bool = False  # lower the learning rate to zero over the planned steps
    adam_eps: Positive = 1e-5  # epsilon of Adam
    batch_size: Count = 64  # transitions per gradient step
    # gradient steps per new env step; more learns more from each step, and takes longer
    replay_ratio: Positive = 1.0
    # hold: clients wait for a slow learner; free: nobody waits; lockstep: they alternate
    pace: Literal["hold", "free", "lockstep"] = "hold"
    # with hold: env steps that all clients together may be ahead of the learner
    slack_steps: Count = 500
    # updates that are owed and done in one go: their batches are drawn together, and priorities
    # change after the last of them; with images one at a time
    updates_per_call: Count = 8
    capacity: Count = 100_000  # transitions in replay; the oldest give way
    replay_folder: str = ""  # folder for replay on disk, when memory is short; empty: in memory
    # store each observation once, not again as the next one of an earlier transition
    share_observations: bool = True
    learning_starts: Natural = 2_000  # env steps of uniform random actions before the first update
    # share of the online network that moves into the target network in each update
    target_ema: Annotated[float, Meta(gt=0, le=1)] = 0.005
    # weights for clients: their moving average, or online: the newest
    act_with: Literal["average", "online"] = "average"
    grad_clip: Positive = 10.0  # largest norm of a gradient; larger ones are scaled down
    prioritized: bool = True  # replay transitions with a large error more often
    priority_alpha: Fraction = 0.6  # with prioritized: strength of the preference; 0: none
    # with prioritized: correction for it at first; grows to 1 over the planned steps
    priority_beta: Fraction = 0.4
    # env steps after learning_starts over which random actions become fewer
    explore_steps: Natural = 10_000
    # each episode's random-action rate is epsilon_base ** (1 + epsilon_alpha * u), u drawn from [0,
    # 1]: 0.4 at most, 0.0007 at least
    epsilon_base: Fraction = 0.4
    # higher: more episodes almost without random actions
    epsilon_alpha: Annotated[float, Meta(ge=0)] = 7.0
    eval_fraction: Fraction = 0.05  # share of episodes played greedily, to measure the policy
    normalize_obs: bool = True  # scale observations to mean 0 and deviation 1
    # factor of rewards in the loss; choose it so that they are about 1
    reward_scale: Positive = 1.0
    # learn square roots of values, where they differ by orders of magnitude
    rescale_values: bool = False

    def problems(self) -> Iterator[str]:
        """Yield the settings, too, of layers that a custom network replaces."""
        yield from ReplaySettings.problems(self)
        if self.vision != "auto" and self.custom:
            (replacement,) = list(self.custom)[:1]
            yield f"vision: {self.vision}, but {replacement} takes its place; leave it out"
        for name in ("sampled", "noisy"):
            if getattr(self, name) and is_custom(self.network):
                yield (
                    f"{name}: needs our last layer; turn it off, or name a feature_extractor "
                    "instead of a network"
                )

    def misfits(self, saved: Any) -> list[str]:
        """Return the names of the settings with which a checkpoint cannot be loaded.

        Args:
            saved: The settings under which the checkpoint was written.
        """
        columns = ("munchausen", "gamma_first")  # each needs a column that replay lacks without it
        missing = [name for name in columns if getattr(self, name) and not getattr(saved, name)]
        return [*ReplaySettings.misfits(self, saved), *missing]
