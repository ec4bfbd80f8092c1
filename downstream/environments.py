"""Virtual environments and test trees, made once and kept in the cache.

This module may create and fill directories below the cache and call pip; it may not decide what a suite means.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
REAL = "billiard==4.3.2"
CELERY = "celery==5.7.0"
SETTINGS = ("pyproject.toml", "setup.cfg")  # where these projects keep pytest's, e.g. python_classes = test_*
# What the suites import beyond Celery and pytest. gevent: without it one concurrency test fails on 4.3.2 as well.
REQUIREMENTS = [
    CELERY, REAL, "kombu==5.7.0", "cloudpickle>=3.0", "pytest>=9,<10", "pytest-subtests", "pytest-timeout",
    "pytest-click", "pytest-order", "pytest-rerunfailures", "freezegun", "gevent", "redis", "moto", "boto3", "pydantic",
    "msgpack", "PyYAML", "psutil", "setproctitle", "setuptools<81",
]  # fmt: skip


class SetUpError(RuntimeError):
    """The judge could not be set up; says nothing about the judged."""


def run_checked(command: list[str], limit_s: float, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, cwd=cwd, check=False)
    except subprocess.TimeoutExpired as exc:
        raise SetUpError(f"no answer within {limit_s:.0f} s: {' '.join(command)}") from exc
    if done.returncode:
        output = done.stdout[-2000:] + done.stderr[-4000:]
        raise SetUpError(f"exit status {done.returncode}: {' '.join(command)}\n{output}")
    return done.stdout


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Two runs at once share the cache: one builds, the other waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Environment:
    """A virtual environment with Celery, the test requirements, and one of the two billiards."""

    python: Path
    real: bool
    version: str  # of the interpreter, "3.11"

    def check(self) -> str:
        """The path `import billiard` answers to; SetUpError unless it is the one asked for, inside the environment."""
        code = "import billiard, json; print(json.dumps([billiard.__file__, str(billiard.__version__)]))"
        # Away from the checkout, so that no `src/` or `billiard/` beside us can answer.
        file, version = json.loads(run_checked([str(self.python), "-P", "-c", code], 60, cwd=Path("/")))
        inside = Path(file).resolve().is_relative_to(self.python.parent.parent.resolve())
        if not inside or version.startswith("4.3.2") is not self.real:
            raise SetUpError(f"asked for {'the real' if self.real else 'our'} billiard, got {version} from {file}")
        return f"billiard {version} ({file})"


def interpreter_version(python: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return run_checked([python, "-c", code], 30).strip()


def make_environment(cache: Path, python: str, real: bool, source: Path = CHECKOUT) -> Environment:
    version = interpreter_version(python)
    stamp = hashlib.sha256("\n".join(REQUIREMENTS).encode()).hexdigest()[:10]
    place = cache / f"venv-{version}-{'real' if real else 'base'}-{stamp}"
    inside = place / "bin" / "python"
    with locked(place.with_suffix(".lock")):
        if not (place / "complete").exists():
            print(f"making {place}", file=sys.stderr, flush=True)
            shutil.rmtree(place, ignore_errors=True)
            run_checked([python, "-m", "venv", str(place)], 120)
            run_checked([str(inside), "-m", "pip", "install", "-q", *REQUIREMENTS], 900)
            if not real:
                run_checked([str(inside), "-m", "pip", "uninstall", "-q", "-y", "billiard"], 120)
            (place / "complete").touch()
    return Environment(inside if real else overlay(cache, inside, version, source), real, version)


def overlay(cache: Path, base: Path, version: str, source: Path) -> Path:
    """A small environment that holds a snapshot of this checkout, and sees all of `base` behind it.

    One per state of the sources, never changed once made: the checkout may be edited, and other runs started, while a
    suite still spawns interpreters. The wheel's copy is judged, not `src/`: a module missing from it must show here.
    """
    place = cache / f"ours-{version}-{source_hash(source)}"
    inside = place / "bin" / "python"
    with locked(cache / f"ours-{version}.lock"):
        if not (place / "complete").exists():
            for old in cache.glob(f"ours-{version}-*"):
                if time.time() - old.stat().st_mtime > 86400:
                    shutil.rmtree(old, ignore_errors=True)
            shutil.rmtree(place, ignore_errors=True)
            run_checked([str(base), "-m", "venv", "--without-pip", str(place)], 120)
            library = base.parent.parent / "lib" / f"python{version}" / "site-packages"
            behind = place / "lib" / f"python{version}" / "site-packages" / "base.pth"
            behind.write_text(f"import site; site.addsitedir({str(library)!r})\n")
            pip = [str(base), "-m", "pip", "--python", str(inside), "install", "-q", "--no-deps", "--ignore-installed"]
            run_checked([*pip, str(source)], 300)
            (place / "complete").touch()
    return inside


def last_commit(cache: Path) -> Path:
    """The sources as last committed, for a judgement that no half-made edit can colour."""
    commit = run_checked(["git", "rev-parse", "HEAD"], 30, cwd=CHECKOUT).strip()
    place = cache / "commits" / commit
    with locked(cache / "commits.lock"):
        if not (place / "pyproject.toml").exists():
            place.mkdir(parents=True, exist_ok=True)
            archive = place / "sources.tar"
            run_checked(["git", "archive", "-o", str(archive), commit], 60, cwd=CHECKOUT)
            with tarfile.open(archive) as tar:
                tar.extractall(place, filter="data")
            archive.unlink()
    return place


def source_hash(source: Path) -> str:
    digest = hashlib.sha256()
    for file in [source / "pyproject.toml", *sorted((source / "src").rglob("*.py"))]:
        digest.update(str(file.relative_to(source)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def fetch_sdist(cache: Path, python: str, requirement: str) -> Path:
    place = cache / "sdists"
    name, version = requirement.split("==")
    archive = place / f"{name}-{version}.tar.gz"
    with locked(place / f"{name}.lock"):
        if not archive.exists():
            pip = [python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
            run_checked([*pip, "-d", str(place), requirement], 300)
    if not archive.exists():
        raise SetUpError(f"pip did not leave {archive}")
    return archive


def copy_tests(cache: Path, archive: Path) -> Path:
    """Unpack `t/` and the pytest settings, and nothing else: beside the package's sources they would be tested."""
    name = archive.name.removesuffix(".tar.gz")
    place = cache / "trees" / name
    with locked(place.with_suffix(".lock")):
        if (place / "complete").exists():
            return place
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        keep = ("t", *SETTINGS)
        with tarfile.open(archive) as tar:
            for member in tar:
                _, _, inner = member.name.partition("/")
                if inner.split("/")[0] in keep:
                    member.name = inner
                    tar.extract(member, place, filter="data")
        settings = [place / name for name in SETTINGS if (place / name).exists()]
        if not any("pytest" in file.read_text() for file in settings):
            # Without settings of its own pytest would look upwards and find those of this checkout.
            (place / "pytest.ini").write_text("[pytest]\n")
        (place / "complete").touch()
    return place


def clean_environment() -> dict[str, str]:
    """The caller's environment without what could smuggle another billiard in."""
    return {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"}}
