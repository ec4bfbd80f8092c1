"""The scripts at the root: well-formed, executable, and right about what they pick."""

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("env", ROOT / "tools" / "env.py")
env = importlib.util.module_from_spec(spec)
spec.loader.exec_module(env)


@pytest.mark.parametrize(("script", "shell"), [("demo", "sh"), ("check", "sh"), (".ci/run", "bash")])
def test_a_script_parses_and_is_executable(script, shell):
    assert os.access(ROOT / script, os.X_OK)
    assert subprocess.run([shell, "-n", str(ROOT / script)], check=False).returncode == 0


@pytest.mark.parametrize("command", ["./demo", "./check"])
def test_the_readme_names_the_command(command):
    assert f"```sh\n{command}\n```" in (ROOT / "README.md").read_text()


def test_the_readme_shows_the_last_measured_faults():
    command = [sys.executable, str(ROOT / "tools" / "readme.py"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0, "run python tools/readme.py"


def test_groups_are_resolved_with_what_they_include():
    groups = {"a": ["x>=1", {"include-group": "b"}], "b": ["y"]}
    assert env.requirements(groups, "a") == ["x>=1", "y"]
    with pytest.raises(SystemExit, match="no dependency group 'c'"):
        env.requirements(groups, "c")


def test_the_groups_that_the_scripts_use_exist():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert {"test", "lint", "docs"} <= set(groups)


def find_python(directory, version=""):
    """What tools/findpython.sh finds on a machine that has only `directory`."""
    done = subprocess.run(
        ["/bin/sh", "-c", f". {ROOT}/tools/findpython.sh; find_python {version}"],
        env={"PATH": str(directory), "HOME": str(directory)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() if done.returncode == 0 else None


def interpreter(path, works):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n' if works else "#!/bin/sh\nexit 127\n")
    path.chmod(0o755)


def test_a_name_that_does_not_run_is_passed_over(tmp_path):
    assert find_python(tmp_path) is None
    interpreter(tmp_path / "python3.13", works=False)  # as a pyenv shim of a version that is not selected
    assert find_python(tmp_path) is None
    interpreter(tmp_path / "python3", works=True)
    assert find_python(tmp_path) == str(tmp_path / "python3")


def test_pyenv_is_looked_into_and_the_version_is_held_to(tmp_path):
    running = "{}.{}".format(*sys.version_info)
    home = tmp_path / ".pyenv" / "versions"
    interpreter(home / f"{running}.99" / "bin" / "python", works=True)
    assert find_python(tmp_path, running) == str(home / f"{running}.99" / "bin" / "python")
    lying = {"3.11": "3.12", "3.12": "3.13"}.get(running, "3.11")
    interpreter(home / f"{lying}.0" / "bin" / "python", works=True)  # a directory named wrongly
    assert find_python(tmp_path, lying) is None
