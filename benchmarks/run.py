#!/usr/bin/env python3
"""Every family, one command: tables on the terminal, JSON and markdown in benchmarks/results, a summary of the bars.

    python benchmarks/run.py [--quick] [--rounds N] [--families throughput,latency]

A full run takes the better part of an hour, because slow peers are measured as often as fast ones. `--quick` shows
that everything runs; its figures prove nothing and are not kept.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys

from harness import bars, envs
from harness.cli import family

#: programs with tables of their own shape
OTHERS = ["floor", "growth", "sweeps"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--families", default=",".join(bars.FAMILIES + OTHERS))
    options = parser.parse_args()
    chosen = options.families.split(",")
    if unknown := set(chosen) - set(bars.FAMILIES + OTHERS):
        parser.error(f"no such family: {', '.join(sorted(unknown))}")
    arguments = ["--quick"] * options.quick + [f"--rounds={options.rounds}"] * bool(options.rounds)
    documents = []
    for name in (n for n in bars.FAMILIES if n in chosen):
        module = importlib.import_module(name)
        documents.append(family(name, module.__doc__, module.rows, arguments))
    if documents:
        print(f"\n## Bars\n\n{bars.summary(documents)}")
    for name in (n for n in OTHERS if n in chosen):
        program = envs.BENCHMARKS / f"{name}.py"
        subprocess.run([sys.executable, str(program), *["--quick"] * options.quick], check=True)
    print(json.dumps({"bars_missed": bars.missed(documents)}), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
