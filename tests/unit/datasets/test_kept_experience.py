"""Experience is kept as it came, bounded, and joined into whole episodes."""

import numpy as np
import pytest

from soulsai.datasets import kept_experience
from soulsai.datasets.episodes import from_fragments, to_fragments
from soulsai.datasets.kept_experience import KeptRun
from soulsai.errors import ConfigError, DatasetError
from soulsai.training_node.saving import experience_writer
from soulsai.training_node.saving.experience_writer import ExperienceWriter
from soulsai.types import PROTOCOL, EnvironmentOffer, Head, RunSpec
from tests.unit.algorithms.learning_cases import cut, episode, spec

RUN = RunSpec(
    run="run",
    protocol=PROTOCOL,
    oldest_protocol=PROTOCOL,
    environment=EnvironmentOffer("CartPole-v1"),
    spec=spec(),
    algorithm="dqn",
    program_sha256="",
)
KEPT = KeptRun(RUN, Head("epsilon_greedy"))


def test_fragments_come_back_bit_for_bit():
    parts = cut(episode(9), [3, 5])
    back = kept_experience.decode(kept_experience.encode(parts))
    for one, other in zip(parts, back, strict=True):
        assert (one.client, one.start, one.terminated) == (
            other.client,
            other.start,
            other.terminated,
        )
        assert one.obs["obs"].tobytes() == other.obs["obs"].tobytes()
        assert one.action.tobytes() == other.action.tobytes()


def test_whole_episodes_are_joined_in_order_and_others_are_counted():
    first, second, third = (episode(9, number=number) for number in range(3))
    parts = [*cut(first, [3, 5]), *cut(second, [4])[:1], *cut(third, [2])[1:]]
    shuffled = [parts[i] for i in (2, 0, 1, 3, 4, 0)]
    joined = from_fragments(RUN, KEPT.head, shuffled)
    assert joined.incomplete == 2
    (whole,) = joined.dataset.episodes
    np.testing.assert_array_equal(whole.obs["obs"], first.obs["obs"])
    np.testing.assert_array_equal(whole.action, first.action)
    assert whole.terminated
    (fragment,) = to_fragments(joined.dataset, KEPT.head)
    np.testing.assert_array_equal(fragment.reward, first.reward)


def test_what_is_kept_is_read_again(tmp_path):
    writer = ExperienceWriter(tmp_path / "run", KEPT, most_bytes=10**6)
    for number in range(5):
        writer.keep(cut(episode(9, number=number), [4]))
    writer.close()
    assert len(kept_experience.read(tmp_path / "run").dataset.episodes) == 5
    assert not kept_experience.read(tmp_path / "run", purged=["a"]).dataset.episodes


def test_the_oldest_files_give_way(tmp_path, monkeypatch):
    monkeypatch.setattr(experience_writer, "FILE_BYTES", 1)
    for number in range(30):  # each writer makes a file
        writer = ExperienceWriter(tmp_path, KEPT, most_bytes=10_000)
        writer.keep([episode(9, number=number)])
        writer.close()
    found = kept_experience.files(tmp_path)
    assert sum(path.stat().st_size for path in found) <= 10_000
    assert found[-1].name == kept_experience.name_of(30)
    kept = kept_experience.read(tmp_path).dataset.episodes
    numbers = [episode.facts["episode"] for episode in kept]
    assert numbers == list(range(30 - len(kept), 30))


def test_a_slow_disk_never_holds_up_the_caller(tmp_path, monkeypatch):
    monkeypatch.setattr(experience_writer, "WAITING_BYTES", 0)
    writer = ExperienceWriter(tmp_path, KEPT, most_bytes=10**6)
    writer.keep([episode(9)])
    writer.close()
    assert writer.left_out == 9


def test_a_disk_that_fails_is_counted(tmp_path, monkeypatch):
    writer = ExperienceWriter(tmp_path / "run", KEPT, most_bytes=10**6)
    (tmp_path / "run" / kept_experience.RUN).unlink()
    (tmp_path / "run").rmdir()
    writer.keep([episode(9)])
    writer.close()
    assert writer.left_out == 9


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"training\.keep_experience: .*file"):
        ExperienceWriter(tmp_path / "file" / "run", KEPT, most_bytes=1)


def test_a_damaged_file_is_named(tmp_path):
    writer = ExperienceWriter(tmp_path, KEPT, most_bytes=10**6)
    writer.keep([episode(9)])
    writer.close()
    (path,) = kept_experience.files(tmp_path)
    whole = path.read_bytes()
    for data in (b"", whole[:40], whole[:-8], b"{}" * 50):
        path.write_bytes(data)
        with pytest.raises(DatasetError, match=path.name):
            kept_experience.read(tmp_path)
