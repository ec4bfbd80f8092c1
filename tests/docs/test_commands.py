"""`.ci/run` with some steps only, as the development page shows it: on a fresh checkout, and mistyped."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Makes what looks like the environment of the linters, and only answers to its name.
ENV = """
import sys
from pathlib import Path
python = Path(".cache/venvs/py{}.{}-{}/bin/python".format(*sys.version_info[:2], "-".join(sys.argv[1:])))
python.parent.mkdir(parents=True)
python.write_text("#!/bin/sh\\necho called with: $*\\n")
python.chmod(0o755)
"""


@pytest.fixture
def ci(tmp_path):
    """The script in a checkout that has nothing else, with this Python alone."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    shutil.copy(ROOT / "tools" / "findpython.sh", tmp_path / "tools")
    (tmp_path / "tools" / "env.py").write_text(ENV)
    (tmp_path / "bin").mkdir()
    version = "{}.{}".format(*sys.version_info)
    (tmp_path / "bin" / f"python{version}").symlink_to(sys.executable)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"

    def run(*steps):
        return subprocess.run(
            [tmp_path / ".ci" / "run", *steps], env={**os.environ, "PATH": path, "HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("step", ["docs", "lint-ruff", "lint-mypy"])
def test_a_step_brings_what_it_needs(ci, step):
    done = ci(step)
    assert done.returncode == 0, done.stdout
    assert "=== environment" in done.stdout
    assert "called with: -m" in done.stdout


def test_a_step_that_needs_nothing_brings_nothing(ci):
    done = ci("lint-layers")
    assert "=== lint-layers" in done.stdout
    assert "=== environment" not in done.stdout


@pytest.mark.parametrize("steps", [["nosuch"], ["docs", "nosuch"]])
def test_a_mistyped_step_runs_nothing(ci, steps):
    done = ci(*steps)
    assert done.returncode == 2
    assert "===" not in done.stdout
    assert "'nosuch'" in done.stderr
    assert "lint-ruff" in done.stderr
