"""When a wait begins with a spin: the rule alone, without a clock."""

import os

import pytest

from billiard._wire import spin
from billiard._wire.spin import SPIN_S, SpinWait


@pytest.fixture
def waiter(monkeypatch):
    monkeypatch.setattr(spin, "processors", lambda: 2)
    return SpinWait()


def skipped(waiter):
    """Waits without a spin until the next one with it."""
    count = 0
    while not waiter.seconds():
        count += 1
        assert count < 10_000
    return count


def test_each_spin_in_vain_makes_the_next_rarer_up_to_a_bound(waiter):
    found = []
    for _ in range(10):
        found.append(skipped(waiter))
        waiter.in_vain()
    assert found == [0, 1, 3, 7, 15, 31, 63, 127, 127, 127]


def test_one_that_found_something_is_repeated_at_once_and_forgives_one_failure(waiter):
    for _ in range(3):
        skipped(waiter)
        waiter.in_vain()
    assert skipped(waiter) == 7
    waiter.found()
    assert skipped(waiter) == 0
    waiter.in_vain()
    assert skipped(waiter) == 7  # and not 15


def test_one_that_failed_is_tried_again_for_half_as_long(waiter):
    assert waiter.seconds() == SPIN_S
    waiter.in_vain()
    skipped(waiter)
    waiter.found()
    assert waiter.seconds() == SPIN_S
    failed(waiter, 3)
    while not (seconds := waiter.seconds()):
        pass
    assert seconds == SPIN_S / 2


def failed(waiter, times):
    for _ in range(times):
        skipped(waiter)
        waiter.in_vain()


def test_after_a_pause_a_few_short_sleeps_bring_the_spin_back(waiter):
    failed(waiter, 10)
    waiter.slept(1.0)  # the pause
    waits = 1
    while not waiter.seconds():
        waiter.slept(SPIN_S / 2)
        waits += 1
    assert waits <= 6


def test_a_spin_that_kept_the_answer_away_is_not_forgiven(waiter):
    failed(waiter, 10)
    waits = 1
    while not waiter.seconds():
        waiter.slept(SPIN_S / 2)  # the first of them says so: it came as soon as we slept
        waits += 1
    assert waits == 128


def test_long_sleeps_forgive_nothing(waiter):
    failed(waiter, 10)
    waits = 1
    while not waiter.seconds():
        waiter.slept(2 * SPIN_S)
        waits += 1
    assert waits == 128


@pytest.mark.parametrize(("every", "spins"), [(1, (990, 1000)), (4, (0, 60))])
def test_it_pays_where_most_answers_come_in_time(waiter, every, spins):
    spun = 0
    for i in range(1000):
        if waiter.seconds():
            spun += 1
            if i % every:
                waiter.in_vain()
            else:
                waiter.found()
    assert spins[0] <= spun <= spins[1]


def test_a_single_processor_is_never_spun_on(monkeypatch):
    monkeypatch.setattr(spin, "processors", lambda: 1)
    waiter = SpinWait()
    assert not any(waiter.seconds() for _ in range(1000))


def test_processors_are_those_this_process_may_use():
    assert spin.processors() == len(os.sched_getaffinity(0))
