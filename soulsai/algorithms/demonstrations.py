"""Demonstrations in learning: a second replay for off-policy learners, rollouts for the others.

Half of each batch comes from demonstrations (RLPD, arXiv:2302.02948), and a policy may first be
cloned from them.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np
import torch
from torch import Tensor

from soulsai.algorithms.base import Stateful, Tensors
from soulsai.algorithms.n_step_returns import NStepReturns
from soulsai.algorithms.settings import DemonstrationSettings
from soulsai.errors import ConfigError
from soulsai.replay.prioritized import PrioritizedReplay
from soulsai.replay.ring import Batch
from soulsai.replay.tree_routines import TreeRoutines
from soulsai.replay.uniform import UniformReplay
from soulsai.types import ActionSpec, Array, Fragment, Leaf, Metrics

IMITATION = "imitation"  # column of a batch: the weight with which its actions are imitated
PART = "demonstrations"  # the name under which a checkpoint saves them


@runtime_checkable
class LearnsFromDemonstrations(Protocol):
    """An algorithm that demonstrations can be given to."""

    def prepare_demonstrations(self, settings: DemonstrationSettings) -> None:
        """Make the parts that hold demonstrations; call it once, before ``learn``."""
        ...

    def demonstrate(self, episodes: Sequence[Fragment]) -> None:
        """Add whole episodes, each as one fragment."""
        ...


class DemonstrationReplay:
    """A replay that is never overwritten: beyond its capacity, nothing is added.

    Args:
        settings: The settings of demonstrations.
        replay: The replay.
        returns: Assembles transitions.
    """

    def __init__(
        self,
        settings: DemonstrationSettings,
        replay: PrioritizedReplay | UniformReplay,
        returns: NStepReturns,
    ) -> None:
        self.settings, self.replay = settings, replay
        self.cloned = 0  # updates of behaviour cloning
        self.left_out = 0  # transitions for which there was no room
        self._returns = returns

    def __len__(self) -> int:
        """Return the number of transitions."""
        return len(self.replay)

    def use_routines(self, routines: TreeRoutines) -> None:
        """Set and find priorities, if there are any, by compiled routines from now on."""
        if isinstance(self.replay, PrioritizedReplay):
            self.replay.use_routines(routines)

    @property
    def cloning(self) -> bool:
        """Whether there is something to clone, and cloning is not finished yet."""
        return self.settings.clones and self.cloned < self.settings.clone_steps and len(self) > 0

    def share_of(self, batch: int) -> int:
        """Return the rows of a batch that are demonstrations; one is left for experience."""
        return min(batch - 1, round(self.settings.share * batch), len(self.replay))

    def add(self, episodes: Sequence[Fragment]) -> dict[str, Array]:
        """Add the transitions of whole episodes; return those that were added.

        Raises:
            ConfigError: They exceed the capacity, and there was nothing before.
        """
        rows = self._returns.assemble(episodes)
        if len(self._returns):  # the last steps of episodes that were cut
            tail = self._returns.flush()
            rows = {name: np.concatenate((column, tail[name])) for name, column in rows.items()}
        count, room = len(rows["ret"]), self.replay.ring.capacity - len(self.replay)
        if count > room and not len(self.replay):
            raise ConfigError(
                f"demonstrations.capacity: {count} transitions do not fit into {room}; raise it"
            )
        return self.append(rows)

    def append(self, rows: dict[str, Array]) -> dict[str, Array]:
        """Add transitions while there is room; return those that were added."""
        count, room = len(rows["ret"]), self.replay.ring.capacity - len(self.replay)
        self.left_out += max(0, count - room)
        kept = {name: column[:room] for name, column in rows.items()}
        if min(count, room):
            self.replay.append(kept)
        return kept

    def forget(self, client: str) -> int:
        """Remove the transitions of one client; return their number."""
        return self.replay.forget(client)

    def state_dict(self) -> dict[str, Any]:
        """Return the transitions and the progress of cloning."""
        counts = {"cloned": self.cloned, "left_out": self.left_out}
        return {"replay": self.replay.state_dict(), **counts}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load transitions and progress."""
        self.replay.load_state_dict(state_dict["replay"])
        self.cloned, self.left_out = int(state_dict["cloned"]), int(state_dict["left_out"])


@runtime_checkable
class LearnsOffline(Protocol):
    """An algorithm that learns from demonstrations alone, without any environment."""

    def offline_update(self, conservative: float) -> Metrics:
        """Do one update on demonstrations.

        Args:
            conservative: Weight of the term against actions that the data do not hold.
        """
        ...


def insert_part(parts: dict[str, Stateful], demonstrations: Stateful) -> None:
    """Add demonstrations to the parts of a checkpoint, before those that are loaded last."""
    last = parts.pop("progress")
    parts[PART], parts["progress"] = demonstrations, last


def joined(experience: Batch, shown: Batch | None) -> Batch:
    """Return one batch of both, experience first; columns keep their order and types."""
    if shown is None:
        return experience
    return Batch(
        {
            name: np.concatenate((column, shown.rows[name].astype(column.dtype, copy=False)))
            for name, column in experience.rows.items()
        },
        np.concatenate((experience.ids, shown.ids)),
        np.concatenate((experience.weights, shown.weights)),
    )


def with_columns(batch: Batch, columns: dict[str, Leaf]) -> Batch:
    """Return a batch with the flags that experience does not store: all true.

    Args:
        batch: The batch.
        columns: All columns that it is to have; those that it lacks are flags.
    """
    lacking = {
        name: np.ones((len(batch.ids), *leaf.shape), leaf.dtype)
        for name, leaf in columns.items()
        if name not in batch.rows and np.dtype(leaf.dtype).kind == "b"
    }
    return Batch(batch.rows | lacking, batch.ids, batch.weights)


def with_imitation(batch: Batch, shown: int, weight: float) -> Batch:
    """Return a batch with the column of weights with which actions are imitated.

    Args:
        batch: The batch.
        shown: The last rows, which are demonstrations.
        weight: Their weight.
    """
    weights = np.zeros(len(batch.ids), "<f4")
    weights[len(weights) - shown :] = weight
    return Batch(batch.rows | {IMITATION: weights}, batch.ids, batch.weights)


def action_agreement(action: ActionSpec, greedy: Tensor, shown: Tensor) -> Tensor:
    """Return the agreement of greedy actions with demonstrated ones, 1 if all are equal.

    Of choices it is the share that is equal, of numbers 1 minus half of the mean distance.

    Args:
        action: Kind and shape of the actions.
        greedy: The policy's actions as they travel [B, ...].
        shown: The demonstrated actions [B, ...].
    """
    split = len(action.sizes)
    ours, theirs = (rows.reshape(len(rows), -1).float() for rows in (greedy, shown))
    equal = (ours[:, :split] == theirs[:, :split]).float()
    near = 1.0 - 0.5 * (ours[:, split:].clamp(-1, 1) - theirs[:, split:].clamp(-1, 1)).abs()
    return torch.cat((equal, near), 1).mean()


def fragment_state(fragment: Fragment) -> dict[str, Any]:
    """Return the fields of a fragment for a checkpoint, which holds no ``None``."""
    fields = msgspec.structs.asdict(fragment)
    return {name: value for name, value in fields.items() if value is not None}


def interventions(fragment: Fragment) -> list[Fragment]:
    """Return the consecutive steps of a fragment that a person chose, as fragments."""
    if fragment.intervened is None:
        return []
    edges = np.diff(np.concatenate(([0], fragment.intervened.astype(np.int8), [0])))
    parts = []
    for first, end in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
        last = end == len(fragment)
        parts.append(
            msgspec.structs.replace(
                fragment,
                start=fragment.start + int(first),
                clock=fragment.clock + int(first),
                obs={name: rows[first : end + 1].copy() for name, rows in fragment.obs.items()},
                action=fragment.action[first:end].copy(),
                reward=fragment.reward[first:end].copy(),
                terminated=fragment.terminated and last,
                truncated=fragment.truncated and last,
                extras={name: rows[first:end].copy() for name, rows in fragment.extras.items()},
                memory=fragment.memory if not first else {},
                intervened=None,
            )
        )
    return parts


class DemonstrationRollouts:
    """Demonstrated episodes for an on-policy learner, laid out as rows.

    Args:
        settings: The settings of demonstrations.
        seed: Seed of the order of minibatches.
        lay_out: Returns the columns of fragments.
    """

    def __init__(
        self,
        settings: DemonstrationSettings,
        seed: int,
        lay_out: Callable[[Sequence[Fragment]], Tensors],
    ) -> None:
        self.settings = settings
        self.columns: Tensors = {}
        self.cloned = 0  # updates of behaviour cloning
        self.drawn = 0  # minibatches
        self._fragments: list[Fragment] = []
        self._seed, self._lay_out = seed, lay_out

    def __len__(self) -> int:
        """Return the number of steps."""
        return sum(map(len, self._fragments))

    @property
    def cloning(self) -> bool:
        """Whether there is something to clone, and cloning is not finished yet."""
        return self.settings.clones and self.cloned < self.settings.clone_steps and len(self) > 0

    def weight(self, iteration: int) -> float:
        """Return the weight of the cloning term in an iteration (DAPG, arXiv:1709.10087)."""
        if not self._fragments:
            return 0.0
        return self.settings.clone_weight * self.settings.clone_decay**iteration

    def add(self, fragments: Sequence[Fragment]) -> None:
        """Add demonstrated steps while there is room."""
        for fragment in fragments:
            if len(self) + len(fragment) <= self.settings.capacity:
                self._fragments.append(fragment)
        self._arrange()

    def draw(self, items: Tensor, count: int) -> Tensor:
        """Return ``count`` of the items, drawn reproducibly without repetition."""
        rng = np.random.default_rng((self._seed, self.drawn))
        self.drawn += 1
        chosen = rng.permutation(len(items))[:count]
        return items[torch.from_numpy(chosen).to(items.device)]

    def forget(self, client: str) -> int:
        """Remove the steps of one client; return their number."""
        before = len(self)
        self._fragments = [each for each in self._fragments if each.client != client]
        self._arrange()
        return before - len(self)

    def _arrange(self) -> None:
        self.columns = self._lay_out(self._fragments) if self._fragments else {}

    def state_dict(self) -> dict[str, Any]:
        """Return the steps and the progress of cloning."""
        return {
            "fragments": [fragment_state(each) for each in self._fragments],
            "cloned": self.cloned,
            "drawn": self.drawn,
            "seed": self._seed,
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load steps and progress."""
        self._fragments = [Fragment(**fragment) for fragment in state_dict["fragments"]]
        self.cloned, self.drawn = int(state_dict["cloned"]), int(state_dict["drawn"])
        self._seed = int(state_dict["seed"])
        self._arrange()


def measured(demonstrations: DemonstrationReplay, shown: int, batch: int) -> Metrics:
    """Return the metrics of demonstrations in an update.

    Args:
        demonstrations: The demonstrations.
        shown: Rows of the batch that are demonstrations.
        batch: Rows of the batch.
    """
    return {
        "demonstrations": float(len(demonstrations)),
        "demonstration_share": shown / batch,
        "demonstrations_left_out": float(demonstrations.left_out),
    }
