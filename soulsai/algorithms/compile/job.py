"""``python -m soulsai.algorithms.compile.job FOLDER``: compiles the packages for one run.

The folder holds ``job.json``; the packages are written beside it.
"""

import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct

from soulsai import process
from soulsai.algorithms.build import build
from soulsai.algorithms.compile.dense import trace_products
from soulsai.algorithms.compile.form import Compilable, NotCompilable, compile_form
from soulsai.errors import SoulsAIError
from soulsai.types import Spec

JOB, SUFFIX = "job.json", ".pt2"
NICE = 10  # learning and clients come first


class Job(Struct, frozen=True):
    """An algorithm to compile, with its settings."""

    algorithm: str
    settings: dict[str, Any]
    spec: Spec
    device: str = "cpu"
    threads: int = 1


def run(folder: Path) -> None:
    """Compile all forms of the algorithm that ``job.json`` describes."""
    job = msgspec.json.decode((folder / JOB).read_bytes(), type=Job)
    torch.set_num_threads(job.threads)
    algorithm = build(job.algorithm, job.settings, job.spec, seed=0, device=job.device)
    if not isinstance(algorithm, Compilable):
        raise NotCompilable(f"{job.algorithm} has no compiled form")
    trace_products()
    for name, form in algorithm.forms().items():
        compile_form(form, folder / f"{name}{SUFFIX}")


if __name__ == "__main__":
    with process.StopSignal(process.parent(), at_once=True):
        os.nice(NICE)
        try:
            run(Path(sys.argv[1]))
        except SoulsAIError as error:
            sys.exit(f"soulsai: {error}")
