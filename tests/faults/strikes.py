"""An exception at every point of a pool's life at which a signal handler could raise one.

    python -m tests.faults.strikes                     every place of every scene
    python -m tests.faults.strikes --every-pass        ... each time that it is passed (long)
    python -m tests.faults.strikes --seconds 60 --seed 7
    python -m tests.faults.strikes --only "a turn" --at 412

A scene is a few lines of use of a pool, run again and again: the first time it is struck at its first point, then at a later
one, and so on until it ends before the point is reached. Places that were passed but not struck so (which of them a run passes
depends on what the workers have sent by then) are then aimed at one by one. After each strike every accepted call must end
as it should, and the pool must come to rest with all its workers idle, nothing unwritten, undone or watched in vain.

A scene's result counts only for what was struck: the last lines tell which places were passed and never struck.
"""

from __future__ import annotations

import argparse
import contextlib
import dis
import gc
import logging
import os
import random
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import fault_tasks as t

import billiard
from billiard import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from billiard.exceptions import RestartFreqExceeded, Terminated
from billiard.pool import Pool

#: What runs under the lock, or tends it. Not what runs in the caller before the engine hears of a call, and after it is done.
OURS = (
    "/billiard/_supervisor/", "/billiard/_core/", "/billiard/_wire/channel.py", "/billiard/_wire/scoreboard.py",
    "/billiard/_api/results.py", "/billiard/_api/map_results.py", "/billiard/_api/imap.py", "/billiard/_api/imap_input.py",
    "/billiard/_api/pool.py",
)  # fmt: skip
RESOLVED_S = 4.0  # a call that is not told its end until then hangs
HUNG_S = 15.0
_CALLS = frozenset(("RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX"))


class StruckError(Exception):
    """What a signal handler of the user's raises."""


class Point:
    """A place in our code at which a signal handler may raise."""

    def __init__(self, code: CodeType, offset: int) -> None:
        line = next((line for start, stop, line in code.co_lines() if start <= offset < stop), 0)
        self.name = code.co_qualname
        self.where = f"{code.co_filename.rpartition('/billiard/')[2]}:{line} {code.co_qualname}+{offset}"

    def __str__(self) -> str:
        return self.where


def points(code: CodeType) -> dict[int, Point]:
    """By offset, where an exception is what a handler's would be: behind calls, at a function's start, at a loop's turn.

    Between any other two instructions no handler runs, so an exception there proves nothing (and would skip a lock's
    release that no signal can skip). What a handler raises behind a call counts as raised by the call; where the next
    instruction has another handler (``return call()`` in a `try`) it would be raised in the wrong place, beyond the
    `finally`: such places are left out. They are behind calls of our own functions, whose own ends are struck.
    """
    known = _points.get(id(code))
    if known is None:
        found = {} if code.co_name == "__del__" else _find(code)  # what is raised in a finalizer stays there
        known = _points[id(code)] = found, code
    return known[0]


_points: dict[int, tuple[dict[int, Point], CodeType]] = {}  # by id: a code's hash is dear


def _find(code: CodeType) -> dict[int, Point]:
    found: dict[int, Point] = {}
    if not any(part in code.co_filename for part in OURS):
        return found
    handlers, before = dis.Bytecode(code).exception_entries, None
    for instruction in dis.get_instructions(code):
        at = instruction.offset
        called = before is not None and before.opname in _CALLS
        if (called and _handler(handlers, before.offset) == _handler(handlers, at)) or instruction.opname == "JUMP_BACKWARD":
            found[at] = Point(code, at)
        before = instruction
    return found


def _handler(entries: list[Any], offset: int) -> int | None:
    return next((entry.target for entry in entries if entry.start <= offset < entry.end), None)


class Strike:
    """Raises at the `ordinal`-th point that this thread passes, or at the first pass of `target`; `passed` are all of them."""

    def __init__(self, ordinal: int = -1, target: Point | None = None, within: str = "") -> None:
        """`within`: no others than in code whose name contains this."""
        self.left = ordinal
        self.within = within
        self.target = target
        self.struck: Point | None = None
        self.passed: set[Point] = set()
        self.ident = os.getpid(), threading.get_ident()

    def __enter__(self) -> Strike:
        _injector.begin(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        _injector.end()

    def meet(self, point: Point, caller: FrameType | None) -> None:
        """`point` is passed, in a function called by `caller`."""
        if self.struck is not None or self.ident != (os.getpid(), threading.get_ident()):
            return
        if self.within not in point.name or (caller is not None and caller.f_code.co_name == "__del__"):
            return
        self.passed.add(point)
        self.left -= 1
        if self.left == -1 or point is self.target:
            self.struck = point
            raise StruckError


class _Tracing:
    """Python 3.11."""

    def begin(self, strike: Strike) -> None:
        self.strike = strike
        sys.settrace(self._on_call)

    def end(self) -> None:
        sys.settrace(None)

    def close(self) -> None:
        sys.settrace(None)

    def _on_call(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not points(frame.f_code):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._on_opcode

    def _on_opcode(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode":
            point = points(frame.f_code).get(frame.f_lasti)
            if point is not None:
                self.strike.meet(point, frame.f_back)
        return self._on_opcode


class _Monitoring:
    """Python 3.12 and later, where tracing of instructions begins only with the second call of a function."""

    _TOOL = 4

    def __init__(self) -> None:
        self.strike: Strike | None = None
        self._codes: list[CodeType] = []

    def begin(self, strike: Strike) -> None:
        if not self._codes:
            self._prepare()
        self.strike = strike

    def end(self) -> None:
        self.strike = None

    def _prepare(self) -> None:
        monitoring = sys.monitoring
        monitoring.use_tool_id(self._TOOL, "strikes")
        monitoring.register_callback(self._TOOL, monitoring.events.INSTRUCTION, self._on_instruction)
        functions = [found for found in gc.get_objects() if isinstance(found, FunctionType)]
        codes = [function.__code__ for function in functions]
        for code in codes:
            if points(code) or any(part in code.co_filename for part in OURS):
                monitoring.set_local_events(self._TOOL, code, monitoring.events.INSTRUCTION)
                self._codes.append(code)
                codes += [const for const in code.co_consts if isinstance(const, CodeType)]

    def close(self) -> None:
        """The code runs at its full speed again."""
        for code in self._codes:
            sys.monitoring.set_local_events(self._TOOL, code, 0)
        if self._codes:
            sys.monitoring.free_tool_id(self._TOOL)
        self._codes = []

    def _on_instruction(self, code: CodeType, offset: int) -> Any:
        point = points(code).get(offset)
        if point is None:
            return sys.monitoring.DISABLE
        if self.strike is not None:
            self.strike.meet(point, sys._getframe(1).f_back)
        return None


_injector: Any = _Monitoring() if hasattr(sys, "monitoring") else _Tracing()
os.register_at_fork(after_in_child=_injector.close)  # what a child does is not what is tried


class Expected(NamedTuple):
    handle: Any
    endings: tuple[Any, ...]


class Calls(list[Expected]):
    """The calls that a scene has made and got a handle for."""

    def add(self, handle: Any, *endings: Any) -> None:
        self.append(Expected(handle, endings))

    def wait(self) -> None:
        for handle, _ in self:
            handle.wait(RESOLVED_S)


class Scene(NamedTuple):
    """`act` is struck, between `before` and `after`. `fresh`: it uses its pool up. `stride`: so many points from one strike
    to the next. `within`: see Strike."""

    name: str
    act: Callable[[Any, int, Calls], None]
    options: dict[str, Any] = {}
    before: Callable[[Any, Calls], None] | None = None
    after: Callable[[Any, Calls], None] | None = None
    fresh: bool = False
    stride: int = 5
    within: str = ""


def _a_turn(pool: Any, n: int, calls: Calls) -> None:
    """Results arrive, workers die, are recycled and replaced."""
    for i in range(5):
        calls.add(pool.apply_async(t.add, (n, i)), n + i)
    if n % 3 == 0:
        calls.add(pool.apply_async(t.strike, ("os._exit",)), WorkerLostError)
    calls.wait()


def _limits(pool: Any, n: int, calls: Calls) -> None:
    """A call overruns, softly or hard, among others."""
    soft = {"soft_timeout": 0.005} if n % 2 else {"timeout": 0.005}
    calls.add(pool.apply_async(t.nap, (30,), **soft), SoftTimeLimitExceeded if n % 2 else TimeLimitExceeded)
    for i in range(3):
        calls.add(pool.apply_async(t.add, (n, i), timeout=20), n + i)
    calls.wait()


def _recalls(pool: Any, n: int, calls: Calls) -> None:
    """Calls wait behind one that proves slow, and are taken back."""
    for i in range(60):
        calls.add(pool.apply_async(t.nap, (0.02 if i == 30 else 0, i)), i)
    calls.wait()


def _large(pool: Any, n: int, calls: Calls) -> None:
    """Arguments and results larger than any buffer."""
    block = bytes([n % 256]) * (1 << 20)
    for _ in range(2):
        calls.add(pool.apply_async(t.echo, (bytearray(block),)), block)
    calls.wait()


def _maps(pool: Any, n: int, calls: Calls) -> None:
    """Maps of a function that travels by value, with a callback."""
    told: list[Any] = []
    accepted = {"accept_callback": lambda pid, when: told.append(pid)}
    calls.add(pool.apply_async(t.add, (n, 1), **accepted), n + 1)
    calls.add(pool.map_async(lambda x: x + n, range(12), 3, callback=told.append), [n + i for i in range(12)])
    calls.add(pool.starmap_async(t.add, [(i, n) for i in range(6)], 1), [n + i for i in range(6)])
    calls.wait()
    list(pool.imap_unordered(t.add, range(6)))


def _imap(pool: Any, n: int, calls: Calls) -> None:
    """A caller who goes on after the strike gets every item, once and in order."""
    assert _all_of(pool.imap(t.add, range(30), 1 + n % 3)) == list(range(30))


def _imap_unordered(pool: Any, n: int, calls: Calls) -> None:
    """A caller who goes on after the strike gets every item, once."""
    assert sorted(_all_of(pool.imap_unordered(lambda x: x, range(30), 1 + n % 3))) == list(range(30))


def _all_of(results: Any) -> list[Any]:
    got = []
    while True:
        try:
            got.append(results.next(RESOLVED_S))
        except StruckError:
            continue
        except StopIteration:
            return got


def _orders(pool: Any, n: int, calls: Calls) -> None:
    """A call is terminated, the pool grows and shrinks."""
    (running, _), = calls
    if n % 2:
        pool.grow(1)
        pool.shrink(1)
    else:
        running.terminate(signal.SIGKILL)
        calls.wait()


def _all_lost(pool: Any, n: int, calls: Calls) -> None:
    """The template dies, and its workers with it."""
    for i in range(4):
        calls.add(pool.apply_async(t.nap, (0.01, i)), i, WorkerLostError)
    os.kill(pool._engine.processes.launcher._pids[-1], signal.SIGKILL)
    calls.wait()
    calls.add(pool.apply_async(t.add, (n, n)), 2 * n, WorkerLostError)
    calls.wait()


def _a_death(pool: Any, n: int, calls: Calls) -> None:
    calls.add(pool.apply_async(t.strike, ("os._exit",)), WorkerLostError)
    calls.wait()
    while any(worker.pid is None for worker in list(pool._engine.core.worker_set.workers.values())):
        pool.turn(0.05)


def _a_long_call(pool: Any, calls: Calls) -> None:
    calls.add(pool.apply_async(t.nap, (30,)), Terminated)
    while not calls[0].handle._running():
        pool.turn(0.05)


def _as_it_was(pool: Any, calls: Calls) -> None:
    """What raised in the caller's face is the caller's to repeat."""
    calls[0].handle.terminate(signal.SIGKILL)
    size = pool._processes
    if size != 2:
        pool.shrink(size - 2)


def _others_wait(pool: Any, calls: Calls) -> None:
    """System calls keep the GIL from now on."""
    pool._engine.poll_set.waiting_callers["somebody"] = threading.Lock()


def _nobody_waits(pool: Any, calls: Calls) -> None:
    pool._engine.poll_set.waiting_callers.clear()


def _closing(pool: Any, n: int, calls: Calls) -> None:
    for i in range(3):
        calls.add(pool.apply_async(t.add, (n, i)), n + i)
    pool.close()
    pool.join()


def _terminating(pool: Any, n: int, calls: Calls) -> None:
    calls.add(pool.apply_async(t.nap, (30,)), WorkerLostError)
    calls.add(pool.apply_async(t.add, (n, n)), 2 * n, WorkerLostError)
    pool.terminate()
    pool.join()


def _breaking(pool: Any, n: int, calls: Calls) -> None:
    """Workers die more often than they may, and those that live have to go too."""
    calls.add(pool.apply_async(t.nap, (30,)), RestartFreqExceeded)
    for _ in range(3):
        calls.add(pool.apply_async(t.strike, ("os._exit",)), WorkerLostError, RestartFreqExceeded)
    calls.wait()
    pool.join()


SCENES = (
    Scene("a turn", _a_turn, {"maxtasksperchild": 7}, stride=2),
    Scene("a turn, while others wait", _a_turn, {"maxtasksperchild": 7}, before=_others_wait, after=_nobody_waits),
    Scene("limits", _limits),
    Scene("recalls", _recalls, stride=40),
    Scene("large", _large),
    Scene("large, while others wait", _large, before=_others_wait, after=_nobody_waits),
    Scene("maps", _maps, stride=9),
    Scene("imap", _imap),
    Scene("imap_unordered", _imap_unordered),
    Scene("orders", _orders, before=_a_long_call, after=_as_it_was),
    Scene("the template's death", _all_lost, stride=9),
    Scene("closing", _closing, fresh=True, stride=9),
    Scene("terminating", _terminating, fresh=True),
    Scene("closing, while others wait", _closing, before=_others_wait, after=_nobody_waits, fresh=True, stride=9),
    Scene("breaking", _breaking, {"max_restarts": 1, "max_restart_freq": 60}, fresh=True),
    Scene("a turn, with a supervisor", _a_turn, {"maxtasksperchild": 7, "threads": True}),
    Scene("limits, with a supervisor", _limits, {"threads": True}),
    Scene("maps, with a supervisor", _maps, {"threads": True}, stride=9),
    Scene("imap, with a supervisor", _imap, {"threads": True}, stride=9),
    Scene("imap_unordered, with a supervisor", _imap_unordered, {"threads": True}, stride=9),
    Scene("closing, with a supervisor", _closing, {"threads": True}, fresh=True),
    Scene("terminating, with a supervisor", _terminating, {"threads": True}, fresh=True),
    Scene("a death, with forkserver", _a_death, {"context": "forkserver"}, within="ContextLauncher"),
    Scene("a death, with spawn", _a_death, {"context": "spawn"}, within="ContextLauncher", stride=9),
)  # fmt: skip


def ending(handle: Any) -> Any:
    """How a call ended: its value, or the class of its error."""
    try:
        return handle.get(RESOLVED_S)
    except Exception as exc:
        return type(exc)


def restless(pool: Any) -> str:
    """What an idle pool still has to do, or does not see any more; empty when it is at rest."""
    engine = pool._engine
    if not engine._lock.acquire(timeout=RESOLVED_S):  # its own thread must not turn meanwhile
        return "the engine's lock is taken, by nobody"
    try:
        return _undone(engine)
    finally:
        engine._lock.release()


def _undone(engine: Any) -> str:
    core, by_fd = engine.core, engine.poll_set.by_fd
    workers = list(core.worker_set.workers.values())
    channels = {worker.link.channel.fd for worker in workers if worker.link is not None}
    wrong = {
        "unfinished": engine._unfinished,
        "backlog": list(core.dispatch.backlog),
        "unwritten": list(core.dispatch.unwritten),
        "settled": list(core.dispatch.settled),
        "orders": [*core.outbox.orders, *core.outbox.signals],
        "exits": list(engine.processes.exits),
        "not idle": [worker for worker in workers if worker not in core.dispatch.idle],
        "too few": len(workers) != core.worker_set.size and workers,
        "recalled": [worker for worker in workers if worker.recalled],
        "channels not polled": channels - set(by_fd),
        "polled in vain": {fd for fd, worker in by_fd.items() if worker is not None} - channels,
        "not in the poll set": [fd for fd in by_fd if not _is_polled(engine, fd)],
        "a leader": engine.driver._leader.locked(),
        "callers waiting": list(engine.driver._waiting),
    }
    return ", ".join(f"{name}: {value}" for name, value in wrong.items() if value)


def _is_polled(engine: Any, fd: int) -> bool:
    try:
        engine.poll_set._poll.modify(fd, select.EPOLLIN)
    except FileNotFoundError:
        return False
    return True


def come_to_rest(pool: Any) -> None:
    """The pool works, with all the workers that it should have, and has nothing left to do."""
    assert pool.apply_async(t.add, (1, 2)).get(RESOLVED_S) == 3
    deadline = time.monotonic() + RESOLVED_S
    while left := restless(pool):
        assert time.monotonic() < deadline, f"no rest: {left}"
        if pool.threads:
            time.sleep(0.001)  # its own thread has to do it
        else:
            pool.turn(0.01)


def come_to_an_end(pool: Any) -> None:
    """Asked again, it ends."""
    pool.terminate()
    pool.join()
    assert pool._engine.closed


def play(scene: Scene, pool: Any, strike: Strike, n: int) -> None:
    """Let the scene be struck, then judge. Raises AssertionError."""
    calls = Calls()
    if scene.before is not None:
        scene.before(pool, calls)
    with strike, contextlib.suppress(StruckError):
        scene.act(pool, n, calls)
    if scene.after is not None:
        scene.after(pool, calls)
    for handle, endings in calls:
        if scene.fresh and strike.struck is not None and not handle.ready():
            continue  # it is judged by whether the pool ends
        ended = ending(handle)
        assert ended in endings, f"{handle} ended with {ended!r}, not with one of {endings}"
    if scene.fresh:
        come_to_an_end(pool)
        assert all(handle.ready() for handle, _ in calls), "a call has no end"
    else:
        come_to_rest(pool)


class Stage:
    """Plays one scene again and again, with a new pool when the old one is spoilt or used up."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.stride = scene.stride
        self.pool: Any = None
        self.n = 0
        self.struck: set[Point] = set()
        self.passed: set[Point] = set()

    def play(self, strike: Strike) -> bool:
        """Whether it was struck."""
        if self.pool is None:
            options = {"threads": False, **self.scene.options}
            if "context" in options:
                options["context"] = billiard.get_context(options["context"])
            self.pool = Pool(2, **options)
            if not self.scene.fresh:
                come_to_rest(self.pool)
        pool, self.n = self.pool, self.n + 1
        try:
            play(self.scene, pool, strike, self.n)
        except BaseException as exc:
            if strike.struck is not None:
                exc.add_note(f"struck at {strike.struck}")
            self.pool = None  # spoilt
            raise
        finally:
            self.passed |= strike.passed
            if strike.struck is not None:
                self.struck.add(strike.struck)
        if self.scene.fresh:
            self.pool = None
        return strike.struck is not None

    def close(self) -> None:
        _injector.close()
        if self.pool is not None:
            pool, self.pool = self.pool, None
            come_to_an_end(pool)

    def strikes(self) -> Iterator[Strike]:
        """All strikes of a full run."""
        ordinal = 0
        while True:
            strike = Strike(ordinal, within=self.scene.within)
            yield strike
            if strike.struck is None:
                break
            ordinal += self.stride
        for _ in range(3):  # not every place is passed every time
            for point in sorted(self.passed - self.struck, key=str):
                yield Strike(target=point, within=self.scene.within)

    def sample(self, random_: random.Random, seconds: float) -> Iterator[Strike]:
        """Random strikes for so long."""
        reach, end = 40, time.monotonic() + seconds
        while time.monotonic() < end:
            strike = Strike(random_.randrange(reach), within=self.scene.within)
            yield strike
            # half of the strikes are to hit: what comes late is as likely to be hit as what comes early
            reach = reach * 2 if strike.struck is not None else max(reach * 3 // 4, 4)


def sample(scene: Scene, seed: int, seconds: float) -> int:
    """Strike a scene at random points; how many struck."""
    stage, count = Stage(scene), 0
    try:
        for strike in stage.sample(random.Random(seed), seconds):
            count += stage.play(strike)
    finally:
        stage.close()
    return count


class _HungError(BaseException):
    """A loop that does not end."""


def _hung(signum: int, frame: Any) -> None:
    raise _HungError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="scenes whose name contains this")
    parser.add_argument("--at", type=int, default=None, help="this point only")
    parser.add_argument("--every-pass", action="store_true", help="do not leave out points of places that are struck anyway")
    parser.add_argument("--seconds", type=float, default=None, help="strike at random, for so long in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--traceback", action="store_true")
    options = parser.parse_args(argv)
    logging.getLogger("multiprocessing").setLevel(logging.CRITICAL)  # a strike in a callback is logged, as it should be
    signal.signal(signal.SIGALRM, _hung)
    failures = 0
    struck: set[Point] = set()
    passed: set[Point] = set()
    scenes = [scene for scene in SCENES if options.only in scene.name]
    start = time.monotonic()
    for scene in scenes:
        stage, count, began = Stage(scene), 0, time.monotonic()
        strikes: Any = stage.strikes()
        if options.at is not None:
            strikes = [Strike(options.at, within=scene.within)]
        elif options.seconds is not None:
            strikes = stage.sample(random.Random(options.seed), options.seconds / len(scenes))
        elif options.every_pass:
            stage.stride = 1
        for strike in strikes:
            signal.setitimer(signal.ITIMER_REAL, HUNG_S)
            try:
                count += stage.play(strike)
            except (_HungError, Exception) as exc:
                count, failures = count + 1, failures + 1
                print(f"FAIL {scene.name}: {type(exc).__name__}: {exc}; {'; '.join(getattr(exc, '__notes__', ()))}", flush=True)
                if options.traceback:
                    traceback.print_exc()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        stage.close()
        struck |= stage.struck
        passed |= stage.passed
        seconds = time.monotonic() - began
        print(f"{scene.name}: {count} strikes, at {len(stage.struck)} places, {seconds:.0f} s", flush=True)
    for place in sorted(passed - struck, key=str):
        print(f"passed, but never struck: {place}")
    print(f"{len(struck)} places of {len(passed)} struck, {failures} failed, {time.monotonic() - start:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
