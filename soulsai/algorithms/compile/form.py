"""Compiled updates: functions of tensors, traced and compiled ahead of time to machine code.

A package is made in another process (``python -m soulsai.algorithms.compile.job``), so that tracing
and the C++ compiler do not delay learning, and is loaded between two updates.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from soulsai.algorithms.base import Tensors
from soulsai.algorithms.compile.flat import views
from soulsai.errors import SoulsAIError

OPTIONS = {
    # A precompiled header of 150 MB takes longer than it saves, and stays in the temporary folder.
    "aot_inductor.precompile_headers": False,
    # The processor lists its vector instructions; to test each takes a third of the whole time.
    "cpp.vec_isa_ok": True,
}
RELATIVE, ABSOLUTE = 1e-3, 1e-4  # error of float32 after one update

Function = Callable[..., Sequence[Tensor]]
Package = Callable[..., Sequence[Tensor]]


class NotCompilable(SoulsAIError):
    """An algorithm has no compiled form with these settings, for the reason in the message."""


class Form(NamedTuple):
    """A function of tensors that may change them in place, and example tensors."""

    function: Function
    examples: tuple[Tensor, ...]


@runtime_checkable
class Compilable(Protocol):
    """An algorithm that can run compiled updates."""

    @property
    def hidden_product(self) -> tuple[int, int]:
        """The rows of a batch, and the width of the widest hidden layer."""
        ...

    def forms(self) -> dict[str, Form]:
        """Return the forms to compile by name, or raise ``NotCompilable``."""
        ...

    def adopt(self, packages: Mapping[str, Package]) -> None:
        """Run these packages of ``forms`` from now on."""
        ...


def compile_form(form: Form, path: Path) -> None:
    """Write a package to ``path``; raise ``NotCompilable`` if its results differ."""
    from torch.fx.experimental.proxy_tensor import make_fx  # what only the compiler needs

    graph = make_fx(form.function)(*_copies(form.examples))
    program = torch.export.export(graph, _copies(form.examples))
    torch._inductor.aoti_compile_and_package(
        program, package_path=str(path), inductor_configs=OPTIONS
    )
    compare(form, load(path))


def load(path: Path) -> Package:
    """Return a package as a function, which changes the same tensors as the form's function.

    The result of ``torch._inductor.aoti_load_package`` searches for a C++ compiler for seconds, and
    parses the nesting of its arguments in every call; this one does neither.
    """
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
    return lambda *tensors: loader.boxed_run(list(tensors))


def compare(form: Form, package: Package) -> None:
    """Raise ``NotCompilable`` unless results and changes are equal within the error of float32."""
    ours, theirs = _copies(form.examples), _copies(form.examples)
    answers = [(*form.function(*ours), *ours), (*package(*theirs), *theirs)]
    for place, (a, b) in enumerate(zip(*answers, strict=True)):
        if not torch.allclose(a.double(), b.double(), rtol=RELATIVE, atol=ABSOLUTE):
            off = float((a.double() - b.double()).abs().max())
            raise NotCompilable(f"compiled, result {place} is off by {off:.2g}")


class Functional:
    """A method of a module as a function of its parameters, given as one vector."""

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
    """A module with the method as its forward pass, for ``functional_call``."""

    def __init__(self, module: nn.Module, method: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, *inputs: Any) -> Any:
        return self.method(self.module, *inputs)


def examples(columns: Tensors, batch: int) -> Tensors:
    """Return example rows: ``columns`` [0, ...] extended to ``batch`` rows."""
    rng = torch.Generator().manual_seed(0)
    rows = {}
    for name, column in columns.items():
        shape = (batch, *column.shape[1:])
        if column.dtype.is_floating_point:
            drawn = torch.rand(shape, generator=rng)
            rows[name] = drawn.to(column)
        else:
            rows[name] = torch.ones(shape).to(column) * (column.dtype == torch.bool)
    return rows


def _copies(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().clone() for tensor in tensors)
