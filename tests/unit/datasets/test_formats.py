"""Every format keeps every number; Minari itself reads ours, and we read its own."""

from contextlib import suppress
from pathlib import Path

import gymnasium
import minari
import msgspec
import numpy as np
import pytest
from minari import MinariDataset

from soulsai.client.probe import probe
from soulsai.config.schema import ClientSettings, EnvironmentSettings
from soulsai.datasets import extra, minari_format, native, parquet_format
from soulsai.datasets.episodes import EpisodeDataset
from soulsai.datasets.files import read, write
from soulsai.errors import DatasetError
from soulsai.types import MASK
from tests.unit.datasets.dataset_cases import ACTIONS, OBSERVATIONS, dataset, spec_of

DATA = Path(__file__).parent / "data"
FORMATS = ("minari", "minari-arrow", "parquet")


def same(one, other):
    """Whether two data sets hold the same bits."""
    assert len(one.episodes) == len(other.episodes)
    for a, b in zip(one.episodes, other.episodes, strict=True):
        assert a.obs.keys() == b.obs.keys()
        for name, rows in a.obs.items():
            assert rows.dtype == b.obs[name].dtype, name
            np.testing.assert_array_equal(rows, b.obs[name], name)
        np.testing.assert_array_equal(a.action, b.action)
        np.testing.assert_array_equal(a.reward, b.reward)
        np.testing.assert_array_equal(a.intervened, b.intervened)
        assert a.infos.keys() == b.infos.keys()
        assert all((a.infos[name] == b.infos[name]).all() for name in a.infos)
        assert (a.terminated, a.truncated, a.seed) == (b.terminated, b.truncated, b.seed)
        assert a.facts == b.facts


@pytest.fixture(params=[(o, a) for o in OBSERVATIONS for a in ACTIONS], ids=str)
def spec(request):
    observation, action = request.param
    masked = observation == "numbers" and action in ("choices", "several", "nested")
    return spec_of(OBSERVATIONS[observation], ACTIONS[action], masked=masked)


@pytest.mark.parametrize("form", FORMATS)
def test_a_round_trip_keeps_every_bit(spec, form, tmp_path):
    ours, path = dataset(spec), tmp_path / "ours-v0"
    write(ours, path, form)
    back = read([path], spec, environment="CartPole-v1", largest_reward=1e6)
    same(ours, back)
    assert back.environment == "CartPole-v1"


@pytest.mark.parametrize("storage", ["hdf5", "arrow"])
def test_minari_loads_ours_to_the_last_bit(spec, storage, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    ours = dataset(spec)
    minari_format.write(ours, tmp_path / "ours-v0", storage=storage)
    loaded = minari.load_dataset("ours-v0")
    assert (loaded.total_episodes, loaded.total_steps) == (3, 15)
    assert loaded.env_spec.id == "CartPole-v1"
    for mine, theirs in zip(ours.episodes, loaded.iterate_episodes(), strict=True):
        wanted = dict(native.leaf_arrays(native.nested_observations(spec, mine.obs)))
        found = dict(native.leaf_arrays(theirs.observations))
        assert wanted.keys() == found.keys()
        assert all((wanted[name] == found[name]).all() for name in wanted)
        wanted = dict(native.leaf_arrays(native.nested_actions(spec.action, mine.action)))
        found = dict(native.leaf_arrays(theirs.actions))
        assert wanted.keys() == found.keys()
        assert all(
            (wanted[name] == found[name].reshape(wanted[name].shape)).all() for name in found
        )
        assert theirs.rewards.astype("<f4").tobytes() == mine.reward.tobytes()
        assert (bool(theirs.terminations[-1]), bool(theirs.truncations[-1])) == (
            mine.terminated,
            mine.truncated,
        )
        assert not (theirs.terminations[:-1] | theirs.truncations[:-1]).any()
        first = _row(theirs.observations, 0)
        assert loaded.observation_space.contains(first)
        assert loaded.action_space.contains(_row(theirs.actions, 0))


def _row(nested, index):
    if isinstance(nested, dict):
        return {key: _row(inner, index) for key, inner in nested.items()}
    if isinstance(nested, tuple):
        return tuple(_row(inner, index) for inner in nested)
    return nested[index]


@pytest.mark.parametrize("name", ["cartpole-hdf5-v0", "pendulum-arrow-v0"])
def test_we_read_what_the_collector_of_minari_wrote(name):
    theirs = MinariDataset(DATA / name / "data")
    environment = EnvironmentSettings(id=theirs.env_spec.id)
    spec = probe(environment, ClientSettings())
    ours = read([DATA / name], spec, environment=environment.id, largest_reward=1e6)
    assert ours.steps == theirs.total_steps > 0
    for mine, their in zip(ours.episodes, theirs.iterate_episodes(), strict=True):
        assert mine.obs["obs"].tobytes() == their.observations.tobytes()
        np.testing.assert_array_equal(mine.action, their.actions)
        assert mine.reward.tobytes() == their.rewards.tobytes()
        assert mine.terminated == their.terminations[-1]
        assert mine.truncated == their.truncations[-1]


@pytest.mark.parametrize("name", ["cartpole-hdf5-v0", "pendulum-arrow-v0"])
def test_what_the_collector_saw_is_what_the_environment_does(name):
    """The seeds and actions of a data set repeat it."""
    theirs = MinariDataset(DATA / name / "data")
    environment = EnvironmentSettings(id=theirs.env_spec.id)
    spec = probe(environment, ClientSettings())
    ours = read([DATA / name], spec, environment=environment.id, largest_reward=1e6)
    env = gymnasium.make(theirs.env_spec)
    for index, episode in enumerate(ours.episodes):
        seen = [env.reset(seed=index)[0]]
        for action in episode.action:
            seen.append(env.step(action)[0])
        np.testing.assert_array_equal(np.array(seen), episode.obs["obs"])


def test_a_foreign_parquet_file_with_the_run_s_columns_is_read(tmp_path):
    spec = spec_of(OBSERVATIONS["numbers"], ACTIONS["numbers"])
    ours = dataset(spec)
    parquet_format.write(ours, tmp_path / "ours.parquet")
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "ours.parquet").replace_schema_metadata(None)
    rows = table.to_pylist()  # as lists of any size, as pandas would write them
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "foreign.parquet")
    back = parquet_format.read(tmp_path / "foreign.parquet", spec)
    for one, other in zip(ours.episodes, back.episodes, strict=True):
        np.testing.assert_array_equal(one.obs["obs"], other.obs["obs"])
        np.testing.assert_array_equal(one.action, other.action)


def broken(ours, number, **changes):
    episodes = list(ours.episodes)
    episodes[number] = msgspec.structs.replace(episodes[number], **changes)
    return EpisodeDataset(ours.spec, episodes, ours.environment)


def faulty(ours):
    """Yield mistakes in episode 2, each with the place that the message names."""
    episode = ours.episodes[2]
    obs, action, reward = dict(episode.obs), episode.action.copy(), episode.reward.copy()
    bad = obs["obs"].copy()
    bad[3, 1] = np.nan
    yield {"obs": obs | {"obs": bad}}, r"episode 2, step 3, 'obs': nan is not finite"
    reward[4] = np.inf
    yield {"reward": reward}, r"episode 2, step 4, 'reward': inf is not finite"
    action[7, 0] = 2.5
    yield {"action": action}, r"episode 2, step 7, 'action': 2.5 is beyond"
    yield {"reward": episode.reward * 1e9}, r"step 0, 'reward': .* is beyond 1000000.0"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("fault", range(4))
def test_a_wrong_number_is_named_by_file_episode_step_and_leaf(form, fault, tmp_path):
    spec = spec_of(OBSERVATIONS["numbers"], ACTIONS["numbers"])
    ours = dataset(spec)
    changes, words = list(faulty(ours))[fault]
    path = tmp_path / "bad-v0"
    write(broken(ours, 2, **changes), path, form)
    with pytest.raises(DatasetError, match=rf"bad-v0: .*{words}") as raised:
        read([path], spec, environment="CartPole-v1", largest_reward=1e6)
    assert "\n" not in str(raised.value)


def test_a_choice_and_a_category_beyond_the_space_are_named(tmp_path):
    spec = spec_of(OBSERVATIONS["nested"], ACTIONS["choices"])
    ours = dataset(spec)
    episode = ours.episodes[0]
    for changes, words in (
        ({"action": episode.action + 4}, r"episode 0, step 0, 'action'"),
        (
            {"obs": episode.obs | {"boss.phase": episode.obs["boss.phase"] + 3}},
            r"episode 0, step 0, 'boss.phase'",
        ),
    ):
        path = tmp_path / f"bad{len(words)}-v0"
        write(broken(ours, 0, **changes), path, "minari")
        with pytest.raises(DatasetError, match=words):
            read([path], spec, environment="CartPole-v1", largest_reward=1e6)


def test_an_action_that_the_mask_forbids_is_named(tmp_path):
    spec = spec_of(OBSERVATIONS["numbers"], ACTIONS["choices"], masked=True)
    ours = dataset(spec)
    episode = ours.episodes[0]
    mask = episode.obs[MASK].copy()
    mask[2] = np.arange(4) != episode.action[2]
    write(broken(ours, 0, obs=episode.obs | {MASK: mask}), tmp_path / "a.parquet", "parquet")
    with pytest.raises(DatasetError, match=r"episode 0, step 2, 'action'.*mask allows"):
        read([tmp_path / "a.parquet"], spec, environment="CartPole-v1", largest_reward=1e6)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        ("picture", "choices", r"leaf 'obs' is Box.*where the run has Box\(-1.0, 1.0, \(3,\)"),
        ("numbers", "several", r"action is .*where the run has Discrete\(4, start=-1\)"),
        ("nested", "choices", r"leaf 'obs' is Dict|leaf 'obs' is missing"),
    ],
)
def test_other_spaces_are_named(form, observation, action, words, tmp_path):
    theirs = spec_of(OBSERVATIONS[observation], ACTIONS[action])
    write(dataset(theirs), tmp_path / "other-v0", form)
    spec = spec_of(OBSERVATIONS["numbers"], ACTIONS["choices"])
    with pytest.raises(DatasetError, match=words):
        read([tmp_path / "other-v0"], spec, environment="CartPole-v1", largest_reward=1e6)


def test_other_bounds_of_actions_are_named(tmp_path):
    spec = spec_of(OBSERVATIONS["numbers"], ACTIONS["numbers"])
    write(dataset(spec), tmp_path / "a-v0", "minari")
    wider = msgspec.structs.replace(spec.action, high=(3.0, 0.7))
    with pytest.raises(DatasetError, match=r"action is Box.*where the run has Box"):
        read(
            [tmp_path / "a-v0"],
            msgspec.structs.replace(spec, action=wider),
            environment="CartPole-v1",
            largest_reward=1e6,
        )


def test_another_environment_is_refused_unless_it_is_welcome(tmp_path):
    spec = spec_of(OBSERVATIONS["numbers"], ACTIONS["choices"])
    write(dataset(spec), tmp_path / "a-v0", "minari")
    with pytest.raises(DatasetError, match=r"a-v0: is of CartPole-v1, and the run plays Lander-v3"):
        read([tmp_path / "a-v0"], spec, environment="Lander-v3", largest_reward=1e6)
    taken = read(
        [tmp_path / "a-v0"],
        spec,
        environment="Lander-v3",
        largest_reward=1e6,
        other_environment=True,
    )
    assert taken.environment == "Lander-v3"


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_data_set_is_refused_in_one_line(form, tmp_path):
    spec = spec_of(OBSERVATIONS["numbers"], ACTIONS["choices"])
    path = tmp_path / "a-v0"
    write(dataset(spec), path, form)
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    for file in files:
        whole = file.read_bytes()
        for cut in (0, len(whole) // 2):
            file.write_bytes(whole[:cut])
            with suppress(DatasetError):  # what is no data may be cut off unseen
                read([path], spec, environment="CartPole-v1", largest_reward=1e6)
        file.write_bytes(whole)
    read([path], spec, environment="CartPole-v1", largest_reward=1e6)


def test_a_data_set_without_spaces_does_not_make_the_environment_it_names(tmp_path):
    spec = spec_of(OBSERVATIONS["numbers"], ACTIONS["choices"])
    path = tmp_path / "a-v0"
    write(dataset(spec), path, "minari")
    file = path / "data" / "metadata.json"
    about = msgspec.json.decode(file.read_bytes())
    del about["action_space"]
    file.write_bytes(msgspec.json.encode(about))
    with pytest.raises(DatasetError, match="does not describe its spaces"):
        read([path], spec, environment="CartPole-v1", largest_reward=1e6)


def test_an_episode_that_ends_early_is_named(tmp_path):
    spec = spec_of(OBSERVATIONS["numbers"], ACTIONS["choices"])
    path = tmp_path / "a-v0"
    write(dataset(spec), path, "minari")
    import h5py

    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file["episode_2"]["terminations"][4] = True
    with pytest.raises(DatasetError, match="episode 2, step 4: the episode ends, and has more"):
        read([path], spec, environment="CartPole-v1", largest_reward=1e6)


def test_a_missing_library_is_one_line(monkeypatch):
    with pytest.raises(DatasetError, match=r'no_such is not installed.*"soulsai\[data\]"'):
        extra.need("no_such")


def test_what_is_not_there_and_what_is_no_data_set_are_told_apart(tmp_path):
    spec = spec_of(OBSERVATIONS["numbers"], ACTIONS["choices"])
    for path, words in ((tmp_path, "is no data set"), (tmp_path / "x", "is not there")):
        with pytest.raises(DatasetError, match=words):
            read([path], spec, environment="", largest_reward=1e6)


def test_minari_needs_a_name_with_a_version(tmp_path):
    spec = spec_of(OBSERVATIONS["numbers"], ACTIONS["choices"])
    with pytest.raises(DatasetError, match="as in lander-v0"):
        write(dataset(spec), tmp_path / "lander", "minari")
