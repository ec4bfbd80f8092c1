"""Live many lives: `python -m tests.core.simulate --lives 100000 --seed N`.

A life that breaks a promise tells its story (every event, in virtual time) and its number; `--life NUMBER` lives that one
again. What was found is kept under tests/core/replays/, one file for each life, and lived again by the tests.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if not any((Path(entry) / "billiard" / "_core").is_dir() for entry in sys.path if entry):
    sys.path.insert(0, str(ROOT / "src"))

from tests.core.life import Life  # noqa: E402 - the package may have to be found first

REPLAYS = Path(__file__).parent / "replays"
STRIDE = 10_000_000  # lives of one seed; the seed times this, plus the life's index, is its number


def number(seed: int, index: int) -> int:
    return seed * STRIDE + index


def story(life: int) -> tuple[str, bool]:
    """Live one life and tell it. Whether it kept its promises."""
    log: list[str] = []
    try:
        Life(life, log).live()
    except Exception:
        log.append(traceback.format_exc())
        return "\n".join(log), False
    return "\n".join(log), True


def run(
    seed: int, lives: int, tell: bool = True, stop_after: int = 1, first: int = 0
) -> tuple[int, dict[str, int]]:  # fmt: skip
    """Live `lives` lives from index `first` on. Returns how many broke a promise (at most `stop_after`), and what was lived."""
    counts = {"lives": 0, "jobs": 0, "workers": 0, "turns": 0}
    failures = 0
    for index in range(first, first + lives):
        life = Life(number(seed, index))
        try:
            life.live()
        except Exception as exc:
            failures += 1
            if tell:
                text, kept = story(life.seed)
                print(text)
                if kept:
                    print("told again it kept its promises: the simulation is not deterministic")
                print(f"life {life.seed} failed: {exc}")
            if failures >= stop_after:
                break
        counts["lives"] += 1
        counts["jobs"] += len(life.jobs)
        counts["workers"] += len(life.by_ident)
        counts["turns"] += life.driver.turns
    return failures, counts


def run_side_by_side(seed: int, lives: int, processes: int, stop_after: int) -> tuple[int, dict[str, int]]:
    """The same, on several processors."""
    step = min(500, -(-lives // processes))
    failures, counts = 0, Counter[str]()
    with ProcessPoolExecutor(processes) as pool:
        parts = [
            pool.submit(run, seed, min(step, lives - first), True, stop_after, first) for first in range(0, lives, step)
        ]
        for part in as_completed(parts):
            failed, lived = part.result()
            failures += failed
            counts.update(lived)
            if failures >= stop_after:
                pool.shutdown(cancel_futures=True)
                break
    return failures, dict(counts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lives", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--life", type=int, help="tell the story of this one")
    parser.add_argument("--keep-going", type=int, default=1, metavar="N", help="stop after N failures")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if args.life is not None:
        text, kept = story(args.life)
        print(text)
        return 0 if kept else 1
    begin = time.perf_counter()
    if args.processes > 1:
        failures, counts = run_side_by_side(args.seed, args.lives, args.processes, args.keep_going)
    else:
        failures, counts = run(args.seed, args.lives, stop_after=args.keep_going)
    took = time.perf_counter() - begin
    told = ", ".join(f"{count} {what}" for what, count in counts.items())
    print(f"{told} in {took:.1f} s")
    print("every promise was kept" if not failures else f"{failures} lives failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
