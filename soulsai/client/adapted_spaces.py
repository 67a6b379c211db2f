"""The spaces of an environment as named leaves and choices, and the reading of what it returns."""

import logging
from typing import Any

import msgspec
import numpy as np
from gymnasium import Space

from soulsai.client.action_spaces import NativeActions
from soulsai.client.creation import kind_of
from soulsai.client.spaces import Reader, Rows, holds_mask, read_mask, read_space
from soulsai.errors import EnvironmentFault
from soulsai.types import MASK, Leaf, LeafSource, Spec

log = logging.getLogger(__name__)


class AdaptedSpaces:
    """Reads observations and action masks of one environment, or of several in one batch.

    Every fault is raised as an ``EnvironmentFault`` that names the environment.

    Args:
        name: The environment, for messages.
        observation: The observation space of one environment.
        action: The action space of one environment.
        mask_key: The name of the action mask, in the info or in the observation.
        masked: Whether the info holds a mask.
        batch: The axes before those of the spaces: () for one environment, (E,) for a batch.

    Raises:
        EnvironmentFault: A space is not supported.
    """

    def __init__(
        self,
        name: str,
        observation: Space[Any],
        action: Space[Any],
        *,
        mask_key: str,
        masked: bool,
        batch: tuple[int, ...] = (),
    ) -> None:
        self._name = name
        self._mask_key = mask_key
        try:
            self.native = NativeActions(action)
            sizes = self.native.spec.sizes
            self.mask_in_obs = holds_mask(observation, mask_key, sum(sizes))
            readers, self.left_out = read_space(observation, mask_key if self.mask_in_obs else "")
        except EnvironmentFault as error:
            raise EnvironmentFault(f"{name}: {error}") from None
        for leaf, reason in self.left_out.items():
            log.warning("env=%s leaf=%s: left out, as %s", name, leaf, reason)
        self.masked = masked = masked or self.mask_in_obs
        self._first_choices = np.cumsum((0, *sizes[:-1]))
        leaves = {name: reader.leaf for name, reader in readers.items()}
        sources = {name: reader.source for name, reader in readers.items()}
        if masked:
            leaves[MASK] = Leaf((sum(sizes),), "|b1")
            sources[MASK] = LeafSource((mask_key,), info=not self.mask_in_obs)
        self.spec = Spec(leaves, self.native.spec, sources)
        self._single = tuple(readers.values())
        self._readers = tuple(_batched(reader, batch) for reader in self._single)
        self._outside: set[str] = set()  # leaves with a category that does not exist, warned of
        self._bounded = tuple(reader for reader in self._single if _bounded(reader))

    def read(self, obs: Any, info: Any, rows: Rows) -> None:
        """Copy observations and masks into rows.

        Args:
            obs: As the environment returns it.
            info: As the environment returns it.
            rows: The rows [*batch, ...] to write.
        """
        if not isinstance(info, dict):
            raise EnvironmentFault(
                f"{self._name}: the info is {kind_of(info)} instead of a dict; "
                "return {} if there is nothing to say"
            )
        self._read(self._readers, obs, info, rows)

    def read_one(self, obs: Any, info: dict[str, Any], rows: Rows) -> None:
        """Copy the observation and the mask of one environment of the batch into its rows."""
        self._read(self._single, obs, info, rows)

    def check_mask(self, rows: Rows, where: str, playing: Any = True) -> None:
        """Refuse masks without any valid action.

        Args:
            rows: The rows [*batch, ...].
            where: The method that gave the masks.
            playing: Whether the episode goes on [*batch].
        """
        if not self.masked:
            return
        mask = rows[MASK]
        if len(self._first_choices) == 1:
            valid = mask.any(-1)
        else:
            valid = np.logical_or.reduceat(mask, self._first_choices, -1).all(-1)
        if (playing & ~valid).any():
            raise EnvironmentFault(
                f"{self._name}: {self._mask_key!r} allows no action after {where}, and the episode "
                "goes on; allow one, or end the episode"
            )

    def check_bounds(self, rows: Rows) -> None:
        """Warn, once per leaf, of values in rows [N, ...] outside the bounds of the space."""
        for reader in self._bounded:
            if wrong := reader.outside(rows[reader.name]):
                log.warning("env=%s leaf=%s: %s; said once", self._name, reader.name, wrong)
                self._bounded = tuple(other for other in self._bounded if other is not reader)

    def _read(
        self, readers: tuple[Reader, ...], obs: Any, info: dict[str, Any], rows: Rows
    ) -> None:
        for reader in readers:
            try:
                wrong = reader.read(obs, rows[reader.name])
            except ValueError as error:
                raise EnvironmentFault(
                    f"{self._name}: observation leaf {reader.name!r} {error}"
                ) from None
            if wrong and reader.name not in self._outside:
                self._outside.add(reader.name)
                log.warning("env=%s leaf=%s: %s; said once", self._name, reader.name, wrong)
        if not self.masked:
            if self._mask_key in info:
                raise EnvironmentFault(
                    f"{self._name}: info[{self._mask_key!r}] holds an action mask, and the spec "
                    "has none; give a mask from the first reset on"
                )
            return
        place = "the observation" if self.mask_in_obs else "info"
        try:
            mask = (obs if self.mask_in_obs else info)[self._mask_key]
        except (KeyError, IndexError, TypeError):
            raise EnvironmentFault(
                f"{self._name}: {self._mask_key!r} is missing in {place}; give the action mask "
                "with each reset and each step"
            ) from None
        try:
            read_mask(mask, self.spec.action, rows[MASK])
        except ValueError as error:
            raise EnvironmentFault(f"{self._name}: {self._mask_key!r} in {place} {error}") from None


def _batched(reader: Reader, batch: tuple[int, ...]) -> Reader:
    """Return a reader of a batch of observations."""
    if not batch:
        return reader
    leaf = msgspec.structs.replace(reader.leaf, shape=(*batch, *reader.leaf.shape))
    return msgspec.structs.replace(reader, leaf=leaf)


def _bounded(reader: Reader) -> bool:
    """Return whether a value can be outside the declared bounds."""
    kind = np.dtype(reader.leaf.dtype).kind
    if reader.leaf.categories or kind == "b":
        return False
    if kind == "f":
        return bool(np.isfinite(reader.low).any() or np.isfinite(reader.high).any())
    info = np.iinfo(reader.leaf.dtype)
    return bool((reader.low > info.min).any() or (reader.high < info.max).any())
