"""The harness tells the truth: ratios, bars, hangs, crashes, and nothing left behind."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import growth
import guards
from harness import adapters, rows, runner
from harness.rows import Bar, Case, Measured, Row

BENCHMARKS = str(Path(runner.__file__).parents[1])


# The runner kills every descendant of its process, so it gets a process of its own: pytest's helpers are not its prey.
PROGRAM = """
import json, os, sys
from harness import runner
runner.python_of = lambda env: sys.executable
runner.variables_of = lambda env: dict(os.environ)
outcome = runner.run("probe_work:go", "bare", {}, float(sys.argv[1]), survivors_after_s=float(sys.argv[2]))
print(json.dumps({**vars(outcome), "left": runner.descendants(os.getpid())}))
"""


@pytest.fixture
def run_here(tmp_path):
    """Runs work of a probe module in this interpreter: no environment is made, nothing is installed."""

    def run(code, limit_s=10, survivors_after_s=0):
        (tmp_path / "probe_work.py").write_text(f"import os, sys, time, subprocess\ndef go(library):\n{code}")
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(limit_s), str(survivors_after_s)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), BENCHMARKS])},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        told = json.loads(done.stdout)
        assert told.pop("left") == []
        return runner.Outcome(**told)

    return run


def test_an_answer_arrives(run_here):
    outcome = run_here("    return {'figure': 7}")
    assert outcome.state == "ok"
    assert outcome.value == {"figure": 7}


def test_a_hang_ends_at_its_limit(run_here):
    started = time.monotonic()
    outcome = run_here("    time.sleep(60)", limit_s=1)
    assert outcome.state == "hang"
    assert time.monotonic() - started < 10


def test_a_crash_says_why(run_here):
    outcome = run_here("    raise ValueError('the reason')")
    assert outcome.state == "crash"
    assert "ValueError: the reason" in outcome.detail


def test_a_child_that_left_its_session_is_counted_and_killed(run_here):
    code = "    subprocess.Popen(['sleep', '60'], start_new_session=True)\n    os.kill(os.getpid(), 9)"
    outcome = run_here(code, survivors_after_s=0.2)
    assert outcome.state == "crash"
    assert outcome.survivors == 1


def measured(figures, bars=(), lower=False):
    cases = [Case.of(name, "w:w", name) for name in figures]
    return Measured(Row("k", "t", "m", "u", cases, bars, lower_is_better=lower), rounds=figures)


def test_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians():
    m = measured({"ours": [10.0, 100.0, 30.0], "peer": [5.0, 10.0, 30.0]})
    assert m.ratio("peer") == 2.0  # of 2, 10 and 1; the medians would say 30 / 10


def test_where_less_is_better_the_ratio_turns_round():
    assert measured({"ours": [2.0], "peer": [6.0]}, lower=True).ratio("peer") == 3.0


@pytest.mark.parametrize(
    ("ours", "bar", "lower", "met"),
    [
        (30.0, Bar(3, "peer"), False, True),
        (29.0, Bar(3, "peer"), False, False),
        (20.0, Bar(20), True, True),
        (21.0, Bar(20), True, False),
        (None, Bar(20), True, None),
    ],
)
def test_bars(ours, bar, lower, met):
    m = measured({"ours": [ours], "peer": [10.0]}, [bar], lower)
    assert [v["met"] for v in m.verdicts()] == [met]


def test_a_failed_case_is_shown_and_not_measured_again(monkeypatch):
    calls = []

    def fake(work, library, params, limit_s):
        calls.append(library)
        return runner.Outcome("hang", None, "no answer") if library == "peer" else runner.Outcome("ok", {"m": 2.0})

    monkeypatch.setattr(runner, "run", fake)
    cases = [Case.of(name, "w:w", name) for name in ("ours", "peer")]
    row = Row("k", "title", "m", "u", cases, [Bar(2, "peer")])
    found = rows.measure([row], 3)
    assert calls.count("ours") == 3
    assert calls.count("peer") == 1
    assert any(line.startswith("| peer |") and "no answer" in line for line in rows.render(found).splitlines())


def test_slope():
    assert growth.slope([(10, 5.0), (100, 5.0), (1000, 5.0)]) == pytest.approx(0)
    assert growth.slope([(10, 1.0), (100, 10.0), (1000, 100.0)]) == pytest.approx(1)


def test_every_library_names_an_environment_and_what_it_can():
    for name, cls in adapters.LIBRARIES.items():
        assert cls.name == name
        assert cls.env in ("ours", "billiard4", "peers")
        assert cls.can


def test_every_budget_has_a_figure_below_it():
    budgets = json.loads(guards.BUDGETS.read_text())
    for what in guards.MARGIN:
        assert len(budgets[what]) >= (1 if what == "context_switches_per_1000" else len(guards.KINDS))
        for figures in budgets[what].values():
            assert 0 < figures["measured"] <= figures["budget"]
