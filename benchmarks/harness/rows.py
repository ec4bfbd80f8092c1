"""Rows of the table: cases measured in alternating rounds, ratios taken inside each round, bars checked.

A shared machine drifts by tens of per cent within minutes. So a ratio is never taken between two medians: each round
measures all cases one after the other (every second round in reverse), gives one ratio per pair, and the median of
those ratios is the figure. The spread printed is the range over the rounds.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness import envs, runner
from harness.adapters import LIBRARIES, PEERS, env_of


@dataclass(frozen=True)
class Case:
    """One measurement: the work, who does it, with what. Equal cases are measured once per round."""

    label: str
    work: str
    library: str
    params: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, label: str, work: str, library: str, **params: Any) -> Case:
        return cls(label, work, library, tuple(sorted(params.items())))


@dataclass(frozen=True)
class Bar:
    """`factor` times better than the case `against`, or (without `against`) at most / at least `factor` itself."""

    factor: float
    against: str = ""
    stretch: float = 0.0


@dataclass(frozen=True)
class Row:
    key: str
    title: str
    metric: str
    unit: str
    cases: Sequence[Case]
    bars: Sequence[Bar] = ()
    lower_is_better: bool = False
    limit_s: float = 60.0
    note: str = ""


@dataclass
class Measured:
    """What came of one row; `rounds[label]` holds one figure per round, None where the case failed."""

    row: Row
    rounds: dict[str, list[float | None]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def median(self, label: str) -> float | None:
        figures = [x for x in self.rounds.get(label, ()) if x is not None]
        return statistics.median(figures) if figures else None

    def spread(self, label: str) -> tuple[float, float] | None:
        figures = [x for x in self.rounds.get(label, ()) if x is not None]
        return (min(figures), max(figures)) if figures else None

    def ratio(self, against: str) -> float | None:
        """How many times better ours is, as the median of the rounds in which both gave a figure."""
        pairs = [(a, b) for a, b in zip(self.rounds.get("ours", ()), self.rounds.get(against, ()), strict=False) if a and b]
        if not pairs:
            return None
        return statistics.median(b / a if self.row.lower_is_better else a / b for a, b in pairs)

    def verdicts(self) -> list[dict[str, Any]]:
        found = []
        for bar in self.row.bars:
            value = self.ratio(bar.against) if bar.against else self.median("ours")
            found.append({**asdict(bar), "value": value, "met": None if value is None else self._meets(value, bar)})
        return found

    def _meets(self, value: float, bar: Bar) -> bool:
        if not bar.against and self.row.lower_is_better:
            return value <= bar.factor
        return value >= bar.factor


def per_library(work: str, libraries: Sequence[str] = (), **params: Any) -> list[Case]:
    return [Case.of(name, work, name, **params) for name in libraries or ["ours", *PEERS]]


def per_library_fewer(work: str, fewer: dict[str, int], libraries: Sequence[str] = (), **params: Any) -> list[Case]:
    """The same, but the libraries in `fewer` get that many tasks: theirs is a rate, and a minute for it is too long."""
    cases = per_library(work, libraries, **params)
    most = params["n"]
    return [Case.of(c.label, work, c.library, **{**params, "n": min(most, fewer.get(c.label, most))}) for c in cases]


def libraries_that(can: str) -> list[str]:
    return [name for name, cls in LIBRARIES.items() if can in cls.can]


def measure(rows: Sequence[Row], rounds: int, say: Callable[[str], None] = lambda text: None) -> list[Measured]:
    """All cases of all rows, round by round. A case that failed once is left out of the later rounds."""
    measured = [Measured(row) for row in rows]
    for number in range(rounds):
        answers: dict[tuple[str, str, tuple[Any, ...]], runner.Outcome] = {}
        for m in measured:
            for case in m.row.cases if number % 2 == 0 else list(reversed(m.row.cases)):
                if case.label in m.failures:
                    m.rounds[case.label].append(None)
                    continue
                key = (case.work, case.library, case.params)
                if key not in answers:
                    say(f"round {number + 1}/{rounds}: {m.row.key}: {case.label}")
                    answers[key] = runner.run(case.work, case.library, dict(case.params), m.row.limit_s)
                outcome = answers[key]
                figure = outcome.value.get(m.row.metric) if outcome.state == "ok" else None
                m.rounds.setdefault(case.label, []).append(figure)
                if figure is None:
                    m.failures[case.label] = outcome.detail or f"no {m.row.metric}"
    return measured


def render(measured: Sequence[Measured]) -> str:
    """A markdown table per row: figure, spread, ratio, bar."""
    parts = []
    for m in measured:
        bars = {v["against"]: v for v in m.verdicts()}
        title = m.row.title + (f" ({'lower' if m.row.lower_is_better else 'higher'} is better)")
        parts.append(f"\n### {title}\n")
        if m.row.note:
            parts.append(f"{m.row.note}\n")
        parts.append("| library | median | spread | ours is better by | bar | |")
        parts.append("|---|---:|---:|---:|---:|---|")
        for case in m.row.cases:
            parts.append(_line(m, case.label, bars.get("" if case.label == "ours" else case.label)))
    return "\n".join(parts)


def _line(m: Measured, label: str, verdict: dict[str, Any] | None) -> str:
    if label in m.failures:
        return f"| {label} | – | {m.failures[label][:80].replace('|', '/')} | | | |"
    median, spread = m.median(label), m.spread(label)
    assert median is not None and spread is not None
    ratio = m.ratio(label) if label != "ours" else None
    bar, met = "", ""
    if verdict is not None:
        sign = "≤" if not verdict["against"] and m.row.lower_is_better else "≥"
        bar = f"{sign} {verdict['factor']:g}" + (" ×" if verdict["against"] else f" {m.row.unit}")
        met = {True: "met", False: "**not met**", None: "–"}[verdict["met"]]
    name = f"**{label}**" if label == "ours" else label
    shown = f"{ratio:.2f} ×" if ratio is not None else ""
    low, high = figure(spread[0]), figure(spread[1])
    return f"| {name} | {figure(median)} {m.row.unit} | {low} – {high} | {shown} | {bar} | {met} |"


def figure(x: float) -> str:
    if x >= 1000:
        return f"{x:,.0f}"
    return f"{x:.3g}"


def as_json(measured: Sequence[Measured], rounds: int) -> dict[str, Any]:
    used = sorted({env_of(case.library) for m in measured for case in m.row.cases})
    return {
        "machine": envs.machine(),
        "versions": {name: version for env in used for name, version in envs.versions_in(env).items()},
        "rounds": rounds,
        "rows": [
            {
                "key": m.row.key,
                "title": m.row.title,
                "unit": m.row.unit,
                "lower_is_better": m.row.lower_is_better,
                "figures": m.rounds,
                "medians": {case.label: m.median(case.label) for case in m.row.cases},
                "ratios": {case.label: m.ratio(case.label) for case in m.row.cases if case.label != "ours"},
                "failures": m.failures,
                "bars": m.verdicts(),
            }
            for m in measured
        ],
    }


def results_dir() -> Path:
    """Kept results live in git; those of a quick run, which prove nothing, in the cache."""
    return envs.BENCHMARKS / "results"


def keep(family: str, document: dict[str, Any], text: str, *, quick: bool) -> None:
    where = envs.cache_dir() / "quick" if quick else results_dir()
    where.mkdir(parents=True, exist_ok=True)
    (where / f"{family}.json").write_text(json.dumps(document, indent=1) + "\n")
    (where / f"{family}.md").write_text(text.strip() + "\n")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
