"""Recordings of greedy episodes: a video, and a trace of all actions with what led to them."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct

from soulsai.client.actor import Actor, Arrays
from soulsai.client.creation import make
from soulsai.client.environment import AdaptedEnvironment
from soulsai.client.environment_offer import difference, offer_of_policy
from soulsai.client.episode_videos import RENDER
from soulsai.client.own_values import numbered
from soulsai.client.video import VideoFault, VideoLimits, VideoWriter
from soulsai.config.schema import ClientSettings
from soulsai.errors import EnvironmentFault
from soulsai.heads import act, to_environment
from soulsai.types import MASK, Array, PolicyCard, zeros

MOST_STEPS = 20_000  # of a trace; the video is shorter
MOST_SCORES = 64  # of a step
TRACE_ENDING = ".json"

ScoreKind = Literal["q", "probability", "mean"]


class Trace(Struct):
    """Everything about an episode but its pictures; frame i shows the state before step i."""

    generation: int
    version: int
    seed: int
    fps: int
    scores_are: ScoreKind
    sizes: tuple[int, ...] = ()  # choices of each component
    frames: int = 0  # in the video; less than steps if it was cut
    actions: list[list[float]] = []
    scores: list[list[float | None]] = []  # of each choice, none if it is masked; or of each number
    values: list[float] = []  # of the states by the policy, if it estimates them
    rewards: list[float] = []
    terminated: bool = False


class Recorded(Struct, frozen=True):
    """The files of a recording, and what is not complete about it."""

    files: tuple[str, ...] = ()
    notice: str = ""
    returns: tuple[float, ...] = ()


class RecordedPolicy:
    """A policy that plays one environment with pictures."""

    def __init__(
        self,
        policy: Path,
        environment: str,
        own: ClientSettings,
        *,
        first_index: int = 1,
        mode: str = RENDER,
    ) -> None:
        """Load the policy and make its environment.

        Args:
            policy: A ``policy.onnx``.
            environment: The environment to play; empty: the policy's own.
            own: The settings of a client on this machine.
            first_index: The index of the environment, see ``own_values.numbered``.
            mode: Gymnasium's render mode: ``rgb_array``, or ``human`` for a window.

        Raises:
            EnvironmentFault: It cannot be made, or not with that mode.
        """
        self.actor, self.card = Actor.from_file(policy)
        self.id, offer = offer_of_policy(self.card.environment, own, environment)
        offer = numbered(offer, first_index)
        self.environment = _rendered(self.id, offer.kwargs, offer, self.card, mode)
        self._rng = np.random.default_rng(0)  # greedy actions do not use it

    def play(
        self, seed: int, show: Callable[[Array | None, float, int], None], beat: Callable[[], bool]
    ) -> Trace:
        """Play one episode and return its trace.

        Args:
            seed: The seed of the reset.
            show: Receives each picture with the return so far and the number of the step.
            beat: Is called in each step; true ends the episode.
        """
        card, environment = self.card, self.environment
        trace = _empty_trace(card, seed, environment.render_fps)
        obs = {name: zeros(leaf, 1) for name, leaf in card.spec.obs.items()}
        rows = {name: leaf[0, ...] for name, leaf in obs.items()}
        memory = {name: zeros(leaf, 1) for name, leaf in card.memory.items()}
        environment.reset(rows, seed)
        show(environment.render(), 0.0, 0)
        while not beat() and len(trace.rewards) < MOST_STEPS:
            outputs, memory = self.actor(obs, memory)
            mask = obs.get(MASK)
            action = self._greedy(outputs, mask)
            _add(trace, outputs, mask, action)
            outcome = environment.step(to_environment(card.head, card.spec.action, action), rows)
            trace.rewards.append(outcome.reward)
            show(environment.render(), math.fsum(trace.rewards), len(trace.rewards))
            if outcome.terminated or outcome.truncated:
                trace.terminated = outcome.terminated
                break
        return trace

    def _greedy(self, outputs: Arrays, mask: Array | None) -> Array:
        actions, _ = act(
            self.card.head, self.card.spec.action, outputs, mask=mask,
            greedy=np.ones(1, np.bool_), epsilon=np.zeros(1), random=0.0, rng=self._rng,
        )  # fmt: skip
        action: Array = actions[0]
        return action

    def caption(self, seed: int, so_far: float) -> str:
        """Return the line below a picture.

        Args:
            seed: The seed of the episode.
            so_far: The sum of its rewards up to the picture.
        """
        card = self.card
        return f"version {card.generation}-{card.version}   return {so_far:.1f}   seed {seed}"


def record(
    policy: Path,
    environment: str,
    own: ClientSettings,
    seeds: tuple[int, ...],
    folder: Path,
    *,
    limits: VideoLimits,
    first_index: int = 1,
    beat: Callable[[], bool] = lambda: False,
) -> Recorded:
    """Write ``episode-<seed>.webm`` and ``episode-<seed>.json`` of each seed into a folder.

    Args:
        policy: A ``policy.onnx``.
        environment: The environment to play.
        own: The settings of a client on this machine.
        seeds: One for each episode.
        folder: It is made if it is missing.
        limits: The bounds of each video.
        first_index: The index of the environment, see ``own_values.numbered``.
        beat: Is called in each step; true ends the recording.

    Raises:
        EnvironmentFault: The environment cannot be made with ``rgb_array``.
        VideoFault: There is no codec.
        OSError: The disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    player = RecordedPolicy(policy, environment, own, first_index=first_index)
    files: list[str] = []
    notices: list[str] = []
    returns: list[float] = []
    try:
        for seed in seeds:
            video = folder / f"episode-{seed}.webm"
            trace, cut = record_episode(player, seed, video, limits, beat)
            if trace.frames == 0:
                break
            write_trace(video.with_suffix(TRACE_ENDING), trace)
            files += [video.name, video.with_suffix(TRACE_ENDING).name]
            returns.append(math.fsum(trace.rewards))
            notices += [f"{video.name}: {cut}"] if cut else []
    finally:
        player.environment.close()
    return Recorded(tuple(files), "; ".join(notices), tuple(returns))


def record_episode(
    player: RecordedPolicy,
    seed: int,
    video: Path,
    limits: VideoLimits,
    beat: Callable[[], bool],
) -> tuple[Trace, str]:
    """Record one episode; return its trace, and why its video was cut, if it was.

    Args:
        player: The policy and its environment.
        seed: The seed of the episode.
        video: The file of the video.
        limits: The bounds of the video.
        beat: Is called in each step; true ends the episode.
    """
    writer = VideoWriter(video, player.environment.render_fps, limits)
    try:
        trace = player.play(seed, shown_in(writer, player, seed), beat)
    except BaseException:
        writer.discard()
        raise
    writer.close()
    trace.frames = writer.frames
    return trace, writer.cut


def record_file(
    player: RecordedPolicy,
    seeds: Sequence[int],
    video: Path,
    limits: VideoLimits,
    stopped: Callable[[], bool],
) -> str:
    """Record episodes one after the other into one file; return why it was cut, if it was.

    Args:
        player: The policy and its environment.
        seeds: One for each episode; those beyond the limits are left out.
        video: The file, which ends in ``.webm`` or ``.mp4``.
        limits: The bounds of the whole file.
        stopped: Whether to end early.

    Raises:
        VideoFault: There is no codec, or there are no pictures.
        OSError: The file cannot be written.
    """
    writer = VideoWriter(video, player.environment.render_fps, limits)
    try:
        for seed in seeds:
            if not (stopped() or writer.cut):
                player.play(
                    seed, shown_in(writer, player, seed), lambda: stopped() or writer.is_cut
                )
    except BaseException:
        writer.discard()
        raise
    writer.close()
    return writer.cut


def watch(player: RecordedPolicy, seeds: Sequence[int], stopped: Callable[[], bool]) -> list[Trace]:
    """Play episodes in the environment's own window, and return their traces.

    Args:
        player: The policy and its environment, made with the mode ``human``.
        seeds: One for each episode.
        stopped: Whether to end early.
    """
    traces: list[Trace] = []
    for seed in seeds:
        if stopped():
            break
        traces.append(player.play(seed, lambda *_: None, stopped))
    return traces


def shown_in(
    writer: VideoWriter, player: RecordedPolicy, seed: int
) -> Callable[[Array | None, float, int], None]:
    """Return a function that adds each picture of an episode to a video.

    Args:
        writer: The video.
        player: The policy that plays.
        seed: The seed of the episode.
    """

    def show(picture: Array | None, so_far: float, _: int) -> None:
        if picture is None:
            raise VideoFault(f"{player.id}: render returns nothing in the mode {RENDER}")
        writer.add(picture, player.caption(seed, so_far))

    return show


def write_trace(path: Path, trace: Trace) -> None:
    """Write a trace as a whole; raise ``OSError`` if the disk is full."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(msgspec.json.encode(trace))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _rendered(
    id: str, kwargs: dict[str, Any], offer: Any, card: PolicyCard, mode: str
) -> AdaptedEnvironment:
    try:
        env = make(id, kwargs | {"render_mode": mode}, offer.max_episode_steps, offer.wrappers)
    except EnvironmentFault as fault:
        raise EnvironmentFault(f"{fault}; videos need render_mode={mode!r}") from None
    if getattr(env, "render_mode", None) != mode:
        env.close()
        raise EnvironmentFault(f"{id}: has no render_mode {mode!r}, so it cannot be shown")
    adapted = AdaptedEnvironment(env, id, mask_key=offer.mask_key, masked=MASK in card.spec.obs)
    if different := difference(adapted.spec, card.spec):
        adapted.close()
        raise EnvironmentFault(f"{id}: is not the environment of the policy: {different}")
    return adapted


def _empty_trace(card: PolicyCard, seed: int, fps: int) -> Trace:
    kind: ScoreKind = "mean"
    if card.head.kind == "epsilon_greedy":
        kind = "q"
    elif card.spec.action.sizes:
        kind = "probability"
    return Trace(card.generation, card.version, seed, fps, kind, card.spec.action.sizes)


def _add(trace: Trace, outputs: Arrays, mask: Array | None, action: Array) -> None:
    """Append one step to a trace, in four digits."""
    trace.actions.append([round(float(number), 4) for number in np.ravel(action)])
    scores = _scores(trace, outputs)[:MOST_SCORES]
    allowed = np.ones(len(scores), np.bool_) if mask is None else mask[0]
    trace.scores.append(
        [
            round(float(score), 4) if index >= len(allowed) or allowed[index] else None
            for index, score in enumerate(scores)
        ]
    )
    if trace.scores_are == "q":
        best = [score for score in trace.scores[-1] if score is not None]
        trace.values.append(max(best, default=0.0))


def _scores(trace: Trace, outputs: Arrays) -> Array:
    if trace.scores_are == "q":
        q: Array = outputs["q"][0]
        return q.ravel()
    if trace.scores_are == "mean":
        mean: Array = outputs["mean"][0]
        return mean.ravel()
    parts = np.split(outputs["logits"][0].ravel(), np.cumsum(trace.sizes)[:-1])
    exponents = [np.exp(part - part.max()) for part in parts]
    return np.concatenate([part / part.sum() for part in exponents])
