"""Plant faults in the core, one at a time, and see who notices: `python -m tests.core.mutate`.

Each fault is applied to a copy of the package in a temporary directory, where the unit tests and then the simulation run
against it. A fault that nobody notices has to be explained in `SURVIVORS`; the command fails otherwise.
"""

# ruff: noqa: E501 - a row of the table quotes a line of the core as it stands
from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Fault(NamedTuple):
    file: str
    old: str
    new: str
    count: int = 1  # how often the text stands there


FAULTS = [
    # timers
    Fault("timers", "if worker.due.get(kind) != when:", "if kind not in worker.due:"),
    Fault("timers", "worker.due.pop(kind, None)\n\n    def next", "pass\n\n    def next"),
    Fault("timers", "while heap and heap[0][0] <= now and not self._real(heap[0]):", "while False:"),
    Fault("timers", "if worker.due.get(kind, now) <= now:", "if True:"),
    Fault("timers", "return worker.phase is not Phase.GONE and worker.due.get(kind) == when", "return worker.due.get(kind) == when"),
    Fault("timers", "if not heap or heap[0][0] > now:", "if not heap or heap[0][0] >= now - 0.2:"),
    # dispatch
    Fault("dispatch", "            if job.holder is not None or job.state:\n                backlog.popleft()", "            if job.state:\n                backlog.popleft()"),
    Fault("dispatch", "            if job.terminate_signal:\n                self.settle(job, None)\n                continue\n            size =", "            size ="),
    Fault("dispatch", "if worker.quota == 0 or (\n                held", "if (\n                held"),
    Fault("dispatch", "quota = None if worker.quota is None else worker.quota - 1", "quota = worker.quota"),
    Fault("dispatch", "job, number + 1, quota, number, worker,", "job, number, quota, number, worker,"),
    Fault("dispatch", "        for job in reversed(list(jobs)):\n", "        for job in list(jobs):\n"),
    Fault("dispatch", "                job.holder = None\n                self.backlog.appendleft(job)", "                self.backlog.appendleft(job)"),
    Fault("dispatch", "            elif not job.state:\n                job.holder = None", "            else:\n                job.holder = None"),
    Fault("dispatch", "        if worker.phase is not Phase.UP or not worker.seated:\n            return", "        if worker.phase is not Phase.UP:\n            return"),
    Fault("dispatch", "        elif not worker.recalled:\n            self.open[worker] = None", "        else:\n            self.open[worker] = None"),
    Fault("dispatch", "worker.recalled, 0, since, since, False,", "worker.resume, 0, since, since, False,"),
    Fault("dispatch", "since = max(worker.next_number, worker.recalled + 1)", "since = worker.next_number"),
    Fault("dispatch", "worker.recalled, 0, since, since", "worker.recalled, 0, since, 1"),
    Fault("dispatch", "            if not job.state:\n                job.body, job.state = body, kind", "            job.body, job.state = body, kind"),
    Fault("dispatch", "            if job.watched:\n                self.settled.append(job)\n", "            pass\n"),
    Fault("dispatch", "            del inflight[number]\n", "            pass\n"),
    Fault("dispatch", " or size > ALONE_FROM", ""),
    Fault("dispatch", "        if job.state == PENDING:\n            job.body, job.state = fate or", "        if True:\n            job.body, job.state = fate or"),
    Fault("dispatch", "        self.unwritten[worker] = None\n        if self.suspects", "        if self.suspects"),
    Fault("dispatch", "                self.limited[worker] = job.least_s", "                pass"),
    Fault("dispatch", "            if full or worker.quota == 0:\n                self.open.pop(worker, None)", "            if full:\n                self.open.pop(worker, None)"),
    Fault("dispatch", "share = -(-len(backlog) // (len(idle) + len(open_)))", "share = len(backlog) // (len(idle) + len(open_))"),
    Fault("dispatch", "share = -(-len(backlog) // (len(idle) + len(open_)))", "share = len(backlog)"),
    Fault("dispatch", "            if worker.phase is not Phase.UP:\n                # condemned", "            if False:\n                # condemned"),
    Fault("dispatch", "return next(reversed(idle))", "return next(iter(idle))"),
    Fault("dispatch", "return next(iter(idle))", "return next(reversed(idle))"),
    Fault("dispatch", "            if self._soon_idle(worker, now):\n                return worker", "            return worker"),
    Fault("dispatch", "            if self._soon_idle(worker, now):\n                return worker", "            pass"),
    Fault("dispatch", "self._run_us.get(job.function_id, WAKING_US)", "self._run_us.get(job.function_id, 0.0)"),
    Fault("dispatch", "if open_ and self.rescues and job.may_follow and self._window.get(job.function_id, 1) > 1:", "if open_ and self.rescues and job.may_follow:"),
    Fault("dispatch", "self.rescues and job.may_follow and", ""),
    Fault("dispatch", "            return (now - progress.started_ns / 1e9) * 1e6 < WAKING_US\n", "            return True\n"),
    Fault("dispatch", "        return now - worker.heard_at < MUTE_S\n", "        return True\n"),
    Fault("dispatch", "                worker.heard_at = now\n", "                pass\n"),
    Fault("dispatch", "            worker.heard_at = self.last_turn\n", ""),
    Fault("dispatch", "if self._picks % OLDEST_EVERY or self.last_turn - self._oldest_picked < OLDEST_EVERY_S:", "if self._picks % OLDEST_EVERY:"),
    Fault("dispatch", "if self.idle or not workers:", "if not workers:"),
    # preemption
    Fault("preemption", "            self._dispatch.suspects[worker] = behind[0][1]\n", "            pass\n"),
    Fault("preemption", "FENCE_S: Final = 0.0015", "FENCE_S: Final = 0.0"),
    Fault("preemption", "STALL_S: Final = 0.010", "STALL_S: Final = 0.100"),
    Fault("preemption", "HOARD_S: Final = 0.002", "HOARD_S: Final = 0.02"),
    Fault("preemption", "if several and idle and HOARD not in worker.due:", "if several and HOARD not in worker.due:"),
    Fault("preemption", "job is not None and run_s >= HOARD_S / 2:", "job is not None:"),
    Fault("preemption", "        elif now - worker.heard_at < STALL_S:", "        elif False:"),
    Fault("preemption", "        elif now - worker.heard_at < STALL_S:", "        else:"),
    Fault("preemption", "            self._dispatch.proved_slow(job.function_id, run_s * 1e6)\n", ""),
    Fault("preemption", "TERM_GRACE_S: Final = 0.5", "TERM_GRACE_S: Final = 500.0"),
    Fault("preemption", "self._timers.replace(worker, FENCE, MARK, nextafter(now, NEVER_S))", "self._timers.set(worker, FENCE, now + FENCE_S)"),
    Fault("preemption", "len(worker.inflight) > 1, self._dispatch.idle", "len(worker.inflight) > 2, self._dispatch.idle"),
    Fault("preemption", "if not several and not idle:", "if not several:"),
    Fault("preemption", "unheard = worker.stalled_at == current and now - worker.heard_at >= STALL_S", "unheard = False"),
    Fault("preemption", "worker.mute = worker.inflight[first].size <= ALONE_FROM", "worker.mute = False"),
    Fault("preemption", "            if worker.inflight or not worker.mute:\n", "            if True:\n"),
    Fault("dispatch", "worker.recalled, 0, since, since, False,", "worker.recalled, 0, since, since, worker.mute,"),
    Fault("preemption", "        if now + least_s < worker.due.get(LIMIT, NEVER_S):", "        if LIMIT not in worker.due:"),
    Fault("preemption", "self.recall(worker, current + 1, now)\n        elif", "self.recall(worker, current, now)\n        elif"),
    Fault("preemption", "or self._hoards(worker, current)", "or False"),
    Fault("preemption", "if job.hard_s is not None and run_s >= job.hard_s:", "if job.hard_s is not None and run_s >= 0.5 * job.hard_s:"),
    Fault("preemption", "run_s >= job.soft_s:", "run_s >= 0.5 * job.soft_s:"),
    Fault("preemption", "                worker.scoreboard.aim(*aim)\n", "                pass\n"),
    Fault("preemption", "self._set_limit_timer(worker, min(rest_s, behind_s), now)", "self._set_limit_timer(worker, rest_s, now)"),
    Fault("preemption", "now - started - excused_s)", "now - started)"),
    Fault("preemption", "            if worker.current < worker.since > 1:", "            if False:"),
    Fault("preemption", "worker.recalled = max(number, worker.since)", "worker.recalled = number"),
    Fault("preemption", "            self._dispatch.open.pop(worker, None)\n            self._dispatch.idle.pop(worker, None)\n        worker.scoreboard.recall", "        worker.scoreboard.recall"),
    Fault("preemption", "        worker.scoreboard.recall(worker.recalled)\n", ""),
    Fault("preemption", "        if 0 < worker.recalled <= number:", "        if True:"),
    Fault("preemption", "self.take_back(worker, number - 1)\n            self._dispatch.released", "self.take_back(worker, number)\n            self._dispatch.released"),
    Fault("preemption", "self.take_back(worker, max(progress.current, worker.recalled - 1))", "self.take_back(worker, worker.recalled - 1)"),
    Fault("preemption", "self.take_back(worker, max(progress.current, worker.recalled - 1))", "self.take_back(worker, progress.current)"),
    Fault("preemption", "                worker.quota += 1\n", "                pass\n"),
    Fault("preemption", "moved_on = request.number and (progress.current != request.number or request.number not in worker.inflight)", "moved_on = False"),
    Fault("preemption", "(progress.current != request.number or request.number not in worker.inflight)", "progress.current != request.number"),
    Fault("preemption", "in_time = request.limit_s is not None and self.run_time(progress, now) < request.limit_s", "in_time = False"),
    Fault("preemption", "        self._reset_limit_timer(worker, now)\n        for job", "        for job"),
    Fault("preemption", "            if job.terminate_signal and not job.state:", "            if False:"),
    Fault("preemption", "        worker.phase = Phase.KILLED\n", ""),
    Fault("preemption", "        self.on_kill()\n", ""),
    Fault("preemption", "            worker.kill_request = request  # its death", "            pass  # its death"),
    Fault("preemption", "        if current < job.number:\n", "        if False:\n"),
    Fault("preemption", "        job.terminate_signal = signum\n", ""),
    Fault("preemption", "elif job is not None and request.signum == self.soft_signal:", "elif False:"),
    Fault("preemption", "        if signum == self.soft_signal and worker is not None and worker.current == job.number:", "        if False:"),
    Fault("preemption", "            del worker.inflight[number]\n        self._dispatch.released(worker)", "            del worker.inflight[number]"),
    Fault("preemption", "            self._dispatch.settle(job, None)\n            del worker", "            del worker"),
    Fault("preemption", "        if not worker.inflight:\n            self.kill_now", "        if False:\n            self.kill_now"),
    Fault("preemption", "        if not worker.inflight:\n            self.kill_now", "        if True:\n            self.kill_now"),
    # worker_set
    Fault("worker_set", "missing = self.size - self._active()", "missing = self.size - len(self.workers)"),
    Fault("worker_set", "        if missing > 0 and now < self.respawn_at:\n            missing = 0\n            self.dirty = True", "        if missing > 0 and now < self.respawn_at:\n            missing = 0"),
    Fault("worker_set", "        if missing > 0 and now < self.respawn_at:\n            missing = 0", "        if False:\n            missing = 0"),
    Fault("worker_set", "free = self.size - sum(1 for worker in self.workers.values() if worker.seated)", "free = self.size"),
    Fault("worker_set", "            self._unseated.append(worker)\n", "            pass\n"),
    Fault("worker_set", "            if worker in idle:\n                del idle[worker]\n            if worker in open_:\n                del open_[worker]\n", ""),
    Fault("worker_set", "        if worker.seated and worker.phase >= Phase.RETIRING and not worker.inflight:", "        if worker.seated and worker.phase >= Phase.RETIRING:"),
    Fault("worker_set", "            worker.seated = False\n            self._seat()", "            worker.seated = False"),
    Fault("worker_set", "        if worker.phase is Phase.GONE:\n            return\n        self.dirty = True\n", "        if worker.phase is Phase.GONE:\n            return\n"),
    Fault("worker_set", "        self._settle_calls(worker, status, now)\n", "        worker.inflight.clear()\n"),
    Fault("worker_set", "            current = progress.skipped_from - 1", "            pass"),
    Fault("worker_set", "            if number <= current and progress is not None:", "            if progress is not None:"),
    Fault("worker_set", "            if number <= current and progress is not None:", "            if number < current and progress is not None:"),
    Fault("worker_set", "                suspect.deaths, worker.blamed = suspect.deaths + 1, True\n", "                pass\n"),
    Fault("worker_set", "if not worker.blamed:", "if True:"),
    Fault("worker_set", "not (died_on_one or left or worker.struck_by is not None):", "not (left or worker.struck_by is not None):"),
    Fault("worker_set", "not (died_on_one or left or worker.struck_by is not None):", "not died_on_one:"),
    Fault("worker_set", "        self._dispatch.requeue(unstarted.values())\n", ""),
    Fault("worker_set", "request = worker.struck_by", "request = worker.kill_request"),
    Fault("worker_set", "if request is not None and request.number in (0, job.number):", "if request is not None:"),
    Fault("worker_set", "            if job.holder is None:\n                self._dispatch.settle(job, fate)\n            backlog.popleft()", "            backlog.popleft()"),
    Fault("worker_set", "        self._preemption.take_back(worker, number)\n", ""),
    Fault("worker_set", "self._failed_starts, self._failed_spawns = 0.0, 0", "self._failed_spawns = 0"),
    Fault("worker_set", "if self._restarts is None or on_purpose or not", "if self._restarts is None or not"),
    Fault("worker_set", "            if self._finished():\n", "            if True:\n"),
    # restarts, core
    Fault("restarts", "while self._at[0] <= now - self.period_s:", "while self._at[0] < 0:"),
    Fault("restarts", "return len(self._at) > self.max_restarts", "return len(self._at) >= self.max_restarts"),
    Fault("core", "        self.timers.done(worker, kind, now)", "        pass"),
    Fault("core", "            if worker.quota == 0:", "            if False:"),
    Fault("core", "            preemption.on_assigned(worker, now)\n", "            pass\n"),
    Fault("core", " or self.dispatch.unwritten:", ":"),
    Fault("core", "self.timers.set(self._pool, RESPAWN, self.worker_set.not_spawned(worker, error, now))", "self.worker_set.not_spawned(worker, error, now)"),
]  # fmt: skip

#: (file, what was planted): why it harms nobody.
SURVIVORS: dict[tuple[str, str], str] = {
    ("dispatch", "            else:\n                job.holder = None"): "an ended job in the backlog is dropped when it is met",
    ("dispatch", "            if full:\n                self.open.pop(worker, None)"): "the next fill finds the quota used up, and closes it",
    ("dispatch", "if not workers:"): "a shortcut: an idle worker has nothing behind its call",
    ("worker_set", ""): "nothing is given to who is not up, whatever list it stands in",
    ("preemption", "self.take_back(worker, progress.current)"): "nothing is in flight between the last call and the recall",
}


def plant(fault: Fault, root: Path) -> None:
    shutil.copytree(ROOT / "src" / "billiard", root / "billiard", ignore=shutil.ignore_patterns("__pycache__"))
    path = root / "billiard" / "_core" / f"{fault.file}.py"
    text = path.read_text()
    if text.count(fault.old) != fault.count:
        raise SystemExit(f"{fault.file}: stands there {text.count(fault.old)} times, not {fault.count}: {fault.old!r}")
    path.write_text(text.replace(fault.old, fault.new))


def noticed(fault: Fault, lives: int, seed: int) -> tuple[bool, bool, str]:
    """By the unit tests, by the simulation; and what the simulation said."""
    with tempfile.TemporaryDirectory() as name:
        plant(fault, Path(name))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((name, str(ROOT))), "PYTHONDONTWRITEBYTECODE": "1"}
        units, _ = _fails(
            ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout=10", "tests/core/test_core_rules.py"], environment, 60
        )
        simulation, said = _fails(["-m", "tests.core.simulate", "--lives", str(lives), "--seed", str(seed), "--processes", "1"], environment, 90)
    return units, simulation, said


def _fails(arguments: list[str], environment: dict[str, str], limit_s: float) -> tuple[bool, str]:
    try:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return True, "hangs"
    lines = [line for line in done.stdout.splitlines() if line.startswith("life ")]
    return done.returncode != 0, lines[-1].partition(": ")[2] if lines else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lives", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", type=int, nargs="*", help="these, by number")
    args = parser.parse_args()
    begin = time.perf_counter()
    chosen = [(index, fault) for index, fault in enumerate(FAULTS) if args.only is None or index in args.only]
    by_units = by_simulation = by_any = explained = 0
    unexplained: list[int] = []
    with ThreadPoolExecutor(args.jobs) as threads:
        for (index, fault), (units, simulation, said) in zip(
            chosen, threads.map(lambda pair: noticed(pair[1], args.lives, args.seed), chosen), strict=True
        ):
            by_units += units
            by_simulation += simulation
            by_any += units or simulation
            verdict = " ".join(("units" if units else "-----", "simulation" if simulation else "----------"))
            reason = SURVIVORS.get((fault.file, fault.new), "")
            if not (units or simulation):
                explained += bool(reason)
                if not reason:
                    unexplained.append(index)
            changed = " ".join(fault.new.split())[-70:]
            print(f"{index:3} {fault.file:9} {verdict}  ...{changed}  [{(said or reason)[:100]}]", flush=True)
    print(
        f"{len(chosen)} faults: {by_any} noticed ({by_units} by the unit tests, {by_simulation} by the simulation), "
        f"{explained} harmless and explained, {len(unexplained)} unexplained, in {time.perf_counter() - begin:.0f} s"
    )
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
