"""Publication of the weights: their check, the schedule, and the grants to clients."""

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from soulsai.algorithms.base import Policy
from soulsai.algorithms.pace import divide
from soulsai.errors import SoulsAIError
from soulsai.training_node import onnx_export
from soulsai.training_node.start import TrainingRun
from soulsai.types import (
    CARD_FORMAT,
    STAGE,
    Array,
    Delta,
    PolicyCard,
    Program,
    Weights,
    WeightsDtype,
)
from soulsai.wire.delta import encode_delta
from soulsai.wire.weights import as_received, weights_bytes

RETRY_SECONDS = 1.0  # after a version could not be published
UNKNOWN_CLIENTS = 8  # expected before the first is heard of, if the run starts none itself
WHOLE_EVERY = 16  # versions, of which the others are deltas if there are many clients
WORTH_IT = 0.7  # of the bytes of a whole version, from which on a delta is not sent
PLANNED = 0.95  # of the bound; the rest is for clients that are new or have missed a version
PATIENCE = 3  # unsound versions in a row, after which learning returns to the last checkpoint

log = logging.getLogger(__name__)

Arrays = dict[str, Array]


class WeightsCheck:
    """Checks the policy's weights before they are published or saved."""

    def __init__(self, policy: Policy, program: Program) -> None:
        self.fault = ""  # of the weights that were checked last
        self.refused = 0  # versions in a row
        self._policy = policy
        self._program = program

    def weights(self) -> Arrays:
        """Return the present weights, and set ``fault``."""
        arrays: Arrays = {}
        try:
            arrays = onnx_export.weights(self._policy, self._program)
            self.fault = find_fault(arrays, self._program) or self._policy.fault
        except SoulsAIError as error:
            self.fault = str(error)
        return arrays

    @property
    def hopeless(self) -> bool:
        """Whether weights or updates have been unsound for too long to recover."""
        return self.refused >= PATIENCE or bool(self._policy.fault)


def find_fault(arrays: Arrays, program: Program) -> str:
    """Return the first fault of weights, or an empty text.

    Sound weights have the names, shapes and dtypes of the program, and are finite.
    """
    if set(arrays) != set(program.weights):
        return "the weights are not those of the program"
    for name, leaf in program.weights.items():
        array = arrays[name]
        if array.shape != leaf.shape or array.dtype != np.dtype(leaf.dtype):
            return f"weight {name!r} is {array.dtype} {array.shape}, not {leaf.dtype} {leaf.shape}"
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"weight {name!r} is not finite"
    return ""


class PublishedVersion(NamedTuple):
    """A version as it was published."""

    arrays: Arrays
    exploration: dict[str, float]
    env_steps: int
    dtype: WeightsDtype = "float32"  # of the weights on the wire


class Publisher:
    """Numbers and publishes versions, and keeps the latest ones in a bounded amount of memory.

    A number is used once only, because an attempt that seems to have failed may have succeeded.
    """

    def __init__(self, run: TrainingRun, send: Callable[[Weights], bool]) -> None:
        """``send`` publishes a version, and returns whether that worked."""
        self._policy = run.algorithm.policy
        self._program = run.program
        self._spec = run.spec
        self._progress = run.progress
        training = run.config.training
        self._seconds = training.publish_seconds
        self._dtype = training.weights_dtype
        self._bytes_per_second = PLANNED * training.weights_mbps * 1e6 / 8 or math.inf
        self._whole_bytes = weights_bytes(run.program, self._dtype)
        self._bytes = self._whole_bytes  # that a client downloads of the newest version
        self._deltas = training.weights_deltas
        self._base: tuple[int, Arrays] | None = None  # the last version that was sent whole
        self._clients = 1
        self._kept_bytes = training.kept_weights_mb * 2**20
        self._send = send
        self.check = WeightsCheck(self._policy, self._program)
        self.unpublished = True  # the weights differ from the newest version
        self.tried = -float("inf")  # the time of the last attempt
        self._failed = False
        # Before the first client is heard of, the quota is divided among this number.
        self._expected = run.config.run.clients or UNKNOWN_CLIENTS
        self._kept: OrderedDict[tuple[int, int], PublishedVersion] = OrderedDict()
        self.granted: int | None = None  # to each client, with the newest version
        self._granted_at = 0  # env steps admitted then
        self._counted = 0  # clients among which the quota was divided
        self._is_crowded = False  # more clients have come since
        self._stage = 0  # of the schedule, with the newest version

    def __repr__(self) -> str:
        progress = self._progress
        return f"<Publisher [{progress.generation}-{progress.version}, {len(self._kept)} kept]>"

    def due(self, now: float, *, starving: bool, stuck: bool) -> bool:
        """Return whether to publish now.

        Args:
            now: The time on our clock.
            starving: The learner can do nothing until more experience comes.
            stuck: Clients have spent their grants, and wait for the others or for this version.
        """
        since = now - self.tried
        if since < self.least_seconds:
            return False
        if self._failed:
            return since >= RETRY_SECONDS
        if self._is_crowded:
            return True
        if self.stage != self._stage and self._policy.quota != 0:
            return True
        if not self.unpublished:
            return stuck and self.only_grants and since >= self._seconds
        if self._policy.quota == 0:  # a version would only take back the grants
            return False
        if self._policy.eager or since >= self._seconds:
            return True
        return starving and self._policy.quota is not None and self._is_scarce

    @property
    def only_grants(self) -> bool:
        """Whether the next version would grant env steps, and change nothing else."""
        begins = self.stage != self._stage
        return not self.unpublished and not begins and bool(self._policy.quota)

    @property
    def stage(self) -> int:
        """The number of stages of the environment's schedule that have begun."""
        return self._spec.environment.begun(self._progress.env_steps)

    @property
    def least_seconds(self) -> float:
        """The shortest time between two versions, in which all clients can download one."""
        return self._bytes * self._clients / self._bytes_per_second

    def count(self, sharing: int, receiving: int) -> None:
        """Plan a version with smaller grants if more clients share them than were counted.

        Args:
            sharing: The number of clients among which a grant is divided.
            receiving: The number of clients that download each version.
        """
        self._clients = max(1, receiving)
        self._is_crowded = bool(self.granted) and sharing > self._counted

    def publish(self, now: float, taken: Sequence[int]) -> bool:
        """Publish the present weights, if they are sound; return whether that worked.

        Args:
            now: The time on our clock.
            taken: The env steps of each client since the version before.
        """
        taken = taken or [0] * self._expected
        progress = self._progress
        self.tried = now
        arrays = self.check.weights()
        if self.check.fault:
            log.warning("version withheld fault=%r", self.check.fault)
            self.check.refused += 1
            progress.withheld += 1
            self._failed = True
            return False
        self.check.refused = 0
        progress.version += 1
        arrays, dtype, delta = self._to_send(arrays)
        exploration = self._exploration()
        self._keep(arrays, exploration, dtype)
        quota = divide(self._policy.quota, taken, self.granted)
        weights = Weights(
            run=self._spec.run,
            generation=progress.generation,
            version=progress.version,
            arrays=arrays,
            quota=quota,
            exploration=exploration,
            dtype=dtype,
            delta=delta,
        )
        self._failed = not self._send(weights)
        self._bytes = self._whole_bytes
        if self._failed:
            self._base = None  # the server may lack it
        elif delta is None:
            self._base = progress.version, arrays
        else:
            self._bytes = len(delta.data)
        self.unpublished = self._failed
        if not self._failed:
            self._policy.newest = progress.generation, progress.version
        self.granted, self._granted_at = quota, progress.env_steps
        self._counted, self._is_crowded = len(taken), False
        return not self._failed

    def _exploration(self) -> dict[str, float]:
        """Return the values to publish, with the stage of the schedule if there is one."""
        values = dict(self._policy.exploration)
        if self._spec.environment.schedule:
            values[STAGE] = float(self.stage)
        if self.stage != self._stage:
            self._stage = self.stage
            log.info("schedule stage=%d env_steps=%d", self._stage, self._progress.env_steps)
        return values

    def _to_send(self, arrays: Arrays) -> tuple[Arrays, WeightsDtype, Delta | None]:
        """Return arrays as clients will have them, the dtype of a whole version, and a delta.

        A delta is sent where whole versions would have to be rarer than they should be.
        """
        many = self._whole_bytes * self._clients > self._seconds * self._bytes_per_second
        if self._deltas and many and self._base is not None:
            number, base = self._base
            if self._progress.version - number < WHOLE_EVERY:
                encoded = encode_delta(base, arrays, self._program)
                if encoded is not None and len(encoded[0]) < WORTH_IT * self._whole_bytes:
                    return encoded[1], "float32", Delta(number, encoded[0])
        received, dtype = as_received(arrays, self._program, self._dtype)
        return received, dtype, None

    def hurry(self) -> None:
        """Repeat a failed attempt at once: the server may have room now."""
        if self._failed:
            self.tried = -float("inf")

    def restart(self) -> None:
        """Continue with weights of a checkpoint; forget the grants."""
        self.check.refused, self._failed, self.unpublished = 0, False, True
        self._base = None
        self.granted, self._granted_at = None, self._progress.env_steps

    def file(self) -> bytes:
        """Return the present policy as a complete ``policy.onnx``."""
        progress = self._progress
        arrays = onnx_export.weights(self._policy, self._program)
        return self._file(arrays, progress.generation, progress.version, progress.env_steps)

    def kept_file(self, generation: int, version: int) -> bytes | None:
        """Return one published version as a complete ``policy.onnx``, if it is still kept."""
        kept = self._kept.get((generation, version))
        if kept is None:
            return None
        return self._file(kept.arrays, generation, version, kept.env_steps)

    def kept_weights(self, generation: int, version: int) -> Weights | None:
        """Return one published version as it is sent to clients, if it is still kept."""
        kept = self._kept.get((generation, version))
        if kept is None:
            return None
        return Weights(
            run=self._spec.run, generation=generation, version=version, arrays=kept.arrays,
            dtype=kept.dtype,
        )  # fmt: skip

    def kept(self, generation: int, version: int) -> PublishedVersion | None:
        """Return a published version, if it is still kept."""
        return self._kept.get((generation, version))

    @property
    def _is_scarce(self) -> bool:
        """Whether some client may soon have spent its grant."""
        used = self._progress.env_steps - self._granted_at
        return self.granted is None or 2 * used >= self.granted

    def _keep(self, arrays: Arrays, exploration: dict[str, float], dtype: WeightsDtype) -> None:
        progress = self._progress
        self._kept[progress.generation, progress.version] = PublishedVersion(
            arrays, exploration, progress.env_steps, dtype
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
            format=CARD_FORMAT,
        )
        return onnx_export.complete(program, arrays, card)
