"""Systems that have less than Linux: no epoll, eventfd, memfd, pidfd, affinity, large pipes. A pool's life on what is left.

They are played: what they lack is taken out of the modules before anything else is imported, in the program and in each process
that it spawns. That shows that every way around is taken and works; not how such a system behaves.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import billiard

TAKE_AWAY = """
import fcntl, os, select

lacking = {
    select: ["epoll"],
    os: ["eventfd", "memfd_create", "pidfd_open", "sched_getaffinity", "sched_setaffinity"],
    fcntl: ["F_ADD_SEALS", "F_SETPIPE_SZ"],
}
for module, names in lacking.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
import socket
if hasattr(socket, "MSG_CMSG_CLOEXEC"):
    del socket.MSG_CMSG_CLOEXEC
"""

PROGRAM = """
import os, select, sys, threading
import fault_tasks as t
import billiard
from billiard import Pool

def main():
    method, threads = sys.argv[1], sys.argv[2] == "threads"
    assert not hasattr(select, "epoll") and not hasattr(os, "pidfd_open")
    with Pool(2, context=billiard.get_context(method), maxtasksperchild=20, threads=threads) as pool:
        assert pool.map(abs, range(-30, 0), 1) == list(range(30, 0, -1))
        assert len(pool.apply(t.echo, (bytes(5_000_000),))) == 5_000_000
        t.say_what_two_calls_end_in(pool)
        told, asked = [], []
        results = [pool.apply_async(t.echo, (i,), callback=told.append) for i in range(1_000)]
        if threads:
            callers = [threading.Thread(target=lambda: asked.append(pool.apply(t.echo, (1,)))) for _ in range(8)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join(20)
            assert asked == [1] * 8
        print(sum(result.get(20) for result in results))
        try:
            pool.fileno()
        except NotImplementedError as exc:
            print("epoll" in str(exc))
        pool.close()
        pool.join()
        assert sorted(told) == list(range(1_000))

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("threads", ["threads", "no threads"])
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_pools_life(tmp_path, method, threads):
    (tmp_path / "sitecustomize.py").write_text(TAKE_AWAY)
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    path = os.pathsep.join(map(str, [tmp_path, Path(billiard.__file__).parents[1], Path(__file__).parent]))
    done = subprocess.run(
        [sys.executable, str(script), method, threads],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["lost", "limited", "499500", "True"]
