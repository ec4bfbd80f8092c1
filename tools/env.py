"""Make (or reuse) a virtual environment with this checkout and some of its dependency groups, then print its Python.

    python tools/env.py                 # -> .cache/venvs/py3.12/bin/python, what a user gets
    python tools/env.py test            # -> .cache/venvs/py3.12-test/bin/python
    python tools/env.py lint docs

Standard library only, since it runs before anything is installed. The groups are read from pyproject.toml here rather
than with `pip install --group`, which only pip 25.1 and later has and a fresh venv of an older Python does not.
A stamp (hash of what pyproject.toml requires and of the interpreter) makes the second run cost nothing but the hash; a
lock makes two runs at once wait for each other instead of installing into the same directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "venvs"


def requirements(groups: dict[str, list[Any]], name: str) -> list[str]:
    """The requirement strings of one dependency group, `include-group` entries resolved (PEP 735)."""
    if name not in groups:
        raise SystemExit(f"pyproject.toml has no dependency group {name!r}; it has {', '.join(groups)}")
    found: list[str] = []
    for entry in groups[name]:
        found += [entry] if isinstance(entry, str) else requirements(groups, entry["include-group"])
    return found


def stamp_of(names: list[str]) -> str:
    """What the environment depends on: if any of it changes, the environment is made anew."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tables = [project["project"], project["build-system"], project["dependency-groups"]]  # not the settings of tools
    parts = [json.dumps(tables, sort_keys=True), sys.version, sys.base_prefix, str(ROOT), *names]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def build(home: Path, names: list[str]) -> None:
    """Make the environment from nothing: venv, the checkout (editable), the groups."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [requirement for name in names for requirement in requirements(project["dependency-groups"], name)]
    print(f"setting up {home.relative_to(ROOT)} (Python {sys.version.split()[0]}) ...", file=sys.stderr, flush=True)
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True, symlinks=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input", "-q", "install"]
    # stdout is for the answer alone, so pip's goes to stderr
    done = subprocess.run([*pip, "-e", str(ROOT), *wanted], stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
    if done.returncode:
        raise SystemExit(f"pip could not fill {home.relative_to(ROOT)}; its message is above")


def main(names: list[str]) -> None:
    major, minor = sys.version_info[:2]
    home = CACHE / "-".join([f"py{major}.{minor}", *names])
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = home / "stamp"
        if not stamp.exists() or stamp.read_text() != stamp_of(names):
            build(home, names)
            stamp.write_text(stamp_of(names))
    print(home / "bin" / "python")


if __name__ == "__main__":
    main(sys.argv[1:])
