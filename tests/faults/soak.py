"""The soak: a pool for a long time, with everything that goes wrong, and nothing may grow, slow down, or run twice.

    python -m tests.faults.soak                     1,000,000 tasks
    python -m tests.faults.soak --tasks 100000 --seed 7
    python -m tests.faults.soak --minutes 60        in rounds of the same mix until the time is up

Of a million tasks 100,000 raise, 10,000 overrun a limit (hard and soft), 1,000 workers are killed (half by the task itself,
half from outside, at any moment), each worker is replaced after 50 tasks, and what travels has 10 B to 200 MB. The run
is cut into rounds of the same mix in another order; after each the pool is quiet and what is held is looked at.

Judged: every task ended as it must; every task ran exactly once (at most once if its worker was struck from outside or
by a limit before it could say so); memory within 5 MB of what it was after the first tenth; descriptors, threads and
processes constant; and at the end the pool is at least 95 % as fast as at the start. That is judged by the clock, first
tenth against last, or, since other users of a machine do more to a rate than any ageing, beside a new pool in a new
interpreter that works off the same rounds in turns with the old one during the last tenth.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

import gauges

from billiard import Pool, SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError

LIMIT_S = 0.02
NEVER_S = 60.0
PATIENCE_S = 120.0
WINDOW = 1000  # calls in flight
SHARE = 50  # tasks of a worker's life
GROWTH_MB = 5.0
SPEED = 0.95

_tally: gauges.Tally | None = None  # set before the pool is made: forked workers inherit it


def note(number: int) -> None:
    assert _tally is not None
    _tally.note(number)


# -- the tasks


def echo(number: int, value: object) -> object:
    note(number)
    return value


def fail(number: int) -> None:
    note(number)
    raise ValueError(number)


def overrun(number: int) -> None:
    note(number)
    time.sleep(NEVER_S)


def die(number: int) -> None:
    note(number)
    os.kill(os.getpid(), signal.SIGKILL)


# -- a round


class Mix(NamedTuple):
    """How many of each in a round; the rest are small echoes. `sizes`: what travels both ways, and how often."""

    tasks: int
    errors: int
    hard: int
    soft: int
    own_kills: int
    kills: int
    unused_limits: int
    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, tasks: int, largest: int) -> Mix:
        wanted = ((10, 50), (1_000, 20), (20_000, 10), (200_000, 5), (2_000_000, 2), (20_000_000, 0.2))
        sizes = tuple((size, max(1, int(tasks * share / 1000))) for size, share in wanted if size <= largest)
        half = max(1, tasks // 200)
        return cls(tasks, tasks // 10, half, half, max(1, tasks // 2000), max(1, tasks // 2000), tasks // 20, sizes)


LARGEST = 200_000_000  # one in each tenth of the run
MOST = 20_000_000  # of what is part of every round


class Call(NamedTuple):
    """A submitted call and how it must end: a value, or an exception's type."""

    number: int
    result: Any
    expected: object


class Control:
    """A new interpreter with a new pool, which works off one round whenever it is told to."""

    def __init__(self, mix: Mix, seed: int, workers: int, largest: int) -> None:
        words = [sys.executable, __file__, "--control", *map(str, (mix.tasks, seed, workers, largest))]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.round()  # its first: imports, workers, pages
        self.wall.clear(), self.cpu.clear()

    def round(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("round", file=self.process.stdin, flush=True)
        wall, cpu = map(float, self.process.stdout.readline().split())
        self.wall.append(wall)
        self.cpu.append(cpu)

    def close(self) -> None:
        self.process.communicate()  # closes its input, which ends it

    @staticmethod
    def serve(tasks: int, seed: int, workers: int, largest: int) -> int:
        """The other side. It holds the same payloads: what a process holds is a part of what its forks cost."""
        global _tally
        soak = Soak(Mix.of(tasks, min(largest, MOST)), seed, largest, lambda line: None)
        _tally = gauges.Tally()
        with Pool(workers, maxtasksperchild=SHARE) as pool:
            for _ in sys.stdin:
                soak.round(pool, False)
                print(soak.wall[-1], soak.cpu[-1], flush=True)
        return 1 if soak.faults else 0


class Compared(NamedTuple):
    """The old pool's speed as a share of the new one's."""

    by_clock: float
    by_cpu: float
    rounds: int


class Soak:
    """One run."""

    compared: Compared | None = None

    def __init__(self, mix: Mix, seed: int, largest: int, tell: Callable[[str], None]) -> None:
        self.mix, self.rng, self.tell, self.largest = mix, random.Random(seed), tell, largest
        self.payloads = {size: random.Random(size).randbytes(size) for size in {size for size, _ in mix.sizes} | {largest}}
        self.faults: list[str] = []
        self.dying: set[int] = set()  # calls that were to kill their worker, and whose worker was lost
        self.done = self.killed = self.lost = self.unsaid = 0
        self.errors: collections.Counter[str] = collections.Counter()
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.rss: list[float] = []
        self.held: list[gauges.Held] = []
        self.peak_mb = 0.0
        self.due = gauges.Every(10)
        self.began = time.monotonic()
        self._progress_from = (self.began, 0)

    def plan(self, with_largest: bool) -> list[tuple[str, int]]:
        mix = self.mix
        plan: list[tuple[str, int]] = [("size", size) for size, count in mix.sizes for _ in range(count)]
        if with_largest:
            plan.append(("size", self.largest))
        for kind, count in (
            ("error", mix.errors), ("hard", mix.hard), ("soft", mix.soft), ("die", mix.own_kills), ("kill", mix.kills),
            ("unused", mix.unused_limits),
        ):  # fmt: skip
            plan += [(kind, 0)] * count
        plan += [("small", 0)] * (mix.tasks - len(plan))
        self.rng.shuffle(plan)
        return plan

    def submit(self, pool: Pool, number: int, kind: str, size: int) -> Call:
        call = pool.apply_async
        match kind:
            case "error":
                return Call(number, call(fail, (number,)), ValueError)
            case "hard":
                return Call(number, call(overrun, (number,), timeout=LIMIT_S), TimeLimitExceeded)
            case "soft":
                return Call(number, call(overrun, (number,), soft_timeout=LIMIT_S), SoftTimeLimitExceeded)
            case "die":
                return Call(number, call(die, (number,)), WorkerLostError)
            case "unused":
                return Call(number, call(echo, (number, number), timeout=NEVER_S, soft_timeout=NEVER_S / 2), number)
            case "size":
                payload = self.payloads[size]
                return Call(number, call(echo, (number, payload)), payload)
            case "kill":
                self.kill_one(pool)
        return Call(number, call(echo, (number, number)), number)

    def kill_one(self, pool: Pool) -> None:
        victim = self.rng.choice(pool._pool)
        try:
            os.kill(int(victim), signal.SIGKILL)
        except ProcessLookupError:
            return
        self.killed += 1

    def collect(self, call: Call, silent: set[int]) -> None:
        """Look at how it ended. `silent` gets the numbers of calls that may have ended before they could say they ran."""
        self.done += 1
        expected = call.expected
        try:
            value = call.result.get(PATIENCE_S)
        except Exception as exc:  # which one is what is looked at
            # It keeps this frame, which has the call, which has it: a cycle that only a collection frees. A thousand in each
            # round scatter what stays over memory that is then nobody's, and looks like a leak of the pool.
            exc.__traceback__ = None
            self.errors[type(exc).__name__] += 1
            if type(exc) is WorkerLostError:
                silent.add(call.number)
                if expected is WorkerLostError:
                    self.dying.add(call.number)
                else:
                    self.lost += 1
            elif type(exc) is not expected:
                self.faults.append(f"call {call.number}: {type(exc).__name__}: {exc}, not {expected!r:.60}")
            if type(exc) in (TimeLimitExceeded, SoftTimeLimitExceeded):
                silent.add(call.number)  # the limit counts from the call's receipt, which may be before its first line
        else:
            if value != expected:
                self.faults.append(f"call {call.number} returned {value!r:.60}, not {expected!r:.60}")
        if self.due():
            self.progress()

    def progress(self) -> None:
        now = gauges.rss_mb()
        self.peak_mb = max(self.peak_mb, now)
        began, done = self._progress_from
        elapsed = time.monotonic() - began
        self._progress_from = (time.monotonic(), self.done)
        self.tell(
            f"{time.monotonic() - self.began:6.0f} s  {self.done:9,} tasks  {(self.done - done) / elapsed:7,.0f}/s  "
            f"RSS {now:6.1f} MB  fds {gauges.descriptors()}  threads {gauges.held().threads}  "
            f"kills {self.killed}  lost {self.lost}  faults {len(self.faults)}"
        )

    def round(self, pool: Pool, with_largest: bool) -> None:
        first = self.done
        waiting: collections.deque[Call] = collections.deque()
        silent: set[int] = set()
        wall, cpu = time.monotonic(), gauges.family_cpu_s()
        for i, (kind, size) in enumerate(self.plan(with_largest)):
            waiting.append(self.submit(pool, first + i, kind, size))
            while len(waiting) > WINDOW:
                self.collect(waiting.popleft(), silent)
        while waiting:
            self.collect(waiting.popleft(), silent)
        self.wall.append((time.monotonic() - wall) / (self.done - first))
        self.cpu.append((gauges.family_cpu_s() - cpu) / (self.done - first))
        self.count(first, silent)

    def count(self, first: int, silent: set[int]) -> None:
        """What ran in this round: each of its calls once, and nothing else."""
        assert _tally is not None
        ran = collections.Counter(_tally.news())
        for number in range(first, self.done):
            times = ran.pop(number, 0)
            if times == 0 and number in silent:
                self.unsaid += 1
                self.lost += number in self.dying  # a kill from outside came before its own
            elif times != 1:
                self.faults.append(f"call {number} ran {times} times")
        self.faults += [f"call {number} of another round ran now" for number in ran]

    def look(self, pool: Pool) -> None:
        """What is held while the pool is quiet and whole."""
        expected = self.held[0] if self.held else None
        if not gauges.whole(pool):
            self.faults.append("the pool is not whole")
        gauges.give_back()  # before the first look above all: what others left to a collection is not what the pool holds
        now = gauges.settled(lambda held: expected is None or held == expected)
        self.peak_mb = max(self.peak_mb, gauges.rss_mb())
        self.held.append(now)
        self.rss.append(gauges.rss_mb())

    def compare(self, pool: Pool, seed: int, rounds: int) -> None:
        """The old pool and a new one, in turns: what is measured is age, whatever else the machine does."""
        control = Control(self.mix, seed, pool._processes, self.largest)
        try:
            for _ in range(rounds):
                control.round()
                self.round(pool, False)
        finally:
            control.close()
        self.look(pool)
        self.compared = Compared(
            sum(control.wall) / sum(self.wall[-rounds:]), sum(control.cpu) / sum(self.cpu[-rounds:]), rounds
        )

    def live(self, pool: Pool, more: Callable[[int], bool]) -> None:
        rounds = 0
        for handle in range(200):  # the first pages, imports and workers
            pool.apply(abs, (handle,))
        while more(rounds):
            self.round(pool, rounds % self.tenth == self.tenth // 2)
            self.look(pool)
            rounds += 1

    tenth = 10  # rounds


def run(
    tasks: int | None, minutes: float = 0, seed: int = 1, workers: int = 2, largest: int = LARGEST, *,
    compare: bool = True, tell: Callable[[str], None] = print,
) -> tuple[Soak, gauges.Verdict]:  # fmt: skip
    """Soak a pool. By `tasks`: 100 rounds (10 when there are few); by `minutes`: rounds of 10,000 tasks."""
    global _tally
    rounds = 0 if tasks is None else 100 if tasks >= 100_000 else 10
    mix = Mix.of(10_000 if tasks is None else max(100, tasks // rounds), min(largest, MOST))
    soak = Soak(mix, seed, largest, tell)
    soak.tenth = max(1, rounds // 10) if rounds else 10
    _tally = gauges.Tally()
    last = soak.tenth if compare else 0  # rounds beside a new pool
    until = time.monotonic() + minutes * 54
    try:
        with Pool(workers, maxtasksperchild=SHARE) as pool:
            soak.live(pool, lambda n: n < rounds - last if rounds else n < 10 or time.monotonic() < until)
            if compare:
                soak.compare(pool, seed + 1, last if rounds else max(3, len(soak.wall) // 9))
            soak.progress()
    finally:
        _tally.close()
        _tally = None
    verdict = gauges.Verdict()
    judge(soak, verdict)
    if compare:
        judge_speed(soak, verdict)
    return soak, verdict


def judge(soak: Soak, verdict: gauges.Verdict) -> None:
    rounds = len(soak.wall)
    base = soak.rss[max(1, rounds // 10) - 1 :]
    growth = max(base) - base[0]
    verdict.bar("every call ended as it must", not soak.faults, f"{soak.done:,} calls, {len(soak.faults)} wrong")
    for fault in soak.faults[:20]:
        print(f"     {fault}")
    verdict.bar(
        "exact executions", not any(" ran " in fault for fault in soak.faults),
        f"{soak.unsaid} calls that were struck had not said yet that they run; all others exactly once",
    )  # fmt: skip
    verdict.bar("lost calls", soak.lost <= soak.killed, f"{soak.lost} by {soak.killed} kills from outside")
    tenths = base[:: max(1, len(base) // 9)]
    verdict.bar(
        "memory", growth <= GROWTH_MB,
        f"{growth:+.1f} MB from {base[0]:.1f} MB after the first tenth: " + " ".join(f"{mb - base[0]:+.1f}" for mb in tenths),
    )  # fmt: skip
    same = len(set(soak.held)) == 1
    verdict.bar("descriptors, threads, processes, shared memory", same, f"{soak.held[0]} -> {soak.held[-1]}")
    print(f"     peak {soak.peak_mb:.0f} MB; errors: {dict(soak.errors)}")


def judge_speed(soak: Soak, verdict: gauges.Verdict) -> None:
    assert soak.compared is not None
    tenth = max(1, len(soak.wall) // 10)
    by_clock = sum(soak.wall[:tenth]) / sum(soak.wall[-tenth:])
    rates = [1 / s for s in soak.wall]
    aged = soak.compared
    verdict.bar(
        "speed at the end", max(by_clock, *aged[:2]) >= SPEED,
        f"{by_clock:.3f} of the first tenth's by the clock; {aged.by_clock:.3f} of a new pool's in the same {aged.rounds} "
        f"rounds by the clock, {aged.by_cpu:.3f} by processor time (rounds had {min(rates):,.0f} to {max(rates):,.0f} "
        f"tasks/s; load {os.getloadavg()[0]:.1f})",
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, help="default: 1,000,000, unless --minutes is given")
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--control", type=int, nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    gauges.exact_malloc()
    if options.control:
        return Control.serve(*options.control)
    tasks = options.tasks or (None if options.minutes else 1_000_000)
    print(f"seed {options.seed}, {options.workers} workers, " + (f"{tasks:,} tasks" if tasks else f"{options.minutes} minutes"))
    began = time.monotonic()
    _, verdict = run(tasks, options.minutes, options.seed, options.workers, tell=lambda line: print(line, flush=True))
    print(f"{time.monotonic() - began:.0f} s")
    return verdict.close()


if __name__ == "__main__":
    sys.exit(main())
