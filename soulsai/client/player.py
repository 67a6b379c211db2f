"""The playing loop: act, step, cut fragments, and change the weights between them."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from soulsai.client.actor import Actor
from soulsai.client.environment import (
    PlayableEnvironment,
    Recordable,
    RecordedEnvironment,
    StepResult,
    numbers,
)
from soulsai.client.isolation.environment import IsolatedEnvironment, answered
from soulsai.client.isolation.watchdog import EnvironmentBroken
from soulsai.client.late_steps import LateSteps
from soulsai.client.player_link import Instructions, PlayerLink, PlayerProgress
from soulsai.client.recorder import Columns, Recorder
from soulsai.client.spaces import Rows
from soulsai.client.vector_environment import PlayableVector, VectorStep
from soulsai.heads import (
    Exploration,
    act,
    explore,
    from_environment_rows,
    to_environment,
    to_environment_rows,
    to_environments,
)
from soulsai.types import INTERVENED, MASK, Array, ClientValues, Episode, Head, RunSpec, zeros

log = logging.getLogger(__name__)

_WAIT_SECONDS = 0.1  # between two checks of ``stopped``
_TOGETHER = 8  # environments from which on recording them together takes less time
_GREEDY_STEPS = 1_000  # played greedily in any case; beyond, four times the longest episode


class _Seat:
    """One environment and the state of its episode."""

    def __init__(
        self,
        index: int,
        source: RecordedEnvironment,
        recorder: Recorder,
        obs: Rows,
        memory: Rows,
    ) -> None:
        self.index = index
        self.source = source
        self.recorder = recorder
        # Views of this environment's rows in the batches
        self.rows = {name: rows[index, ...] for name, rows in obs.items()}
        self.memory = {name: rows[index, ...] for name, rows in memory.items()}
        self.exploration = Exploration(greedy=False, epsilon=0.0)
        self.at_random = 0.0  # share of random actions of the episode
        self.actor: Actor | None = None
        self.evaluated: Actor | None = None  # that the server wants this episode to be played with
        self.newest = (0, 0)  # newest generation and version of the episode
        self.episode = 0
        self.taken_over = 0  # steps of the episode that a person chose
        self.began = 0.0  # of the episode
        self.late = LateSteps()
        self.stage = 0  # of the schedule, by which the environment was made
        self.absent = True  # until an episode begins


class _SourceOfVector:
    """One environment of a vector, for the record of its episodes."""

    def __init__(self, vector: PlayableVector, index: int) -> None:
        self._vector, self._index = vector, index
        self.check_bounds = vector.check_bounds

    @property
    def info(self) -> dict[str, Any]:
        """Return the info of the last step."""
        return self._vector.info_of(self._index)


def _sources(
    environments: Sequence[PlayableEnvironment] | PlayableVector,
) -> Sequence[RecordedEnvironment]:
    if isinstance(environments, Sequence):
        return environments
    return [_SourceOfVector(environments, index) for index in range(environments.count)]


class _Step(NamedTuple):
    """A step that an environment is to take."""

    seat: _Seat
    action: Array
    extras: Rows
    row: int  # of the seat in ``extras``
    began: float


class Player:
    """Plays environments side by side, with one batched inference per version in use.

    Several isolated environments step and reset at the same time: each gets its next action once
    it has finished the one before. Those of a vector environment take each step together, and each
    begins its next episode by itself.

    A greedy episode measures its version and keeps it to the end, unless it lasts so long that it
    may never end: then it goes on as one that explores. Every other episode takes the newest
    version at the start of each fragment. An evaluation that the server asks for is played in the
    next episodes that begin, greedily and with its version.
    """

    def __init__(
        self,
        environments: Sequence[PlayableEnvironment] | PlayableVector,
        spec: RunSpec,
        head: Head,
        link: PlayerLink,
        progress: PlayerProgress,
        *,
        client: str,
        epoch: int,
        rng: np.random.Generator,
        seeds: Sequence[int | None],
        values: Sequence[ClientValues] = ({},),
        step_delay: float = 0.0,
        together: bool = True,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare to play.

        Args:
            environments: The environments, or a vector environment.
            spec: The run.
            head: Chooses actions from the policy's outputs.
            link: The uplink.
            progress: Updated for the heartbeat.
            client: The client's name.
            epoch: The epoch of this session.
            rng: Of exploration and of drawn actions.
            seeds: Of the first reset of each environment; the first one is that of a vector.
            values: What the record says of the arguments in each stage of the schedule, the first
                before any has begun.
            step_delay: Seconds to sleep after each round of steps.
            together: Whether to record the steps of several environments at once.
            clock: Monotonic seconds.
            sleep: How to sleep.
        """
        self._vector = None if isinstance(environments, Sequence) else environments
        self._environments = environments if isinstance(environments, Sequence) else ()
        count = len(sources := _sources(environments))
        self._spec = spec
        self._head = head
        self._link, self._progress = link, progress
        self._rng, self._seeds, self._values = rng, list(seeds), values
        self._step_delay, self._clock, self._sleep = step_delay, clock, sleep
        self._instructions = Instructions()
        self._used = self._cut = 0  # env steps: of the newest pointer; in fragments of this epoch
        self._episodes = 0  # begun
        self._warned = False  # of interventions that the run does not mark
        self._obs = {name: zeros(leaf, count) for name, leaf in spec.spec.obs.items()}
        self._memory = {name: zeros(leaf, count) for name, leaf in spec.memory.items()}
        self._greedy, self._epsilon = np.zeros(count, np.bool_), np.zeros(count)
        self._rewards = np.zeros(count)  # of the episodes
        self._steps = np.zeros(count, np.int64)
        self._deadlines = np.zeros(count)  # of the fragments
        self._columns = Columns(spec, count)
        self._together = together and self._may_record_together()
        self._present: list[_Seat] = []  # that take the next step together
        self._seats = []
        for index, source in enumerate(sources):
            recorder = Recorder(client, epoch, spec, self._columns, index)
            self._seats.append(_Seat(index, source, recorder, self._obs, self._memory))
        self._groups: list[tuple[Actor, Array | None, list[_Seat]]] = []
        self._regroup, self._absent = False, 0  # the seats that are absent
        self._stepping: dict[IsolatedEnvironment, _Step] = {}
        self._resetting: dict[IsolatedEnvironment, _Seat] = {}
        self._recordable: dict[int, Recordable] = {}
        self._to_evaluate = 0  # episodes of the evaluation that was asked for
        self._longest = spec.environment.max_episode_steps  # or of an episode that ended

    def _may_record_together(self) -> bool:
        """Whether all steps of a round are done before the next, and none has a time of its own."""
        return (
            len(self._environments) >= _TOGETHER
            and not self._spec.environment.realtime
            and not any(isinstance(one, IsolatedEnvironment) for one in self._environments)
        )

    def record_greedy(self) -> None:
        """Let the environments that can do it make videos of greedy episodes."""
        for seat in self._seats:
            if isinstance(seat.source, Recordable):
                self._recordable[seat.index] = seat.source

    def run(self, stopped: Callable[[], bool]) -> str:
        """Play until ``stopped()`` or the end of the instructions, and return the reason.

        Unfinished fragments are sent at the end.
        """
        try:
            self._play(stopped)
        finally:
            if (
                self._instructions.over != "run"
            ):  # no training node reads messages of an earlier run
                self._cut_all()
        return self._instructions.over

    def _play(self, stopped: Callable[[], bool]) -> None:
        for seat in self._seats:
            seat.absent = True
        self._absent = len(self._seats)
        while not stopped():
            if self._link.instructions is not self._instructions:
                self._follow(self._link.instructions)
            if self._instructions.over:
                break
            if not self._may_step():
                self._hold()
                continue
            if self._absent:
                self._rejoin()
            if self._absent < len(self._seats):
                self._round()
                self._finish(_WAIT_SECONDS)
                self._delay(stopped)

    def _follow(self, instructions: Instructions) -> None:
        if instructions.pointer is not self._instructions.pointer:
            self._used = 0
        if instructions.evaluation is not self._instructions.evaluation:
            task = instructions.evaluation
            self._to_evaluate = task.episodes if task is not None else 0
        self._instructions = instructions
        self._progress.waiting = instructions.actor is None or self._spent()
        busy = self._busy()
        for seat in self._seats:
            if not seat.recorder.length and seat not in busy:  # its next fragment has not begun
                self._take_newest(seat)

    def _may_step(self) -> bool:
        given = self._instructions
        return given.actor is not None and not given.paused and not self._spent()

    def _spent(self) -> bool:
        pointer = self._instructions.pointer
        used = self._used + len(self._stepping)
        return pointer is not None and pointer.quota is not None and used >= pointer.quota

    def _hold(self) -> None:
        """Finish and send all steps, and wait for other instructions."""
        self._finish(_WAIT_SECONDS if self._stepping else 0.0)
        if self._stepping:
            return  # a fragment of steps of one version cannot be cut before its last step
        # Set before sending, so that the reply to the last fragment arrives with its weights and
        # a single client in lockstep is repeatable.
        self._progress.waiting = self._instructions.actor is None or self._spent()
        self._cut_all()
        self._link.wait(self._instructions, _WAIT_SECONDS)

    def _delay(self, stopped: Callable[[], bool]) -> None:
        left = self._step_delay
        while left > 0 and not stopped():
            self._sleep(min(left, _WAIT_SECONDS))
            left -= _WAIT_SECONDS

    def _round(self) -> None:
        """Take one step in every environment, or request one of each that is free."""
        if self._regroup:
            self._group()
        began = self._clock()
        if self._vector is not None:
            self._step_vector(self._vector, began)
            return
        if self._together:
            self._step_each(began)
            return
        for actor, indices, seats in self._groups:
            actions, extras = self._act(actor, indices)
            for row, seat in enumerate(seats):
                self._step(_Step(seat, actions[row], extras, row, began))

    def _act(self, actor: Actor, indices: Array | None) -> tuple[Array, Rows]:
        """Choose actions for environments; return them with the head's extra values."""
        obs, memory, greedy, epsilon = self._obs, self._memory, self._greedy, self._epsilon
        if indices is not None:
            obs = {name: rows[indices] for name, rows in obs.items()}
            memory = {name: rows[indices] for name, rows in memory.items()}
            greedy, epsilon = greedy[indices], epsilon[indices]
        outputs, after = actor(obs, memory)
        for name, rows in after.items():
            self._memory[name][... if indices is None else indices] = rows
        return act(
            self._head,
            self._spec.spec.action,
            outputs,
            mask=obs.get(MASK),
            greedy=greedy,
            epsilon=epsilon,
            random=self._instructions.exploration.get("random", 0.0),
            rng=self._rng,
        )

    def _step(self, step: _Step) -> None:
        environment = self._environments[step.seat.index]
        native = to_environment(self._head, self._spec.spec.action, step.action)
        try:
            if self._waits(environment):
                environment.request_step(native)
                self._stepping[environment] = step
                self._regroup = True
                return
            self._progress.called = step.began
            outcome = environment.step(native, step.seat.rows)
            self._progress.called = None
        except EnvironmentBroken as broken:
            self._leave([step.seat], broken)
        else:
            self._stepped(step, outcome)

    def _waits(self, environment: PlayableEnvironment) -> TypeGuard[IsolatedEnvironment]:
        """Return whether others play on while this environment resets or takes a step."""
        return len(self._seats) > 1 and isinstance(environment, IsolatedEnvironment)

    def _busy(self) -> list[_Seat]:
        return [*self._resetting.values(), *(step.seat for step in self._stepping.values())]

    def _finish(self, timeout: float) -> None:
        """Finish steps and resets that are answered, after ``timeout`` seconds of waiting at most.

        Without any it returns at once.
        """
        awaited = [*self._stepping, *self._resetting]
        for environment in answered(awaited, timeout) if awaited else ():
            self._regroup = True
            step = self._stepping.pop(environment, None)
            seat = self._resetting.pop(environment) if step is None else step.seat
            try:
                if step is None:
                    environment.finish_reset(seat.rows)
                    self._begun(seat)
                else:
                    self._stepped(step, environment.finish_step(seat.rows))
            except EnvironmentBroken as broken:
                self._leave([seat], broken)

    def _stepped(self, step: _Step, outcome: StepResult) -> None:
        seat, action, extras, row, began = step
        seat.recorder.add(action, outcome.reward, extras, row, seat.rows)
        if outcome.intervention is not None:
            self._intervene(seat, outcome.intervention)
        self._rewards[seat.index] += outcome.reward
        self._steps[seat.index] += 1
        self._used += 1
        self._progress.steps += 1
        now = self._clock()
        if self._spec.environment.realtime and seat.late.is_late(now):
            self._count_fault("late")
        length = seat.recorder.length
        if length == 1:
            self._deadlines[seat.index] = began + self._spec.fragment_seconds
        if outcome.terminated or outcome.truncated:
            self._end(seat, outcome, now)
            self._begin(seat)
        elif length >= seat.recorder.capacity or now >= self._deadlines[seat.index]:
            self._send(seat, terminated=False, truncated=False)
            self._take_newest(seat)

    def _step_each(self, began: float) -> None:
        """Take one step in each environment of this process, and record all steps at once.

        It does what ``_step`` does one by one. With several versions in use, their actions are
        drawn before the first step.
        """
        actions, extras = self._act_together()
        progress = self._progress
        natives = to_environments(self._head, self._spec.spec.action, actions)
        outcomes: list[tuple[_Seat, StepResult]] = []
        broken: list[tuple[_Seat, EnvironmentBroken]] = []
        progress.called = began
        for seat in self._present:
            index = seat.index
            try:
                outcomes.append((seat, self._environments[index].step(natives[index], seat.rows)))
            except EnvironmentBroken as error:
                broken.append((seat, error))
        progress.called = None
        if outcomes:
            self._record(outcomes, actions, extras, began)
        for seat, fault in broken:
            self._leave([seat], fault)

    def _record(
        self,
        outcomes: Sequence[tuple[_Seat, StepResult]],
        actions: Array,
        extras: Rows,
        began: float,
    ) -> None:
        """Record a step of several environments, and send what it has completed.

        Args:
            outcomes: The environments that have taken it, with its result.
            actions: The actions [E, ...] of all environments.
            extras: The head's extra values [E, ...].
            began: The time at which the first of them began.
        """
        taken = np.array([seat.index for seat, _ in outcomes])
        reward = np.zeros(len(self._seats))
        reward[taken] = [outcome.reward for _, outcome in outcomes]
        columns = self._columns
        columns.add(taken, actions, reward, extras, self._obs)
        self._rewards += reward
        self._steps[taken] += 1
        self._used += len(outcomes)
        self._progress.steps += len(outcomes)
        now, lengths = self._clock(), columns.lengths[taken]
        self._deadlines[taken[lengths == 1]] = began + self._spec.fragment_seconds
        due = ((lengths >= columns.capacity) | (now >= self._deadlines[taken])).tolist()
        for (seat, outcome), is_due in zip(outcomes, due, strict=True):
            if outcome.intervention is not None:
                self._intervene(seat, outcome.intervention)
            if outcome.terminated or outcome.truncated:
                self._end(seat, outcome, now)
                self._begin(seat)
            elif is_due:
                self._send(seat, terminated=False, truncated=False)
                self._take_newest(seat)

    def _intervene(self, seat: _Seat, row: Array) -> None:
        """Record the action that a person has done in the last step."""
        action = self._spec.spec.action
        rows = row.reshape(1, *action.shape)
        seat.recorder.intervene(from_environment_rows(self._head, action, rows)[0])
        seat.taken_over += 1
        if not self._spec.interventions and not self._warned:
            self._warned = True
            log.warning(
                "interventions: the run does not mark them; set demonstrations.interventions on "
                "the server"
            )

    def _step_vector(self, vector: PlayableVector, began: float) -> None:
        """Take one step in each environment of a vector."""
        spec = self._spec.spec.action
        actions, extras = self._act_together()
        self._progress.called = began
        try:
            outcome = vector.step(to_environment_rows(self._head, spec, actions), self._obs)
            self._columns.add(
                np.flatnonzero(outcome.taken), actions, outcome.reward, extras, self._obs
            )
            begun = vector.begin(self._obs)
        except EnvironmentBroken as broken:
            self._leave(self._seats, broken)
            return
        self._progress.called = None
        self._stepped_together(outcome, begun, began)

    def _act_together(self) -> tuple[Array, Rows]:
        """Choose the actions [E, ...] of all environments, whatever their versions are."""
        parts = [(indices, *self._act(actor, indices)) for actor, indices, _ in self._groups]
        if len(parts) == 1 and parts[0][0] is None:
            return parts[0][1:]
        count, spec = len(self._seats), self._spec
        actions = zeros(spec.spec.action.leaf, count)
        extras = {name: zeros(leaf, count) for name, leaf in spec.extras.items()}
        for indices, chosen, more in parts:
            actions[indices] = chosen
            for name, values in more.items():
                extras[name][indices] = values
        return actions, extras

    def _stepped_together(self, outcome: VectorStep, begun: Array, began: float) -> None:
        """Record a step of a vector, and send what it has completed."""
        taken, lengths = outcome.taken, self._columns.lengths
        self._rewards += outcome.reward
        self._steps += taken
        count = int(np.count_nonzero(taken))
        self._used += count
        self._progress.steps += count
        now = self._clock()
        self._deadlines[taken & (lengths == 1)] = began + self._spec.fragment_seconds
        ended = outcome.terminated | outcome.truncated
        cut = taken & ((lengths >= self._columns.capacity) | (now >= self._deadlines)) & ~ended
        for index in np.flatnonzero(ended | begun | cut).tolist():
            seat = self._seats[index]
            if ended[index]:
                over, out = bool(outcome.terminated[index]), bool(outcome.truncated[index])
                self._end(seat, StepResult(0.0, terminated=over, truncated=out), now)
            if begun[index]:
                self._begun(seat)
            elif cut[index]:
                self._send(seat, terminated=False, truncated=False)
                self._take_newest(seat)

    def _begin(self, seat: _Seat) -> None:
        """Begin an episode; its first observation is no step of the episode before."""
        if self._stage != seat.stage:
            self._begin_stage(seat)
            return
        seed, self._seeds[seat.index] = self._seeds[seat.index], None
        environment = self._environments[seat.index]
        try:
            if self._waits(environment):
                environment.request_reset(seed)
                self._resetting[environment] = seat
            else:
                self._progress.called = self._clock()
                environment.reset(seat.rows, seed)
                self._progress.called = None
        except EnvironmentBroken as broken:
            self._leave([seat], broken)
            return
        self._set_absent(seat, absent=False)
        if environment not in self._resetting:
            self._begun(seat)

    @property
    def _stage(self) -> int:
        """The number of stages of the schedule that have begun."""
        return min(self._instructions.stage, len(self._values) - 1)

    def _begin_stage(self, seat: _Seat) -> None:
        """Let an environment take the arguments of a stage; the player rejoins when it is ready."""
        seat.stage = self._stage
        self._set_absent(seat, absent=True)
        self._environments[seat.index].begin_stage(seat.stage)
        if self._progress.kwargs != self._values[seat.stage]:
            log.info("schedule stage=%d values=%s", seat.stage, self._values[seat.stage])
        self._progress.kwargs = self._values[seat.stage]

    def _begun(self, seat: _Seat) -> None:
        """Prepare for the first step of an episode, whose first observation has arrived."""
        for row in seat.memory.values():
            row[...] = 0
        task = self._instructions.evaluation
        seat.evaluated = task.actor if task is not None and self._to_evaluate > 0 else None
        self._to_evaluate -= seat.evaluated is not None
        self._explore(seat, evaluate=True)
        seat.episode, self._episodes = self._episodes, self._episodes + 1
        self._rewards[seat.index], self._steps[seat.index] = 0.0, 0
        seat.taken_over = 0
        seat.newest = (0, 0)
        seat.began = self._clock()
        seat.late.begin()
        seat.recorder.begin(seat.episode, seat.rows)
        self._take_newest(seat)
        recordable = self._recordable.get(seat.index)
        if recordable is not None and seat.exploration.greedy:
            recordable.record(seat.newest)

    def _explore(self, seat: _Seat, *, evaluate: bool) -> None:
        """Draw how an episode is played from now on."""
        published = self._instructions.exploration
        drawn = explore(self._head, published, self._rng, evaluate=evaluate)
        if seat.evaluated is not None:
            drawn = Exploration(greedy=True, epsilon=0.0)
        seat.exploration = seat.recorder.exploration = drawn
        seat.at_random = max(drawn.epsilon, 0.0 if drawn.greedy else published.get("random", 0.0))
        for name in () if drawn.greedy else self._head.noise:
            seat.memory[name][...] = self._rng.standard_normal(seat.memory[name].shape)
        self._greedy[seat.index], self._epsilon[seat.index] = drawn.greedy, drawn.epsilon

    def _leave(self, seats: Sequence[_Seat], broken: EnvironmentBroken) -> None:
        """Abandon episodes; send their unfinished fragments unless a fault made them unsound.

        Without a fault, the client stops while it waits for an environment.
        """
        fault, progress = broken.fault, self._progress
        is_sound = fault is None or fault.sound
        progress.called = None
        for seat in seats:
            self._set_absent(seat, absent=True)
            if seat.recorder.length and is_sound:
                self._send(seat, terminated=False, truncated=False)
            progress.discarded += seat.recorder.length
            seat.recorder.length = 0
        if fault is not None:
            progress.restarts += fault.restarts
            self._count_fault(fault.kind)
            progress.trouble = fault.text

    def _set_absent(self, seat: _Seat, *, absent: bool) -> None:
        if seat.absent != absent:
            seat.absent = absent
            self._absent += 1 if absent else -1
            self._regroup = True

    def _count_fault(self, kind: str) -> None:
        faults = self._progress.faults
        self._progress.faults = faults | {kind: faults.get(kind, 0) + 1}

    def _rejoin(self) -> None:
        """Begin episodes in environments that are ready again; wait if none is playing."""
        if self._vector is not None:
            self._rejoin_vector(self._vector)
            return
        for seat in self._seats:
            if not seat.absent:
                continue
            try:
                ready = self._environments[seat.index].ready(
                    0.0 if self._absent < len(self._seats) else _WAIT_SECONDS
                )
            except EnvironmentBroken as broken:
                self._leave([seat], broken)
            else:
                if ready:
                    self._begin(seat)

    def _rejoin_vector(self, vector: PlayableVector) -> None:
        """Begin an episode in each environment of a vector, if it is ready."""
        seed, self._seeds[0] = self._seeds[0], None
        try:
            if not vector.ready(_WAIT_SECONDS):
                return
            self._progress.called = self._clock()
            vector.reset(self._obs, seed)
        except EnvironmentBroken as broken:
            self._leave(self._seats, broken)
            return
        self._progress.called = None
        for seat in self._seats:
            self._set_absent(seat, absent=False)
            self._begun(seat)

    def _take_newest(self, seat: _Seat) -> None:
        """Use the newest weights for the next fragment, unless the episode measures older ones."""
        steps = int(self._steps[seat.index])
        if seat.exploration.greedy and steps >= max(_GREEDY_STEPS, 4 * self._longest):
            seat.evaluated = None
            self._explore(seat, evaluate=False)  # it may never end, and nothing is learnt from it
        newest = seat.evaluated or self._instructions.actor
        pinned = seat.exploration.greedy and steps > 0 and seat.actor is not None
        if newest is not None and not pinned and newest is not seat.actor:
            seat.actor = newest
            self._progress.version = newest.version
            self._regroup = True
        if seat.actor is not None:
            seat.newest = max(seat.newest, (seat.actor.generation, seat.actor.version))
            seat.recorder.use(seat.actor, seat.memory)

    def _end(self, seat: _Seat, outcome: StepResult, now: float) -> None:
        """Send the last fragment and the summary of an episode."""
        self._send(seat, terminated=outcome.terminated, truncated=outcome.truncated)
        steps = int(self._steps[seat.index])
        self._longest = max(self._longest, steps)
        generation, version = seat.newest
        self._link.send(
            Episode(
                generation=generation,
                version=version,
                episode=seat.episode,
                reward=float(self._rewards[seat.index]),
                steps=steps,
                seconds=now - seat.began,
                terminated=outcome.terminated,
                greedy=seat.exploration.greedy,
                epsilon=seat.at_random,
                info=numbers(seat.source.info, self._spec.environment.info_keys)
                | ({INTERVENED: float(seat.taken_over)} if seat.taken_over else {}),
                kwargs=self._values[seat.stage],
            )
        )
        self._progress.episodes += 1

    def _send(self, seat: _Seat, *, terminated: bool, truncated: bool) -> None:
        fragment = seat.recorder.cut(self._cut, terminated=terminated, truncated=truncated)
        self._cut += len(fragment)
        seat.source.check_bounds(fragment.obs)
        self._link.send(fragment)
        seat.recorder.resume()

    def _cut_all(self) -> None:
        for seat in self._seats:
            if seat.recorder.length:
                self._send(seat, terminated=False, truncated=False)
                self._take_newest(seat)

    def _group(self) -> None:
        """Group the environments by the version in use."""
        self._regroup = False
        busy = self._busy()
        present = [seat for seat in self._seats if not seat.absent and seat not in busy]
        self._present = [seat for seat in present if seat.actor is not None]
        actors = dict.fromkeys(seat.actor for seat in present if seat.actor is not None)
        self._groups = []
        for actor in actors:
            seats = [seat for seat in present if seat.actor is actor]
            complete = len(seats) == len(self._seats)
            indices = None if complete else np.array([seat.index for seat in seats])
            self._groups.append((actor, indices, seats))
