"""Run one outside judge and say whether its bar is met: `python downstream/run.py SUITE`; see README.md here."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import cpython
from environments import CHECKOUT, Environment, SetUpError, interpreter_version, last_commit, make_environment
from judge import HERE, Baseline, Outcome, compare, load_allowed, save_baseline
from redis_server import RedisMissingError
from suites import SUITES, run_live, run_suite

BASELINES = HERE / "baselines"


def parse(arguments: list[str]) -> argparse.Namespace:
    extra: list[str] = []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, extra = arguments[:cut], arguments[cut + 1 :]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=[*SUITES, "cpython", "celery-live"])
    parser.add_argument("--real", action="store_true", help="judge billiard 4.3.2 instead of this checkout")
    parser.add_argument("--head", action="store_true", help="judge the last commit, not the files as they lie")
    parser.add_argument("--stdlib", action="store_true", help="cpython: the same harness on the standard library")
    parser.add_argument("--start-method", action="append", choices=cpython.START_METHODS)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--record", action="store_true", help="write the baseline from this run")
    parser.add_argument("--jobs", type=int, default=1, help="cpython: classes run side by side")
    default = os.environ.get("BILLIARD_DOWNSTREAM_CACHE", CHECKOUT / ".cache" / "downstream")
    parser.add_argument("--cache", type=Path, default=Path(default))
    options = parser.parse_args(arguments)
    options.extra = extra
    options.cache = options.cache.resolve()
    if options.stdlib and options.suite != "cpython":
        parser.error("--stdlib is for cpython only")
    if options.record and (extra or options.suite == "celery-live"):
        parser.error("--record needs a whole outside suite")
    if options.record and not (options.stdlib if options.suite == "cpython" else options.real):
        parser.error("--record takes the reference: --real, or --stdlib for cpython")
    return options


def judge(name: str, key: str, outcome: Outcome, options: argparse.Namespace, most_allowed: int) -> bool:
    """Record the outcome, or hold it to the bar. `key` names the baseline: suite, start method, interpreter."""
    path = BASELINES / f"{key}.json"
    print(outcome.billiard)
    if options.record:
        if not outcome.finished:
            print(f"{key}: not recorded, the run did not finish")
            return False
        save_baseline(path, "standard library" if options.stdlib else "billiard 4.3.2", outcome)
        print(f"{key}: recorded: {outcome.summary()} in {outcome.seconds:.0f} s")
        return True
    if options.extra:
        failing = [f"{what:8} {test}" for test, what in outcome.tests.items() if what in {"failed", "error"}]
        print("\n".join([*failing, f"{key}: part of the suite, no bar: {outcome.summary()}"]))
        return not failing and outcome.finished
    baseline = Baseline.load(path)
    if baseline is None:
        raise SetUpError(f"no {path.name}: run the reference once with --record on this interpreter")
    reference = options.real or options.stdlib
    verdict = compare(key, outcome, baseline, {} if reference else load_allowed(name), most_allowed)
    print(verdict.text, flush=True)
    return verdict.met


def run_cpython(options: argparse.Namespace, environment: Environment) -> bool:
    met = True
    for method in options.start_method or cpython.START_METHODS:
        key = f"cpython-{method}-{environment.version}"
        known = Baseline.load(BASELINES / f"{key}.json")
        may_fail = {*(known.not_passing if known else ()), *({} if options.stdlib else load_allowed("cpython"))}
        jobs, stdlib = options.jobs, options.stdlib
        outcome = cpython.run(environment, options.cache, method, stdlib, options.extra, jobs, may_fail)
        met &= judge("cpython", key, outcome, options, most_allowed=19)
    return met


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    try:
        source = last_commit(options.cache) if options.head else CHECKOUT
        environment = make_environment(options.cache, options.python, options.real, source)
        print(environment.check(), flush=True)
        if options.suite == "celery-live":
            return run_live(environment, options.cache, options.extra)
        if options.suite == "cpython":
            return 0 if run_cpython(options, environment) else 1
        suite = SUITES[options.suite]
        outcome = run_suite(suite, environment, options.cache, options.extra)
        key = f"{suite.name}-{interpreter_version(options.python)}"
        return 0 if judge(suite.name, key, outcome, options, suite.most_allowed) else 1
    except (SetUpError, RedisMissingError, ValueError) as exc:
        print(f"cannot judge: {exc}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
