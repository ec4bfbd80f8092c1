"""Many lives of a pool, each different, and those that once showed a fault.

BILLIARD_LIVES sets how many (default 1,500), BILLIARD_SEED which.
The long form is `python -m tests.core.simulate --lives 100000`.
"""

from __future__ import annotations

import os

import pytest
from tests.core import mutate, simulate
from tests.core.life import Life
from tests.core.world import CoreBomb, Interrupted, Violation

LIVES = int(os.environ.get("BILLIARD_LIVES", "1500"))
SEED = int(os.environ.get("BILLIARD_SEED", "1"))
REPLAYS = sorted(simulate.REPLAYS.glob("*.txt"))


@pytest.mark.timeout(max(120, LIVES // 20))
def test_lives_keep_their_promises(capsys):
    failures, counts = simulate.run(SEED, LIVES)
    assert not failures, capsys.readouterr().out
    assert counts["lives"] == LIVES
    assert counts["jobs"] > 3 * LIVES  # something was lived
    assert counts["workers"] > 2 * LIVES


@pytest.mark.parametrize("replay", REPLAYS, ids=lambda path: path.stem)
def test_what_was_found_once_is_not_found_again(replay):
    for line in replay.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            text, kept = simulate.story(int(line))
            assert kept, text


def test_there_are_replays():
    assert len(REPLAYS) >= 5


def test_a_life_tells_the_same_story_twice():
    for number in range(20, 40):
        assert simulate.story(number) == simulate.story(number)


def test_a_broken_promise_is_told(monkeypatch, capsys):
    def wrong(self):
        raise Violation("planted")

    monkeypatch.setattr(Life, "_over", wrong)
    failures, _ = simulate.run(SEED, 50)
    told = capsys.readouterr().out
    assert failures == 1
    assert "planted" in told
    assert "submit job 0" in told
    assert f"life {simulate.number(SEED, 0)} failed" in told


def test_exceptions_do_reach_the_inside_of_the_core():
    reached = set()
    life = Life(3)
    job_holder = life.core.worker_set
    for places in range(1, 60):
        try:
            with CoreBomb(life, places):
                job_holder.mark_dirty()
                life.core.decide(life.now)
        except Interrupted as exc:
            frames = []
            trace = exc.__traceback__
            while trace is not None:
                frames.append(trace.tb_frame.f_code.co_name)
                trace = trace.tb_next
            reached.update(frames)
    assert {"decide", "reconcile"} <= reached


@pytest.mark.parametrize("index", range(len(mutate.FAULTS)), ids=lambda index: f"{mutate.FAULTS[index].file}-{index}")
def test_every_planted_fault_still_finds_its_place(index):
    fault = mutate.FAULTS[index]
    text = (mutate.ROOT / "src" / "billiard" / "_core" / f"{fault.file}.py").read_text()
    assert text.count(fault.old) == fault.count
