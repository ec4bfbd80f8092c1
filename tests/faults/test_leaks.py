"""The long runs in small; `python -m tests.faults.leaks` and `... scale` have the numbers of the promises."""

import gauges
import leaks
import pytest
import scale


@pytest.fixture
def verdict(lasting_helpers):
    found = gauges.Verdict()
    yield found
    assert not found.missed


def test_pools_leave_nothing(verdict):
    leaks.pools(20, verdict, print)


def test_deaths_leave_nothing(verdict):
    leaks.deaths(100, verdict, print)


def test_streamed_results_do_not_pile_up(verdict):
    leaks.streamed(30_000, verdict, print)


@pytest.mark.parametrize(("count", "per_child"), [(200, 1), (2000, 25)])
def test_recycling_runs_each_once(verdict, count, per_child):
    leaks.recycled(count, per_child, verdict, print, bars=False)


def test_sixty_four_workers_start(verdict):
    assert scale.start(64).answered < 20


def test_a_longer_queue_costs_no_more_a_call(verdict):
    gate = scale.Gate()
    try:
        with leaks.Pool(2) as pool:
            small = min(scale.queue(pool, gate, 1000).cost_s for _ in range(5))
            many = scale.queue(pool, gate, 50_000)
    finally:
        gate.close()
    assert many.cost_s < 4 * small  # with room for a noisy machine
    assert many.bytes < scale.QUEUED_BYTES
