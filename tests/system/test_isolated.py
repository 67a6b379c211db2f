"""Environments that hang, crash, leak and lag in a process of their own, and come back."""

import os
import random
import socket
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from soulsai.client.creation import make
from soulsai.client.environment import AdaptedEnvironment as Own
from soulsai.client.isolation import process_tree
from soulsai.client.isolation.environment import IsolatedEnvironment, start
from soulsai.client.isolation.watchdog import EnvironmentBroken
from soulsai.client.probe import probe
from soulsai.config.schema import EnvironmentSettings, WatchdogSettings
from soulsai.errors import EnvironmentFault
from soulsai.testing import BoxToy, DictToy, MaskedToy, MultiDiscreteToy
from soulsai.types import EnvironmentOffer, Spec, zeros
from tests.system.client_cases import until

SICK = "tests.system.sick_env:Sick"
QUICK = {"step_seconds": 1.0, "reset_seconds": 1.0, "rest_seconds": 1.0}


@pytest.fixture
def caged():
    """Return a function that starts an environment in a process; all are ended."""
    made = []

    def cage(id=SICK, limits=None, *, begin=True, stopped=lambda: False, spec=None, **kwargs):
        offer = EnvironmentOffer(id, kwargs, info_keys=("distance",))
        healthy = {"fault": ""} if id == SICK else kwargs
        seen = spec or probe(EnvironmentSettings(id=id, kwargs=healthy))
        one = IsolatedEnvironment(
            id,
            offer,
            seen,
            WatchdogSettings(**{**QUICK, **(limits or {})}),
            stopped=stopped,
            rng=random.Random(1),
        )
        made.append(one)
        if begin:
            start(one, stopped)
        return one, {name: zeros(leaf) for name, leaf in seen.obs.items()}

    yield cage
    for one in made:
        one.close()


def go(environment, rows, steps=100):
    """Play, and return what broke."""
    environment.reset(rows, 0)
    for _ in range(steps):
        outcome = environment.step(1, rows)
        if outcome.terminated or outcome.truncated:
            environment.reset(rows)


def broken(environment, rows, steps=100):
    with pytest.raises(EnvironmentBroken) as caught:
        go(environment, rows, steps)
    return caught.value.fault


def comes_back(environment):
    until(lambda: environment.ready(0.1))


@pytest.mark.parametrize("kind", [MaskedToy, DictToy, MultiDiscreteToy, BoxToy])
def test_it_plays_as_in_our_own_process(caged, kind):
    id = f"soulsai.testing:{kind.__name__}"
    there, rows = caged(id)
    own = Own(kind(), id, mask_key="action_mask", masked="mask" in there.spec.obs)
    mine = {name: zeros(leaf) for name, leaf in own.spec.obs.items()}
    there.reset(rows, 5)
    own.reset(mine, 5)
    rng = np.random.default_rng(0)
    for _ in range(40):
        spec = own.spec.action
        if spec.kind == "box":
            action = rng.uniform(-1, 1, spec.shape).astype(np.float32)
        elif spec.kind == "multidiscrete":
            action = rng.integers(spec.sizes)
        else:
            action = rng.choice(np.flatnonzero(mine["mask"])) if "mask" in mine else np.uint8(1)
        here, far = own.step(action, mine), there.step(action, rows)
        assert here == far
        for name, row in rows.items():
            np.testing.assert_array_equal(row, mine[name])
        if here.terminated or here.truncated:
            assert there.info == {k: v for k, v in own.info.items() if k == "distance"}
            there.reset(rows, 6)
            own.reset(mine, 6)


def test_it_plays_inside_the_wrappers_of_the_run():
    id, wrappers = "CartPole-v1", {"FrameStackObservation": {"stack_size": 3}}
    offer = EnvironmentOffer(id, wrappers=wrappers)
    own = Own(make(id, {}, 0, wrappers), id, mask_key="", masked=False)
    there = IsolatedEnvironment(
        id, offer, own.spec, WatchdogSettings(), stopped=lambda: False, rng=random.Random(1)
    )
    rows, mine = ({"obs": np.zeros((3, 4), "f4")} for _ in range(2))
    try:
        start(there, lambda: False)
        there.reset(rows, 5)
        there.step(1, rows)
    finally:
        there.close()
    own.reset(mine, 5)
    own.step(1, mine)
    np.testing.assert_array_equal(rows["obs"], mine["obs"])
    assert mine["obs"].any()


@pytest.mark.parametrize(
    ("fault", "where", "kind", "words"),
    [
        ("hang", "step", "hang", "step: no answer for 1 s"),
        ("hang", "reset", "hang", "reset: no answer for 1 s"),
        ("loop", "step", "hang", "step: no answer for 1 s"),
        ("segfault", "step", "crash", "step: its process was killed by SIGSEGV"),
        ("segfault", "reset", "crash", "reset: its process was killed by SIGSEGV"),
        ("exit", "step", "crash", "step: its process ended with exit code 3"),
        ("raise", "step", "crash", "step raised RuntimeError: Player is not here"),
        ("raise", "reset", "reset", "reset raised RuntimeError: Player is not here"),
        ("nan", "step", "crash", "not finite"),
    ],
)
def test_what_breaks_it_is_told_apart_and_mended(caged, tmp_path, fault, where, kind, words):
    log = tmp_path / "lives"
    one, rows = caged(fault=fault, where=where, after=3, lives=1, log=str(log))
    before = one.pid
    found = broken(one, rows)
    assert found.kind == kind
    assert words in found.text
    assert "/" not in found.text  # our folders are nobody's business
    assert not found.sound
    while one.pid == before:  # a failed reset is tried again first
        comes_back(one)
        found = broken(one, rows)
    until(lambda: not psutil.pid_exists(before))
    comes_back(one)
    go(one, rows)
    assert len(log.read_text().splitlines()) == 2


def test_a_reset_that_fails_once_costs_no_restart(caged):
    one, rows = caged(fault="once", where="reset", after=2)
    before = one.pid
    assert broken(one, rows).kind == "reset"
    comes_back(one)
    go(one, rows)
    assert one.pid == before


def test_what_is_slow_is_started_again_with_its_steps_kept(caged):
    limits = {"steps_per_minute": 2000, "slow_seconds": 0.5}
    one, rows = caged(fault="slow", after=20, limits=limits)
    found = broken(one, rows, 1000)
    assert (found.kind, found.sound) == ("slow", True)
    assert "steps per minute, under 2000" in found.text


def test_what_leaks_is_started_again_before_it_fills_the_memory(caged, monkeypatch):
    monkeypatch.setattr("soulsai.client.isolation.environment.MEMORY_SECONDS", 0.05)
    one, rows = caged(fault="leak", limits={"memory_mb": 300})
    found = broken(one, rows, 10**6)
    assert (found.kind, found.sound) == ("memory", True)


def test_planned_restarts_come_between_episodes_and_at_once(caged):
    one, rows = caged(limits={"restart_episodes": 3})
    before = one.pid
    found = broken(one, rows, 1000)
    assert (found.kind, found.text) == ("planned", "planned restart after 3 episodes")
    began = time.monotonic()
    comes_back(one)
    assert one.pid != before
    assert time.monotonic() - began < 30


def test_what_it_has_started_ends_with_it(caged, tmp_path):
    log = tmp_path / "lives"
    one, rows = caged(fault="child", log=str(log))
    child = int(log.with_suffix(".child").read_text())
    assert psutil.pid_exists(child)
    assert broken(one, rows).kind == "crash"
    until(lambda: not psutil.pid_exists(child))


def test_programs_named_end_with_it(caged, tmp_path):
    game = tmp_path / "soulsai-a-game"
    game.symlink_to(Path("/bin/sleep"))
    with psutil.Popen([game, "100"]) as process:
        one, rows = caged(fault="hang", limits={"programs": ("SoulsAI-A-Game",)})
        assert broken(one, rows).kind == "hang"
        process.wait(10)


def test_it_rests_when_it_breaks_again_and_again(caged):
    one, rows = caged(fault="exit", after=1, limits={"most_faults": 3, "rest_seconds": 2.0})
    texts = []
    while len(texts) < 3:
        comes_back(one)
        texts.append(broken(one, rows).text)
    assert texts[-1].startswith("rests 2 s after 3 faults in a row; crash: step")
    assert not texts[0].startswith("rests")
    assert not one.ready(0.3)
    comes_back(one)  # and tries again after all


@pytest.mark.parametrize(
    ("fault", "words"), [("make", "no game is open"), ("start", "ended with exit code 7")]
)
def test_what_does_not_start_at_all_is_a_fault_at_once(caged, fault, words):
    with pytest.raises(EnvironmentFault, match=words) as caught:
        caged(fault=fault)
    assert not isinstance(caught.value, EnvironmentBroken)


def test_another_environment_than_the_runs_is_refused(caged):
    other = probe(EnvironmentSettings(id="CartPole-v1"))
    with pytest.raises(EnvironmentFault, match="is not the environment of the run"):
        caged(spec=Spec(other.obs, other.action))


def test_a_stop_does_not_wait_for_what_hangs(caged):
    stopping = []
    one, rows = caged(fault="hang", limits={"step_seconds": 600}, stopped=lambda: bool(stopping))
    stopping.append(True)
    began = time.monotonic()
    assert broken(one, rows) is None
    assert time.monotonic() - began < 10


def test_a_worker_takes_no_module_from_the_current_folder(caged, tmp_path, monkeypatch):
    for name in ("queue", "redis", "soulsai"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('of the current folder')\n")
    monkeypatch.chdir(tmp_path)
    one, rows = caged("soulsai.testing:ToyEnv")
    go(one, rows, 3)


def test_strangers_who_call_are_turned_away(caged):
    one, _ = caged(begin=False)
    one.ready(0.0)
    port = one._listener.getsockname()
    with socket.create_connection(port) as stranger:
        stranger.sendall(b"x" * 32)
        start(one, lambda: False)
        stranger.settimeout(5)
        assert stranger.recv(1) == b""


def test_a_client_that_is_killed_leaves_no_environment_behind(tmp_path):
    log = tmp_path / "lives"
    code = (
        "import random, sys; sys.path.append(sys.argv[1])\n"
        "from soulsai.client.isolation.environment import IsolatedEnvironment, start\n"
        "from soulsai.client.probe import probe\n"
        "from soulsai.config.schema import EnvironmentSettings, WatchdogSettings\n"
        "from soulsai.types import EnvironmentOffer, zeros\n"
        "spec = probe(EnvironmentSettings(id='tests.system.sick_env:Sick'))\n"
        "offer = EnvironmentOffer('', {'fault': 'hang', 'log': sys.argv[2]})\n"
        "one = IsolatedEnvironment('tests.system.sick_env:Sick', offer, spec,\n"
        "    WatchdogSettings(step_seconds=600), stopped=lambda: False, rng=random.Random(1))\n"
        "start(one, lambda: False)\n"
        "rows = {name: zeros(leaf) for name, leaf in spec.obs.items()}\n"
        "one.reset(rows)\n"
        "while True: one.step(1, rows)\n"
    )
    words = ["-c", code, str(Path(__file__).parents[2]), str(log)]
    with psutil.Popen([sys.executable, *words]) as client:
        until(lambda: log.exists() and log.read_text().strip())
        pid = int(log.read_text())
        time.sleep(0.5)
        client.kill()
    until(lambda: not psutil.pid_exists(pid))


def test_what_hangs_and_is_ended_by_nobody_ends_itself(caged):
    one, rows = caged(fault="hang", after=1, limits={"step_seconds": 600}, begin=False)
    one._setup = msgspec.structs.replace(one._setup, patience=2.0)
    start(one, lambda: False)
    one.reset(rows, 0)
    one.request_step(0)  # and nobody waits for the answer
    until(lambda: one._process.poll() is not None)


def test_a_step_costs_little(caged, record_property):
    one, rows = caged("soulsai.testing:ToyEnv")
    one.reset(rows, 0)
    times = []
    for _ in range(3000):
        began = time.perf_counter()
        outcome = one.step(1, rows)
        times.append(time.perf_counter() - began)
        if outcome.truncated:
            one.reset(rows)
    median = 1e6 * sorted(times)[len(times) // 2]
    record_property("microseconds", median)
    assert median < 1000  # on a machine that is busy with other things


def test_exit_codes_in_words():
    assert process_tree.describe(-11) == "was killed by SIGSEGV"
    assert process_tree.describe(0xC0000005) == "ended with exit code 0xc0000005"
    assert process_tree.describe(None) == "closed its connection"
    assert process_tree.resident(os.getpid()) > 1e6
