"""Threads are chosen by their times; what is set for learning ends with it."""

import gc

import pytest
import torch

from soulsai.training_node import learning_process


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("seconds", "threads"),
    [
        ({1: 1.0}, 1),
        ({1: 1.0, 2: 0.5}, 2),
        ({1: 1.0, 2: 0.9}, 1),  # a second core for a tenth
        ({1: 1.0, 2: 1.5}, 1),
        ({1: 1.0, 2: 1.0}, 1),
        ({1: 0.0, 2: 0.0}, 1),
    ],
)
def test_threads_are_added_where_they_pay(seconds, threads):
    assert learning_process.fastest(seconds) == threads


@pytest.mark.parametrize(("free", "measured", "chosen"), [(2, [1, 2], 2), (1, [], 1), (0, [], 1)])
def test_threads_are_measured_where_a_core_is_free(free, measured, chosen):
    seen = []

    def measure():
        seen.append(torch.get_num_threads())
        return 1.0 / seen[-1]

    assert learning_process.choose_threads(measure, free) == chosen
    assert seen == measured
    assert torch.get_num_threads() == chosen


def test_denormal_numbers_are_zero_while_it_learns():
    least = torch.full((8,), 1e-40)
    with learning_process.prepared(threads=1):
        learning_process.freeze()
        assert (least * 1.0 == 0.0).all()
        assert gc.get_freeze_count() > 0
    assert (least * 1.0 > 0.0).all()
    assert gc.get_freeze_count() == 0
