#!/usr/bin/env python3
"""The first comparison: `apply_async` + `get` of tiny tasks, one `apply`, `map(chunksize=1)`, beside every peer.

    python benchmarks/compare.py [--quick]

The rows are those of throughput.py and latency.py; this program picks the three that say most.
"""

from __future__ import annotations

import latency
import throughput
from harness.cli import family


def rows(quick: bool):
    picked = {"burst", "apply", "map1"}
    return [row for row in (*throughput.rows(quick), *latency.rows(quick)) if row.key in picked]


if __name__ == "__main__":
    family("compare", __doc__, rows)
