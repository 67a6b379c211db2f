"""Bases of the settings of algorithms; like every module of settings, free of torch."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct

from soulsai.types import ActionKind, ActionSpec, Count, Fraction, Natural


class DemonstrationSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Demonstrations, from which the learner also learns."""

    # data sets of Minari or Parquet, see `soulsai record`; empty: no demonstrations
    data: tuple[str, ...] = ()
    # off-policy: share of each batch that comes from demonstrations
    share: Fraction = 0.5
    # off-policy: weight of imitating the demonstrations of each batch, beside learning from their
    # rewards; it falls to 0 over the planned env steps. 0: rewards alone
    imitation: Annotated[float, Meta(ge=0)] = 1.0
    # updates of behaviour cloning before the first env step; the first version then plays already
    clone_steps: Natural = 0
    # share of random actions of a cloned policy whose algorithm has none of its own:
    # without them the values of what nobody showed stay guesses, and it forgets what it was shown;
    # it falls to 0 over the planned env steps
    random_actions: Fraction = 0.5
    # on-policy: weight of cloning in the first iteration
    clone_weight: Annotated[float, Meta(ge=0)] = 0.1
    clone_decay: Fraction = 0.95  # on-policy: factor of that weight per iteration
    # transitions or steps of demonstrations; they are never overwritten
    capacity: Count = 100_000

    # let clients mark steps that a person chose, and learn from these as from demonstrations
    interventions: bool = False

    @property
    def used(self) -> bool:
        """Whether there are demonstrations, or may be some."""
        return bool(self.data) or self.interventions

    @property
    def clones(self) -> bool:
        """Whether the policy is cloned before the first env step."""
        return bool(self.data) and self.clone_steps > 0


CUSTOM = ("network", "feature_extractor")  # settings that may name a class of other packages


class LearnerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of one algorithm, a section of the configuration."""

    learner: ClassVar[str]  # "module:Class" of the algorithm, imported when it is built
    actions: ClassVar[tuple[ActionKind, ...]]  # kinds of action spaces it can learn
    needs_bounds: ClassVar[bool] = False  # whether all numbers of an action need bounds
    fixed: ClassVar[tuple[str, ...]] = ()  # settings that shape the saved networks and statistics
    waits_for_steps: ClassVar[bool] = False  # whether env steps, and not updates, take the time
    networks: ClassVar[tuple[str, ...]] = ("layers",)  # values of ``network`` that are ours

    def problems(self) -> Iterator[str]:
        """Yield each combination of settings that cannot work, as ``setting: reason``."""
        custom = self.custom
        for name in CUSTOM:
            value: str = getattr(self, name, "")
            if value not in ("", *self.networks) and name not in custom:
                known = "".join(f"{one}, " for one in self.networks if name == "network")
                yield f"{name}: {value!r}; wanted {known}module:Class or file.py:Class"
        if len(custom) > 1:
            yield (
                "feature_extractor: a network of your own reads the observation itself; leave out "
                "one of the two"
            )

    @property
    def custom(self) -> dict[str, str]:
        """The networks that are not ours, as "module:Class" by setting."""
        values: dict[str, str] = {name: getattr(self, name, "") for name in CUSTOM}
        return {name: value for name, value in values.items() if is_custom(value)}

    def can_learn(self, action: ActionSpec) -> bool:
        """Return whether the algorithm learns such actions."""
        return action.kind in self.actions and (action.bounded or not self.needs_bounds)

    def misfits(self, saved: Any) -> list[str]:
        """Return the names of the settings with which a checkpoint cannot be loaded.

        Args:
            saved: The settings of the same algorithm, under which the checkpoint was written.
        """
        return [name for name in self.fixed if getattr(self, name) != getattr(saved, name)]

    def rows_per_update(self, kind: ActionKind) -> tuple[float, int]:
        """Return about how many rows pass forward and back through the policy in one update.

        Args:
            kind: That of the actions.

        Returns:
            All rows, 0 where that is not known, and the rows of one batch.
        """
        del kind
        return 0.0, 1

    def updates(self, env_steps: int, kind: ActionKind) -> float:
        """Return the updates of a run of so many env steps, 0 where that is not known.

        Args:
            env_steps: Those of the whole run.
            kind: That of the actions.
        """
        del env_steps, kind
        return 0.0


class ReplaySettings(LearnerSettings, frozen=True, forbid_unknown_fields=True):
    """The settings that ``replay_learner.Experience`` reads; each algorithm adds the defaults."""

    n_step: int
    gamma: float
    batch_size: int
    replay_ratio: float
    pace: Literal["hold", "free", "lockstep"]
    slack_steps: int
    updates_per_call: int
    capacity: int
    replay_folder: str
    share_observations: bool
    learning_starts: int
    prioritized: bool
    priority_alpha: float
    priority_beta: float

    def rows_per_update(self, kind: ActionKind) -> tuple[float, int]:
        """Return the rows of a batch: forward and back once, and forward twice for the goals."""
        del kind
        return 5.0 / 3.0 * self.batch_size, self.batch_size

    def updates(self, env_steps: int, kind: ActionKind) -> float:
        """Return the updates after the warm-up of a run of so many env steps."""
        del kind
        return self.replay_ratio * max(0, env_steps - self.learning_starts)

    def problems(self) -> Iterator[str]:
        """Yield the capacity, too, if replay could never hold one batch."""
        yield from LearnerSettings.problems(self)
        if self.capacity < self.batch_size:
            yield f"capacity: {self.capacity} transitions, less than one batch ({self.batch_size})"


def is_custom(name: str) -> bool:
    """Return whether a network is named as ``module:Class`` or ``file.py:Class``."""
    place, _, attribute = name.rpartition(":")
    return bool(place) and attribute.isidentifier()
