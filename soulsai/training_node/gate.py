"""What may be published or saved as good: weights of the program's shapes, all of them finite."""

import numpy as np
from msgspec import Struct

from soulsai.algorithms.base import Policy
from soulsai.errors import SoulsAIError
from soulsai.training_node import onnx_export
from soulsai.types import Array, Program

PATIENCE = 3  # refusals in a row, after which learning goes back to the last good version


class Judged(Struct, frozen=True, eq=False):
    """The policy's weights as they are now, and what is wrong with them, if anything is."""

    arrays: dict[str, Array]
    fault: str


class Gate:
    """Lets sound weights through, counts the others, and says when to give them up."""

    def __init__(self, policy: Policy, program: Program) -> None:
        self.fault = ""  # of the weights that were judged last
        self.refused = 0  # in a row
        self._policy = policy
        self._program = program

    def __repr__(self) -> str:
        return f"<Gate [{self.fault or 'open'}, {self.refused} refused]>"

    def judge(self) -> Judged:
        """Return the weights as they are now, and whether they are sound."""
        arrays: dict[str, Array] = {}
        try:
            arrays = onnx_export.weights(self._policy, self._program)
            self.fault = fault(arrays, self._program) or self._policy.fault
        except SoulsAIError as error:
            self.fault = str(error)
        return Judged(arrays, self.fault)

    def count(self) -> None:
        """Count what was judged last: either it was published, or it was refused."""
        self.refused = self.refused + 1 if self.fault else 0

    @property
    def hopeless(self) -> bool:
        """Whether weights or updates have been unsound for so long that they will not mend."""
        return self.refused >= PATIENCE or bool(self._policy.fault)


def fault(arrays: dict[str, Array], program: Program) -> str:
    """Say what is wrong with weights, or nothing."""
    if set(arrays) != set(program.weights):
        return "the weights are not those of the program"
    for name, leaf in program.weights.items():
        array = arrays[name]
        if array.shape != leaf.shape or array.dtype != np.dtype(leaf.dtype):
            return f"weight {name!r} is {array.dtype} {array.shape}, not {leaf.dtype} {leaf.shape}"
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"weight {name!r} is not finite"
    return ""
