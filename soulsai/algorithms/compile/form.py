"""Updates as machine code: the functions that run eagerly, traced and compiled ahead of time.

A package is made in a process of its own (``python -m soulsai.algorithms.compile.job``), so neither
tracing nor the C++ compiler is in the way of learning, and is then loaded between two updates.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from soulsai.algorithms.base import Tensors
from soulsai.algorithms.compile.flat import views
from soulsai.errors import SoulsAIError

OPTIONS = {
    # a header of 150 MB takes longer to prepare than it saves, and stays in the system's folder
    "aot_inductor.precompile_headers": False,
    # the processor says which vectors it has; to try each takes a third of the whole time
    "cpp.vec_isa_ok": True,
}
RELATIVE, ABSOLUTE = 1e-3, 1e-4  # error of float32 after one update

Function = Callable[..., Sequence[Tensor]]
Package = Callable[..., Sequence[Tensor]]


class NotCompilable(SoulsAIError):
    """An algorithm with these settings has no compiled form; the message says why."""


class Form(NamedTuple):
    """A function of tensors, some of which it changes, and examples of them."""

    function: Function
    examples: tuple[Tensor, ...]


@runtime_checkable
class Compilable(Protocol):
    """An algorithm whose updates can run compiled."""

    def forms(self) -> dict[str, Form]:
        """Return what is to be compiled, by name; raise ``NotCompilable`` if nothing can be."""
        ...

    def adopt(self, packages: Mapping[str, Package]) -> None:
        """Update by these from now on."""
        ...


def compile_form(form: Form, path: Path) -> None:
    """Write a package to ``path``; raise ``NotCompilable`` if it computes something else."""
    graph = make_fx(form.function)(*_copies(form.examples))
    program = torch.export.export(graph, _copies(form.examples))
    torch._inductor.aoti_compile_and_package(
        program, package_path=str(path), inductor_configs=OPTIONS
    )
    compare(form, load(path))


def load(path: Path) -> Package:
    """Return a package as a function; it changes the tensors that the form's function changes.

    What ``torch._inductor.aoti_load_package`` returns looks for a C++ compiler first, for seconds,
    and reads anew in every call how its arguments nest; ours do not.
    """
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
    return lambda *tensors: loader.boxed_run(list(tensors))


def compare(form: Form, package: Package) -> None:
    """Raise ``NotCompilable`` unless both compute and change the same, within float32's error."""
    ours, theirs = _copies(form.examples), _copies(form.examples)
    answers = [(*form.function(*ours), *ours), (*package(*theirs), *theirs)]
    for place, (a, b) in enumerate(zip(*answers, strict=True)):
        if not torch.allclose(a.double(), b.double(), rtol=RELATIVE, atol=ABSOLUTE):
            off = float((a.double() - b.double()).abs().max())
            raise NotCompilable(f"compiled, result {place} is off by {off:.2g}")


class Functional:
    """A module's method as a function of its parameters, which come as one vector."""

    def __init__(self, module: nn.Module, method: Callable[..., Any]) -> None:
        self._shell = _Shell(module, method)
        self._names = [name for name, _ in self._shell.named_parameters()]
        self._module = module
        self.buffers = tuple(buffer for _, buffer in module.named_buffers())
        self._buffer_names = [name for name, _ in self._shell.named_buffers()]

    def at(self, flat: Tensor, buffers: Sequence[Tensor]) -> Callable[..., Any]:
        """Return the method with these parameters and buffers."""
        values: Tensors = dict(zip(self._names, views(flat, self._module), strict=True))
        values |= dict(zip(self._buffer_names, buffers, strict=True))
        return lambda *inputs: torch.func.functional_call(self._shell, values, inputs)


class _Shell(nn.Module):
    """What ``functional_call`` needs: the method as a forward pass."""

    def __init__(self, module: nn.Module, method: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, *inputs: Any) -> Any:
        return self.method(self.module, *inputs)


def examples(columns: Tensors, batch: int) -> Tensors:
    """Return rows to try an update with, like ``columns`` [0, ...] in all but their number."""
    luck = torch.Generator().manual_seed(0)
    rows = {}
    for name, column in columns.items():
        shape = (batch, *column.shape[1:])
        if column.dtype.is_floating_point:
            drawn = torch.rand(shape, generator=luck)
            rows[name] = drawn.to(column)
        else:
            rows[name] = torch.ones(shape).to(column) * (column.dtype == torch.bool)
    return rows


def _copies(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().clone() for tensor in tensors)
