"""What a run must reach: outcomes compared with the reference's, minus what is allowed with a reason.

Pure: it reads and writes the small data files, and runs nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
GOOD = {"passed", "xfailed"}  # an expected failure that fails as expected is a test that did its work


@dataclass
class Outcome:
    """What one run of one suite showed."""

    tests: dict[str, str] = field(default_factory=dict)  # id -> outcome
    why: dict[str, str] = field(default_factory=dict)
    finished: bool = False
    billiard: str = "?"
    seconds: float = 0.0
    only_alone: dict[str, str] = field(default_factory=dict)  # id -> why it failed before it passed alone

    def counts(self) -> Counter[str]:
        return Counter(self.tests.values())

    def summary(self) -> str:
        counts = self.counts()
        return ", ".join(f"{counts[name]} {name}" for name in sorted(counts)) or "nothing ran"


@dataclass
class Baseline:
    """What the reference showed: its counts, and each test that did not pass."""

    reference: str
    counts: dict[str, int]
    not_passing: dict[str, str]

    @classmethod
    def load(cls, path: Path) -> Baseline | None:
        if not path.exists():
            return None
        return cls(**json.loads(path.read_text()))

    def passes(self) -> int:
        return sum(self.counts.get(name, 0) for name in GOOD)


def save_baseline(path: Path, reference: str, outcome: Outcome) -> None:
    """Best of all recordings: what the reference has passed once, on a busy machine or a quiet one, it can pass."""
    tests = dict(outcome.tests)
    if known := Baseline.load(path):
        tests |= {test: "passed" for test, what in tests.items() if what not in GOOD and test not in known.not_passing}
    counts = dict(sorted(Counter(tests.values()).items()))
    not_passing = {test: what for test, what in sorted(tests.items()) if what not in GOOD}
    text = json.dumps({"reference": reference, "counts": counts, "not_passing": not_passing}, indent=1)
    path.write_text(text + "\n")


def load_allowed(suite: str) -> dict[str, str]:
    """`id  # reason` a line. A line without a reason is an error: an unexplained exception is a hole."""
    path = HERE / "allowed" / f"{suite}.txt"
    allowed: dict[str, str] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        if not line.strip() or line.startswith("#"):
            continue
        test, separator, reason = line.partition("  # ")
        if not separator or not reason.strip():
            raise ValueError(f"{path.name}: no reason given for {line!r}")
        allowed[test.strip()] = reason.strip()
    return allowed


def read_record(path: Path) -> Outcome:
    outcome = Outcome()
    for text in path.read_text().splitlines() if path.exists() else ():
        line = json.loads(text)
        if line["kind"] == "start":
            outcome.billiard = f"billiard {line['version']} ({line['billiard']})"
        elif line["kind"] == "test":
            outcome.tests[line["id"]] = line["outcome"]
            outcome.why[line["id"]] = line["why"]
        elif line["kind"] == "finish":
            outcome.finished = True
    return outcome


def second_chance(first: Outcome, alone: Outcome) -> None:
    """Credit `first` with what passed when its tests were run again, alone, and remember what that was."""
    for test, what in list(first.tests.items()):
        # an `:exit` that is not told again did not happen again
        passed = alone.tests.get(test, "passed" if test.endswith(":exit") else "error") in GOOD
        if what not in GOOD and what != "skipped" and passed:
            first.only_alone[test] = first.why[test]
            if test.endswith(":exit"):
                del first.tests[test], first.why[test]
            else:
                first.tests[test], first.why[test] = "passed", ""


def gist(why: str) -> str:
    """One line that says most: pytest's first `E` line, else the last one."""
    lines = why.strip().splitlines() or [""]
    errors = [line for line in lines if line.startswith("E ")]
    return (errors[0] if errors else lines[-1]).strip()[:180]


@dataclass
class Verdict:
    met: bool
    text: str


def compare(suite: str, outcome: Outcome, baseline: Baseline, allowed: dict[str, str], most_allowed: int) -> Verdict:
    """The bar: everything that passes on the reference passes here, save what is allowed with a reason."""
    bad = {test for test, what in outcome.tests.items() if what not in GOOD}
    regressions = sorted(bad - set(baseline.not_passing) - set(allowed))
    used = sorted(bad & set(allowed) - set(baseline.not_passing))
    stale = sorted(test for test in allowed if outcome.tests.get(test) in GOOD)
    passes = sum(what in GOOD for what in outcome.tests.values())
    least = baseline.passes() - len(used)
    lines = [
        f"{'':24}{'pass':>7}{'not':>7}",
        f"{baseline.reference[:23]:24}{baseline.passes():7}{sum(baseline.counts.values()) - baseline.passes():7}",
        f"{'this run':24}{passes:7}{len(outcome.tests) - passes:7}   ({outcome.summary()}; {outcome.seconds:.0f} s)",
    ]
    lines += [f"REGRESSION {outcome.tests[test]:8} {test}  {gist(outcome.why[test])}" for test in regressions]
    lines += [f"allowed    {outcome.tests[test]:8} {test}  # {allowed[test]}" for test in used]
    lines += [f"flaky: passed only alone, before: {test}  {gist(why)}" for test, why in outcome.only_alone.items()]
    lines += [f"stale: allowed to fail, yet passes: {test}" for test in stale]
    reasons = []
    if not outcome.finished:
        reasons.append("the run did not finish (time limit or crash)")
    if regressions:
        reasons.append(f"{len(regressions)} fail that pass on the reference")
    if passes < least:
        reasons.append(f"{passes} pass, {least} must")
    if (vanished := sum(baseline.counts.values()) - len(outcome.tests)) > 0:
        reasons.append(f"{vanished} tests did not run")
    if len(allowed) > most_allowed:
        reasons.append(f"{len(allowed)} failures are allowed, at most {most_allowed} may be")
    lines.append(f"{suite}: " + ("bar NOT met: " + "; ".join(reasons) if reasons else "bar met"))
    return Verdict(not reasons, "\n".join(lines))
