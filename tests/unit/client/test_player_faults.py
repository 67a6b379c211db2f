"""Environments that break while they are played: what was complete is sent."""

from soulsai.client.environment import AdaptedEnvironment
from soulsai.client.isolation.watchdog import EnvironmentBroken, Fault
from tests.unit.client.player_cases import Diary, stage

HANG = Fault("hang", "step: no answer for 5 s")
SLOW = Fault("slow", "20 steps per minute", sound=True)
RESET = Fault("reset", "boss is not there")


class Fragile(AdaptedEnvironment):
    """Breaks in the steps and resets that it is told to, and is in order after ``repair`` looks."""

    def __init__(self, env, steps=(), resets=(), repair=2):
        super().__init__(env, "it", mask_key="action_mask", masked=False)
        self.steps, self.resets = dict(steps), dict(resets)
        self.taken, self.begun, self.repair, self.waits = 0, 0, repair, []
        self.left = 0

    def ready(self, timeout):
        self.waits.append(timeout)
        self.left -= 1
        return self.left < 0

    def reset(self, rows, seed=None):
        self.begun += 1
        self.fail(self.resets.get(self.begun))
        super().reset(rows, seed)

    def step(self, action, rows):
        self.taken += 1
        self.fail(self.steps.get(self.taken))
        return super().step(action, rows)

    def fail(self, fault):
        if fault is not None:
            self.left = self.repair
            raise EnvironmentBroken(fault.text, fault)


def staged(*environments, **options):
    _, line, go, progress = stage(list(environments), **options)
    return line, go, progress


def test_a_call_that_has_not_returned_is_known_to_others():
    seen = []

    class Seen(Fragile):
        def fail(self, fault):
            seen.append(progress.called)
            super().fail(fault)

    fragile = Seen(Diary(length=10), steps={3: HANG})
    _, go, progress = staged(fragile)
    go(4)
    assert len(seen) >= 6  # two resets and four steps
    assert None not in seen
    assert progress.called is None


def test_a_broken_episode_loses_its_unfinished_fragment_and_nothing_else():
    fragile = Fragile(Diary(length=10), steps={7: HANG})
    line, go, progress = staged(fragile)
    go(16)  # six of the first episode, then a whole one
    assert [(one.episode, one.start, len(one)) for one in line.fragments] == [
        *((0, 0, 4),),
        *((1, 0, 4), (1, 4, 4), (1, 8, 2)),
    ]
    assert [one.clock for one in line.fragments] == [0, 4, 8, 12]  # no hole is left
    assert not line.fragments[0].ended
    assert [one.episode for one in line.episodes] == [1]
    assert (progress.discarded, progress.restarts) == (2, 1)
    assert progress.steps == sum(map(len, line.fragments)) + progress.discarded
    assert (progress.faults, progress.trouble) == ({"hang": 1}, HANG.text)


def test_sound_steps_are_sent_as_a_cut():
    line, go, progress = staged(Fragile(Diary(length=10), steps={7: SLOW}))
    go(10)
    assert [(one.start, len(one)) for one in line.fragments] == [(0, 4), (4, 2), (0, 4)]
    assert not any(one.ended for one in line.fragments)
    assert progress.discarded == 0


def test_the_others_go_on_while_one_is_broken():
    fragile = Fragile(Diary(0, length=10), steps={3: HANG}, repair=20)
    line, go, progress = staged(fragile, Fragile(Diary(1, length=10)))
    go(40)
    numbers = [int(one.obs["obs"][0, 0]) for one in line.fragments]
    assert set(numbers) == {0, 1}
    assert numbers.count(1) > numbers.count(0)
    assert fragile.waits.count(0.0) >= 20  # nobody waited for it
    assert sum(map(len, line.fragments)) + progress.discarded == progress.steps
    clock = 0
    for one in line.fragments:
        assert one.clock == clock
        clock += len(one)


def test_a_reset_that_fails_is_tried_again_with_no_episode_in_between():
    line, go, progress = staged(Fragile(Diary(length=4), resets={1: RESET, 2: RESET, 4: HANG}))
    go(8)
    assert [one.episode for one in line.fragments] == [0, 1]
    assert (progress.faults, progress.restarts) == ({"reset": 2, "hang": 1}, 1)


def test_a_stop_while_an_environment_is_awaited_is_no_fault_and_loses_no_step():
    class Stopped(Fragile):
        def fail(self, fault):
            if fault is not None:
                raise EnvironmentBroken("the client stops")

    line, go, progress = staged(Stopped(Diary(length=10), steps={7: HANG}, repair=0))
    go(10)
    assert [(one.start, len(one)) for one in line.fragments][:2] == [(0, 4), (4, 2)]
    assert sum(map(len, line.fragments)) == progress.steps
    assert (progress.faults, progress.discarded) == ({}, 0)
