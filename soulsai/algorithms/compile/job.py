"""``python -m soulsai.algorithms.compile.job FOLDER``: compiles the packages for one run.

The folder holds ``job.json``; the packages are written beside it, and last ``made.json``.
"""

import os
import sys
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from msgspec import Struct

from soulsai import process
from soulsai.algorithms.build import build
from soulsai.algorithms.compile.dense import Format, fastest_format, traced_products
from soulsai.algorithms.compile.form import (
    Compilable,
    NotCompilable,
    Package,
    compare,
    compile_form,
    load,
)
from soulsai.algorithms.settings import DemonstrationSettings
from soulsai.errors import SoulsAIError
from soulsai.types import Spec

JOB, LOG, MADE, SUFFIX = "job.json", "log", "made.json", ".pt2"
NICE = 10  # learning and clients come first


class Job(Struct, frozen=True):
    """An algorithm to compile, with its settings."""

    algorithm: str
    settings: dict[str, Any]
    spec: Spec
    device: str = "cpu"
    threads: int = 1
    matmul: Literal["auto", "float32", "bfloat16"] = "float32"
    demonstrations: bool = False  # whether batches may hold any


class CompiledPackages(Struct, frozen=True):
    """The properties of the packages that were made."""

    matmul: Format  # of the products of hidden layers


def run(folder: Path) -> None:
    """Compile all forms of the algorithm that ``job.json`` describes."""
    job = msgspec.json.decode((folder / JOB).read_bytes(), type=Job)
    torch.set_num_threads(job.threads)
    shown = DemonstrationSettings(interventions=job.demonstrations)
    algorithm = build(
        job.algorithm, job.settings, job.spec, seed=0, device=job.device, demonstrations=shown
    )
    if not isinstance(algorithm, Compilable):
        raise NotCompilable(f"{job.algorithm} has no compiled form")
    matmul = fastest_format(*algorithm.hidden_product) if job.matmul == "auto" else job.matmul
    with traced_products(matmul):
        for name, form in algorithm.forms().items():
            compile_form(form, folder / f"{name}{SUFFIX}")
    (folder / MADE).write_bytes(msgspec.json.encode(CompiledPackages(matmul)))


def made_in(folder: Path, algorithm: Compilable) -> tuple[dict[str, Package], CompiledPackages]:
    """Return the packages in a folder, checked against the algorithm's forms.

    Args:
        folder: The folder in which ``run`` has ended, or a copy of it.
        algorithm: The algorithm of the same settings.

    Raises:
        NotCompilable: A package is missing, or computes something else.
    """
    made = msgspec.json.decode((folder / MADE).read_bytes(), type=CompiledPackages)
    packages = {path.stem: load(path) for path in folder.glob(f"*{SUFFIX}")}
    forms = algorithm.forms()
    if packages.keys() != forms.keys():
        raise NotCompilable(f"there are packages of {sorted(packages)}, not of {sorted(forms)}")
    with traced_products(made.matmul):
        for name, form in forms.items():
            compare(form, packages[name])
    return packages, made


if __name__ == "__main__":
    with process.StopSignal(process.parent(), at_once=True):
        os.nice(NICE)
        try:
            run(Path(sys.argv[1]))
        except SoulsAIError as error:
            sys.exit(f"soulsai: {error}")
