"""Greedy episodes on a player's own PC become videos; whatever fails, the play goes on."""

import random

import av
import numpy as np
import pytest

from soulsai.client.creation import make
from soulsai.client.environment import AdaptedEnvironment, Recordable
from soulsai.client.episode_videos import EpisodeVideos
from soulsai.client.isolation.environment import IsolatedEnvironment, start
from soulsai.client.probe import with_pictures
from soulsai.config.schema import WatchdogSettings
from soulsai.errors import EnvironmentFault
from soulsai.types import EnvironmentOffer, zeros
from tests.unit.client.player_cases import Diary, stage

GAME = """
import gymnasium
import numpy as np

class Game(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)
    metadata = {"render_fps": 10}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        self.left = 6
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(3, np.float32), 2.0, self.left == 0, False, {}

    def render(self):
        return np.full((40, 40, 3), 40 * self.left, np.uint8)

def make(**kwargs):
    return Game(**kwargs)
"""


class Pictured(Diary):
    metadata = {"render_fps": 10}
    render_mode = "rgb_array"
    picture = np.zeros((40, 40, 3), np.uint8)

    def render(self):
        return self.picture


def frames(path):
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))


def recorded(folder, env, keep=10):
    adapted = AdaptedEnvironment(env, "it", mask_key="action_mask", masked=False)
    ticks = iter(range(1, 1000))
    adapted.videos = EpisodeVideos(folder, keep, now=lambda: float(next(ticks)))
    return adapted


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (1.0, 3)])
def test_greedy_episodes_and_no_others_are_recorded(tmp_path, share, count):
    environment = recorded(tmp_path, Pictured(length=5))
    player, line, go, _ = stage([environment], eval_fraction=share)
    player.record_greedy()
    go(15)
    environment.close()
    assert len(line.episodes) == 3
    videos = sorted(tmp_path.glob("*"))
    assert len(videos) == count, "and nothing unfinished beside them"
    assert all(frames(video) == 6 for video in videos)
    assert all(video.name.endswith("_1-1_12.5.webm") for video in videos)


def test_the_newest_few_are_kept_and_an_unfinished_one_leaves_nothing(tmp_path):
    player, _, go, _ = stage([recorded(tmp_path, Pictured(length=3), keep=2)], eval_fraction=1.0)
    player.record_greedy()
    go(16)
    names = sorted(path.name for path in tmp_path.glob("*.webm"))
    assert [name.split("-")[0] for name in names] == ["4000", "5000"]


@pytest.mark.parametrize("picture", [None, np.zeros((4, 4), np.uint8), "a picture"])
def test_pictures_that_are_none_end_the_videos_and_not_the_play(tmp_path, picture):
    env = Pictured(length=3)
    env.picture = picture
    environment = recorded(tmp_path, env)
    player, line, go, _ = stage([environment], eval_fraction=1.0)
    player.record_greedy()
    go(9)
    assert len(line.episodes) == 3
    assert "render gives" in environment.videos.fault
    assert [*tmp_path.iterdir()] == []


def test_a_folder_that_cannot_be_written_ends_the_videos_and_not_the_play(tmp_path):
    (tmp_path / "file").write_text("")
    environment = recorded(tmp_path / "file", Pictured(length=3))
    player, line, go, _ = stage([environment], eval_fraction=1.0)
    player.record_greedy()
    go(6)
    assert len(line.episodes) == 2
    assert environment.videos.fault


def test_an_environment_without_pictures_is_played_without_videos(tmp_path, caplog):
    def made_with(kwargs):
        if kwargs:
            raise EnvironmentFault("got an unexpected keyword argument 'render_mode'")
        return AdaptedEnvironment(Diary(), "it", mask_key="m", masked=False)

    made = with_pictures(made_with, {}, str(tmp_path), 3)
    assert made.videos is None
    assert "no pictures, the play goes on" in caplog.text
    assert isinstance(made, Recordable)


def test_a_game_in_a_process_of_its_own_is_recorded_there(tmp_path):
    file = tmp_path / "game.py"
    file.write_text(GAME)
    id = f"{file}:make"
    environment = AdaptedEnvironment(make(id, {}), id, mask_key="action_mask", masked=False)
    isolated = IsolatedEnvironment(
        id, EnvironmentOffer(id), environment.spec, WatchdogSettings(),
        stopped=lambda: False, rng=random.Random(0),
    )  # fmt: skip
    isolated.record_into(str(tmp_path / "videos"), 5)
    start(isolated, lambda: False)
    rows = {name: zeros(leaf) for name, leaf in environment.spec.obs.items()}
    try:
        for episode in range(3):
            isolated.reset(rows)
            if episode != 1:
                isolated.record((3, 77 + episode))
            while not isolated.step(0, rows).terminated:
                pass
    finally:
        isolated.close()
    names = sorted(path.name.split("_", 1)[1] for path in (tmp_path / "videos").iterdir())
    assert names == ["3-77_12.0.webm", "3-79_12.0.webm"]
    assert all(frames(path) == 7 for path in (tmp_path / "videos").iterdir())
