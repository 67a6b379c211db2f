"""Layers of settings, from the defaults to ``--set``, and the file that shows them all."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.config import load
from soulsai.config.layers import unknown_variables
from soulsai.config.schema import (
    AlgorithmSettings,
    Config,
    EnvironmentSettings,
    RunSettings,
    to_json,
)
from soulsai.config.yaml_file import defaults_yaml, dump
from soulsai.errors import ConfigError

ROOT = Path(__file__).parents[3]


def written(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def complaint(path: Path | None = None, environ=None, overrides=()) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {}, overrides)
    return str(caught.value)


def test_the_defaults_file_is_what_the_structs_say() -> None:
    """To mend it: soulsai config --defaults > config/config_d.yaml."""
    file = ROOT / "config" / "config_d.yaml"
    assert file.read_text("utf-8") == defaults_yaml()
    assert load(file, {}, []) == Config()


def test_every_default_has_its_section_explained() -> None:
    text = defaults_yaml()
    for section in msgspec.structs.fields(Config):
        assert f"\n{section.name}:\n" in text
    assert "# transitions in replay" in text


def test_the_examples_load() -> None:
    cartpole = load(ROOT / "examples" / "cartpole.yaml", {}, [])
    assert cartpole.environment.id == "CartPole-v1"
    assert cartpole.run.max_env_steps == 50_000
    assert load(ROOT / "examples" / "lunarlander.yaml", {}, []) == Config()


def test_without_any_file_the_defaults_hold(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(None, {"PATH": "x", "SOULSAI_REDIS_SERVER": "y"}, []) == Config()
    assert load(tmp_path, {}, []) == Config()


def test_each_layer_overrides_single_entries_of_those_before(tmp_path) -> None:
    written(
        tmp_path, "config_d.yaml", "dqn: {n_step: 1, batch_size: 1, capacity: 9, slack_steps: 1}"
    )
    written(tmp_path, "config.yaml", "dqn: {batch_size: 2, capacity: 8, slack_steps: 2}")
    environ = {"SOULSAI__DQN__CAPACITY": "7", "SOULSAI__DQN__SLACK_STEPS": "3"}
    dqn = load(tmp_path, environ, ["dqn.slack_steps=5", "dqn.slack_steps=4"]).dqn
    assert (dqn.n_step, dqn.batch_size, dqn.capacity, dqn.slack_steps) == (1, 2, 7, 4)
    assert dqn.gamma == DQNSettings().gamma


def test_a_named_file_takes_the_place_of_config_yaml(tmp_path) -> None:
    written(tmp_path, "config_d.yaml", "run: {clients: 5, seed: 5}")
    written(tmp_path, "config.yaml", "run: {clients: 6}")
    mine = written(tmp_path, "mine.yaml", "run: {seed: 7}")
    assert load(mine, {}, []).run == RunSettings(clients=5, seed=7)


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "dqn:\n", "~", "\ufeff"])
def test_a_file_that_says_nothing_changes_nothing(tmp_path, text: str) -> None:
    assert load(written(tmp_path, "c.yaml", text), {}, []) == Config()


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("dqn.lr=1e-3", "dqn", "lr", 1e-3),
        ("dqn.lr=1", "dqn", "lr", 1.0),
        ("dqn.capacity=1e5", "dqn", "capacity", 100_000),
        ("dqn.capacity=100_000", "dqn", "capacity", 100_000),
        ("dqn.double=no", "dqn", "double", False),
        ("dqn.double=True", "dqn", "double", True),
        ("dqn.double=0", "dqn", "double", False),
        ("dqn.pace=lockstep", "dqn", "pace", "lockstep"),
        ("dqn.hidden=[64, 32]", "dqn", "hidden", (64, 32)),
        ("dqn.hidden=64,32", "dqn", "hidden", (64, 32)),
        ("dqn.hidden=64", "dqn", "hidden", (64,)),
        ("dqn.hidden=", "dqn", "hidden", ()),
        ("run.seed=", "run", "seed", None),
        ("run.seed=0", "run", "seed", 0),
        ("run.name=1e-3", "run", "name", "1e-3"),
        ("environment.id=12:30", "environment", "id", "12:30"),
        ("environment.info_keys=a,b", "environment", "info_keys", ("a", "b")),
        ("environment.kwargs.rate=1e-3", "environment", "kwargs", {"rate": 1e-3}),
        ("environment.kwargs.map=4x4", "environment", "kwargs", {"map": "4x4"}),
        ("environment.kwargs={a: true, b: 'no'}", "environment", "kwargs", {"a": True, "b": "no"}),
        ('environment.kwargs={"a": null}', "environment", "kwargs", {"a": None}),
        (
            "algorithm.options.deep={a: [1, 1e-3]}",
            "algorithm",
            "options",
            {"deep": {"a": [1, 1e-3]}},
        ),
    ],
)
def test_typed_values_mean_what_a_person_means(tmp_path, override, section, key, value) -> None:
    loaded = msgspec.structs.asdict(getattr(load(tmp_path, {}, [override]), section))[key]
    assert loaded == value
    assert type(loaded) is type(value)
    variable = "SOULSAI__" + override.partition("=")[0].upper().replace(".", "__")
    assert load(tmp_path, {variable: override.partition("=")[2]}, []) == load(
        tmp_path, {}, [override]
    )


def test_one_name_of_a_mapping_leaves_the_others(tmp_path) -> None:
    file = written(tmp_path, "c.yaml", "environment: {kwargs: {a: 1, b: 2}}")
    assert load(file, {}, ["environment.kwargs.b=3"]).environment.kwargs == {"a": 1, "b": 3}
    assert Config().environment.kwargs == {}
    named = "environment.wrappers.FrameStackObservation.stack_size=4"
    kept = "environment.wrappers.ClipReward={max_reward: 1}"
    assert load(file, {}, [kept, named]).environment.wrappers == {
        "ClipReward": {"max_reward": 1},
        "FrameStackObservation": {"stack_size": 4},
    }


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("dqn.lr", ["--set dqn.lr", "section.key=value"]),
        ("dqn=1", ["dqn", "a section"]),
        ("lr=1", ["lr", "did you mean dqn.lr"]),
        ("dqn.larning_starts=1", ["dqn.larning_starts", "did you mean dqn.learning_starts"]),
        ("dnq.lr=1", ["did you mean dqn.lr"]),
        ("dqn.learning_rate=1", ["did you mean dqn.lr?"]),
        ("ppo.clip_range=1", ["did you mean ppo.clip?"]),
        ("sac.clip_range=1", ["sac.clip_range: no such setting"]),
        ("dqn.lr.x=1", ["nothing below dqn.lr"]),
        ("environment.kwargs.a.b=1", ["nothing below environment.kwargs.a"]),
        ("dqn.lr=fast", ["dqn.lr", "a number above 0", "'fast'", "--set"]),
        ("dqn.lr=", ["dqn.lr", "a number", "nothing"]),
        ("dqn.lr=nan", ["dqn.lr"]),
        ("dqn.lr=1e999", ["dqn.lr", "finite"]),
        ("dqn.capacity=1.5", ["dqn.capacity", "a whole number of at least 1", "1.5"]),
        ("dqn.pace=slow", ["hold", "free", "lockstep", "'slow'"]),
        ("dqn.hidden=[1", ["--set dqn.hidden=[1"]),
        ("dqn.hidden=[a]", ["a list in brackets", "a whole number", "[0]"]),
        ("environment.isolate=maybe", ["wanted true or false or auto, found 'maybe'"]),
        ("dqn.double=maybe", ["wanted true or false, found 'maybe'"]),
        ("run.name=A B", ["a name of a-z"]),
        ("algorithm.options=3", ["`name: value` lines"]),
        ("=1", ["no such setting"]),
    ],
)
def test_a_typed_mistake_is_explained(tmp_path, override, words) -> None:
    text = complaint(tmp_path, overrides=[override])
    assert [word for word in words if word not in text] == []
    assert "\n" not in text


def test_variables_that_nothing_reads_are_known() -> None:
    read = ("SOULSAI__DQN__LR", "SOULSAI_INVITE", "SOULSAI_DOMAIN", "HOME")
    mistaken = ["SOULSAI_DQN_LR", "SOULSAI_PORT_", "soulsai__dqn__lr"]
    assert unknown_variables(dict.fromkeys((*read, *mistaken), "1")) == mistaken


def test_a_mistake_in_a_file_names_its_line(tmp_path) -> None:
    text = complaint(written(tmp_path, "c.yaml", "dqn:\n  n_step: 2\n  double: no\n"))
    assert text.startswith("dqn.double: wanted true or false, found 'no' (text); in ")
    assert text.endswith("c.yaml, line 3")


def test_a_misspelt_variable_is_an_error(tmp_path) -> None:
    text = complaint(tmp_path, {"SOULSAI__DQN__LRR": "1"})
    assert "did you mean dqn.lr" in text
    assert "SOULSAI__DQN__LRR" in text


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("dqn.batch_size=200000", "dqn.capacity"),
        ("sac.batch_size=400000", "sac.capacity"),
        ("sac.drop=25", "sac.drop"),
        ("redis.url=http://there", "redis.url"),
        ("redis.url=redis://:xyzzy@there", "redis.url"),
        ("redis.url=redis://[", "redis.url"),
        ("training.device=tpu", "training.device"),
        ("client.name=a b", "client.name"),
        ("run.name=a\n", "run.name"),
        ("run.saves=", "run.saves"),
        ("environment.id= ", "environment.id"),
        ("telemetry.metrics.win=reward >", "telemetry.metrics.win"),
        ("telemetry.metrics.reward=steps", "telemetry.metrics.reward"),
        ("telemetry.best_metric=wealth", "telemetry.best_metric"),
        (f"environment.info_keys={[f'k{n}' for n in range(33)]}", "environment.info_keys"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, override, path) -> None:
    text = complaint(tmp_path, overrides=[override])
    assert text.startswith(f"{path}:")
    assert "xyzzy" not in text


def test_a_removed_setting_is_ignored_where_it_changes_nothing_and_refused_elsewhere(
    tmp_path,
) -> None:
    one = written(tmp_path, "one.yaml", "training:\n  ranks: 1\n  threads: 2\n")
    assert load(one, {"SOULSAI__TRAINING__RANKS": "1"}, []).training.threads == 2
    two = written(tmp_path, "two.yaml", "training:\n  ranks: 2\n")
    assert "add clients instead" in complaint(two)
    assert complaint(overrides=["training.ranks=2"]).startswith("training.ranks:")


def test_a_missing_file_or_folder_is_named(tmp_path) -> None:
    assert "nowhere" in complaint(tmp_path / "nowhere")
    assert "nowhere.yaml" in complaint(tmp_path / "nowhere.yaml")


def test_the_json_of_a_run_loads_as_settings(tmp_path) -> None:
    config = Config(dqn=DQNSettings(lr=1e-5), environment=EnvironmentSettings(kwargs={"a": None}))
    assert load(written(tmp_path, "config.json", to_json(config)), {}, []) == config
    assert "config.json" in complaint(written(tmp_path, "config.json", "[1]"))


simple = st.one_of(st.text(), st.integers(), st.booleans(), st.none()) | st.floats(
    allow_nan=False, allow_infinity=False
)
configs = st.builds(
    Config,
    run=st.builds(
        RunSettings, seed=st.none() | st.integers(0, 2**63), saves=st.text(min_size=1)
    ).filter(lambda run: bool(run.saves.strip())),
    environment=st.builds(
        EnvironmentSettings,
        kwargs=st.dictionaries(st.text(), simple),
        info_keys=st.lists(st.text(max_size=64), max_size=32).map(tuple),
    ),
    algorithm=st.builds(
        AlgorithmSettings,
        options=st.dictionaries(
            st.text(), st.recursive(simple, st.lists, max_leaves=4), max_size=3
        ),
    ),
    dqn=st.builds(
        DQNSettings,
        lr=st.floats(1e-300, 1e300),
        hidden=st.lists(st.integers(1, 10**6)).map(tuple),
        double=st.booleans(),
    ),
)


@settings(deadline=None, max_examples=80, phases=set(Phase) - {Phase.explain})
@given(config=configs)
def test_what_is_dumped_loads_back_equal(tmp_path_factory, config: Config) -> None:
    folder = tmp_path_factory.mktemp("dump")
    assert load(written(folder, "c.yaml", dump(config)), {}, []) == config
    assert load(written(folder, "c.json", to_json(config)), {}, []) == config


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ("[{env_step: 0, kwargs: {}}]", "environment.schedule: wanted a list in brackets"),
        ("[{env_step: 5, kwarg: {}}]", r"each item {env_step: ..., kwargs: ...}"),
        ("[{kwargs: {a: 1}}]", "environment.schedule: wanted a list in brackets"),
        ("[{env_step: 5}]", "environment.schedule: wanted a list in brackets"),
        ("{5: {}}", "a key must be text"),
        (
            "[{env_step: 9, kwargs: {}}, {env_step: 9, kwargs: {}}]",
            "environment.schedule: env_step 9 after 9; wanted growing env steps",
        ),
        (
            "[{env_step: 9, kwargs: {port: {index}}}]",
            'environment.schedule.port: {index} is a mapping in YAML; write "{index}"',
        ),
    ],
)
def test_a_schedule_that_makes_no_sense_is_one_line(schedule: str, told: str) -> None:
    said = complaint(overrides=[f"environment.schedule={schedule}"])
    assert told in said
    assert "\n" not in said


def test_a_vector_environment_has_no_schedule() -> None:
    schedule = "environment.schedule=[{env_step: 9, kwargs: {length: 4}}]"
    said = complaint(overrides=[schedule, "environment.vector=true"])
    assert said.startswith("environment.schedule: a vector environment")


def test_a_schedule_is_offered_and_written_back() -> None:
    schedule = "[{env_step: 9, kwargs: {a: 1}}, {env_step: 20, kwargs: {}}]"
    config = load(None, {}, [f"environment.schedule={schedule}"])
    offer = config.environment.offer
    assert [(stage.env_step, stage.kwargs) for stage in offer.schedule] == [(9, {"a": 1}), (20, {})]
    assert msgspec.json.decode(to_json(config), type=Config) == config
