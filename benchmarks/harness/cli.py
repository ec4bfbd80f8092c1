"""The command line that every family program has: `--quick`, `--rounds`, `--only`, `--json`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from harness import rows
from harness.rows import Row


def arguments(doc: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc.strip().splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds of small work: shows that it runs, no more")
    parser.add_argument("--rounds", type=int, default=0, help="alternating rounds (default 5, with --quick 2)")
    parser.add_argument("--only", default="", help="only the rows whose key contains this")
    parser.add_argument("--libraries", default="", help="only these libraries, separated by commas (ours is always in)")
    parser.add_argument("--json", action="store_true", help="print the JSON document instead of the tables")
    return parser


def family(name: str, doc: str, make: Callable[[bool], Sequence[Row]], argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures one family, prints its tables, keeps its document and returns it."""
    options = arguments(doc).parse_args(argv)
    chosen = [_narrow(row, options.libraries) for row in make(options.quick) if options.only in row.key]
    if not chosen:
        raise SystemExit(f"no row's key contains {options.only!r}")
    rounds = options.rounds or (2 if options.quick else 5)
    measured = rows.measure(chosen, rounds, rows.say)
    document, text = rows.as_json(measured, rounds), rows.render(measured)
    partial = bool(options.only or options.libraries)  # a part must not overwrite the kept whole
    rows.keep(name, document, text, quick=options.quick or partial)
    print(json.dumps(document, indent=1) if options.json else text)
    sys.stdout.flush()
    return document


def _narrow(row: Row, libraries: str) -> Row:
    if not libraries:
        return row
    wanted = {"ours", *libraries.split(",")}
    cases = [case for case in row.cases if case.label in wanted or case.library in ("ours", "bare")]
    return Row(**{**row.__dict__, "cases": cases})
