"""Run one class of the rewritten CPython tests and write a JSON line per test: WRAPPER CLASS RECORD, or WRAPPER --list.

Runs inside the judged environment, as a child of cpython.py. Under spawn and forkserver this file is imported again as
the main module of each child, so nothing may happen at import.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
import unittest
from pathlib import Path
from typing import Any


class Recorder(unittest.TestResult):
    """The worst outcome per test, flushed line by line: a later hang must not take it along."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.file = path.open("w", encoding="utf-8")
        self.outcome: tuple[str, str] | None = None

    def write(self, **line: Any) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's names
        super().startTest(test)
        self.outcome = None
        self.write(kind="start", id=short(test))

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        outcome, why = self.outcome or ("error", "no outcome reported")
        self.write(kind="test", id=short(test), outcome=outcome, why=why)
        super().stopTest(test)

    def note(self, test: object, outcome: str, why: str) -> None:
        if not isinstance(test, unittest.TestCase):  # setUpClass or setUpModule failed: no test has begun
            self.write(kind="fixture", id=str(test), outcome=outcome, why=why)
        elif self.outcome is None or outcome in {"failed", "error"}:
            self.outcome = (outcome, why)

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        self.note(test, "passed", "")

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802 - unittest's name
        self.note(test, "error", "".join(traceback.format_exception(*err))[-3000:])

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802 - unittest's name
        self.note(test, "failed", "".join(traceback.format_exception(*err))[-3000:])

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802 - unittest's name
        self.note(test, "skipped", reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:  # noqa: N802 - unittest's name
        self.note(test, "xfailed", "")

    def addUnexpectedSuccess(self, test: Any) -> None:  # noqa: N802 - unittest's name
        self.note(test, "xpassed", "")

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802 - unittest's name
        if err is not None:
            self.note(test, "failed", "".join(traceback.format_exception(*err))[-3000:])


def short(test: unittest.TestCase) -> str:
    return f"{type(test).__name__}.{test._testMethodName}"


def classes_of(module: Any) -> dict[str, list[str]]:
    loader = unittest.TestLoader()
    found = {
        name: [f"{name}.{method}" for method in loader.getTestCaseNames(value)]
        for name, value in sorted(vars(module).items())
        if isinstance(value, type) and issubclass(value, unittest.TestCase)
    }
    return {name: tests for name, tests in found.items() if tests}


def main() -> int:
    wrapper, name = sys.argv[1:3]
    module = importlib.import_module(wrapper)
    if name == "--list":
        print(json.dumps(classes_of(module)))
        return 0
    recorder = Recorder(Path(sys.argv[3]))
    tests = vars(module._test_multiprocessing)
    judged = tests.get("billiard") or tests["multiprocessing"]
    recorder.write(kind="module", what=f"{judged.__name__} ({judged.__file__})")
    suite = unittest.TestLoader().loadTestsFromTestCase(getattr(module, name))
    # Through a TestSuite, so that setUpModule (start method, dangling processes) and setUpClass run.
    unittest.TestSuite([suite]).run(recorder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
