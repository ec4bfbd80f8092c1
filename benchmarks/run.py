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

from harness import envs, rows
from harness.cli import family

FAMILIES = ["throughput", "latency", "payload", "startup", "recycling", "limits", "memory", "import_time"]
#: programs with tables of their own shape
OTHERS = ["floor", "growth", "sweeps"]


def summary(documents) -> str:
    """One line per bar of the issue: row, figure, ratio, bar, met or not."""
    lines = ["\n## Bars\n", "| row | figure | against | ratio | bar | stretch | |", "|---|---:|---|---:|---:|---:|---|"]
    met = total = 0
    for document in documents:
        for row in document["rows"]:
            for bar in row["bars"]:
                total += 1
                met += bool(bar["met"])
                lines.append(_bar_line(row, bar))
    return "\n".join([*lines, f"\n{met} of {total} bars met."])


def _bar_line(row, bar) -> str:
    ours = row["medians"].get("ours")
    figure = "–" if ours is None else f"{rows.figure(ours)} {row['unit']}"
    sign = "≤" if not bar["against"] and row["lower_is_better"] else "≥"
    value = "–" if bar["value"] is None else f"{bar['value']:.2f}" + (" ×" if bar["against"] else f" {row['unit']}")
    word = {True: "met", False: "**not met**", None: "no figure"}[bar["met"]]
    stretch = f"{bar['stretch']:g}" if bar["stretch"] else ""
    return f"| {row['title']} | {figure} | {bar['against']} | {value} | {sign} {bar['factor']:g} | {stretch} | {word} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--families", default=",".join(FAMILIES + OTHERS))
    options = parser.parse_args()
    chosen = options.families.split(",")
    if unknown := set(chosen) - set(FAMILIES + OTHERS):
        parser.error(f"no such family: {', '.join(sorted(unknown))}")
    arguments = ["--quick"] * options.quick + [f"--rounds={options.rounds}"] * bool(options.rounds)
    documents = []
    for name in (n for n in FAMILIES if n in chosen):
        module = importlib.import_module(name)
        rounds = options.rounds or (2 if options.quick else 5)
        documents.append(rows.as_json(family(name, module.__doc__, module.rows, arguments), rounds))
    if documents:
        text = summary(documents)
        rows.keep("summary", {"rows": [row for d in documents for row in d["rows"]]}, text, quick=options.quick)
        print(text)
    for name in (n for n in OTHERS if n in chosen):
        program = envs.BENCHMARKS / f"{name}.py"
        subprocess.run([sys.executable, str(program), *["--quick"] * options.quick], check=True)
    missed = [bar for d in documents for row in d["rows"] for bar in row["bars"] if not bar["met"]]
    print(json.dumps({"bars_missed": len(missed)}), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
