"""The interpreters the libraries run in.

Our billiard and billiard 4.3.2 share an import name, so they can never share an environment; the other peers
live in a third. Each is made once, in a cache directory that git ignores, with the newest releases of the day;
the versions found in it are written into every result.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
CHECKOUT = BENCHMARKS.parent

#: environment -> what pip installs into it. `deadpool` on PyPI is another project: the pool is `deadpool-executor`.
REQUIREMENTS = {
    "ours": ["cloudpickle", "numpy"],
    "billiard4": ["billiard==4.3.2", "numpy"],
    "peers": ["pebble", "loky", "mpire", "deadpool-executor", "numpy"],
    "plots": ["matplotlib", "numpy"],
}
#: environment -> the distributions whose versions are worth keeping
REPORTED = {
    "ours": ["cloudpickle", "numpy"],
    "billiard4": ["billiard"],
    "peers": ["pebble", "loky", "mpire", "deadpool-executor"],
    "plots": ["matplotlib"],
}


def cache_dir() -> Path:
    return Path(os.environ.get("BILLIARD_BENCH_CACHE", CHECKOUT / ".cache" / "bench"))


def python_of(env: str, *, fresh: bool = False) -> Path:
    """The interpreter of `env`, made on first use. The stamp is written last: a half-made environment is made again."""
    home = cache_dir() / f"{env}-{sys.version_info.major}.{sys.version_info.minor}"
    python, stamp = home / "bin" / "python", home / "installed.json"
    if not fresh and stamp.exists() and json.loads(stamp.read_text()) == REQUIREMENTS[env]:
        return python
    print(f"making the environment {env!r} ({', '.join(REQUIREMENTS[env])})", file=sys.stderr, flush=True)
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", *REQUIREMENTS[env]], check=True, timeout=600)
    stamp.write_text(json.dumps(REQUIREMENTS[env]))
    return python


def source() -> Path:
    """Where ours is imported from: the checkout, or what $BILLIARD_BENCH_COMMIT had under src/.

    A commit is measured while the checkout is being edited, and two commits can be compared, each by a run of its own.
    """
    commit = os.environ.get("BILLIARD_BENCH_COMMIT")
    if not commit:
        return CHECKOUT / "src"
    home = cache_dir() / "commits" / commit
    if not (home / "src").exists():
        part = home.with_name(f"{commit}.part-{os.getpid()}")
        part.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", commit, "src"], cwd=CHECKOUT, check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", part], input=archive.stdout, check=True)
        part.rename(home)
    return home / "src"


def variables_of(env: str) -> dict[str, str]:
    """Environment variables for a child of `env`: ours comes from the checkout, and only there."""
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS")}
    path = [str(BENCHMARKS)]
    if env == "ours":
        path.insert(0, str(source()))
    variables["PYTHONPATH"] = os.pathsep.join(path)
    variables["PYTHONDONTWRITEBYTECODE"] = ""  # byte code must be cached, or start-up figures measure the compiler
    return variables


def versions_in(env: str) -> dict[str, str]:
    code = "import sys, json, importlib.metadata as m; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    command = [python_of(env), "-c", code, *REPORTED[env]]
    return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)


def machine() -> dict[str, object]:
    """What a reader needs to judge the figures; no host name and no path."""
    cpu = next((line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory_kb = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": cpu or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_kb / 1e6, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "wmem_max": int((_lines("/proc/sys/net/core/wmem_max") or ["0"])[0]),
        "wmem_default": int((_lines("/proc/sys/net/core/wmem_default") or ["0"])[0]),
        "load_1min": round(os.getloadavg()[0], 2),
        "commit": _commit(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _commit() -> str:
    if named := os.environ.get("BILLIARD_BENCH_COMMIT"):
        return named
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=CHECKOUT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
