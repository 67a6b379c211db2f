"""The spaces of Gymnasium that a spec describes, and arrays nested as these spaces."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space, spaces

from soulsai.errors import DatasetError
from soulsai.types import MASK, UNBOUNDED, ActionPart, ActionSpec, Array, Leaf, LeafSource, Spec

Path = tuple[str | int, ...]
BOUND_ERROR = 1e-6  # by which bounds of actions may differ, relative to their distance


class LeafPlace(NamedTuple):
    """A leaf of the observation in the environment's own nesting."""

    name: str
    leaf: Leaf
    path: Path
    start: tuple[int, ...]  # the environment's value of the first category


def observation_places(spec: Spec) -> list[LeafPlace]:
    """Return the leaves of the observation itself: all but a mask of the info."""
    sources = dict(spec.sources)
    for name in spec.obs:  # a spec of an earlier release has none
        own = () if name == "obs" and name not in sources else tuple(name.split("."))
        sources.setdefault(name, LeafSource(own, info=name == MASK))
    return [
        LeafPlace(name, leaf, sources[name].path, sources[name].start)
        for name, leaf in spec.obs.items()
        if not sources[name].info
    ]


def mask_key(spec: Spec) -> str:
    """Return the key of the info that holds the action mask; empty if none does."""
    if MASK not in spec.obs:
        return ""
    source = spec.sources.get(MASK, LeafSource((MASK,), info=True))
    return str(source.path[0]) if source.info else ""


def observation_space(spec: Spec) -> Space[Any]:
    """Return the space of the observations of a spec, as its environment nests them."""
    return _space_tree({
        place.path: _observation_leaf(place) for place in observation_places(spec)
    })  # fmt: skip


def _observation_leaf(place: LeafPlace) -> Space[Any]:
    leaf, dtype = place.leaf, np.dtype(place.leaf.dtype)
    start = np.zeros(leaf.shape, np.int64)
    if place.start:
        start = np.reshape(np.array(place.start, np.int64), leaf.shape)
    if leaf.categories and not leaf.shape:
        return spaces.Discrete(leaf.categories, start=int(start))
    if leaf.categories:
        return spaces.MultiDiscrete(np.full(leaf.shape, leaf.categories), start=start)
    if dtype.kind == "b":
        return spaces.MultiBinary(leaf.shape)
    least, most = _range(dtype)
    low = least if leaf.low is None else leaf.low
    high = most if leaf.high is None else leaf.high
    return spaces.Box(low, high, leaf.shape, dtype.type)


def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind == "f":
        return -np.inf, np.inf
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def action_space(action: ActionSpec) -> Space[Any]:
    """Return the space of the actions of a spec, as its environment nests them."""
    if action.parts:
        firsts = [0, 0]  # of the choices and of the numbers
        leaves: dict[Path, Space[Any]] = {}
        for part in action.parts:
            first = firsts[part.numbers]
            firsts[part.numbers] += part.size
            leaves[part.path] = _action_leaf(action, part, slice(first, first + part.size))
        return _space_tree(leaves)
    if action.kind == "discrete":
        return spaces.Discrete(action.sizes[0], start=_starts(action)[0])
    if action.kind == "multidiscrete":
        shape = action.native_shape or (len(action.sizes),)
        sizes = np.reshape(action.sizes, shape)
        return spaces.MultiDiscrete(sizes, start=np.reshape(_starts(action), shape))
    low, high = _bounds(action, slice(None))
    return spaces.Box(low.reshape(action.shape), high.reshape(action.shape), dtype=np.float32)


def _action_leaf(action: ActionSpec, part: ActionPart, span: slice) -> Space[Any]:
    dtype = np.dtype(part.dtype)
    if part.numbers:
        low, high = (bound.reshape(part.shape) for bound in _bounds(action, span))
        if dtype.kind != "f":
            info = np.iinfo(dtype)
            low, high = np.maximum(low, info.min), np.minimum(high, info.max)
        return spaces.Box(low.astype(dtype), high.astype(dtype), part.shape, dtype.type)
    sizes, starts = action.sizes[span], _starts(action)[span]
    if not part.shape:
        return spaces.Discrete(sizes[0], start=starts[0])
    start = np.reshape(starts, part.shape)
    return spaces.MultiDiscrete(np.reshape(sizes, part.shape), dtype=dtype.type, start=start)


def _starts(action: ActionSpec) -> tuple[int, ...]:
    return action.start or (0,) * len(action.sizes)


def _bounds(action: ActionSpec, span: slice) -> tuple[Array, Array]:
    low, high = np.asarray(action.low[span]), np.asarray(action.high[span])
    low = np.where(low <= -UNBOUNDED, -np.inf, low).astype(np.float32)
    return low, np.where(high >= UNBOUNDED, np.inf, high).astype(np.float32)


def nested_observations(spec: Spec, obs: Mapping[str, Array]) -> Any:
    """Return leaves [T + 1, ...] as the environment nests them, categories from their start."""
    found: dict[Path, Array] = {}
    for place in observation_places(spec):
        rows = obs[place.name]
        if place.leaf.categories:
            start = np.reshape(np.array(place.start or 0, np.int64), place.leaf.shape or ())
            rows = rows.astype(np.int64) + start
        elif rows.dtype.kind == "b":
            rows = rows.astype(np.int8)
        found[place.path] = rows
    return _tree(found)


def observation_leaves(spec: Spec, nested: Any) -> dict[str, Array]:
    """Return the leaves [T + 1, ...] of nested observations; inverts ``nested_observations``."""
    return {
        place.name: _plain(_at(nested, place.path), place)
        for place in observation_places(spec)
    }  # fmt: skip


def _plain(rows: Any, place: LeafPlace) -> Array:
    array, leaf = np.asarray(rows), place.leaf
    array = array.reshape(len(array), *leaf.shape)
    if leaf.categories:
        array = array - np.reshape(np.array(place.start or 0, np.int64), leaf.shape or ())
        if array.size and not 0 <= array.min() <= array.max() < leaf.categories:
            return array  # the check of episodes names the step
    return array.astype(leaf.dtype)


def nested_actions(action: ActionSpec, rows: Array) -> Any:
    """Return actions [T, ...] as the environment takes them, with a leading axis of steps."""
    steps, split = len(rows), len(action.sizes)
    if action.kind == "box" and not action.parts:
        return rows
    flat = rows.reshape(steps, -1)
    choices = flat[:, :split].astype(np.int64) + np.array(_starts(action), np.int64)
    if not action.parts:
        return choices.reshape(steps, *action.native_shape)
    left = {False: choices, True: flat[:, split:]}
    found: dict[Path, Array] = {}
    for part in action.parts:
        taken, left[part.numbers] = np.split(left[part.numbers], [part.size], axis=1)
        dtype = np.dtype(part.dtype)
        taken = np.rint(taken) if part.numbers and dtype.kind != "f" else taken
        found[part.path] = taken.reshape(steps, *part.shape).astype(dtype)
    return _tree(found)


def action_rows(action: ActionSpec, nested: Any) -> Array:
    """Return actions [T, ...] of the spec's shape from nested ones; inverts ``nested_actions``."""
    paths = [(part.path, part.numbers) for part in action.parts] or [((), action.kind == "box")]
    leaves = [(np.asarray(_at(nested, path)), numbers) for path, numbers in paths]
    steps = len(leaves[0][0])
    choices = [leaf.reshape(steps, -1) for leaf, numbers in leaves if not numbers]
    numbers = [leaf.reshape(steps, -1) for leaf, numbers in leaves if numbers]
    if choices:
        joined = np.concatenate(choices, axis=1) - np.array(_starts(action), np.int64)
        choices = [joined]
    rows = np.concatenate([*choices, *numbers], axis=1).reshape(steps, *action.shape)
    if not action.low:
        return rows  # whole numbers; the check of episodes bounds them
    return rows.astype(np.float32)


def misfits(spec: Spec, observations: Space[Any], actions: Space[Any]) -> list[str]:
    """Return each difference between spaces of a data set and a run, as one phrase.

    Args:
        spec: The run's spaces.
        observations: The data set's space of observations.
        actions: The data set's space of actions.
    """
    found = []
    for place in observation_places(spec):
        wanted = _observation_leaf(place)
        given = _space_at(observations, place.path)
        if place.name != MASK and (difference := _difference(wanted, given)):
            found.append(f"observation leaf {place.name!r} is {difference}")
    wanted = action_space(spec.action)
    for path in [part.path for part in spec.action.parts] or [()]:
        name = ".".join(map(str, path))
        if difference := _difference(_space_at(wanted, path), _space_at(actions, path), True):
            found.append(f"action{f' leaf {name!r}' if name else ''} is {difference}")
    return found


def _difference(wanted: Any, given: Any, bounds: bool = False) -> str:
    if given is None:
        return f"missing, where the run has {wanted}"
    alike = _facts(wanted) == _facts(given)
    if alike and bounds and isinstance(wanted, spaces.Box):
        finite = np.isfinite(wanted.low) & np.isfinite(wanted.high)
        reach = BOUND_ERROR * np.where(finite, wanted.high - wanted.low, 1.0) + BOUND_ERROR
        pairs = ((wanted.low, given.low), (wanted.high, given.high))
        # Equal infinite bounds have no distance.
        alike = all(((one == other) | (np.abs(one - other) <= reach)).all() for one, other in pairs)
    return "" if alike else f"{given}, where the run has {wanted}"


def _facts(space: Space[Any]) -> tuple[object, ...]:
    """Return the properties of a leaf that must agree; the types of floats and integers may not."""
    if isinstance(space, spaces.Discrete):
        return "choices", (), (int(space.n),), (int(space.start),)
    if isinstance(space, spaces.MultiDiscrete):
        starts = np.broadcast_to(space.start, space.nvec.shape)
        most = (int(space.nvec.max()),)
        return "choices", space.nvec.shape, most, tuple(starts.reshape(-1).tolist())
    if isinstance(space, spaces.MultiBinary):
        return "choices", space.shape, (2,), (0,) * int(np.prod(space.shape))
    if isinstance(space, spaces.Box):
        kind = np.dtype(space.dtype).kind
        return "numbers" if kind == "f" else kind, space.shape
    return (type(space).__name__,)


def _space_at(space: Space[Any], path: Path) -> Space[Any] | None:
    inner: Any = space
    for key in path:
        try:
            inner = inner.spaces[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            return None
    return inner if not isinstance(inner, spaces.Dict | spaces.Tuple) else None


def _space_tree(leaves: Mapping[Path, Space[Any]]) -> Space[Any]:
    tree: Any = _tree(leaves)
    return _as_space(tree)


def _as_space(tree: Any) -> Space[Any]:
    if isinstance(tree, dict):
        return spaces.Dict({key: _as_space(inner) for key, inner in tree.items()})
    if isinstance(tree, tuple):
        return spaces.Tuple([_as_space(inner) for inner in tree])
    space: Space[Any] = tree
    return space


def _tree(leaves: Mapping[Path, Any]) -> Any:
    """Nest values by their paths; keys that are integers make tuples."""
    if () in leaves:
        return leaves[()]
    groups: dict[str | int, dict[Path, Any]] = {}
    for path, value in leaves.items():
        groups.setdefault(path[0], {})[path[1:]] = value
    inner = {key: _tree(group) for key, group in groups.items()}
    if all(isinstance(key, int) for key in inner):
        return tuple(inner.values())
    return inner


def _at(nested: Any, path: Path) -> Any:
    for index, key in enumerate(path):
        try:
            nested = nested[key]
        except (KeyError, IndexError, TypeError):
            name = ".".join(map(str, path[: index + 1]))
            raise DatasetError(f"leaf {name!r} is missing") from None
    return nested


def leaf_arrays(nested: Any, path: Path = ()) -> Iterator[tuple[Path, Array]]:
    """Yield the numbers of nested mappings and tuples of arrays, with their paths."""
    if isinstance(nested, Mapping):
        for key, inner in nested.items():
            yield from leaf_arrays(inner, (*path, key))
    elif isinstance(nested, tuple):
        for index, inner in enumerate(nested):
            yield from leaf_arrays(inner, (*path, index))
    else:
        array = np.asarray(nested)
        if array.dtype.kind in "fiub":
            yield path, array
