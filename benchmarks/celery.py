#!/usr/bin/env python3
"""Tasks per second of a Celery worker with `-c 2` on Redis: stock Celery on billiard 4.3.2, on ours, and our TaskPool.

    python benchmarks/celery.py [--quick] [--rounds N] [--only TEXT] [--json]

Every measurement is a fresh worker that finds all its messages waiting, so that no producer shares its cores. Tasks
store their results, as most do; a result is one key in Redis, so that counting keys counts finished tasks exactly, at
no cost to the worker. The clock runs from the end of the warm-up to the last result. Ratios are taken inside each
round, whose order alternates.

The two billiards share an import name, so each has its own environment: those of downstream/ are used. This program
must not import Celery itself: its own name shadows it (hence `-P` for the children).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
sys.path.insert(0, str(CHECKOUT / "downstream"))

from environments import CELERY, REAL, Environment, clean_environment, make_environment  # noqa: E402 - path set above
from harness import envs, rows  # noqa: E402 - found by the path above
from redis_server import RedisServer  # noqa: E402 - found by the path above

#: As small as an application can be: what it did at the start and end of each child would be measured with the pools.
APPLICATION = """
import os
from celery import Celery
app = Celery(broker=os.environ["LIVE_BROKER"], backend=os.environ["LIVE_BACKEND"])
app.conf.update(worker_hijack_root_logger=True, broker_connection_retry_on_startup=True, result_expires=3600)
@app.task(name="add")
def add(x, y):
    return x + y
"""
WARM_UP = 50
STALL_S = 60.0  # no result for so long: the worker has stopped working
PUBLISH = """
import os
from celery import Celery
app = Celery(broker=os.environ["LIVE_BROKER"], backend=os.environ["LIVE_BACKEND"])
with app.producer_pool.acquire() as producer:
    for number in range(int(os.environ["COUNT"])):
        app.send_task("add", (number, 1), producer=producer, ignore_result=False)
"""


@dataclass(frozen=True)
class Variant:
    label: str
    real: bool
    custom: bool = False


STOCK = Variant("Celery prefork, billiard 4.3.2", real=True)
OURS = Variant("Celery prefork, ours", real=False)
TASKPOOL = Variant("TaskPool, ours", real=False, custom=True)
VARIANTS = (STOCK, OURS, TASKPOOL)


@dataclass(frozen=True)
class Family:
    key: str
    title: str
    arguments: tuple[str, ...]
    tasks: int
    bar: float


def families(quick: bool) -> list[Family]:
    return [
        Family("plain", "tiny tasks, `-c 2`", (), 600 if quick else 4000, 1.0),
        Family(
            "recycled", "tiny tasks, `-c 2 --max-tasks-per-child 10`", ("--max-tasks-per-child", "10"),
            100 if quick else 400, 3.0,
        ),
    ]  # fmt: skip


class Bench:
    """One Redis with a database of waiting messages per family, copied for each measurement."""

    def __init__(self, redis: RedisServer, environments: dict[bool, Environment], scratch: Path) -> None:
        self.redis = redis
        self.environments = environments
        self.scratch = scratch
        self.databases = iter(range(100, 100000))
        (scratch / "bench_app.py").write_text(APPLICATION)

    def settings(self, broker: int, backend: int) -> dict[str, str]:
        urls = {"LIVE_BROKER": self.redis.url(broker), "LIVE_BACKEND": self.redis.url(backend)}
        # PYTHONPATH, since `-P` keeps the current directory off the path.
        return clean_environment() | urls | {"PYTHONPATH": str(self.scratch)}

    def publish(self, database: int, count: int) -> None:
        """Fill `database` once; the messages are the same for every variant, to the byte."""
        env = self.settings(database, 98) | {"COUNT": str(count)}
        command = [str(self.environments[True].python), "-P", "-c", PUBLISH]
        subprocess.run(command, env=env, cwd=self.scratch, check=True, timeout=300)
        waiting = self.query(database, "LLEN", "celery")
        if waiting != count:
            raise RuntimeError(f"{waiting} of {count} messages wait")

    def query(self, database: int, *words: str) -> int:
        """An integer answer; each question opens a connection, SELECTs and asks."""
        script = f"redis.call('SELECT', {database}) return redis.call(unpack(ARGV))"
        return int(self.redis.command("EVAL", script, "0", *words).lstrip(":"))

    def measure(self, variant: Variant, family: Family, messages: int) -> float:
        """Tasks per second after the warm-up; raises when the worker does not start, or stops working."""
        broker, backend = next(self.databases), next(self.databases)
        script = f"redis.call('SELECT', {messages}) return redis.call('COPY', 'celery', 'celery', 'DB', '{broker}')"
        if self.redis.command("EVAL", script, "0") != ":1":
            raise RuntimeError("the messages could not be copied")
        log = self.scratch / f"{family.key}-{variant.label.replace(' ', '-')}-{broker}.log"
        with self.worker(variant, family, self.settings(broker, backend), log) as worker:
            return self.watch(worker, backend, family.tasks, log)

    @contextlib.contextmanager
    def worker(
        self, variant: Variant, family: Family, env: dict[str, str], log: Path
    ) -> Iterator[subprocess.Popen[bytes]]:
        python = self.environments[variant.real].python
        command = [str(python), "-P", "-m", "celery", "-A", "bench_app", "worker", "-c", "2", "-l", "WARNING"]
        command += ["--without-gossip", "--without-mingle", "-n", f"bench-{log.stem}@live", *family.arguments]
        command += ["-P", "custom" if variant.custom else "prefork"]
        if variant.custom:
            env["CELERY_CUSTOM_WORKER_POOL"] = "billiard.celery:TaskPool"
        with log.open("w") as out:
            process = subprocess.Popen(
                command, cwd=self.scratch, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                pass
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def watch(self, worker: subprocess.Popen[bytes], backend: int, tasks: int, log: Path) -> float:
        started = finished = 0
        start = last = time.perf_counter()
        while finished < WARM_UP + tasks:
            time.sleep(0.01)
            count = self.query(backend, "DBSIZE")
            now = time.perf_counter()
            if count > finished:
                finished, last = count, now
                if not started and finished >= WARM_UP:
                    started, start = finished, now
            elif worker.poll() is not None or now - last > STALL_S:
                state = f"ended with {worker.returncode}" if worker.returncode is not None else "stopped working"
                tail = log.read_text(errors="replace").strip().splitlines()[-1:] or [""]
                raise RuntimeError(f"the worker {state} after {finished} tasks: {tail[0]}")
        return (finished - started) / (last - start)


Figures = dict[str, list[float | None]]


def measure(bench: Bench, family: Family, messages: int, rounds: int) -> tuple[Figures, dict[str, str]]:
    """Rounds in alternating order. A variant that failed is left out of later rounds, and told."""
    figures: Figures = {variant.label: [] for variant in VARIANTS}
    failures: dict[str, str] = {}
    for number in range(rounds):
        for variant in VARIANTS if number % 2 == 0 else reversed(VARIANTS):
            rate = None
            if variant.label not in failures:
                rows.say(f"round {number + 1}/{rounds}: {family.key}: {variant.label}")
                try:
                    rate = bench.measure(variant, family, messages)
                except RuntimeError as exc:
                    failures[variant.label] = str(exc)
            figures[variant.label].append(rate)
    return figures, failures


def ratio(figures: Figures, label: str) -> float | None:
    pairs = [(ours, stock) for ours, stock in zip(figures[label], figures[STOCK.label], strict=True) if ours and stock]
    return statistics.median(ours / stock for ours, stock in pairs) if pairs else None


def render(family: Family, figures: Figures, failures: dict[str, str]) -> tuple[str, bool]:
    lines = [f"\n### {family.title} (higher is better)\n", "| worker | median | spread | × stock | bar | |"]
    lines.append("|---|---:|---:|---:|---:|---|")
    all_met = True
    for variant in VARIANTS:
        known = [figure for figure in figures[variant.label] if figure is not None]
        if not known or variant.label in failures:
            lines.append(f"| {variant.label} | – | {failures.get(variant.label, '')[:100]} | | | **no figure** |")
            all_met = False
            continue
        middle = f"{rows.figure(statistics.median(known))} tasks/s"
        spread = f"{rows.figure(min(known))} – {rows.figure(max(known))}"
        value = ratio(figures, variant.label)
        if variant is STOCK or value is None:
            lines.append(f"| {variant.label} | {middle} | {spread} | | | |")
            continue
        met = value >= family.bar
        all_met &= met
        word = "met" if met else "**not met**"
        lines.append(f"| **{variant.label}** | {middle} | {spread} | {value:.2f} × | ≥ {family.bar:g} × | {word} |")
    return "\n".join(lines), all_met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds of few tasks: shows that it runs, no more")
    parser.add_argument("--rounds", type=int, default=0, help="alternating rounds (default 5, with --quick 1)")
    parser.add_argument("--only", default="", help="only the families whose key contains this")
    parser.add_argument("--json", action="store_true", help="print the JSON document instead of the tables")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 5)
    cache = Path(os.environ.get("BILLIARD_DOWNSTREAM_CACHE", CHECKOUT / ".cache" / "downstream")).resolve()
    environments = {real: make_environment(cache, sys.executable, real) for real in (True, False)}
    versions = [environment.check().split(" (")[0] for environment in environments.values()]
    document = {"machine": envs.machine(), "versions": [CELERY, REAL, *versions], "rounds": rounds, "rows": []}
    parts, met = [], True
    with tempfile.TemporaryDirectory() as scratch, RedisServer(Path(scratch), databases=100000) as redis:
        bench = Bench(redis, environments, Path(scratch))
        for messages, family in enumerate(f for f in families(options.quick) if options.only in f.key):
            bench.publish(messages, WARM_UP + family.tasks)
            figures, failures = measure(bench, family, messages, rounds)
            text, family_met = render(family, figures, failures)
            parts.append(text)
            met &= family_met
            ratios = {v.label: ratio(figures, v.label) for v in VARIANTS if v is not STOCK}
            row = {"key": family.key, "title": family.title, "unit": "tasks/s", "figures": figures, "ratios": ratios}
            document["rows"].append(row | {"bar": family.bar, "failures": failures})
    text = "\n".join(parts)
    rows.keep("celery", document, text, quick=options.quick or bool(options.only))
    print(json.dumps(document, indent=1) if options.json else text)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
