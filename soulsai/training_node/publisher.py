"""When a version of the weights goes out, what it grants, and which versions can still be saved."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from soulsai.algorithms.base import Policy
from soulsai.algorithms.pace import divide
from soulsai.config.schema import TrainingSettings
from soulsai.training_node import onnx_export
from soulsai.training_node.gate import Gate
from soulsai.training_node.saving.snapshot import Progress
from soulsai.types import Array, PolicyCard, Program, RunSpec, Weights

RETRY_SECONDS = 1.0  # after a version could not be published
STRANGERS = 8  # are thought to be there before any is heard of, if the run starts none itself

log = logging.getLogger(__name__)

Arrays = dict[str, Array]


class Kept(NamedTuple):
    """A version as it was published."""

    arrays: Arrays
    exploration: dict[str, float]
    env_steps: int


class Publisher:
    """Numbers and publishes versions, and keeps the latest ones within a bound of memory.

    ``send`` publishes and returns whether that worked. A number is used once only, because a try
    that seems to have failed may have worked. Before anybody was heard of, what is granted is for
    the ``clients`` that the run starts itself; if it starts none, for some strangers.
    """

    def __init__(
        self,
        policy: Policy,
        program: Program,
        spec: RunSpec,
        progress: Progress,
        config: TrainingSettings,
        send: Callable[[Weights], bool],
        clients: int,
    ) -> None:
        self.gate = Gate(policy, program)
        self.unpublished = True
        self.tried = -float("inf")  # when a version was published last, or was to be
        self._failed = False
        self._policy = policy
        self._program = program
        self._spec = spec
        self._progress = progress
        self._seconds = config.publish_seconds
        self._kept_bytes = config.kept_weights_mb * 2**20
        self._send = send
        self._expected = clients or STRANGERS
        self._kept: OrderedDict[tuple[int, int], Kept] = OrderedDict()
        self._granted: int | None = None  # to each client, with the newest version
        self._granted_at = 0  # env steps admitted then
        self._counted = 0  # clients it was divided among
        self._is_crowded = False  # more have come since

    def __repr__(self) -> str:
        progress = self._progress
        return f"<Publisher [{progress.generation}-{progress.version}, {len(self._kept)} kept]>"

    def due(self, now: float, *, starving: bool, stuck: bool) -> bool:
        """Return whether to publish now.

        Args:
            now: The time on our clock.
            starving: The learner can do nothing until more experience comes.
            stuck: And none will come, because all clients have spent what they were granted.
        """
        since = now - self.tried
        if self._failed:
            return since >= RETRY_SECONDS
        if self._is_crowded:
            return True
        if not self.unpublished:
            return stuck and bool(self._policy.quota) and since >= self._seconds
        if self._policy.quota == 0:  # it would only take back what was granted
            return False
        if self._policy.eager or since >= self._seconds:
            return True
        return starving and self._policy.quota is not None and self._is_scarce

    def count(self, clients: int) -> None:
        """Take back some of what each was granted if there are more clients than were counted."""
        self._is_crowded = bool(self._granted) and clients > self._counted

    def publish(self, now: float, taken: Sequence[int]) -> bool:
        """Publish the policy as it is now, if it is sound; return whether that worked.

        ``taken`` are the env steps of each client since the version before.
        """
        taken = taken or [0] * self._expected
        progress = self._progress
        self.tried = now
        judged = self.gate.judge()
        self.gate.count()
        if judged.fault:
            log.warning("version withheld fault=%r", judged.fault)
            progress.withheld += 1
            self._failed = True
            return False
        arrays = judged.arrays
        progress.version += 1
        self._keep(arrays)
        quota = divide(self._policy.quota, taken, self._granted)
        weights = Weights(
            run=self._spec.run,
            generation=progress.generation,
            version=progress.version,
            arrays=arrays,
            quota=quota,
            exploration=dict(self._policy.exploration),
        )
        self._failed = not self._send(weights)
        self.unpublished = self._failed
        if not self._failed:
            self._policy.newest = progress.generation, progress.version
        self._granted, self._granted_at = quota, progress.env_steps
        self._counted, self._is_crowded = len(taken), False
        return not self._failed

    def hurry(self) -> None:
        """Try again now what could not be published: there may be room."""
        if self._failed:
            self.tried = -float("inf")

    def restart(self) -> None:
        """Go on with weights that were changed from outside; what was granted is forgotten."""
        self.gate.refused, self._failed, self.unpublished = 0, False, True
        self._granted, self._granted_at = None, self._progress.env_steps

    def file(self) -> bytes:
        """Return the policy as it is now, as a whole ``policy.onnx``."""
        progress = self._progress
        arrays = onnx_export.weights(self._policy, self._program)
        return self._file(arrays, progress.generation, progress.version, progress.env_steps)

    def kept_file(self, generation: int, version: int) -> bytes | None:
        """Return one published version as a ``policy.onnx``, if its weights are still kept."""
        kept = self._kept.get((generation, version))
        if kept is None:
            return None
        return self._file(kept.arrays, generation, version, kept.env_steps)

    def kept(self, generation: int, version: int) -> "Kept | None":
        """Return what was published under a number, if it is still kept."""
        return self._kept.get((generation, version))

    @property
    def _is_scarce(self) -> bool:
        """Whether some client may soon have spent its grant."""
        used = self._progress.env_steps - self._granted_at
        return self._granted is None or 2 * used >= self._granted

    def _keep(self, arrays: Arrays) -> None:
        progress = self._progress
        exploration = dict(self._policy.exploration)
        self._kept[progress.generation, progress.version] = Kept(
            arrays, exploration, progress.env_steps
        )
        size = max(1, sum(array.nbytes for array in arrays.values()))
        while len(self._kept) > 1 and len(self._kept) * size > self._kept_bytes:
            self._kept.popitem(last=False)

    def _file(self, arrays: Arrays, generation: int, version: int, env_steps: int) -> bytes:
        spec, program = self._spec, self._program
        card = PolicyCard(
            run=spec.run,
            generation=generation,
            version=version,
            env_steps=env_steps,
            algorithm=spec.algorithm,
            environment=spec.environment,
            spec=spec.spec,
            head=program.head,
            inputs=program.inputs,
            outputs=program.outputs,
            memory=program.memory,
        )
        return onnx_export.complete(program, arrays, card)
