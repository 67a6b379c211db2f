"""Any Gymnasium environment becomes named arrays, and is kept to its word."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import gymnasium
import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from packaging.requirements import Requirement

from soulsai.client.creation import EXTRAS, MODULES, check_extra, extra_of, make
from soulsai.client.environment import AdaptedEnvironment
from soulsai.client.environment_report import check
from soulsai.client.probe import probe
from soulsai.config import Config, schema
from soulsai.errors import ConfigError, EnvironmentFault
from soulsai.testing import BoxToy, DictToy, MaskedToy, MultiDiscreteToy, RudeEnv, ToyEnv
from soulsai.types import MASK, ActionSpec, Leaf, Spec, zeros
from tests.unit.client.environment_cases import Shown, adapted


def go(environment, rows):
    environment.reset(rows, seed=0)
    for _ in range(5):
        environment.step(1, rows)


def test_probe_tells_of_an_action_mask_only_if_there_is_one():
    plain = probe(schema.EnvironmentSettings(id="soulsai.testing:ToyEnv"))
    masked = probe(schema.EnvironmentSettings(id="soulsai.testing:MaskedToy"))
    assert MASK not in plain.obs
    assert masked.obs[MASK] == Leaf((3,), "|b1")
    assert masked.seen == plain.obs


def test_probe_reads_a_spec_file_where_the_environment_cannot_be_made(tmp_path):
    spec = Spec({"obs": Leaf((3,), "<f4")}, ActionSpec("discrete", (), (2,)))
    path = tmp_path / "spec.json"
    path.write_bytes(msgspec.json.encode(spec))
    assert probe(schema.EnvironmentSettings(id="NoSuch-v0", spec_file=str(path))) == spec
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"spec_file.*spec\.json"):
        probe(schema.EnvironmentSettings(id="NoSuch-v0", spec_file=str(path)))


# Masks


def test_a_mask_is_read_as_booleans():
    environment, rows = adapted(MaskedToy(), masked=True)
    environment.reset(rows, seed=0)
    assert rows[MASK].dtype == np.bool_
    np.testing.assert_array_equal(rows[MASK], environment.info["action_mask"])


def test_masks_of_several_components_are_put_end_to_end():
    info = {"action_mask": (np.array([1, 0], np.int8), np.array([0, 1, 1], np.int8))}
    env = Shown(spaces.Discrete(2), 0, spaces.MultiDiscrete([2, 3]), info)
    environment, rows = adapted(env, masked=True)
    environment.reset(rows)
    np.testing.assert_array_equal(rows[MASK], [1, 0, 0, 1, 1])


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({}, "action_mask"),
        ({"action_mask": np.ones(3, np.int8)}, r"\(3,\)"),
        ({"action_mask": np.ones(2)}, "float64"),
        ({"action_mask": None}, "object"),
    ],
)
def test_a_mask_that_is_missing_or_misshapen_is_a_fault(info, words):
    environment, rows = adapted(Shown(spaces.Discrete(2), 0, info=info), masked=True)
    with pytest.raises(EnvironmentFault, match=words):
        environment.reset(rows)


def test_a_mask_that_allows_nothing_is_a_fault_unless_the_episode_is_over():
    env = Shown(spaces.Discrete(2), 0, info={"action_mask": np.ones(2, np.int8)})
    environment, rows = adapted(env, masked=True)
    environment.reset(rows)
    env.info = {"action_mask": np.zeros(2, np.int8)}
    with pytest.raises(EnvironmentFault, match="allows no action"):
        environment.step(0, rows)
    env.step = lambda action: (0, 0.0, True, False, env.info)
    assert environment.step(0, rows).terminated


def test_a_mask_that_the_run_does_not_know_is_a_fault():
    environment, rows = adapted(MaskedToy(), masked=False)
    with pytest.raises(EnvironmentFault, match="action mask"):
        environment.reset(rows)


# Acting


def test_actions_reach_the_environment_as_it_wants_them():
    env = Shown(spaces.Discrete(2), 0, spaces.Discrete(4, start=3))
    adapted(env)[0].step(1, {"obs": np.zeros((), np.uint8)})
    assert env.taken == [4]
    assert env.action_space.contains(env.taken[0])
    for action_space, action in [
        (spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 0], [7, 7]]), np.array([1, 2, 3, 4])),
        (spaces.Box(-1, 1, (2,), np.float64), np.array([0.5, -1], np.float32)),
    ]:
        env = Shown(spaces.Discrete(2), 0, action_space)
        adapted(env)[0].step(action, {"obs": np.zeros((), np.uint8)})
        assert action_space.contains(env.taken[0])


@pytest.mark.parametrize("reward", [np.nan, np.inf, 1e300])
def test_a_reward_that_is_not_finite_is_a_fault(reward):
    env = Shown(spaces.Discrete(2), 0)
    env.reward = reward
    environment, rows = adapted(env)
    with pytest.raises(EnvironmentFault, match="reward"):
        environment.step(0, rows)


@pytest.mark.parametrize(
    "kind", [name for name in RudeEnv.FAULTS if name not in ("bounds", "index")]
)
def test_every_rudeness_is_one_line_that_names_the_environment(kind):
    masked = kind == "mask"
    environment = AdaptedEnvironment(RudeEnv(kind), "rude", mask_key="action_mask", masked=masked)
    rows = {name: zeros(leaf) for name, leaf in environment.spec.obs.items()}
    with pytest.raises(EnvironmentFault, match="rude: ") as caught:
        go(environment, rows)
    assert "\n" not in str(caught.value)


def test_what_was_raised_is_told_with_its_place():
    environment, rows = adapted(RudeEnv("step"))
    with pytest.raises(
        EnvironmentFault, match=r"step raised RuntimeError: .* at .*testing/__init__\.py:\d+"
    ):
        go(environment, rows)


def test_an_environment_that_cannot_be_closed_says_so():
    env = Shown(spaces.Discrete(2), 0)
    env.close = lambda: 1 / 0
    with pytest.raises(EnvironmentFault, match="close raised ZeroDivisionError"):
        adapted(env)[0].close()


# Making


def test_environments_are_made_by_any_of_three_kinds_of_names(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from soulsai.testing import ToyEnv\n"
        "def make(length=4): return ToyEnv(length)\n"
        "not_callable = 3\n"
    )
    assert make("CartPole-v1", {}).spec.id == "CartPole-v1"
    assert make("soulsai.testing:SoulsAIToy-v0", {"length": 5}).unwrapped.length == 5
    assert make("soulsai.testing:ToyEnv", {"length": 6}).length == 6
    assert make(f"{path}:make", {"length": 7}).length == 7
    with pytest.raises(EnvironmentFault, match="not_callable"):
        make(f"{path}:not_callable", {})
    assert [name for name in sys.modules if name.endswith("mine_py")]


def test_a_file_may_register_its_environment(tmp_path):
    path = tmp_path / "registers.py"
    path.write_text(
        "import gymnasium\n"
        "gymnasium.register('FromFile-v0', entry_point='soulsai.testing:ToyEnv', "
        "max_episode_steps=7)\n"
    )
    env = make(f"{path}:FromFile-v0", {})
    env.reset(seed=0)
    assert [env.step(1)[3] for _ in range(7)][-1]
    env = make(f"{path}:FromFile-v0", {}, max_episode_steps=9)  # takes precedence
    env.reset(seed=0)
    assert [env.step(1)[3] for _ in range(9)].index(True) == 8
    gymnasium.registry.pop("FromFile-v0")


@pytest.mark.parametrize(
    "id", ["CartPole-v1", "soulsai.testing:ToyEnv", "soulsai.testing:SoulsAIToy-v0"]
)
def test_a_limit_of_steps_truncates(id):
    env = make(id, {}, max_episode_steps=3)
    env.reset(seed=0)
    assert [env.step(1)[3] for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("NoSuch-v0", "NoSuch"),
        ("no_such_module:Env-v0", "no_such_module"),
        ("soulsai.testing:NoSuch", "NoSuch"),
        ("no/such/file.py:make", "no such file"),
        ("soulsai.testing:np", "np"),
        ("collections:OrderedDict", "not a gymnasium.Env"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(id, words):
    with pytest.raises(EnvironmentFault, match=words) as caught:
        make(id, {})
    assert "\n" not in str(caught.value)


def test_a_file_that_raises_is_a_fault_every_time(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("raise RuntimeError('no game here')\n")
    for _ in range(2):
        with pytest.raises(EnvironmentFault, match="no game here"):
            make(f"{path}:make", {})


def test_wrong_arguments_are_a_fault():
    with pytest.raises(EnvironmentFault, match="colour"):
        make("CartPole-v1", {"colour": "red"})


@pytest.mark.parametrize("kind", [ToyEnv, MaskedToy, DictToy, MultiDiscreteToy, BoxToy])
def test_our_own_toys_keep_their_promises(kind):
    env = kind()
    for seed in range(3):
        obs, info = env.reset(seed=seed)
        env.action_space.seed(seed)
        over = False
        while not over:
            assert env.observation_space.contains(obs)
            action = env.action_space.sample(info.get("action_mask"))
            obs, reward, terminated, truncated, info = env.step(action)
            assert np.isfinite(reward)
            over = terminated or truncated
        assert env.observation_space.contains(obs)


class Strict(ToyEnv):
    """Takes seeds of 32 bits, and exits when told to."""

    seeds: list[int] = []

    def __init__(self, *, leave=""):
        super().__init__()
        self.leave = leave
        if leave == "make":
            raise SystemExit

    def reset(self, *, seed=None, options=None):
        if self.leave == "reset":
            raise SystemExit(3)
        if seed is not None:
            self.seeds.append(int(np.int32(seed)))
        return super().reset(seed=seed)

    def step(self, action):
        if self.leave == "step":
            sys.exit("the game is over")
        return super().step(action)


@pytest.mark.parametrize("where", ["make", "reset", "step"])
def test_an_exit_of_the_environment_is_its_fault(monkeypatch, where):
    monkeypatch.setattr("soulsai.testing.Strict", Strict, raising=False)
    settings = schema.EnvironmentSettings(id="soulsai.testing:Strict", kwargs={"leave": where})
    with pytest.raises(EnvironmentFault, match="SystemExit"):
        check(Config(environment=settings))


def test_a_probe_resets_with_the_largest_seed(monkeypatch):
    monkeypatch.setattr("soulsai.testing.Strict", Strict, raising=False)
    monkeypatch.setattr(Strict, "seeds", [])
    probe(schema.EnvironmentSettings(id="soulsai.testing:Strict"))
    assert Strict.seeds == [2**31 - 1]


def test_a_file_may_import_its_neighbours_and_no_neighbour_replaces_a_package(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "corridor_rules_of_the_test.py").write_text("LENGTH = 5\n")
    (tmp_path / "queue.py").write_text("raise RuntimeError\n")
    (tmp_path / "corridor.py").write_text(
        "import queue\nfrom corridor_rules_of_the_test import LENGTH\n"
        "from soulsai.testing import ToyEnv\ndef make():\n    return ToyEnv(LENGTH)\n"
    )
    assert make(f"{tmp_path}/corridor.py:make", {}).unwrapped.length == 5


def test_a_file_without_a_name_is_answered_with_its_names(tmp_path):
    (tmp_path / "farm.py").write_text(
        "from soulsai.testing import ToyEnv\nclass Farm(ToyEnv): pass\ndef make(): return Farm()\n"
    )
    with pytest.raises(EnvironmentFault, match=r"farm\.py:make; the file defines Farm, make"):
        make(f"{tmp_path}/farm.py", {})


def test_a_module_of_the_current_folder_is_named_as_a_file(tmp_path, monkeypatch):
    (tmp_path / "farm_of_the_test.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    with pytest.raises(EnvironmentFault, match=r"name the file .*: farm_of_the_test\.py:Farm"):
        make("farm_of_the_test:Farm", {})


# Libraries of environments


def test_the_extras_are_those_of_the_package_and_of_gymnasium():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    for extra in EXTRAS:
        first, *_ = project["project"]["optional-dependencies"][extra]
        assert first.startswith((f"gymnasium[{extra}]>=", f"{extra}>="))
    for module, extra in MODULES.items():
        first, *_ = project["project"]["optional-dependencies"][extra]
        assert first.startswith(module.replace("_", "-"))


def test_the_extra_of_box2d_has_all_that_gymnasium_imports_with_any_of_its_environments():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    ours = _names(project["project"]["optional-dependencies"]["box2d"])
    of_gymnasium = [line for line in metadata.requires("gymnasium") or [] if "box2d" in line]
    wanted = _names(line for line in of_gymnasium if "gymnasium[" not in line)
    assert "box2d" in wanted
    assert wanted <= ours


def test_the_extra_of_lunarlander_is_that_of_box2d_without_pygame():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    assert {*extras["box2d"]} - {*extras["lunarlander"]} == {"pygame-ce>=2.5"}
    assert {*extras["lunarlander"]} <= {*extras["box2d"]}


def _names(lines):
    return {Requirement(line).name for line in lines}


WITHOUT_PYGAME = """
import sys
sys.modules["pygame"] = None
from soulsai.client.creation import check_extra, make
from soulsai.client.environment import AdaptedEnvironment
from soulsai.errors import EnvironmentFault
for id in ("LunarLander-v3", "BipedalWalker-v3"):
    check_extra(id)
    env = make(id, {})
    env.reset(seed=0)
    print(id, env.step(env.action_space.sample())[1])
try:
    make("CarRacing-v3", {})
except EnvironmentFault as fault:
    print(fault)
try:
    shown = make("LunarLander-v3", {"render_mode": "rgb_array"})
    shown.reset(seed=0)
    AdaptedEnvironment(shown, "LunarLander-v3", mask_key="mask", masked=False).render()
except EnvironmentFault as fault:
    print(fault)
"""


def test_environments_of_box2d_that_need_pygame_for_pictures_only_are_played_without_it():
    words = [sys.executable, "-c", WITHOUT_PYGAME]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    lander, walker, *others = done.stdout.splitlines()
    assert re.fullmatch(r"LunarLander-v3 -?\d+\.\d+", lander)
    assert re.fullmatch(r"BipedalWalker-v3 -?\d+\.\d+", walker)
    assert others == [
        'CarRacing-v3: its libraries are not installed; pip install "soulsai[box2d]"',
        'LunarLander-v3: its pictures need pygame; pip install "soulsai[play]"',
    ]


@pytest.mark.parametrize(
    ("id", "extra"),
    [("LunarLander-v3", "box2d"), ("LunarLander", "box2d"), ("Ant-v5", "mujoco"),
     ("ale_py:ALE/Pong-v5", "atari"), ("minigrid:MiniGrid-Empty-5x5-v0", "minigrid"),
     ("CartPole-v1", ""), ("gym:LunarLander-v2", ""), ("file.py:make", ""),
     ("soulsai.testing:Iudex-v0", "")],
)  # fmt: skip
def test_the_extra_of_an_environment(id, extra):
    assert extra_of(id) == extra


@pytest.mark.parametrize("make_it", [lambda id: make(id, {}), check_extra], ids=["make", "check"])
def test_missing_libraries_are_named_as_an_extra_of_ours(make_it, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(gymnasium.envs, "box2d", raising=False)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(EnvironmentFault) as caught:
        make_it("LunarLander-v3")
    assert str(caught.value) == (
        'LunarLander-v3: its libraries are not installed; pip install "soulsai[box2d]"'
    )


@pytest.mark.parametrize("make_it", [lambda id: make(id, {}), check_extra], ids=["make", "check"])
def test_a_missing_module_is_named_as_an_extra_of_ours(make_it, monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(EnvironmentFault) as caught:
        make_it("ale_py:ALE/Pong-v5")
    assert str(caught.value) == (
        'ale_py:ALE/Pong-v5: its libraries are not installed; pip install "soulsai[atari]"'
    )
