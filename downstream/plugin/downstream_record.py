"""A pytest plugin that writes one JSON line per finished test, at once.

It may import nothing but pytest and the standard library, since it runs inside environments made for other projects'
suites. Lines are flushed one by one: a suite that hangs or dies must still tell what it had finished, which a junit
file written at the end does not.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

SEVERITY = ("passed", "skipped", "xfailed", "xpassed", "failed", "error")


class Recorder:
    """Folds the reports of set-up, call, subtests and tear-down into the worst outcome of each test."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w", encoding="utf-8")
        self.worst: dict[str, str] = {}
        self.why: dict[str, str] = {}

    def write(self, **line: Any) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()

    def note(self, nodeid: str, outcome: str, why: str) -> None:
        known = self.worst.get(nodeid)
        if known is None or SEVERITY.index(outcome) > SEVERITY.index(known):
            self.worst[nodeid] = outcome
            self.why[nodeid] = why

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        import billiard

        self.write(kind="start", billiard=billiard.__file__, version=str(billiard.__version__))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.write(kind="collected", count=len(session.items))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome != "passed":
            outcome = "error" if report.failed else "skipped"
            self.write(kind="test", id=report.nodeid, outcome=outcome, why=str(report.longrepr)[-2000:])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome: str = report.outcome
        if outcome == "rerun":
            return
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if report.skipped else "xpassed"
        elif report.failed and report.when != "call":
            outcome = "error"
        # A passing set-up says nothing yet; only the call (or its absence) makes a test passed.
        if report.when == "call" or outcome != "passed":
            self.note(report.nodeid, outcome, "" if outcome == "passed" else str(report.longrepr)[-2000:])

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        outcome = self.worst.pop(nodeid, "error")
        self.write(kind="test", id=nodeid, outcome=outcome, why=self.why.pop(nodeid, ""))

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.write(kind="finish", exitstatus=int(exitstatus))


def pytest_configure(config: pytest.Config) -> None:
    path = os.environ.get("DOWNSTREAM_RECORD")
    # Suites start pytest inside pytest (celery.contrib.pytest's own tests do): only the outermost one records.
    if path:
        del os.environ["DOWNSTREAM_RECORD"]
        config.pluginmanager.register(Recorder(Path(path)), "downstream-recorder")
