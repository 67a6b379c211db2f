"""The sessions of a client: find a run, check it, make environments, say hello, and play."""

import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np

from soulsai import __version__
from soulsai.client.environment import AdaptedEnvironment, PlayableEnvironment
from soulsai.client.environment_offer import check_offer, difference
from soulsai.client.episode_videos import RENDER
from soulsai.client.human_input import HumanInput
from soulsai.client.in_process import Closable, InProcessEnvironment, InProcessVector
from soulsai.client.isolation.environment import IsolatedEnvironment, start
from soulsai.client.own_values import for_record, index_of, numbered, with_own
from soulsai.client.player import Player
from soulsai.client.player_link import Outbox, PlayerProgress
from soulsai.client.probe import SingleEnvironment, open_offer, open_vector, with_pictures
from soulsai.client.spool import Spool, clean
from soulsai.client.take_over import TakenOverEnvironment
from soulsai.client.trial_load import try_program
from soulsai.client.unconfirmed import UnconfirmedEntries
from soulsai.client.uplink import Backoff, Uplink
from soulsai.client.vector_environment import AdaptedVector
from soulsai.config.schema import Config
from soulsai.errors import AccessDenied, ConfigError, EnvironmentFault, NoRun, WireError
from soulsai.types import (
    MASK,
    PROTOCOL,
    ActionSpec,
    ClientValues,
    EnvironmentOffer,
    Hello,
    Program,
    RunSpec,
    Spec,
)
from soulsai.wire.codec import encode_message, pack
from soulsai.wire.protocols import ClientWire, Position
from soulsai.wire.version import ProtocolRange, check_protocol

log = logging.getLogger(__name__)

_NO_RUN_SECONDS = 1.0  # at most, between two checks for a run
_SLICE = 0.1  # seconds between two checks of ``stopped``

Answer = TypeVar("Answer")
TakeOver = Callable[[ActionSpec, AdaptedEnvironment | None], HumanInput]
Stopped = Callable[[], bool]
MakePlayable = Callable[[EnvironmentOffer, Spec], PlayableEnvironment]


def serve(
    config: Config,
    wire: ClientWire,
    *,
    environment: str = "",
    seed: int | None = None,
    step_delay: float = 0.0,
    take_over: TakeOver | None = None,
    spool: Path | None = None,
    stopped: Stopped,
    playable: MakePlayable | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Play for the run on the server, and for runs that follow it, until told to stop.

    Args:
        config: The client's own settings, which limit the environments that the server may
            request. An ``environment.count`` above one takes precedence over the server's.
        wire: The connection; the caller closes it.
        environment: An id named by the user, which replaces the server's.
        seed: Of exploration and of the environments.
        step_delay: Seconds to sleep after each step.
        take_over: Opens the device by which a person steers the first environment.
        spool: A folder for unsent entries; only for a client that keeps its name.
        stopped: Whether the user wants the client to stop.
        playable: Makes one environment of the run that is none of Gymnasium's.
        clock: Monotonic seconds.
        sleep: How to sleep.
    """
    client = _ClientContext(
        config=config,
        wire=wire,
        named=environment,
        seed=seed,
        step_delay=step_delay,
        take_over=take_over,
        spools=spool,
        stopped=stopped,
        playable=playable,
        clock=clock,
        sleep=sleep,
        jitter=random.Random(seed),
    )
    while not stopped():
        if client.session() != "run":
            return


class _ClientContext(NamedTuple):
    """The data that all sessions of one client share."""

    config: Config
    wire: ClientWire
    named: str
    seed: int | None
    step_delay: float
    take_over: TakeOver | None
    spools: Path | None
    stopped: Stopped
    playable: MakePlayable | None
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    jitter: random.Random

    def session(self) -> str:
        """Play for one run; return ``"run"`` if another may have begun."""
        spec = self._retry(self.wire.spec)
        if spec is None:
            return ""
        if warning := check_protocol(ProtocolRange(spec.protocol, spec.oldest_protocol)):
            log.warning("protocol=%d: %s", PROTOCOL, warning)
        own = self.config.environment
        offer = with_own(spec.environment, self.config.client)
        id = check_offer(
            offer,
            named=self.named,
            listed=self.config.client.environments,
            own_kwargs=own.kwargs | self.config.client.kwargs,
            own_stages=[stage.kwargs for stage in own.schedule],
            own_wrappers=own.wrappers | self.config.client.wrappers,
            allowed_wrappers=self.config.client.allowed_wrappers,
        )
        if own.count > 1:
            offer = msgspec.structs.replace(offer, count=own.count)
        environments = self._make_all(id, offer, spec.spec)
        if self.take_over is not None:
            environments = self._steered(environments, spec, self.take_over)
        try:
            values = [for_record(offer, stage) for stage in range(len(offer.schedule) + 1)]
            return self._play(spec, _public_id(id), values, environments)
        finally:
            _close(environments)

    def _make_all(
        self, id: str, offer: EnvironmentOffer, spec: Spec
    ) -> list[PlayableEnvironment] | InProcessVector:
        """Make the environments; raise ``EnvironmentFault`` if they are not the run's."""
        if self.playable is not None:
            return [self.playable(offer, spec)]
        if offer.vector:
            return self._vector(id, offer, spec)
        count, isolate = offer.count, self.config.environment.isolate
        if isolate == "auto":
            isolate = offer.realtime
        environments: list[PlayableEnvironment] = []
        try:
            while len(environments) < count:
                index = index_of(self.config.client.number, count, len(environments))
                ours = numbered(offer, index)
                watched = self.take_over is not None and not environments
                environments.append(
                    self._isolated(id, ours, spec)
                    if isolate
                    else self._in_process(id, ours, spec, watched=watched)
                )
        except EnvironmentFault as fault:
            _close(environments)
            if not environments:
                raise
            raise EnvironmentFault(
                f"{fault} (number {len(environments) + 1} of {count} in this client, after others "
                "could be made; environment.count sets how many)"
            ) from fault
        return environments

    def _steered(
        self,
        environments: list[PlayableEnvironment] | InProcessVector,
        spec: RunSpec,
        take_over: TakeOver,
    ) -> list[PlayableEnvironment]:
        """Let a person steer the first environment."""
        if not spec.interventions or isinstance(environments, InProcessVector):
            _close(environments)
            raise ConfigError(
                "--take-over: the run takes no interventions; set demonstrations.interventions on "
                "the server"
                if not spec.interventions
                else "--take-over: does not work with environment.vector; set it to false"
            )
        first, *others = environments
        inner = first if isinstance(first, InProcessEnvironment) else None
        adapted = inner.adapted if inner is not None else None
        if adapted is None:
            log.info(
                "take-over: %s draws no picture in the window, as it is in a process of its own; "
                "watch its own window, or set environment.isolate to false",
                first.name,
            )
        elif adapted.render_mode != RENDER:
            log.info("take-over: %s draws its own window, or none", first.name)
        try:
            source = take_over(spec.spec.action, adapted)
        except BaseException:
            _close(environments)
            raise
        steered = TakenOverEnvironment(
            first,
            spec.spec.action,
            source,
            lambda: None if inner is None else inner.adapted,
            paced=spec.environment.realtime,
            clock=self.clock,
            sleep=self.sleep,
        )
        return [steered, *others]

    def _in_process(
        self, id: str, offer: EnvironmentOffer, spec: Spec, *, watched: bool
    ) -> InProcessEnvironment:
        return InProcessEnvironment(
            lambda stage: self._made(id, offer.at_stage(stage), spec, watched=watched),
            self.config.watchdog,
            rng=self.jitter,
            clock=self.clock,
            sleep=self.sleep,
        )

    def _made(
        self, id: str, offer: EnvironmentOffer, spec: Spec, *, watched: bool
    ) -> SingleEnvironment:
        own = self.config.client
        return with_pictures(
            lambda kwargs: make_own(id, msgspec.structs.replace(offer, kwargs=kwargs), spec),
            offer.kwargs,
            own.video,
            own.videos,
            watched=watched,
        )

    def _vector(self, id: str, offer: EnvironmentOffer, spec: Spec) -> InProcessVector:
        ours = numbered(offer, index_of(self.config.client.number, offer.count, 0))
        return InProcessVector(
            lambda: make_own_vector(id, ours, spec),
            self.config.watchdog,
            rng=self.jitter,
            clock=self.clock,
            sleep=self.sleep,
        )

    def _isolated(self, id: str, offer: EnvironmentOffer, spec: Spec) -> IsolatedEnvironment:
        isolated = IsolatedEnvironment(
            id,
            offer,
            spec,
            self.config.watchdog,
            stopped=self.stopped,
            rng=self.jitter,
            clock=self.clock,
            sleep=self.sleep,
        )
        isolated.record_into(self.config.client.video, self.config.client.videos)
        start(isolated, self.stopped)
        return isolated

    def _play(
        self,
        spec: RunSpec,
        id: str,
        values: Sequence[ClientValues],
        environments: Sequence[PlayableEnvironment] | InProcessVector,
    ) -> str:
        count = len(environments) if isinstance(environments, Sequence) else environments.count
        hello = Hello(
            run=spec.run,
            protocol=PROTOCOL,
            software=f"soulsai {__version__}",
            environment=id,
            environments=count,
            crc=spec.crc,
        )
        spool, unconfirmed = self._spool(spec), UnconfirmedEntries()
        try:
            started = self._retry(lambda: self._say_hello(spec, hello, spool, unconfirmed))
            if started is None:
                return "run"
            log.info("run=%s environment=%s count=%d values=%s", spec.run, id, count, values[0])
            over = self._run_player(spec, *started, values, environments, spool, unconfirmed)
            if over == "run" and spool is not None:
                spool.discard()
            return over
        finally:
            if spool is not None:
                spool.close()

    def _run_player(
        self,
        spec: RunSpec,
        program: Program,
        position: Position,
        values: Sequence[ClientValues],
        environments: Sequence[PlayableEnvironment] | InProcessVector,
        spool: Spool | None,
        unconfirmed: UnconfirmedEntries,
    ) -> str:
        """Play, and return the reason of the end."""
        outbox = Outbox(int(self.config.client.outbox_mb * 1e6), self.clock)
        progress = PlayerProgress(kwargs=values[0])
        several = len(environments) if isinstance(environments, Sequence) else 1
        exploration, *seeds = np.random.SeedSequence(self.seed).spawn(1 + several)
        with Uplink(
            self.wire,
            spec,
            program,
            outbox,
            progress,
            position=position,
            rng=self.jitter,
            unconfirmed=unconfirmed,
            spool=spool,
            trial=None if self.config.redis.url.startswith("unix:") else try_program,
            clock=self.clock,
        ) as uplink:
            player = Player(
                environments,
                spec,
                program.head,
                uplink,
                progress,
                client=self.config.client.name,
                epoch=position.epoch,
                rng=np.random.default_rng(exploration),
                # Below 2**31, because many environments take an int32.
                seeds=[int(one.generate_state(1)[0]) >> 1 for one in seeds],
                values=values,
                step_delay=self.step_delay,
                together=self.config.client.record_together,
                clock=self.clock,
                sleep=self.sleep,
            )
            if self.config.client.video:
                player.record_greedy()
            return player.run(self.stopped)

    def _spool(self, spec: RunSpec) -> Spool | None:
        megabytes, name = self.config.client.spool_mb, self.config.client.name
        if self.spools is None or not megabytes:
            return None
        clean(self.spools)
        return Spool(self.spools, spec, name, int(megabytes * 1e6))

    def _say_hello(
        self, spec: RunSpec, hello: Hello, spool: Spool | None, unconfirmed: UnconfirmedEntries
    ) -> tuple[Program, Position] | None:
        """Say hello; return ``None`` if another run has begun in the meantime.

        The spool is sent before, because its entries are of an earlier epoch.
        """
        if self.wire.spec().crc != spec.crc:
            return None
        program = self.wire.program(spec)
        unconfirmed.send(self.wire)  # after a failure of the attempt before
        if spool and (sent := spool.deliver(self.wire, unconfirmed)):
            log.info("delivered=%d entries of an earlier process", sent)
        position = self.wire.hello(hello)
        unconfirmed.add([(position, pack([encode_message(hello, spec)]))])
        return program, position

    def _retry(self, call: Callable[[], Answer]) -> Answer | None:
        """Call until it succeeds; return ``None`` when stopped."""
        backoff, empty = Backoff(self.jitter), Backoff(self.jitter, most=_NO_RUN_SECONDS)
        logged = ""
        while not self.stopped():
            try:
                return call()
            except AccessDenied:
                raise
            except WireError as error:
                if logged != type(error).__name__:
                    logged = type(error).__name__
                    level = logging.INFO if isinstance(error, NoRun) else logging.WARNING
                    log.log(level, "waiting=%s: %s", logged, error)
                delay = (empty if isinstance(error, NoRun) else backoff).next()
            self._pause(delay)
        return None

    def _pause(self, seconds: float) -> None:
        until = self.clock() + seconds
        while not self.stopped() and (left := until - self.clock()) > 0:
            self.sleep(min(left, _SLICE))


def _public_id(id: str) -> str:
    """Return an environment's id without the folders of this machine."""
    place, colon, name = id.rpartition(":")
    return f"{Path(place).name}{colon}{name}" if place.endswith(".py") else id


def make_own(id: str, offer: EnvironmentOffer, spec: Spec) -> SingleEnvironment:
    """Make an environment in this process; raise ``EnvironmentFault`` if it is not the run's."""
    environment = open_offer(id, offer, masked=MASK in spec.obs)
    _check_spec(environment, spec)
    return environment


def make_own_vector(id: str, offer: EnvironmentOffer, spec: Spec) -> AdaptedVector:
    """Make a vector environment; raise ``EnvironmentFault`` if it is not the run's."""
    vector = open_vector(id, offer, masked=MASK in spec.obs, count=offer.count)
    _check_spec(vector, spec)
    return vector


def _check_spec(made: SingleEnvironment | AdaptedVector, spec: Spec) -> None:
    if different := difference(made.spec, spec):
        _close([made])
        raise EnvironmentFault(f"{made.name}: is not the environment of the run: {different}")


def _close(environments: Sequence[Closable] | InProcessVector) -> None:
    every = environments if isinstance(environments, Sequence) else [environments]
    for environment in every:
        try:
            environment.close()
        except EnvironmentFault as fault:
            log.warning("close: %s", fault)
