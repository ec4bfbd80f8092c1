"""The judge judged: `pytest -c /dev/null downstream`. A judge that always nods is worse than none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import judge
from judge import Baseline, Outcome, compare, second_chance

BASELINE = Baseline("reference", {"passed": 3, "failed": 1, "skipped": 1}, {"old": "failed", "windows": "skipped"})
PASSING = {"a": "passed", "b": "passed", "c": "passed", "old": "failed", "windows": "skipped"}


def outcome(**changes: str) -> Outcome:
    tests = PASSING | changes
    return Outcome(tests=tests, why=dict.fromkeys(tests, "E  why"), finished=True)


def test_same_as_the_reference_meets_the_bar() -> None:
    assert compare("s", outcome(), BASELINE, {}, 0).met


def test_better_than_the_reference_meets_the_bar() -> None:
    assert compare("s", outcome(old="passed", windows="passed"), BASELINE, {}, 0).met


@pytest.mark.parametrize("what", ["failed", "error", "skipped", "xpassed"])
def test_what_passes_on_the_reference_must_pass(what: str) -> None:
    verdict = compare("s", outcome(b=what), BASELINE, {}, 0)
    assert not verdict.met
    assert "REGRESSION" in verdict.text
    assert " b " in verdict.text


def test_a_test_that_vanished_is_noticed() -> None:
    run = outcome()
    del run.tests["b"]
    assert not compare("s", run, BASELINE, {}, 0).met


def test_a_test_that_vanished_is_not_paid_for_by_another() -> None:
    run = outcome(old="passed")
    del run.tests["b"]
    assert not compare("s", run, BASELINE, {}, 0).met


def test_one_pass_does_not_pay_for_another_failure() -> None:
    assert not compare("s", outcome(old="passed", b="failed"), BASELINE, {}, 0).met


def test_an_unfinished_run_does_not_meet_the_bar() -> None:
    run = outcome()
    run.finished = False
    assert not compare("s", run, BASELINE, {}, 0).met


def test_an_allowed_failure_is_allowed_and_told() -> None:
    verdict = compare("s", outcome(b="failed"), BASELINE, {"b": "because"}, 1)
    assert verdict.met
    assert "because" in verdict.text


def test_an_allowed_failure_must_still_run() -> None:
    run = outcome()
    del run.tests["b"]
    assert not compare("s", run, BASELINE, {"b": "because"}, 1).met


def test_too_many_allowed_failures_fail_the_bar() -> None:
    assert not compare("s", outcome(b="failed"), BASELINE, {"a": "why", "b": "why"}, 1).met


def test_an_allowed_failure_that_passes_is_told() -> None:
    assert "stale" in compare("s", outcome(), BASELINE, {"b": "because"}, 1).text


def test_allowed_failures_need_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "HERE", tmp_path)
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed" / "s.txt").write_text("# head\n\na::b[x#y]  # a reason\n")
    assert judge.load_allowed("s") == {"a::b[x#y]": "a reason"}
    (tmp_path / "allowed" / "s.txt").write_text("a::b\n")
    with pytest.raises(ValueError, match="no reason"):
        judge.load_allowed("s")


def test_every_list_of_this_repository_is_readable_and_short_enough() -> None:
    assert len(judge.load_allowed("cpython")) < 20
    assert len(judge.load_allowed("billiard-unit")) < 15
    for path in (judge.HERE / "baselines").glob("*.json"):
        baseline = Baseline.load(path)
        assert baseline is not None
        assert baseline.passes() > 0


def test_a_record_without_its_last_line_is_unfinished(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    lines = [{"kind": "start", "billiard": "f", "version": "v"}]
    lines += [{"kind": "test", "id": "a", "outcome": "passed", "why": ""}]
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = judge.read_record(record)
    assert run.tests == {"a": "passed"}
    assert not run.finished
    assert not judge.read_record(tmp_path / "none").finished


def test_a_baseline_is_what_was_seen(tmp_path: Path) -> None:
    judge.save_baseline(tmp_path / "b.json", "reference", outcome(b="xfailed"))
    baseline = Baseline.load(tmp_path / "b.json")
    assert baseline is not None
    assert baseline.not_passing == {"old": "failed", "windows": "skipped"}
    assert baseline.passes() == 3


def test_a_second_recording_keeps_what_passed_in_the_first(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    judge.save_baseline(path, "reference", outcome(a="error"))
    judge.save_baseline(path, "reference", outcome(b="failed"))
    baseline = Baseline.load(path)
    assert baseline is not None
    assert baseline.not_passing == {"old": "failed", "windows": "skipped"}
    assert baseline.passes() == 3


def test_what_passes_alone_counts_and_is_told() -> None:
    first = outcome(a="error", b="failed", c="error")
    second_chance(first, outcome(b="failed"))
    verdict = compare("s", first, BASELINE, {}, 0)
    assert first.tests == PASSING | {"b": "failed"}
    assert not verdict.met
    assert verdict.text.count("passed only alone") == 2


def test_a_second_chance_takes_no_pass_away_and_needs_the_test_to_run() -> None:
    first = outcome(a="error")
    second_chance(first, Outcome(tests={"b": "failed", "c": "error"}, why={"b": "", "c": ""}))
    assert first.tests == PASSING | {"a": "error"}


def test_a_process_that_stays_twice_is_a_hang() -> None:
    for again, met in (("error", False), (None, True)):
        first = outcome(**{"C:exit": "error"})
        second_chance(first, outcome(**({"C:exit": again} if again else {})))
        assert compare("s", first, BASELINE, {}, 0).met is met
