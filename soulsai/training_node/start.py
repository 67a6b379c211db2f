"""Everything a training node needs before it can begin: a run, new or resumed, and its program."""

import logging
import secrets
import shutil
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from soulsai.algorithms.base import Algorithm
from soulsai.algorithms.build import build
from soulsai.algorithms.registry import BUILT_IN
from soulsai.config.schema import Config
from soulsai.episode_metrics import info_keys, measures
from soulsai.errors import ConfigError, SoulsAIError
from soulsai.training_node import onnx_export
from soulsai.training_node.saving import atomic_folders, run_folder, snapshot
from soulsai.training_node.saving.run_folder import RunFolder
from soulsai.training_node.saving.snapshot import Progress
from soulsai.types import OLDEST_PROTOCOL, PROTOCOL, EnvironmentOffer, Program, RunSpec, Spec
from soulsai.wire.layout import MAX_LEAF_BYTES
from soulsai.wire.protocols import TrainingWire
from soulsai.wire.weights import program_digest

log = logging.getLogger(__name__)


class Run(Struct, frozen=True, eq=False):
    """A run that is published, and all that belongs to it."""

    config: Config
    folder: RunFolder
    spec: RunSpec
    program: Program
    algorithm: Algorithm
    progress: Progress


def build_algorithm(config: Config, spec: Spec, *, seed: int) -> Algorithm:
    """Make the algorithm that the settings choose, on the device they name.

    Args:
        config: All settings.
        spec: Observations and actions of the environment.
        seed: The source of the algorithm's randomness.

    Raises:
        ConfigError: See ``build``; or options are set for a built-in algorithm.
    """
    name = config.algorithm.name
    if config.algorithm.options and name in BUILT_IN:
        raise ConfigError(f"algorithm.options: the settings of {name!r} stand in section {name!r}")
    return build(
        name,
        config.learner,
        spec,
        seed=seed,
        steps=config.run.max_env_steps,
        realtime=config.environment.realtime,
        device=config.training.device,
    )


def begin(config: Config, spec: Spec, wire: TrainingWire, now: datetime) -> Run:
    """Make a new run, and publish it in place of what was there under its name."""
    if config.run.seed is None:
        seeded = msgspec.structs.replace(config.run, seed=secrets.randbits(31))
        config = msgspec.structs.replace(config, run=seeded)
    wire.generation()  # fails at once if there is no server
    algorithm = build_algorithm(config, spec, seed=config.run.seed or 0)
    program = _export(algorithm, spec)
    folder = run_folder.create(config, now)
    try:
        folder.write_program(program)
        run_spec = _run_spec(config, spec, program, algorithm, folder.run)
        progress = Progress(folder.run, generation=wire.open(run_spec, program, fresh=True))
    except SoulsAIError:
        shutil.rmtree(folder.path, ignore_errors=True)  # nothing of it was ever visible
        raise
    log.info("run begun run=%s generation=%d", folder.run, progress.generation)
    return Run(config, folder, run_spec, program, algorithm, progress)


def go_on(config: Config, spec: Spec, wire: TrainingWire, resume: str) -> Run:
    """Take up a run from its newest undamaged checkpoint, and publish it again.

    Raises:
        CheckpointError: There is no such run, or nothing of it that could be loaded.
    """
    folder = run_folder.find(Path(config.run.saves), resume)
    wire.generation()
    folder.tidy()
    algorithm = build_algorithm(config, spec, seed=config.run.seed or 0)
    seen = atomic_folders.numbered(folder.checkpoints)
    newest = folder.newest()
    progress = snapshot.restore(newest, algorithm.parts)
    program = _kept_or_exported(folder, algorithm, spec)
    run_spec = _run_spec(config, spec, program, algorithm, folder.run)
    generation = reopen(wire, run_spec, program, progress.generation)
    if atomic_folders.numbered(folder.checkpoints) != seen:  # by a node that we took over from
        newest = folder.newest()
        progress = snapshot.restore(newest, algorithm.parts)
    progress.run, progress.generation = folder.run, generation
    folder.write_config(config)
    log.info("run resumed from=%s generation=%d", newest, progress.generation)
    return Run(config, folder, run_spec, program, algorithm, progress)


def reopen(wire: TrainingWire, spec: RunSpec, program: Program, before: int) -> int:
    """Publish a run again, until our generation is greater than ``before``.

    A server that has lost its memory counts generations from the beginning.
    """
    generation = wire.open(spec, program, fresh=False)
    while generation <= before:
        generation = wire.open(spec, program, fresh=False)
    return generation


def _kept_or_exported(folder: RunFolder, algorithm: Algorithm, spec: Spec) -> Program:
    """Return the program as it was, so that experience under way stays valid, if it still fits."""
    kept = folder.program()
    if kept is not None:
        try:
            onnx_export.verify(kept, algorithm.policy, spec)
        except SoulsAIError:
            log.warning("the policy's program has changed; what clients still hold is lost")
        else:
            return kept
    program = _export(algorithm, spec)
    folder.write_program(program)
    return program


def _export(algorithm: Algorithm, spec: Spec) -> Program:
    for name, weight in algorithm.policy.twin().state_dict().items():
        if weight.nbytes > MAX_LEAF_BYTES:
            raise ConfigError(
                f"algorithm: the policy's weight {name!r} of shape {tuple(weight.shape)} takes"
                f" {weight.nbytes >> 20} MiB, but clients accept {MAX_LEAF_BYTES >> 20} MiB;"
                " choose smaller observations or narrower layers"
            )
    program = onnx_export.program(algorithm.policy, spec)
    onnx_export.verify(program, algorithm.policy, spec)
    return program


def _run_spec(
    config: Config, spec: Spec, program: Program, algorithm: Algorithm, run: str
) -> RunSpec:
    environment = config.environment
    return RunSpec(
        run=run,
        protocol=PROTOCOL,
        oldest_protocol=OLDEST_PROTOCOL,
        environment=EnvironmentOffer(
            id=environment.id,
            kwargs=environment.kwargs,
            count=environment.count,
            max_episode_steps=environment.max_episode_steps,
            mask_key=environment.mask_key,
            info_keys=_info_keys(config),
            realtime=environment.realtime,
        ),
        spec=spec,
        algorithm=config.algorithm.name,
        program_sha256=program_digest(program),
        fragment_steps=config.fragments.steps,
        fragment_seconds=config.fragments.seconds,
        stream_entries=config.redis.stream_entries,
        extras=algorithm.policy.extras,
        memory=algorithm.policy.memory,
    )


def _info_keys(config: Config) -> tuple[str, ...]:
    """Return what clients are to send of infos: what is asked for, and what metrics need."""
    needed = info_keys(measures(config.telemetry.metrics))
    return tuple(dict.fromkeys((*config.environment.info_keys, *needed)))
