"""``python -m soulsai.training_node.export_job FOLDER``: exports the policy of ``job.json``.

The exporter takes seconds and 160 MB, which its modules never give back; so it runs in a process of
its own, and its result is kept in the user's cache for the next run.
"""

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import torch

from soulsai import process
from soulsai.algorithms.build import build
from soulsai.algorithms.compile.cache import BuildCache, key
from soulsai.algorithms.compile.job import JOB, LOG, Job
from soulsai.config.cache_folder import cache_folder
from soulsai.errors import SoulsAIError
from soulsai.training_node import onnx_export
from soulsai.types import Program
from soulsai.wire.codec import decode, encode

PROGRAM = "program"  # the file with the result
COMMAND = (sys.executable, "-P", "-m", "soulsai.training_node.export_job")
PATIENCE_SECONDS = 300.0

log = logging.getLogger(__name__)


def exported(job: Job, *, keep: bool) -> Program | None:
    """Return the program of a job, from the cache or from another process.

    Args:
        job: The algorithm, its settings and spaces.
        keep: Whether to use the cache.

    Returns:
        The program; ``None`` if the other process failed, for the reason in the log.
    """
    cache = _cache() if keep else None
    try:
        if cache is not None and (found := cache.find(key(job))):
            return decode((found / PROGRAM).read_bytes(), Program)
        with tempfile.TemporaryDirectory(prefix="soulsai-export-") as name:
            folder = Path(name)
            (folder / JOB).write_bytes(msgspec.json.encode(job))
            with (folder / LOG).open("wb") as output:
                done = subprocess.run(  # noqa: S603 - our own module
                    [*COMMAND, name],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, process.PARENT: str(os.getpid())},
                    timeout=PATIENCE_SECONDS,
                    check=False,
                )
            if done.returncode:
                lines = (folder / LOG).read_text(errors="replace").strip().splitlines()
                reason = lines[-1] if lines else f"ended with {done.returncode}"
                log.warning("the policy is exported in this process: %s", reason)
                return None
            program = decode((folder / PROGRAM).read_bytes(), Program)
            if cache is not None:
                _keep(cache, job, folder)
            return program
    except (OSError, subprocess.TimeoutExpired, SoulsAIError) as error:
        log.warning("the policy is exported in this process: %s", error)
        return None


def forget(job: Job) -> None:
    """Delete a kept program that does not fit, so that the next run exports anew."""
    _cache().forget(key(job))


def _cache() -> BuildCache:
    return BuildCache(cache_folder() / "exported")


def _keep(cache: BuildCache, job: Job, folder: Path) -> None:
    try:
        cache.keep(key(job), folder)
    except OSError as error:
        log.info("the exported policy is not kept for the next run: %s", error)


def run(folder: Path) -> None:
    """Export the policy of the algorithm that ``job.json`` describes."""
    job = msgspec.json.decode((folder / JOB).read_bytes(), type=Job)
    torch.set_num_threads(job.threads)
    policy = build(job.algorithm, job.settings, job.spec, seed=0).policy
    (folder / PROGRAM).write_bytes(encode(onnx_export.program(policy, job.spec)))


if __name__ == "__main__":
    with process.StopSignal(process.parent(), at_once=True):
        run(Path(sys.argv[1]))
