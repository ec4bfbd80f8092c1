"""One line per bar of every family, made from the families' documents: of a run just made, or of those that are kept.

A family can be measured again by itself. So each line's figures come from one run of one family, and `provenance` says
from which.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from harness import rows

FAMILIES = ["throughput", "latency", "payload", "startup", "recycling", "limits", "memory", "import_time"]


def kept() -> list[dict[str, Any]]:
    """The kept document of each family. Raises FileNotFoundError when there is none."""
    return [json.loads((rows.results_dir() / f"{name}.json").read_text()) for name in FAMILIES]


def summary(documents: Sequence[dict[str, Any]]) -> str:
    lines = ["| row | figure | against | ratio | bar | stretch | |", "|---|---:|---|---:|---:|---:|---|"]
    bars = _of(documents)
    lines += [_line(row, bar) for row, bar in bars]
    return "\n".join([*lines, f"\n{len(bars) - missed(documents)} of {len(bars)} bars met."])


def missed(documents: Sequence[dict[str, Any]]) -> int:
    """How many bars are not met; one without a figure is not."""
    return sum(not bar["met"] for _, bar in _of(documents))


def provenance(documents: Sequence[dict[str, Any]]) -> str:
    """Where and when each family was measured."""
    lines = ["| family | rounds | commit | machine | load at its end |", "|---|---:|---|---|---:|"]
    for name, document in zip(FAMILIES, documents, strict=True):
        machine = document["machine"]
        where = f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}"
        lines.append(f"| {name} | {document['rounds']} | `{machine['commit']}` | {where} | {machine['load_1min']} |")
    return "\n".join(lines)


def _of(documents: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(row, bar) for document in documents for row in document["rows"] for bar in row["bars"]]


def _line(row: dict[str, Any], bar: dict[str, Any]) -> str:
    ours = row["medians"].get("ours")
    figure = "–" if ours is None else f"{rows.figure(ours)} {row['unit']}"
    sign = "≤" if not bar["against"] and row["lower_is_better"] else "≥"
    value = "–" if bar["value"] is None else f"{bar['value']:.2f}" + (" ×" if bar["against"] else f" {row['unit']}")
    word = {True: "met", False: "**not met**", None: "no figure"}[bar["met"]]
    stretch = f"{bar['stretch']:g}" if bar["stretch"] else ""
    return f"| {row['title']} | {figure} | {bar['against']} | {value} | {sign} {bar['factor']:g} | {stretch} | {word} |"
