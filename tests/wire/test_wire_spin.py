"""When a wait begins with a spin: the rule alone, without a clock."""

import os

import pytest

from billiard._wire import spin
from billiard._wire.spin import SpinWait


@pytest.fixture
def waiter(monkeypatch):
    monkeypatch.setattr(spin, "processors", lambda: 2)
    return SpinWait()


def skipped(waiter):
    """Waits without a spin until the next one with it."""
    count = 0
    while not waiter.worthwhile():
        count += 1
        assert count < 10_000
    return count


def test_each_spin_in_vain_makes_the_next_rarer_up_to_a_bound(waiter):
    found = []
    for _ in range(10):
        found.append(skipped(waiter))
        waiter.in_vain()
    assert found == [0, 1, 3, 7, 15, 31, 63, 127, 255, 255]


def test_one_that_found_something_is_repeated_at_once_and_forgives_one_failure(waiter):
    for _ in range(3):
        skipped(waiter)
        waiter.in_vain()
    assert skipped(waiter) == 7
    waiter.found()
    assert skipped(waiter) == 0
    waiter.in_vain()
    assert skipped(waiter) == 7  # and not 15


@pytest.mark.parametrize(("every", "spins"), [(1, (990, 1000)), (4, (0, 60))])
def test_it_pays_where_most_answers_come_in_time(waiter, every, spins):
    spun = 0
    for i in range(1000):
        if waiter.worthwhile():
            spun += 1
            if i % every:
                waiter.in_vain()
            else:
                waiter.found()
    assert spins[0] <= spun <= spins[1]


def test_a_single_processor_is_never_spun_on(monkeypatch):
    monkeypatch.setattr(spin, "processors", lambda: 1)
    waiter = SpinWait()
    assert not any(waiter.worthwhile() for _ in range(1000))


def test_processors_are_those_this_process_may_use():
    assert spin.processors() == len(os.sched_getaffinity(0))
