"""The evaluator: play each new checkpoint on the same seeds, and find the best one."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from soulsai import runs
from soulsai.client.video import VideoLimits
from soulsai.config.schema import Config
from soulsai.episode_metrics import Meter, for_run
from soulsai.evaluations import judgement, record
from soulsai.evaluations.record import EvaluationLine, Evaluations, EvaluatorState
from soulsai.evaluator.client_episodes import ClientEpisodes
from soulsai.evaluator.job_process import JobFailed, JobProcess, JobStopped
from soulsai.evaluator.orders import JobOrder, PlayOrder, RecordOrder, Reply
from soulsai.evaluator.saved_models import (
    SavedModel,
    drop_policies,
    forgotten_at,
    keep_policy,
    next_model,
)
from soulsai.types import Episode

TURN = 1.0  # seconds between two looks for a checkpoint
STATE_SECONDS = 5.0  # between two writes of evaluator.json
RETRY_SECONDS = 30.0  # after the disk was full
MOST_FINISHED = 8
TRIES = 3  # of a model whose environment breaks
SLICE = 0.1  # seconds between two checks of whether to stop
EPISODE_FIELDS = ("reward", "steps")

_log = logging.getLogger(__name__)
RunJob = Callable[[JobOrder, Callable[[], bool]], Reply]


class EvaluatorNode:
    """Evaluate the models of one run; all state is in its folder, so it may die at any moment."""

    def __init__(
        self,
        folder: Path,
        config: Config,
        *,
        stopped: Callable[[], bool],
        run_job: RunJob | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Read what was evaluated before.

        Args:
            folder: The run's folder.
            config: Its settings, with this machine's own sections ``client`` and ``evaluate``.
            stopped: Whether to end; it is called several times a second.
            run_job: Plays or records in a process of its own.
            clock: Monotonic seconds.
            now: Unix seconds.
            sleep: How to sleep.
        """
        self._folder = folder
        self._config = config
        self._settings = config.evaluate
        self._every = 1 if config.evaluate.every == "auto" else config.evaluate.every
        self._stopped = stopped
        self._run_job = run_job or (
            lambda order, stop: JobProcess(order, config.watchdog).run(stop)
        )
        self._clock, self._now, self._sleep = clock, now, sleep
        telemetry = config.telemetry
        # The seconds of an episode here say nothing about the policy; its steps do.
        self._metric = "steps" if telemetry.best_metric == "seconds" else telemetry.best_metric
        self._meter = Meter(for_run(telemetry.metrics, config.environment.id))
        self._evaluations = Evaluations(folder)
        self._evaluations.refresh()
        self._given_up: set[str] = set()
        self._tries: dict[str, int] = {}
        self._requested: ClientEpisodes | None = None
        self._unplayable = ""  # the reason why nothing can be played here
        self._no_video = ""  # the reason why there was no video the last time
        finished = tuple(self._evaluations.models)[-MOST_FINISHED:]
        self._state = EvaluatorState(now(), every=self._every, finished=finished)
        self._state_due = -float("inf")
        self._retry_at = -float("inf")  # when a disk may have room again
        self._rests_until = -float("inf")

    def __repr__(self) -> str:
        return f"<EvaluatorNode {self._folder.name} evaluations={self._evaluations.last}>"

    def run(self) -> None:
        """Evaluate until stopped."""
        try:
            while not self._stopped():
                if self._clock() < self._retry_at or self._rests() or not self._turn():
                    self._pause()
        except JobStopped:
            pass
        self._say(msgspec.structs.replace(self._state, doing="", request="", ended=True))

    def _turn(self) -> bool:
        """Evaluate the next model; return whether there was one."""
        self._keep_state()
        if self._requested is not None and self._await_clients(self._requested):
            return False
        done = self._evaluations.models.keys() | self._given_up
        model = next_model(self._folder, done, self._every)
        if model is None:
            return False
        began = self._clock()
        try:
            self._evaluate(model)
        except JobFailed as failure:
            self._failed(model, failure)
        except OSError as error:
            self._fault(f"not evaluated: {error.filename or self._folder}: {error.strerror}")
            self._retry_at = self._clock() + RETRY_SECONDS
            return True
        now = self._clock()
        self._rests_until = now + rest_after(now - began, self._settings.share)
        finished = (*self._state.finished, model.model)[-MOST_FINISHED:]
        self._say(msgspec.structs.replace(self._state, finished=finished))
        return True

    def _evaluate(self, model: SavedModel) -> None:
        if self._unplayable:
            self._ask_clients(model)
            return
        self._doing(f"plays {model.model}")
        policy = keep_policy(self._folder, model)
        line: EvaluationLine | None = None
        for look in range(1, judgement.LOOKS + 1):
            line = self._played(model, policy, line)
            best = self._best()
            if best is None:
                line = msgspec.structs.replace(line, verdict="first")
                break
            best = self._with_same_seeds(best, line)
            verdict = judgement.compare(line.by_seed(), best.by_seed(), look)
            line = self._judged(line, best, verdict)
            if verdict != "candidate":
                break
            self._append(line)
        if line is not None:
            self._append(line)
            if line.is_best:
                self._record(line.model, policy)
            drop_policies(self._folder, self._kept())

    def _judged(
        self, line: EvaluationLine, best: EvaluationLine, verdict: record.Verdict
    ) -> EvaluationLine:
        first = self._evaluations.first or best
        share = self._settings.regression
        regressed = verdict != "best" and judgement.is_regression(line, best, first, share)
        return msgspec.structs.replace(line, verdict=verdict, regressed=regressed)

    def _played(
        self, model: SavedModel, policy: Path, before: EvaluationLine | None
    ) -> EvaluationLine:
        """Play a model's next seeds; return all of its episodes, without a verdict."""
        began = self._clock()
        start = before.seeds[-1] + 1 if before is not None else self._settings.seed
        reply = self._play(policy, start, self._settings.episodes)
        line = before or EvaluationLine(
            0, 0.0, model.model, model.generation, model.version, model.env_steps, "candidate"
        )
        return self._with_episodes(line, reply, start, self._clock() - began)

    def _with_same_seeds(self, best: EvaluationLine, line: EvaluationLine) -> EvaluationLine:
        """Return the best model's line, after it has played the seeds that it lacks."""
        policy = record.kept_policy(self._folder, best.model)
        missing = sorted(set(line.seeds) - set(best.seeds))
        if not missing or not best.seeds or not policy.is_file():
            return best
        began = self._clock()
        reply = self._play(policy, missing[0], missing[-1] - missing[0] + 1)
        more = self._with_episodes(best, reply, missing[0], self._clock() - began)
        self._append(more)
        return more

    def _play(self, policy: Path, seed: int, episodes: int) -> Reply:
        config = self._config
        order = PlayOrder(
            str(policy), config.environment.id, config.client, config.watchdog,
            episodes, seed, self._first_index,
        )  # fmt: skip
        return self._run_job(order, self._job_stopped)

    def _with_episodes(
        self, line: EvaluationLine, reply: Reply, start: int, seconds: float
    ) -> EvaluationLine:
        """Return a line with more episodes, of seeds that it has not played."""
        telemetry, played = self._config.telemetry, reply.episodes
        rows = [self._meter(msgspec.structs.replace(one, time=self._now())) for one in played]
        count, new = len(line.returns), len(played)
        means = record.mean_metrics(rows)
        metrics = {
            name: (line.metrics.get(name, mean) * count + mean * new) / (count + new)
            for name, mean in means.items()
        }
        scores: tuple[float, ...] = ()
        if self._metric != "reward":
            scores = tuple(_score(self._metric, *pair) for pair in zip(played, rows, strict=True))
        return record.measured(
            msgspec.structs.replace(
                line,
                time=self._now(),
                metric=self._metric,
                smaller=telemetry.best_smaller,
                seeds=(*line.seeds, *(start + one.episode for one in played)),
                returns=(*line.returns, *(one.reward for one in played)),
                lengths=(*line.lengths, *(one.steps for one in played)),
                scores=(*line.scores, *scores),
                metrics=metrics,
                left_out=line.left_out + reply.left_out,
                seconds=line.seconds + seconds,
            )
        )

    def _record(self, model: str, policy: Path) -> None:
        """Record the first episodes of a model; a failure costs the video only."""
        settings, config = self._settings, self._config
        if not settings.videos:
            return
        self._doing(f"records {model}")
        order = RecordOrder(
            str(policy), config.environment.id, config.client,
            tuple(range(settings.seed, settings.seed + settings.video_episodes)),
            str(policy.parent), VideoLimits(settings.video_seconds, settings.video_mb),
            self._first_index,
        )  # fmt: skip
        try:
            reply = self._run_job(order, self._job_stopped)
        except JobFailed as failure:
            if str(failure) == self._no_video:  # of each model in turn, which is said once
                self._doing("")
            else:
                self._no_video = str(failure)
                self._fault(f"no video of {model}: {failure}")
        else:
            self._no_video = ""
            self._fault(reply.notice)

    # ---- where this machine cannot make the environment ----

    def _ask_clients(self, model: SavedModel) -> None:
        count = self._settings.episodes
        self._requested = ClientEpisodes(self._folder, model, count)
        self._say(
            msgspec.structs.replace(
                self._state, doing=f"waits for clients to play {model.model}", request=model.model,
                generation=model.generation, version=model.version, episodes=count,
            )
        )  # fmt: skip

    def _await_clients(self, request: ClientEpisodes) -> bool:
        """Return whether to go on waiting for the episodes that clients were asked for."""
        played = request.read()
        if len(played) < request.count and not request.is_late(self._clock()):
            return True
        self._requested = None
        self._say(msgspec.structs.replace(self._state, doing="", request="", episodes=0))
        model = request.model
        if len(played) < judgement.FEWEST:
            self._given_up.add(model.model)
            self._fault(
                f"{model.model}: clients have played {len(played)} of {request.count} episodes"
            )
            return False
        line = EvaluationLine(
            0, 0.0, model.model, model.generation, model.version, model.env_steps, "candidate",
            by="clients",
        )  # fmt: skip
        line = self._with_episodes(line, Reply(episodes=tuple(played)), 0, 0.0)
        line = msgspec.structs.replace(line, seeds=())
        best = self._best()
        if best is None:
            self._append(msgspec.structs.replace(line, verdict="first"))
        else:
            verdict = judgement.compare_unpaired(line, best)
            self._append(self._judged(line, best, verdict))
        return False

    # ---- the record and the state ----

    def _best(self) -> EvaluationLine | None:
        best = self._evaluations.best
        if best is None or best.time <= forgotten_at(self._folder):
            return None
        return best

    def _append(self, line: EvaluationLine) -> None:
        line = msgspec.structs.replace(line, number=self._evaluations.last + 1, time=self._now())
        record.append(self._folder, line)
        self._evaluations.refresh()
        _log.info(
            "evaluated model=%s version=%d-%d mean=%.4g [%.4g, %.4g] episodes=%d: %s",
            line.model, line.generation, line.version, line.mean, line.low, line.high,
            line.episodes, line.verdict,
        )  # fmt: skip

    def _kept(self) -> set[str]:
        """Return the models whose policy or recordings are kept: the best, and those before."""
        lines = self._evaluations.models.values()
        chosen = [line.model for line in lines if line.is_best]
        best = self._best()
        most = self._settings.videos
        return {*(chosen[-most:] if most else ()), *([best.model] if best else ())}

    def _failed(self, model: SavedModel, failure: JobFailed) -> None:
        if failure.unplayable and not self._evaluations.models:
            self._unplayable = str(failure)
            self._fault(f"cannot play here, so clients are asked: {failure}")
            return
        tries = self._tries[model.model] = self._tries.get(model.model, 0) + 1
        if tries >= TRIES:
            self._given_up.add(model.model)
        self._fault(f"{model.model} not evaluated: {failure}")

    def _job_stopped(self) -> bool:
        self._keep_state()
        return self._stopped()

    def _doing(self, text: str) -> None:
        self._say(msgspec.structs.replace(self._state, doing=text))

    def _fault(self, text: str) -> None:
        if text and text != self._state.fault:
            _log.warning("%s", text)
        self._say(msgspec.structs.replace(self._state, doing="", fault=text))

    def _keep_state(self) -> None:
        if self._clock() >= self._state_due:
            self._say(self._state)

    def _say(self, state: EvaluatorState) -> None:
        self._state = msgspec.structs.replace(state, time=self._now())
        self._state_due = self._clock() + STATE_SECONDS
        try:
            record.write_state(self._folder, self._state)
        except OSError as error:  # the telemetry node notices the silence
            _log.warning("%s: %s", self._folder / record.STATE, error.strerror)

    def _rests(self) -> bool:
        """Return whether it leaves the machine to a learner that learns."""
        if self._clock() >= self._rests_until:
            return False
        status = runs.status(self._folder)
        return status is None or status.phase == "learning"

    def _pause(self) -> None:
        end = self._clock() + TURN
        while not self._stopped() and (left := end - self._clock()) > 0:
            self._sleep(min(left, SLICE))

    @property
    def _first_index(self) -> int:
        """The index of the first environment here; the run's own clients play those before."""
        config = self._config
        return config.run.clients * config.environment.offer.count + config.client.number


def rest_after(seconds: float, share: float) -> float:
    """Return the seconds of rest after seconds of work, so that work has a share of the time."""
    return seconds * (1.0 / share - 1.0)


def _score(metric: str, episode: Episode, measured: dict[str, float]) -> float:
    if metric in EPISODE_FIELDS:
        return float(getattr(episode, metric))
    return measured.get(metric, 0.0)


def follow(config: Config, run: str, *, stopped: Callable[[], bool]) -> None:
    """Evaluate the models of a run, and of runs that follow it, until told to stop.

    Args:
        config: The settings of this machine; those of the run are in its folder.
        run: A run's id or folder; empty: always the run that saves checkpoints.
        stopped: Whether to end; it is called several times a second.

    Raises:
        CheckpointError: There is no run of that name.
    """
    saves = Path(config.run.saves)
    named = runs.find(saves, run) if run else None
    while not stopped():
        folder = named or active_run(runs.every(saves))
        if folder is None or not (folder / runs.CONFIG).is_file():
            _rest(TURN, stopped)
        else:
            _evaluate_run(folder, config, stopped, is_named=named is not None)


def _evaluate_run(
    folder: Path, config: Config, stopped: Callable[[], bool], *, is_named: bool
) -> None:
    """Evaluate the models of one run, as long as it is the active one or the one that was named."""
    _log.info("evaluates run=%s", folder.name)
    looks = _Looks(lambda: folder if is_named else active_run(runs.every(folder.parent)), folder)
    node = EvaluatorNode(
        folder, _of_run(folder, config), stopped=lambda: stopped() or looks.has_moved()
    )
    node.run()


class _Looks:
    """Whether another run has become the active one, by a look now and then."""

    def __init__(self, find: Callable[[], Path | None], folder: Path) -> None:
        self._find, self._folder = find, folder
        self._due = time.monotonic() + STATE_SECONDS
        self._moved = False

    def has_moved(self) -> bool:
        """Return whether the run is another one."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + STATE_SECONDS
            self._moved = self._find() != self._folder
        return self._moved


def _of_run(folder: Path, config: Config) -> Config:
    then = runs.settings(folder, config, {}, [])
    return msgspec.structs.replace(then, evaluate=config.evaluate, watchdog=config.watchdog)


def _rest(seconds: float, stopped: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not stopped() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, SLICE))


def active_run(folders: Sequence[Path]) -> Path | None:
    """Return the run whose checkpoints have changed last.

    Args:
        folders: The folders of all runs, oldest first.
    """
    return max(folders, key=_changed, default=None)


def _changed(folder: Path) -> float:
    times = [0.0]
    for name in ("checkpoints", "config.json"):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return max(times)
