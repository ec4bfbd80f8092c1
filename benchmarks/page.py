#!/usr/bin/env python3
"""Puts the kept results into docs/benchmarks.md, between its markers; everything else of the page is prose and stays.

python benchmarks/page.py            fill in
python benchmarks/page.py --check    exit status 1 if the page does not show the kept results
"""

from __future__ import annotations

import argparse
import json
import re
import sys

from harness import bars, envs, rows

PAGE = envs.CHECKOUT / "docs" / "benchmarks.md"
MARKED = re.compile(r"<!-- results: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def machine_text() -> str:
    """Where each family was measured, and every version any kept result was made with."""
    versions = {}
    for path in sorted(rows.results_dir().glob("*.json")):
        versions.update(json.loads(path.read_text()).get("versions", {}))
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    documents = bars.kept()
    buffers = ", ".join(f"{size:,}" for size in sorted({document["machine"]["wmem_max"] for document in documents}))
    return f"{bars.provenance(documents)}\n\n`net.core.wmem_max` {buffers}. {listed}."


def guards_text() -> str:
    budgets = json.loads((envs.BENCHMARKS / "budgets.json").read_text())
    lines = ["| what | measured | budget |", "|---|---:|---:|"]
    for what, title in (
        ("system_calls_per_1000", "system calls per 1,000"),
        ("instructions_per_task", "instructions per task"),
        ("context_switches_per_1000", "changes of threads per 1,000 calls"),
    ):
        for key, figures in budgets[what].items():
            lines.append(f"| {title}: {key} | {figures['measured']:,} | {figures['budget']:,} |")
    return "\n".join(lines)


def text_of(name: str) -> str:
    if name == "machine":
        return machine_text()
    if name == "guards":
        return guards_text()
    if name == "summary":
        return bars.summary(bars.kept())
    # the page has its own second-level headings, under which the tables' third-level ones fall
    text = (rows.results_dir() / f"{name}.md").read_text().strip()
    return re.sub(r"^## .*\n+", "", text)


def fill(page: str) -> tuple[str, list[str]]:
    missing = []

    def put(match: re.Match[str]) -> str:
        name = match[1]
        try:
            text = f"\n{text_of(name)}\n\n"
        except FileNotFoundError:
            missing.append(name)
            return match[0]
        return f"<!-- results: {name} -->\n{text}<!-- end -->"

    return MARKED.sub(put, page), missing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    page = PAGE.read_text()
    filled, missing = fill(page)
    if missing:
        print(f"no kept results for: {', '.join(missing)}", file=sys.stderr)
    if options.check:
        return 1 if filled != page or missing else 0
    PAGE.write_text(filled)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
