"""A job in a real process: what it does, when it hangs, when it dies, when it talks nonsense."""

import time

import av
import msgspec
import numpy as np
import psutil
import pytest

from soulsai.client.video import VideoLimits
from soulsai.config.schema import ClientSettings, WatchdogSettings
from soulsai.evaluator.job_process import JobFailed, JobProcess, JobStopped
from soulsai.evaluator.orders import PlayOrder, RecordOrder
from soulsai.types import EnvironmentOffer
from tests.unit.client.test_evaluate import written

LIMITS = WatchdogSettings()
IMPATIENT = WatchdogSettings(step_seconds=1.0, reset_seconds=1.0, start_seconds=60.0)
SICK = """
import os, sys, time
import gymnasium
import numpy as np

class Sick(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    metadata = {"render_modes": MODES, "render_fps": 20}

    def __init__(self, render_mode=None, how=""):
        self.render_mode = render_mode if render_mode in self.metadata["render_modes"] else None
        self.how = how

    def reset(self, *, seed=None, options=None):
        print("an environment that prints")
        self.left = 30
        return np.zeros(4, np.float32), {}

    def step(self, action):
        self.left -= 1
        if self.left == 20 and self.how == "hangs":
            time.sleep(600)
        if self.left == 20 and self.how == "dies":
            os._exit(7)
        if self.left == 20 and self.how == "starts":
            os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "613.25")  # nobody else's number
        return np.zeros(4, np.float32), 1.0, self.left == 0, False, {}

    def render(self):
        return np.full((50, 61, 3), self.left, np.uint8)

def make(**kwargs):
    return Sick(**kwargs)
"""


@pytest.fixture
def sick(tmp_path):
    """Return a function that writes a sick environment with its policy, and an order to play it."""

    def order(how="", modes=("rgb_array",), kind="play"):
        file = tmp_path / "sick.py"
        file.write_text(SICK.replace("MODES", repr(list(modes))))
        id = f"{file}:make"
        offer = EnvironmentOffer(id, kwargs={"how": how})
        policy = written(tmp_path / "policy.onnx", id, offer=offer)
        own = ClientSettings()
        if kind == "play":
            return PlayOrder(str(policy), id, own, LIMITS, 3, 0, 1)
        return RecordOrder(str(policy), id, own, (1, 2), str(tmp_path / "out"), VideoLimits(), 1)

    return order


def never():
    return False


def test_episodes_come_back_with_their_numbers(sick):
    reply = JobProcess(sick(), LIMITS).run(never)
    assert [(one.episode, one.reward, one.steps) for one in reply.episodes] == [
        (number, 30.0, 30) for number in range(3)
    ]
    assert all(one.greedy for one in reply.episodes)


def test_it_gives_way_to_everybody_else(tmp_path, monkeypatch):
    (tmp_path / "shows.py").write_text(
        "import os, sys\n"
        "from soulsai.process import yield_cores\n"
        "sys.stdin.read(); yield_cores()\n"
        'print(\'{"done": true, "notice": "%d"}\' % os.nice(0), flush=True)\n'
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    order = PlayOrder("", "", ClientSettings(), LIMITS, 1, 0, 1)
    assert JobProcess(order, LIMITS, module="shows").run(never).notice == "19"


@pytest.mark.parametrize(
    ("how", "limits", "words"),
    [
        ("dies", LIMITS, "the environment's process ended with exit code 7"),
        ("hangs", IMPATIENT, "the environment hangs: silent for 1 s"),
    ],
)
def test_an_environment_that_dies_or_hangs_is_a_failure_in_one_line(sick, how, limits, words):
    with pytest.raises(JobFailed, match=words) as caught:
        JobProcess(sick(how), limits).run(never)
    assert not caught.value.unplayable


def test_nothing_that_an_environment_started_stays_behind(sick):
    JobProcess(sick("starts"), LIMITS).run(never)
    ours = [
        child
        for child in psutil.process_iter(["cmdline", "ppid"])
        if child.info["cmdline"] == ["sleep", "613.25"] and child.status() != psutil.STATUS_ZOMBIE
    ]
    _, left = psutil.wait_procs(ours, timeout=60)  # it was killed, which takes a moment
    assert left == []


def test_an_environment_that_is_not_there_cannot_be_played_here(sick):
    order = msgspec.structs.replace(sick(), environment="nobody_has_this:Game-v0")
    with pytest.raises(JobFailed, match="nobody_has_this") as caught:
        JobProcess(order, LIMITS).run(never)
    assert caught.value.unplayable


def test_it_ends_soon_after_it_is_told_to(sick):
    began = time.monotonic()
    with pytest.raises(JobStopped):
        JobProcess(sick("hangs"), LIMITS).run(lambda: time.monotonic() > began + 0.2)


def test_a_job_that_talks_nonsense_has_failed(tmp_path, monkeypatch):
    (tmp_path / "nonsense.py").write_text("print('no json')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    order = PlayOrder("", "", ClientSettings(), LIMITS, 1, 0, 1)
    with pytest.raises(JobFailed, match="cannot be read"):
        JobProcess(order, LIMITS, module="nonsense").run(never)


def test_videos_and_traces_are_written_with_every_frame(sick, tmp_path):

    reply = JobProcess(sick(kind="record"), LIMITS).run(never)
    names = [f"episode-{seed}.{kind}" for seed in (1, 2) for kind in ("webm", "json")]
    assert list(reply.files) == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    trace = msgspec.json.decode((tmp_path / "out" / "episode-1.json").read_bytes())
    assert trace["frames"] == 31, "the first picture is that before the first step"
    assert trace["rewards"] == [1.0] * 30
    assert len(trace["scores"]) == len(trace["actions"]) == len(trace["values"]) == 30
    with av.open(str(tmp_path / "out" / "episode-1.webm")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 31
    assert np.abs(frames[0][:40].mean() - frames[-1][:40].mean()) > 5, "it moves"


def test_without_pictures_there_is_no_video_and_one_line_says_so(sick):
    with pytest.raises(JobFailed, match="render_mode 'rgb_array'"):
        JobProcess(sick(kind="record", modes=()), LIMITS).run(never)
