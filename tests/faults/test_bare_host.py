"""Hosts that lack what multiprocessing takes for granted: no /dev/shm, a read-only /tmp, no place to write at all.

Really: in a mount namespace of its own, so nothing outside sees it. The program inside first shows that the host is as bare
as it is said to be, then lives a pool's life: calls, a death, a limit, recycling, large arguments.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import billiard

METHODS = ("fork", "forkserver", "spawn")
NO_NAMESPACE = 77  # exit status of the script when it could not set the stage

# The devices a Python needs, in a /dev of their own; whatever else is there (shm, mqueue) is not.
NO_DEV_SHM = """
mount -t tmpfs -o mode=755 none "$stage"
for name in null zero full random urandom tty; do
    if [ -e /dev/$name ]; then : > "$stage/$name"; mount --bind /dev/$name "$stage/$name"; fi
done
mount --rbind "$stage" /dev
"""
READ_ONLY = """
mount --rbind {path} {path}
mount -o remount,bind,ro {path}
"""
STAGES = {
    "no /dev/shm": NO_DEV_SHM,
    "read-only /tmp": READ_ONLY.format(path="/tmp"),
    "both": NO_DEV_SHM + READ_ONLY.format(path="/tmp"),
    # the working directory, /var/tmp and the checkout are read-only too; a tmpfs beneath / of its own stays
    "nothing writable": NO_DEV_SHM + "mount -o remount,bind,ro /\n" + READ_ONLY.format(path="/tmp"),
}

PROGRAM = """
import os, sys, errno, tempfile
import fault_tasks as t
import billiard
from billiard import Pool

def refused(path):
    try:
        open(path, "w").close()
    except OSError as exc:
        return exc.errno in (errno.EROFS, errno.ENOENT)
    os.unlink(path)
    return False

def main():
    stage, method = sys.argv[1:]
    if stage != "read-only /tmp":
        assert not os.path.exists("/dev/shm"), os.listdir("/dev")
    if stage != "no /dev/shm":
        assert refused("/tmp/billiard-was-here")
    if stage == "nothing writable":
        for path in tempfile._candidate_tempdir_list():
            assert refused(os.path.join(path, "billiard-was-here")), path
    if method == "threads=False":
        pool = Pool(2, threads=False, maxtasksperchild=20)
    else:
        pool = Pool(2, context=billiard.get_context(method), maxtasksperchild=20)
    with pool:
        assert pool.map(abs, range(-30, 0), 1) == list(range(30, 0, -1))
        assert len(pool.apply(t.echo, (bytes(5_000_000),))) == 5_000_000
        t.say_what_two_calls_end_in(pool)
        print(sum(pool.imap_unordered(t.echo, range(100))))

if __name__ == "__main__":
    main()
"""


def on_bare_host(tmp_path, stage, program, *args, within_s=60):
    """Run a program where `stage` holds; skips where no such place can be made."""
    (tmp_path / "stage").mkdir()
    script = tmp_path / "program.py"
    script.write_text(program)
    # a shell of its own: in a list with || no -e would hold
    (tmp_path / "stage.sh").write_text(STAGES[stage])
    shell = f'stage=$1 sh -e "$2" || exit {NO_NAMESPACE}\nshift 2\nexec "$@"\n'
    root = [] if os.geteuid() == 0 else ["--map-root-user"]
    path = os.pathsep.join([str(Path(billiard.__file__).parents[1]), str(Path(__file__).parent)])
    env = {name: value for name, value in os.environ.items() if name not in ("TMPDIR", "TEMP", "TMP")}
    try:
        done = subprocess.run(
            ["unshare", *root, "--mount", "--propagation", "private", "sh", "-c", shell, "sh", str(tmp_path / "stage"),
             str(tmp_path / "stage.sh"), sys.executable, "-B", str(script), *args],
            capture_output=True, text=True, timeout=within_s, check=False, cwd=tmp_path, env={**env, "PYTHONPATH": path},
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("needs unshare (util-linux) to make a mount namespace")
    if done.returncode == NO_NAMESPACE or done.stderr.startswith("unshare:"):
        pytest.skip(f"no mount namespace may be made here: {done.stderr.strip()}")
    return done


@pytest.mark.parametrize("method", [*METHODS, "threads=False"])
@pytest.mark.parametrize("stage", ["no /dev/shm", "read-only /tmp", "both"])
def test_a_pools_life(tmp_path, stage, method):
    done = on_bare_host(tmp_path, stage, PROGRAM, stage, method)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["lost", "limited", "4950"]
    assert not done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn", "threads=False"])
def test_where_nothing_can_be_written(tmp_path, method):
    done = on_bare_host(tmp_path, "nothing writable", PROGRAM, "nothing writable", method)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["lost", "limited", "4950"]


def test_a_fork_server_needs_a_place_for_its_socket(tmp_path):
    """The standard library's, with a name in a temporary directory: without one it is an error soon, not a hang."""
    done = on_bare_host(tmp_path, "nothing writable", PROGRAM, "nothing writable", "forkserver")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "No usable temporary directory" in done.stderr
    assert not done.stdout
