"""What the evaluator plays, which model it finds the best, and what it does when things break."""

import msgspec
import pytest

from soulsai.config.schema import Config, EvaluateSettings, RunSettings
from soulsai.evaluations import judgement, record
from soulsai.evaluations.record import EvaluationReader, read_state
from soulsai.evaluator.job_process import JobFailed, JobStopped
from soulsai.evaluator.node import EvaluatorNode, active_run
from soulsai.evaluator.orders import PlayOrder, RecordOrder, Reply
from soulsai.types import Episode, Status

EPISODES = 8


class Place:
    """A run's folder, an evaluator in it, and policies whose skill is their content."""

    def __init__(self, folder, **settings):
        self.folder = folder
        self.config = Config(
            run=RunSettings(saves=str(folder.parent)),
            evaluate=EvaluateSettings(episodes=EPISODES, video_episodes=1, **settings),
        )
        self.orders = []
        self.broken = {}  # by kind of order: what is raised
        self.time = 1000.0
        self.turns = 0
        (folder / "checkpoints").mkdir(parents=True)

    def save(self, number, skill, place="checkpoints"):
        name = folder = f"{number:06d}"
        target = (
            self.folder / "checkpoints" / name if place == "checkpoints" else self.folder / place
        )
        target.mkdir(parents=True, exist_ok=True)
        (target / "policy.onnx").write_text(str(skill))
        progress = {"generation": 1, "version": number, "env_steps": 100 * number}
        about = "progress.json" if place == "checkpoints" else "about.json"
        (target / about).write_bytes(msgspec.json.encode(progress))
        return folder

    def play(self, order, stop):
        stop()
        self.orders.append(order)
        if fault := self.broken.get(type(order)):
            raise fault
        if isinstance(order, RecordOrder):
            return Reply(done=True, files=("episode.webm",))
        with open(order.policy) as file:
            skill = float(file.read())
        played = tuple(
            Episode(1, 1, number, skill + (order.seed + number) % 5, 10, 0.1, True, True, 0.0)
            for number in range(order.episodes)
        )
        return Reply(done=True, episodes=played)

    def evaluator(self, turns):
        """Return an evaluator that is told to stop after some pauses."""
        left = [turns]

        def sleep(seconds):
            self.time += seconds
            left[0] -= 1

        return EvaluatorNode(
            self.folder, self.config, stopped=lambda: left[0] <= 0, run_job=self.play,
            clock=lambda: self.time, now=lambda: self.time, sleep=sleep,
        )  # fmt: skip

    def run(self, turns=3):
        self.evaluator(turns).run()
        return EvaluationReader(self.folder).fresh()

    @property
    def played(self):
        return [order for order in self.orders if isinstance(order, PlayOrder)]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "run")


def test_each_checkpoint_is_played_once_on_the_same_seeds(place):
    place.save(0, 10)
    (first,) = place.run()
    assert (first.model, first.verdict, first.episodes) == ("000000", "first", EPISODES)
    assert first.seeds == tuple(range(2_000_000, 2_000_000 + EPISODES))
    assert first.lengths == (10,) * EPISODES
    place.save(1, 50)
    _, second = place.run()
    assert (second.model, second.verdict, second.version) == ("000001", "best", 1)
    assert second.seeds == first.seeds
    assert [line.number for line in place.run()] == [1, 2], "nothing is played twice"
    recorded = [order for order in place.orders if isinstance(order, RecordOrder)]
    assert [order.seeds for order in recorded] == [(2_000_000,)] * 2
    state = read_state(place.folder)
    assert (state.ended, state.finished, state.fault) == (True, ("000000", "000001"), "")


def test_only_the_newest_of_several_checkpoints_is_played(place):
    for number in range(4):
        place.save(number, number)
    assert [line.model for line in place.run()] == ["000003"]


@pytest.mark.parametrize(("share", "rest"), [(0.25, 60.0), (0.5, 20.0), (1.0, 0.0)])
def test_it_rests_after_work_so_that_work_has_its_share_of_the_time(tmp_path, share, rest):
    place = Place(tmp_path / "run", share=share)
    begins, play = [], place.play

    def work(order, stop):
        if isinstance(order, PlayOrder):
            begins.append(place.time)
            if len(begins) == 1:
                place.save(1, 1)
        place.time += 10.0  # plays for that long, and as long records the first one
        return play(order, stop)

    place.play = work
    place.save(0, 1)
    place.run(turns=2000)
    work_seconds = 20.0  # of the first model
    assert begins[1] - begins[0] == pytest.approx(work_seconds + rest, abs=2.0)


def test_the_last_checkpoint_of_a_run_that_has_ended_waits_for_no_rest(place):
    begins, play = [], place.play

    def work(order, stop):
        if isinstance(order, PlayOrder):
            begins.append(place.time)
            if len(begins) == 1:
                place.save(1, 1)
        place.time += 1000.0
        return play(order, stop)

    place.play = work
    place.save(0, 1)
    status = Status("run", 1, "ended", "", "")
    (place.folder / "status.json").write_bytes(msgspec.json.encode(status))
    place.run()
    assert begins[1] - begins[0] == pytest.approx(2000.0, abs=2.0), "it played, recorded, played"


def test_every_other_checkpoint_is_played_if_told_so(tmp_path):
    place = Place(tmp_path / "run", every=2)
    for number in range(4):
        place.save(number, number)
    assert [line.model for line in place.run()] == ["000002"]


def test_the_model_of_the_moving_average_is_the_one_to_beat(place):
    place.save(7, 30, "best_model")
    place.save(1, 20)
    lines = place.run()
    assert [(line.model, line.verdict) for line in lines] == [
        ("best-1-7", "first"),
        ("000001", "no better"),
    ]
    assert not lines[1].regressed, "nothing was gained yet that could be lost"


def test_a_candidate_in_doubt_plays_more_seeds_and_so_does_the_best(place, monkeypatch):
    verdicts = iter(["candidate", "best"])
    monkeypatch.setattr(judgement, "compare", lambda ours, theirs, look: next(verdicts))
    place.save(0, 10)
    place.run()
    place.save(1, 10)
    lines = place.run()
    assert [(line.model, line.verdict, line.episodes) for line in lines[1:]] == [
        ("000001", "candidate", EPISODES),
        ("000000", "first", 2 * EPISODES),
        ("000001", "best", 2 * EPISODES),
    ]
    assert lines[-1].seeds == lines[-2].seeds


def test_policies_of_the_best_outlive_their_checkpoints_and_others_are_removed(place):
    for number, skill in enumerate((10, 5, 20)):
        place.save(number, skill)
        place.run()
    kept = sorted(path.name for path in (place.folder / record.FOLDER).iterdir())
    assert kept == ["000000", "000002"], "the one that was no better has no video"
    assert record.kept_policy(place.folder, "000002").read_text() == "20"


def test_videos_of_few_models_are_kept(tmp_path):
    place = Place(tmp_path / "run", videos=2)
    for number in range(5):
        place.save(number, 10 * number)
        place.run()
    kept = sorted(path.name for path in (place.folder / record.FOLDER).iterdir())
    assert kept == ["000003", "000004"]


def test_an_environment_that_breaks_is_tried_again_and_then_given_up(place):
    place.save(0, 1)
    place.run()
    place.save(1, 1)
    place.broken[PlayOrder] = JobFailed("the environment hangs: silent for 120 s")
    place.run(turns=60)
    assert len(place.played) == 1 + 3
    assert read_state(place.folder).fault == (
        "000001 not evaluated: the environment hangs: silent for 120 s"
    )
    del place.broken[PlayOrder]
    place.save(2, 1)
    assert [line.model for line in place.run()] == ["000000", "000002"]


def test_without_a_video_the_evaluation_counts_all_the_same(place):
    place.save(0, 1)
    place.broken[RecordOrder] = JobFailed('av: not installed; pip install "soulsai[video]"')
    assert [line.verdict for line in place.run()] == ["first"]
    assert read_state(place.folder).fault == (
        'no video of 000000: av: not installed; pip install "soulsai[video]"'
    )


def test_a_reason_against_videos_is_said_once_and_not_of_each_best_model(place):
    place.save(0, 1)
    place.broken[RecordOrder] = JobFailed("av: not installed")
    evaluator, faults = place.evaluator(9), []
    for skill in range(1, 4):
        place.save(skill, 10 * skill)
        while evaluator._turn():
            pass
        faults.append(read_state(place.folder).fault)
    place.broken[RecordOrder] = JobFailed("the disk is full")
    place.save(4, 50)
    evaluator._turn()
    assert sum(isinstance(order, RecordOrder) for order in place.orders) == 4
    assert {*faults} == {"no video of 000001: av: not installed"}
    assert read_state(place.folder).fault == "no video of 000004: the disk is full"


def test_a_full_disk_is_waited_for(place, monkeypatch):
    def refuse(folder, line):
        raise OSError(28, "No space left on device", "x")

    place.save(0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(record, "append", refuse)
        place.run()
        assert read_state(place.folder).fault == "not evaluated: x: No space left on device"
        assert len(place.played) == 1, "it rests before it tries again"
    assert [line.model for line in place.run(turns=2000)] == ["000000"]


def test_a_stop_in_an_episode_leaves_no_line(place):
    place.save(0, 1)
    place.broken[PlayOrder] = JobStopped("stopped")
    assert place.run() == []
    assert read_state(place.folder).ended


def test_a_checkpoint_that_vanishes_under_the_evaluator_is_no_fault_of_the_run(place):
    place.save(0, 1)
    (place.folder / "checkpoints" / "000000" / "policy.onnx").unlink()
    assert place.run() == []
    assert "policy.onnx" in read_state(place.folder).fault


def test_after_the_best_was_forgotten_the_next_model_is_the_first(place):
    place.save(0, 100)
    place.run()
    (place.folder / "forgotten.json").write_text(f'{{"position":"{int(1e3 * place.time)}-0"}}')
    place.time += 1
    place.save(1, 1)
    assert [line.verdict for line in place.run()] == ["first", "first"]


def episodes(place, count, *, version=1, reward=5.0, greedy=True):
    with (place.folder / "results.jsonl").open("ab") as file:
        for number in range(count):
            episode = Episode(1, version, number, reward, 9, 1.0, True, greedy, 0.0, client="pc")
            file.write(msgspec.json.encode(episode) + b"\n")


def test_clients_are_asked_where_the_environment_cannot_be_made_here(place):
    place.save(1, 1)
    place.broken[PlayOrder] = JobFailed("Game-v0: is not registered", unplayable=True)
    node = place.evaluator(turns=1000)
    node._turn()
    node._turn()
    state = read_state(place.folder)
    assert state.fault == "cannot play here, so clients are asked: Game-v0: is not registered"
    assert (state.request, state.generation, state.version) == ("000001", 1, 1)
    assert state.episodes == EPISODES
    episodes(place, 5, version=3)
    episodes(place, 5, greedy=False)
    episodes(place, EPISODES - 1)
    node._turn()
    assert EvaluationReader(place.folder).fresh() == []
    episodes(place, 3)
    node._turn()
    (line,) = EvaluationReader(place.folder).fresh()
    assert (line.by, line.seeds, line.episodes, line.mean) == ("clients", (), EPISODES, 5.0)
    assert read_state(place.folder).request == ""
    place.save(2, 1)
    node._turn()
    episodes(place, EPISODES, version=2, reward=50.0)
    node._turn()
    assert EvaluationReader(place.folder).fresh()[-1].verdict == "best"


def test_clients_that_never_play_hold_nothing_up(place):
    place.save(1, 1)
    place.broken[PlayOrder] = JobFailed("no", unplayable=True)
    node = place.evaluator(turns=10)
    node._turn()
    node._turn()
    place.time += 1e5
    node._turn()
    assert read_state(place.folder).fault == "000001: clients have played 0 of 8 episodes"
    place.save(2, 1)
    node._turn()
    assert read_state(place.folder).request == "000002"


def test_the_run_that_saves_is_the_active_one(tmp_path):
    import os

    for number, name in enumerate("abc"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        os.utime(tmp_path / name / "checkpoints", (100 + number, 100 + number))
    os.utime(tmp_path / "b" / "checkpoints", (500, 500))
    assert active_run([tmp_path / name for name in "abc"]) == tmp_path / "b"
    assert active_run([]) is None
