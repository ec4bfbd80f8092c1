"""Nothing leaks: many pools, many deaths, many streamed results, many short lives of workers.

    python -m tests.faults.leaks                                1,000 pools, 10,000 deaths, 300,000 results, 100,000 tasks
    python -m tests.faults.leaks --pools 1000 --deaths 10000    only what is named
    python -m tests.faults.leaks --streamed 300000
    python -m tests.faults.leaks --recycled 100000 --per-child 1,25

pools     each makes one call and ends, by close and by terminate in turn, with and without threads, with every start method
deaths    by SIGKILL, SIGSEGV and `os._exit` in turn, with every start method; the pool answers after each
streamed  `imap_unordered` to a consumer that keeps nothing: the parent grows by less than 60 MB
recycled  every task exactly once, the longest time without a result, and the rate beside workers that live on, with tasks
          of 1 ms, in turns on the same machine

Descriptors, threads, processes and shared memory are the same afterwards, and the parent's memory is within 10 MB.
"""

from __future__ import annotations

import argparse
import collections
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fault_tasks as t
import gauges

import billiard
from billiard import Pool, WorkerLostError

GROWTH_MB = 10.0
STREAM_MB = 60.0
STALL_S = 0.05
RATE, RATE_FROM = 0.80, 25  # of the rate without recycling, when workers live for that many tasks or more
DEATHS = ("SIGKILL", "SIGSEGV", "os._exit")
METHODS = ("fork",) * 7 + ("forkserver",) * 2 + ("spawn",)  # fork is most people's, and thirty times cheaper than spawn
PATIENCE_S = 60.0

Tell = Callable[[str], None]


def _same(verdict: gauges.Verdict, what: str, before: gauges.Held, rss_mb: float) -> None:
    after = gauges.settled(lambda held: held == before)
    gauges.give_back()
    grown = gauges.rss_mb() - rss_mb
    verdict.bar(f"{what}: what is held", after == before, f"{before} -> {after}")
    verdict.bar(f"{what}: memory", grown <= GROWTH_MB, f"{grown:+.1f} MB, from {rss_mb:.1f} MB")


# -- pools


def one_pool(number: int) -> None:
    """A pool's whole life."""
    context = billiard.get_context(METHODS[number % len(METHODS)])
    # the number of the start method's turn decides the rest, so that each method meets each way to end
    turn = number // len(METHODS) + number
    pool = Pool(1, context=context, threads=turn % 4 < 2)
    try:
        assert pool.apply_async(t.add, (number, 1)).get(PATIENCE_S) == number + 1
    finally:
        pool.close() if turn % 2 else pool.terminate()
        pool.join()


def pools(count: int, verdict: gauges.Verdict, tell: Tell) -> None:
    threads = gauges.held().threads
    for number in range(2 * len(METHODS)):  # imports, the helpers of each method, malloc's arenas
        one_pool(number)
    before = gauges.settled(lambda held: held.threads == threads)
    gauges.give_back()
    rss, began, due = gauges.rss_mb(), time.monotonic(), gauges.Every(10)
    for number in range(count):
        one_pool(number)
        if due():
            tell(f"{time.monotonic() - began:6.0f} s  {number + 1:,} pools  RSS {gauges.rss_mb():.1f} MB  {gauges.held()}")
    tell(f"{count:,} pools in {time.monotonic() - began:.0f} s")
    _same(verdict, f"{count:,} pools", before, rss)


# -- deaths


def deaths(count: int, verdict: gauges.Verdict, tell: Tell) -> None:
    # a death costs milliseconds with fork, but a whole start of Python with spawn
    few = max(1, count // 50)
    for method, wanted in (("fork", count - 2 * few), ("forkserver", few), ("spawn", few)):
        with Pool(2, context=billiard.get_context(method)) as pool:
            for i in range(6):
                _one_death(pool, i)
            _whole(pool)
            before = gauges.held()  # nobody is on the way out: a death is told when the dead one is reaped
            gauges.give_back()
            rss, began, due = gauges.rss_mb(), time.monotonic(), gauges.Every(10)
            for i in range(wanted):
                _one_death(pool, i)
                if due():
                    tell(f"{time.monotonic() - began:6.0f} s  {i + 1:,} deaths  RSS {gauges.rss_mb():.1f} MB  {gauges.held()}")
            _whole(pool)
            took = time.monotonic() - began
            tell(f"{wanted:,} deaths with {method} in {took:.0f} s: {took / wanted * 1e3:.1f} ms each")
            _same(verdict, f"{wanted:,} deaths, {method}", before, rss)


def _one_death(pool: Pool, number: int) -> None:
    lost = pool.apply_async(t.strike, (DEATHS[number % len(DEATHS)],))
    alive = pool.apply_async(t.add, (number, 1))
    try:
        lost.get(PATIENCE_S)
    except WorkerLostError:
        pass
    else:
        raise AssertionError("the worker lives")
    assert alive.get(PATIENCE_S) == number + 1


def _whole(pool: Pool) -> None:
    assert pool.map(abs, range(64), 1) == list(range(64))
    assert gauges.whole(pool), "the pool is not whole"


# -- streamed results


def streamed(count: int, verdict: gauges.Verdict, tell: Tell) -> None:
    with Pool(2) as pool:
        assert sum(pool.imap_unordered(t.echo, range(2000))) == sum(range(2000))
        gauges.give_back()
        before = most = gauges.rss_mb()
        began, total, due = time.monotonic(), 0, gauges.Every(10)
        for done, value in enumerate(pool.imap_unordered(t.echo, ((i, bytes(1000)) for i in range(count))), 1):
            total += value[0]
            if not done % 1000:
                most = max(most, gauges.rss_mb())
                if due():
                    tell(f"{time.monotonic() - began:6.0f} s  {done:,} results  RSS {gauges.rss_mb():.1f} MB")
        took = time.monotonic() - began
        after = gauges.rss_mb()
    verdict.bar(f"{count:,} streamed results: all came", total == sum(range(count)), f"{count / took:,.0f}/s, 1 kB each way")
    verdict.bar(
        f"{count:,} streamed results: memory", most - before < STREAM_MB,
        f"at most {most - before:+.1f} MB, at the end {after - before:+.1f}",
    )  # fmt: skip


# -- recycling

_tally: gauges.Tally | None = None  # inherited by forked workers


def noted_nap(number: int) -> int:
    assert _tally is not None
    _tally.note(number)
    time.sleep(0.001)
    return number


class Lane:
    """A pool, and how it did in its turns."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.rates: list[float] = []
        self.gaps: list[float] = []
        self.seen: collections.Counter[int] = collections.Counter()

    def turn(self, numbers: range) -> None:
        began = last = time.monotonic()
        for number in self.pool.imap_unordered(noted_nap, numbers):
            now = time.monotonic()
            self.gaps.append(now - last)
            last = now
            self.seen[number] += 1
        self.rates.append(len(numbers) / (time.monotonic() - began))

    @property
    def rate(self) -> float:
        """Of all turns: each as long as the next, so the harmonic mean."""
        return len(self.rates) / sum(1 / rate for rate in self.rates)

    @property
    def longest_s(self) -> float:
        return max(self.gaps)


def recycled(count: int, per_child: int, verdict: gauges.Verdict, tell: Tell, bars: bool = True) -> None:
    global _tally
    _tally = gauges.Tally()
    turns, due = 10, gauges.Every(10)
    step = math.ceil(count / turns)
    try:
        with Pool(2) as plain, Pool(2, maxtasksperchild=per_child) as short:
            lasting, recycling = Lane(plain), Lane(short)
            for lane in (lasting, recycling):
                lane.turn(range(10**9, 10**9 + 200))
                lane.gaps.clear(), lane.rates.clear(), lane.seen.clear()
            assert gauges.whole(plain)
            assert gauges.whole(short)
            before = gauges.held()
            for turn in range(turns):
                first = turn * step
                recycling.turn(range(first, min(count, first + step)))
                lasting.turn(range(2 * 10**9 + first, 2 * 10**9 + min(count, first + step)))
                if due():
                    tell(f"  {per_child} per child: {first + step:,} tasks, {recycling.rates[-1]:,.0f}/s, {gauges.held()}")
            after = gauges.settled(lambda held: held == before)
        ran = collections.Counter(number for number in _tally.news() if number < 10**9)
    finally:
        _tally.close()
        _tally = None
    what = f"{count:,} tasks, {per_child} per child"
    once = all(ran[i] == 1 == recycling.seen[i] for i in range(count)) and len(ran) == count
    verdict.bar(f"{what}: each exactly once", once, f"{sum(ran.values()):,} executions of {len(ran):,} tasks")
    if bars:
        _judge_speed(what, per_child, lasting, recycling, verdict)
    verdict.bar(f"{what}: what is held", after == before, f"{before} -> {after}")


def _judge_speed(what: str, per_child: int, lasting: Lane, recycling: Lane, verdict: gauges.Verdict) -> None:
    gaps = sorted(recycling.gaps)
    most = gaps[len(gaps) * 999 // 1000]
    # where a pool that recycles nothing stands still for longer too, the longest of all says something of the machine only
    busy = lasting.longest_s > STALL_S
    verdict.bar(
        f"{what}: longest stall", (most if busy else gaps[-1]) <= STALL_S,
        f"{gaps[-1] * 1e3:.1f} ms; 999 of 1,000 within {most * 1e3:.1f} ms, {sum(gap > STALL_S for gap in gaps)} over "
        f"{STALL_S * 1e3:.0f} ms; without recycling {lasting.longest_s * 1e3:.1f} ms"
        + (", so the machine is too busy to judge by the longest: by 999 of 1,000" if busy else ""),
    )  # fmt: skip
    share = recycling.rate / lasting.rate
    bar = RATE if per_child >= RATE_FROM else 0.0
    verdict.bar(
        f"{what}: rate", share >= bar,
        f"{recycling.rate:,.0f}/s, {share:.0%} of {lasting.rate:,.0f}/s without recycling" + ("" if bar else " (no bar)"),
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=int)
    parser.add_argument("--deaths", type=int)
    parser.add_argument("--streamed", type=int)
    parser.add_argument("--recycled", type=int)
    parser.add_argument("--per-child", default="1,25", help="lives of workers, in tasks")
    options = parser.parse_args(argv)
    if not any((options.pools, options.deaths, options.streamed, options.recycled)):
        options.pools, options.deaths, options.streamed, options.recycled = 1000, 10_000, 300_000, 100_000
    verdict = gauges.Verdict()

    def tell(line: str) -> None:
        print(line, flush=True)

    gauges.exact_malloc()
    gauges.lasting_helpers()
    if options.pools:
        pools(options.pools, verdict, tell)
    if options.deaths:
        deaths(options.deaths, verdict, tell)
    if options.streamed:
        streamed(options.streamed, verdict, tell)
    if options.recycled:
        for per_child in map(int, options.per_child.split(",")):
            recycled(options.recycled, per_child, verdict, tell)
    return verdict.close()


if __name__ == "__main__":
    sys.exit(main())
