"""The start of a training node: a run, new or resumed, its program, and its generation."""

import logging
import secrets
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from soulsai.algorithms.base import Algorithm, Policy
from soulsai.algorithms.build import build
from soulsai.algorithms.compile.job import Job
from soulsai.algorithms.demonstrations import LearnsFromDemonstrations
from soulsai.algorithms.registry import BUILT_IN
from soulsai.algorithms.settings import LearnerSettings
from soulsai.algorithms.spec_text import describe_action, describe_leaf
from soulsai.config.schema import Config
from soulsai.config.yaml_file import emit
from soulsai.datasets import files
from soulsai.datasets.episodes import to_fragments
from soulsai.episode_metrics import asked_info
from soulsai.errors import CheckpointError, ConfigError, SoulsAIError, Superseded
from soulsai.training_node import compiled_replay, export_job, onnx_export, warm_start
from soulsai.training_node.retrying_wire import RetryingWire
from soulsai.training_node.saving import atomic_folders, run_folder, snapshot
from soulsai.training_node.saving.run_folder import RunFolder
from soulsai.training_node.saving.snapshot import Progress
from soulsai.types import OLDEST_PROTOCOL, PROTOCOL, Program, RunSpec, Spec
from soulsai.wire.graph_check import MOST_FILE_BYTES, check_graph
from soulsai.wire.layout import MAX_LEAF_BYTES
from soulsai.wire.protocols import TrainingWire
from soulsai.wire.weights import program_digest

log = logging.getLogger(__name__)


class TrainingRun(Struct, frozen=True, eq=False):
    """A published run with its settings, folder, program, algorithm and counters."""

    config: Config
    folder: RunFolder
    spec: RunSpec
    program: Program
    algorithm: Algorithm
    progress: Progress
    note: str = ""  # about damaged checkpoints


def build_algorithm(config: Config, spec: Spec, *, seed: int) -> Algorithm:
    """Return the algorithm of the settings, on the device of the settings.

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
    algorithm = build(
        name,
        config.learner,
        spec,
        seed=seed,
        steps=config.run.max_env_steps,
        realtime=config.environment.realtime,
        device=config.training.device,
        demonstrations=config.demonstrations,
    )
    if config.training.compile_replay:
        compiled_replay.prepare(algorithm, keep=config.training.compile_cache)
    return algorithm


def demonstrate(config: Config, spec: Spec, algorithm: Algorithm) -> None:
    """Give the demonstrations of the settings to an algorithm.

    Args:
        config: All settings.
        spec: Observations and actions of the environment.
        algorithm: The algorithm.

    Raises:
        DatasetError: One of the data sets cannot be read, or does not fit.
    """
    if not config.demonstrations.data or not isinstance(algorithm, LearnsFromDemonstrations):
        return
    dataset = files.read(
        [Path(path) for path in config.demonstrations.data],
        spec,
        environment=config.environment.id,
        largest_reward=config.environment.largest_reward,
    )
    algorithm.demonstrate(to_fragments(dataset, algorithm.policy.head))
    log.info("demonstrations episodes=%d env_steps=%d", len(dataset.episodes), dataset.steps)


def _begin(config: Config, spec: Spec, algorithm: Algorithm) -> None:
    """Give a new learner another policy and demonstrations, if the settings name any."""
    warm_start.start_from(config.start, Path(config.run.saves), algorithm)
    warm_start.warm(config.start, algorithm)
    demonstrate(config, spec, algorithm)


def new_run(config: Config, spec: Spec, wire: TrainingWire, now: datetime) -> TrainingRun:
    """Make a new run, and publish it in place of an earlier one of the same name.

    Args:
        config: All settings.
        spec: Observations and actions of the environment.
        wire: The server.
        now: The time that the run's folder is named after.
    """
    if config.run.seed is None:
        seeded = msgspec.structs.replace(config.run, seed=secrets.randbits(31))
        config = msgspec.structs.replace(config, run=seeded)
    wire.generation()  # fails at once if there is no server
    algorithm = build_algorithm(config, spec, seed=config.run.seed or 0)
    _begin(config, spec, algorithm)
    program = export(config, algorithm.policy, spec)
    folder = run_folder.create(config, now)
    try:
        folder.write_program(program)
        published = run_spec(config, spec, program, algorithm, folder.run)
        progress = Progress(folder.run, generation=wire.open(published, program, fresh=True))
    except SoulsAIError:
        shutil.rmtree(folder.path, ignore_errors=True)  # nothing of it was ever visible
        raise
    log.info("run begun run=%s generation=%d", folder.run, progress.generation)
    _log_spec(spec)
    return TrainingRun(config, folder, published, program, algorithm, progress)


def resumed_run(config: Config, spec: Spec, wire: TrainingWire, resume: str) -> TrainingRun:
    """Load a run from its newest undamaged checkpoint, and publish it again.

    Args:
        config: All settings.
        spec: Observations and actions of the environment.
        wire: The server.
        resume: The run's id, its folder, or ``latest``.

    A run without any checkpoint has died within its first seconds; it begins at zero once more.

    Raises:
        CheckpointError: There is no such run, or no checkpoint of it that can be loaded.
        ConfigError: The checkpoint does not fit the settings.
    """
    folder = run_folder.find(Path(config.run.saves), resume)
    saved = folder.config()
    if saved is not None:
        check_fit(saved, config)
    wire.generation()
    algorithm = build_algorithm(config, spec, seed=config.run.seed or 0)
    warm_start.warm(config.start, algorithm)
    if not folder.has_checkpoint:
        _begin(config, spec, algorithm)
    seen = atomic_folders.numbered(folder.checkpoints)
    try:
        progress, note = _restored(folder, algorithm)
    except CheckpointError as error:
        if saved is None or saved.environment.id == config.environment.id:
            check_shapes(folder.program(), algorithm.policy)
            raise
        environments = saved.environment.id, config.environment.id
        raise ConfigError(_misfit("environment.id", *environments)) from error
    kept = folder.program()
    if kept is not None:
        keep_units(kept, algorithm)
    program = _kept_or_exported(config, folder, kept, algorithm.policy, spec)
    published = run_spec(config, spec, program, algorithm, folder.run)
    generation = reopen(wire, published, program, progress.generation)
    folder.tidy()  # not before: the node that is replaced may be writing, and trims what it wrote
    if atomic_folders.numbered(folder.checkpoints) != seen:  # by the node that is replaced
        progress, note = _restored(folder, algorithm)
    progress.run, progress.generation = folder.run, generation
    folder.write_config(config)
    log.info("run resumed run=%s generation=%d", folder.run, progress.generation)
    _log_spec(spec)
    return TrainingRun(config, folder, published, program, algorithm, progress, note)


def _log_spec(spec: Spec) -> None:
    """Log how each leaf and the action are taken."""
    for name, leaf in spec.seen.items():
        log.info("observation %s: %s", name, describe_leaf(leaf))
    log.info("actions: %s", describe_action(spec.action))


def check_shapes(program: Program | None, policy: Policy) -> None:
    """Raise ``ConfigError`` if the network of a checkpoint has other shapes than that of now.

    Args:
        program: The program that the checkpoint's run has published, if it was kept.
        policy: The policy of the settings.
    """
    shapes = {name: tuple(value.shape) for name, value in policy.twin().state_dict().items()}
    for name, leaf in (program.weights if program is not None else {}).items():
        now = shapes.get(name, leaf.shape)
        if now != leaf.shape:
            raise ConfigError(
                f"the policy's weight {name!r} has the shape {leaf.shape} in the checkpoint, {now} "
                "now: the environment's spaces or the networks of this version of SoulsAI have "
                "changed; start a new run"
            )


def _restored(folder: RunFolder, algorithm: Algorithm) -> tuple[Progress, str]:
    if not folder.has_checkpoint:
        return Progress(folder.run), ""
    checkpoint, note = folder.newest()
    return snapshot.restore(checkpoint, algorithm.parts), note


def check_fit(saved: Config, now: Config) -> None:
    """Raise ``ConfigError`` if a checkpoint cannot be loaded under other settings.

    Args:
        saved: The settings under which the checkpoint was written.
        now: The settings to resume under.
    """
    name = now.algorithm.name
    if saved.algorithm.name != name:
        raise ConfigError(_misfit("algorithm.name", saved.algorithm.name, name))
    if saved.demonstrations.used != now.demonstrations.used:
        data = (emit(list(settings.demonstrations.data)) for settings in (saved, now))
        raise ConfigError(_misfit("demonstrations.data", *data))
    if isinstance(now.learner, LearnerSettings):
        for key in now.learner.misfits(saved.learner):
            values = (getattr(settings, key) for settings in (saved.learner, now.learner))
            raise ConfigError(_misfit(f"{name}.{key}", *map(emit, values)))


def _misfit(path: str, saved: str, now: str) -> str:
    return f"{path}: {saved} in the checkpoint, {now} now; set it back, or start a new run"


def reopen(wire: TrainingWire, spec: RunSpec, program: Program, before: int) -> int:
    """Publish a run again, and return its generation, which is greater than ``before``.

    A server that has lost its memory counts generations from the beginning.

    Args:
        wire: The server.
        spec: The run's spec.
        program: The run's program.
        before: The last generation of this run.
    """
    generation = wire.open(spec, program, fresh=False)
    while generation <= before:
        generation = wire.open(spec, program, fresh=False)
    return generation


def check_generation(run: TrainingRun, wire: RetryingWire, publish: Callable[[], object]) -> bool:
    """Compare the run's generation with the server's; return whether the server answered.

    Two nodes on one run would undo each other's work, so the older one ends. A run that the server
    has lost is opened again, and a version that it has lost is published again: clients that have
    spent their grants would wait for it.

    Args:
        run: The run of this node.
        wire: The server.
        publish: Publishes the weights; called if the server has lost the run or the last version.

    Raises:
        Superseded: The server has a greater generation.
    """
    ours = run.progress.generation
    found: list[int] = []
    if not wire.attempt(lambda wire: found.append(wire.generation())):
        return False
    if found[0] > ours:
        raise Superseded(
            f"{run.spec.run}: a newer training node has taken over (generation {found[0]})"
        )

    def open_again(wire: TrainingWire) -> None:
        run.progress.generation = reopen(wire, run.spec, run.program, ours)

    if found[0] < ours:
        if wire.attempt(open_again):
            log.warning("server had lost the run, published again generation=%d", ours)
            publish()
        return True
    published: list[bool] = []
    wire.attempt(lambda wire: published.append(wire.is_published()))
    if published == [False]:
        log.warning("server had lost the newest version, published again")
        publish()
    return True


def keep_units(kept: Program, algorithm: Algorithm) -> None:
    """Let a run continue in the environment's own units, if it began before actions were scaled.

    Args:
        kept: The program with which the run began.
        algorithm: The algorithm that continues it.
    """
    if kept.head.kind == "gaussian":
        head = algorithm.policy.head
        algorithm.policy.head = msgspec.structs.replace(head, kind="gaussian")


def _kept_or_exported(
    config: Config, folder: RunFolder, kept: Program | None, policy: Policy, spec: Spec
) -> Program:
    """Return the kept program if it still fits: experience on its way to us then stays valid."""
    if kept is not None:
        try:
            onnx_export.verify(kept, policy, spec)
        except SoulsAIError:
            log.warning("the policy's program has changed; unsent experience of clients is lost")
        else:
            return kept
    program = export(config, policy, spec)
    folder.write_program(program)
    return program


def check_size(policy: Policy) -> None:
    """Raise ``ConfigError`` if the weights of a policy are too large to be sent."""
    total = 0
    for name, weight in policy.twin().state_dict().items():
        total += weight.nbytes
        if weight.nbytes > MAX_LEAF_BYTES:
            raise ConfigError(
                f"algorithm: the policy's weight {name!r} of shape {tuple(weight.shape)} takes"
                f" {weight.nbytes >> 20} MiB, but clients accept {MAX_LEAF_BYTES >> 20} MiB;"
                " choose smaller observations or narrower layers"
            )
    if total > MOST_FILE_BYTES:
        raise ConfigError(
            f"algorithm: the policy's weights take {total // 10**6} MB together, but a policy.onnx "
            f"may have {MOST_FILE_BYTES // 10**6} MB; choose narrower layers"
        )


def may_keep(config: Config) -> bool:
    """Return whether to keep what is built for the next run: only from code of this package."""
    return config.training.compile_cache and _is_ours(config)


def _is_ours(config: Config) -> bool:
    learner = config.learner
    if not isinstance(learner, LearnerSettings):
        return False
    return learner.learner.startswith("soulsai.") and not learner.custom


def _exported_apart(config: Config, policy: Policy, spec: Spec) -> Program | None:
    """Return the program from the cache or another process, or ``None`` to export it here."""
    if not _is_ours(config):
        return None
    job = Job(config.algorithm.name, msgspec.to_builtins(config.learner), spec)
    program = export_job.exported(job, keep=may_keep(config))
    if program is None:
        return None
    program = msgspec.structs.replace(program, head=policy.twin().head)
    try:
        onnx_export.verify(program, policy, spec)
        check_graph(program.graph, program.weights)
    except SoulsAIError as error:
        log.warning("the policy is exported anew: %s", error)
        export_job.forget(job)
        return None
    return program


def export(config: Config, policy: Policy, spec: Spec) -> Program:
    """Return the policy as a program that computes the same, and that clients accept.

    Args:
        config: All settings.
        policy: The policy.
        spec: Observations and actions of the environment.

    Raises:
        ConfigError: It is too large, or a network that is not ours cannot be exported.
    """
    check_size(policy)
    program = _exported_apart(config, policy, spec)
    if program is not None:
        return program
    learner = config.learner
    custom = learner.custom if isinstance(learner, LearnerSettings) else {}
    try:
        program = onnx_export.program(policy, spec)
        onnx_export.verify(program, policy, spec)
        check_graph(program.graph, program.weights)
    except Exception as error:  # the exporter's errors have no common base
        if not custom:
            raise
        setting, name = next(iter(custom.items()))
        raise ConfigError(
            f"{config.algorithm.name}.{setting}: {name} cannot be exported to ONNX: "
            f"{onnx_export.reason(error)}; use operations of torch whose course and shapes do not "
            "depend on the numbers, and no loops over the batch"
        ) from error
    return program


def run_spec(
    config: Config, spec: Spec, program: Program, algorithm: Algorithm, run: str
) -> RunSpec:
    """Return the facts of a run that clients need.

    Args:
        config: All settings.
        spec: Observations and actions of the environment.
        program: The policy as clients run it.
        algorithm: The learner.
        run: The id of the run.
    """
    environment = config.environment
    unnamed = RunSpec(
        run=run,
        protocol=PROTOCOL,
        oldest_protocol=OLDEST_PROTOCOL,
        environment=msgspec.structs.replace(
            environment.offer,
            info_keys=asked_info(environment.info_keys, config.telemetry.metrics),
        ),
        spec=spec,
        algorithm=config.algorithm.name,
        program_sha256=program_digest(program),
        fragment_steps=config.fragments.steps,
        fragment_seconds=config.fragments.seconds,
        stream_entries=config.redis.stream_entries,
        extras=algorithm.policy.extras,
        memory=algorithm.policy.memory,
        interventions=config.demonstrations.interventions,
    )
    return msgspec.structs.replace(unnamed, published_crc=unnamed.crc)
