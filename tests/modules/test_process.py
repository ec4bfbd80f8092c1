"""Processes: what billiard adds to multiprocessing's, over every start method."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap

import pytest

import billiard
from billiard.process import BaseProcess

PATIENCE_S = 30


@pytest.fixture(autouse=True)
def unsettled():
    """Other tests, and ThreadPool, make multiprocessing choose its default start method. Here it matters who does."""
    settled = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(None, force=True)
    yield
    multiprocessing.set_start_method(settled, force=True)


def join(process):
    process.join(PATIENCE_S)
    assert not process.is_alive()


def leave(status=None):
    if isinstance(status, int) and status < 0:
        os.kill(os.getpid(), -status)
    sys.exit(status)


def tell_identity(conn):
    ours, theirs = billiard.current_process(), multiprocessing.current_process()
    conn.send(
        {
            "same": ours is theirs is billiard.process._current_process,
            "name": ours._name,
            "index": getattr(ours, "index", None),
            "method": billiard.get_start_method(),
            "theirs": multiprocessing.get_start_method(allow_none=True),
            "children": billiard.active_children(),
            "parent": billiard.parent_process().pid,
            "log": logging.makeLogRecord({"processName": ours.name}).processName,
        }
    )


def wait_for(conn):
    conn.recv()


def test_exit_codes(ctx):
    for status, exitcode in [(0, 0), (None, 0), (7, 7), ("text", 1), (-signal.SIGKILL, -signal.SIGKILL)]:
        process = ctx.Process(target=leave, args=(status,))
        process.start()
        join(process)
        assert process.exitcode == exitcode


def test_the_child_is_the_current_process_of_both_packages(ctx):
    reader, writer = ctx.Pipe(False)
    process = ctx.Process(target=tell_identity, args=(writer,), name="ForkPoolWorker-9")
    process.index = 3
    process.start()
    writer.close()
    told = reader.recv()
    reader.close()
    join(process)
    assert told == {
        "same": True,
        "name": "ForkPoolWorker-9",
        "index": 3,
        "method": ctx.get_start_method(),
        "theirs": None,
        "children": [],
        "parent": os.getpid(),
        "log": "ForkPoolWorker-9",
    }
    # and starting it has not settled multiprocessing's start method here
    assert multiprocessing.get_start_method(allow_none=True) is None


def test_the_default_start_method_travels():
    # in an interpreter of its own: the default is global
    script = textwrap.dedent(
        """
        import billiard
        def tell(q): q.put(billiard.get_start_method())
        if __name__ == "__main__":
            for method in billiard.get_all_start_methods():
                billiard.set_start_method(method, force=True)
                q = billiard.SimpleQueue()
                p = billiard.Process(target=tell, args=(q,)); p.start(); print(q.get() == method); p.join(); p.close()
        """
    )
    done = run_script(script)
    assert done.stdout == "True\nTrue\nTrue\n", done.stderr


def run_script(source):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "script.py")
        path.write_text(source)
        return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60)


def have_children(conn):
    grandchild = billiard.Process(target=leave, args=(5,), daemon=False)
    grandchild.start()
    grandchild.join()
    try:
        multiprocessing.Process(target=leave).start()
    except AssertionError as error:
        refused = str(error)
    conn.send((billiard.current_process().daemon, grandchild.exitcode, grandchild.name, refused))


def test_a_daemon_may_have_children(ctx):
    reader, writer = ctx.Pipe(False)
    process = ctx.Process(target=have_children, args=(writer,), daemon=True)
    process.start()
    writer.close()
    daemon, exitcode, name, refused = reader.recv()
    reader.close()
    join(process)
    assert (daemon, exitcode) == (True, 5)
    assert name == f"Process-{':'.join(map(str, process._identity))}:1"
    assert refused == "daemonic processes are not allowed to have children"


def test_extra_arguments_are_ignored_and_daemon_may_be_positional():
    process = billiard.Process(None, leave, "x", (0,), {}, True, nonsense=1)
    assert (process.daemon, process._daemonic, process.name) == (True, True, "x")


def test_attributes():
    process = billiard.Process(target=leave)
    assert isinstance(process, BaseProcess)
    assert isinstance(process, multiprocessing.Process)
    assert billiard.process.Process is BaseProcess
    assert process._config["semprefix"] == "/mp"
    assert process._authkey == process.authkey
    assert process._counter is multiprocessing.process._process_counter
    assert process._children is multiprocessing.process._children
    assert process._tempdir in (None, process._config.get("tempdir"))
    assert process._controlled_termination is False
    assert process._job_terminated is False
    assert process._parent_pid == os.getpid()
    assert not hasattr(process, "index")
    assert process._is_alive() is False


def test_termination(ctx):
    reader, writer = ctx.Pipe(False)
    processes = [ctx.Process(target=wait_for, args=(reader,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process, end in zip(processes, ["terminate", "terminate_controlled", "kill"], strict=True):
        assert process._is_alive()
        getattr(process, end)()
        join(process)
        assert not process._is_alive()
    assert [p.exitcode for p in processes] == [-signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL]
    assert [p._controlled_termination for p in processes] == [False, True, False]
    processes[0].terminate()  # gone already: nothing happens
    reader.close()
    writer.close()


def test_a_child_is_everybodys_child():
    reader, writer = billiard.Pipe(False)
    process = billiard.Process(target=wait_for, args=(reader,))
    process.start()
    assert billiard.active_children() == multiprocessing.active_children() == [process]
    writer.send(None)
    join(process)
    assert billiard.active_children() == []
    cleaned = []
    assert billiard.active_children(_cleanup=lambda: cleaned.append(1)) == []
    assert cleaned == [1]
    reader.close()
    writer.close()


def test_sentinel_and_close():
    reader, writer = billiard.Pipe(False)
    process = billiard.Process(target=wait_for, args=(reader,))
    process.start()
    assert billiard.connection.wait([process.sentinel], 0) == []
    with pytest.raises(ValueError, match="Cannot close a process while it is still running"):
        process.close()
    writer.send(None)
    assert billiard.connection.wait([process.sentinel], PATIENCE_S) == [process.sentinel]
    join(process)
    assert (process.exitcode, process._popen.wait(0.1)) == (0, 0)
    process.close()
    process.close()
    assert "closed" in repr(process)
    for use in ("start", "join", "is_alive", "_is_alive", "terminate", "terminate_controlled", "kill"):
        with pytest.raises(ValueError, match="process object is closed"):
            getattr(process, use)()
    for name in ("pid", "exitcode", "sentinel"):
        with pytest.raises(ValueError, match="process object is closed"):
            getattr(process, name)
    reader.close()
    writer.close()


def test_started_once_and_by_its_creator_only():
    process = billiard.Process(target=leave)
    process.start()
    with pytest.raises(AssertionError, match="twice"):
        process.start()
    join(process)


def multiprocessing_set_start_method(conn):
    multiprocessing.set_start_method("spawn")  # fails if something has settled it before
    conn.send(multiprocessing.get_start_method())


def test_a_child_may_choose_multiprocessings_start_method(ctx):
    reader, writer = ctx.Pipe(False)
    process = ctx.Process(target=multiprocessing_set_start_method, args=(writer,))
    process.start()
    writer.close()
    assert reader.recv() == "spawn"
    reader.close()
    join(process)


def after_fork_hooks(conn):
    conn.send((HOOKED, sys.stdin.read(), [f for f in FINALIZED if f == os.getpid()]))


HOOKED: list[int] = []
FINALIZED: list[int] = []


class Registrant:
    pass


def test_a_forked_child_runs_the_after_fork_hooks():
    registrant = Registrant()
    billiard.util.register_after_fork(registrant, lambda obj: HOOKED.append(os.getppid()))
    reader, writer = billiard.Pipe(False)
    process = billiard.get_context("fork").Process(target=after_fork_hooks, args=(writer,))
    process.start()
    assert reader.recv() == ([os.getpid()], "", [])
    join(process)
    reader.close()
    writer.close()


def test_celerys_beat_can_subclass_it(ctx):
    process = Beat() if ctx.get_start_method() == "fork" else None
    if process is None:
        assert issubclass(Beat, billiard.context.Process)
        return
    process.name = "Beat"
    process.start()
    join(process)
    assert (process.exitcode, process.name) == (3, "Beat")


class Beat(billiard.context.Process):
    def __init__(self):
        super().__init__()

    def run(self):
        billiard.common.reset_signals(full=False)
        sys.exit(3)


def test_children_end_with_the_interpreter():
    # billiard 4 left them behind
    done = run_script(
        textwrap.dedent(
            """
            import billiard, time
            p = billiard.Process(target=time.sleep, args=(600,), daemon=True)
            p.start()
            print(p.pid)
            """
        )
    )
    assert done.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_set_current_process():
    main = billiard.current_process()
    other = billiard.Process()
    try:
        billiard.process._set_current_process(other)
        assert billiard.current_process() is multiprocessing.current_process() is other
    finally:
        billiard.process._set_current_process(main)


def test_maybe_flush():
    class Broken:
        def flush(self):
            raise OSError

    for file in (sys.stderr, None, Broken()):
        assert billiard.process._maybe_flush(file) is None


def test_importing_billiard_does_not_hide_a_spawned_childs_main_module():
    # dataclass looks ClassVar up in the module that is just being run
    script = textwrap.dedent(
        """
        from __future__ import annotations
        from dataclasses import dataclass, fields
        from typing import ClassVar
        import billiard

        @dataclass
        class Point:
            count: ClassVar[int] = 0
            x: int = 1

        def tell():
            print([field.name for field in fields(Point)], flush=True)

        if __name__ == "__main__":
            tell()
            process = billiard.get_context("spawn").Process(target=tell)
            process.start()
            process.join()
        """
    )
    done = run_script(script)
    assert done.stdout == "['x']\n['x']\n", done.stderr


def test_the_fork_server_imports_for_its_children():
    # and keeps what the program asked it to import
    script = textwrap.dedent(
        """
        import os, sys
        import billiard

        def tell():
            names = list(sys.modules)
            print("json" in names, names.index("pkgutil") < names.index("billiard._stdlib.connection"), flush=True)

        if __name__ == "__main__":
            billiard.set_forkserver_preload(["json"])
            process = billiard.get_context("forkserver").Process(target=tell)
            process.start()
            process.join()
            print(billiard.forkserver._forkserver._preload_modules)
        """
    )
    done = run_script(script)
    modules = ["json", "billiard._stdlib.fork_server", "billiard._stdlib.context", "billiard._stdlib.connection"]
    assert done.stdout == f"True True\n{modules}\n", done.stderr


def test_the_fork_server_tells_of_ends_though_the_program_blocks_sigchld():
    script = textwrap.dedent(
        """
        import os, signal
        import billiard

        if __name__ == "__main__":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
            context = billiard.get_context("forkserver")
            process = context.Process(target=os._exit, args=(3,))
            process.start()
            process.join(10)
            print(process.exitcode)
            with context.Pool(1) as pool:
                try:
                    pool.apply(os._exit, (4,))
                except billiard.WorkerLostError as error:
                    print(error.exitcode)
            print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        """
    )
    done = run_script(script)
    assert done.stdout == f"3\n4\n{ {signal.SIGCHLD} }\n", done.stderr


def test_a_fresh_interpreter_is_told_the_main_file_and_how_to_log():
    # which Celery's names of tasks and its logs rely on
    script = textwrap.dedent(
        """
        import logging, os
        import billiard

        def tell():
            print(os.environ["MP_MAIN_FILE"] == __file__, logging.getLogger("multiprocessing").level, flush=True)

        if __name__ == "__main__":
            os.environ["_MP_FORK_LOGLEVEL_"] = "30"
            for method in ("spawn", "forkserver"):
                process = billiard.get_context(method).Process(target=tell)
                process.start()
                process.join()
            print("MP_MAIN_FILE" in os.environ)
        """
    )
    done = run_script(script)
    assert done.stdout == "True 30\nTrue 30\nFalse\n", done.stderr
