"""A saved policy that plays from observations as the environment gives them."""

from pathlib import Path
from typing import Any

import numpy as np

from soulsai.client.actor import Actor
from soulsai.client.spaces import as_array, read_mask
from soulsai.errors import CheckpointError, EnvironmentFault
from soulsai.heads import act, to_environment
from soulsai.types import MASK, ActionSpec, Array, zeros


class SavedPolicy:
    """A ``policy.onnx``, which chooses greedy actions; it needs NumPy and ONNX Runtime only.

    Args:
        path: The file.

    Raises:
        CheckpointError: There is no such file, or it is not a policy.
    """

    def __init__(self, path: Path) -> None:
        self._actor, self.card = Actor.from_file(path)
        if not self.card.spec.sources:
            raise CheckpointError(
                f"{path}: was written by an older version, which did not note where each leaf of "
                "an observation comes from; continue its run to the next checkpoint"
            )
        self._rng = np.random.default_rng(0)  # greedy actions do not use it
        self._memory: dict[str, Array] = {}
        self.reset()

    def __repr__(self) -> str:
        return f"SavedPolicy(run={self.card.run!r}, version={self.card.version})"

    def reset(self) -> None:
        """Begin an episode: forget what a recurrent policy remembers."""
        self._memory = {name: zeros(leaf, 1) for name, leaf in self.card.memory.items()}

    def act(self, observation: Any, info: dict[str, Any] | None = None) -> Any:
        """Choose the best action for one observation.

        Args:
            observation: As the environment returns it.
            info: As the environment returns it; needed if it holds an action mask.

        Returns:
            The action, as the environment's ``step`` takes it.

        Raises:
            EnvironmentFault: A leaf is missing or has another shape.
        """
        spec = self.card.spec
        rows = {name: self._read(name, observation, info)[None] for name in spec.obs}
        outputs, self._memory = self._actor(rows, self._memory)
        chosen, _ = act(
            self.card.head,
            spec.action,
            outputs,
            mask=rows.get(MASK),
            greedy=np.ones(1, np.bool_),
            epsilon=np.zeros(1),
            random=0.0,
            rng=self._rng,
        )
        return _native(spec.action, to_environment(self.card.head, spec.action, chosen[0]))

    def _read(self, name: str, observation: Any, info: dict[str, Any] | None) -> Array:
        leaf, source = self.card.spec.obs[name], self.card.spec.sources[name]
        value: Any = info if source.info else observation
        try:
            for key in source.path:
                value = value[key]
            if name == MASK:
                row = zeros(leaf)
                read_mask(value, self.card.spec.action, row)
                return row
            array = as_array(value).reshape(leaf.shape)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            place = "the info" if source.info else "the observation"
            raise EnvironmentFault(
                f"leaf {name!r} of {place}: {type(error).__name__}: {error}; wanted an array of "
                f"shape {leaf.shape}"
            ) from None
        if leaf.categories:
            array = array - np.reshape(source.start, leaf.shape)
        return array.astype(leaf.dtype)


def _native(spec: ActionSpec, action: Any) -> Any:
    """Return an action as the environment takes it, from choices that count from zero."""
    row = np.asarray(action)
    if spec.kind == "box" and not spec.parts:
        return row
    flat, count = row.reshape(-1), len(spec.sizes)
    choices = flat[:count].astype(np.int64) + np.array(spec.start, np.int64)
    if not spec.parts:
        return choices.reshape(spec.native_shape)[()]
    tree: dict[str | int, Any] = {}
    left = {False: choices, True: flat[count:]}
    for part in spec.parts:
        taken, left[part.numbers] = np.split(left[part.numbers], [part.size])
        if np.dtype(part.dtype).kind != "f":
            taken = np.rint(taken)
        branch = tree
        for key in part.path[:-1]:
            branch = branch.setdefault(key, {})
        value = taken.reshape(part.shape).astype(part.dtype)
        branch[part.path[-1]] = value if part.numbers else value[()]
    return _with_tuples(tree)


def _with_tuples(tree: Any) -> Any:
    """Replace mappings whose keys are indices by tuples."""
    if not isinstance(tree, dict):
        return tree
    inner = {key: _with_tuples(value) for key, value in tree.items()}
    return tuple(inner.values()) if all(isinstance(key, int) for key in inner) else inner
