"""The import-layer check holds for the package, and would notice if it did not."""

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "layers.py"
spec = importlib.util.spec_from_file_location("layers", TOOL)
layers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(layers)


def test_the_package_keeps_its_layers():
    assert sum(1 for _ in layers.PACKAGE.rglob("*.py")) > 10, "the check looked at the wrong directory"
    assert layers.check(layers.PACKAGE, layers.UPWARD) == []


def plant(root, files):
    package = root / "billiard"
    for layer in layers.DEPTH:
        if layer.startswith("_"):
            (package / layer).mkdir(parents=True)
            (package / layer / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "exceptions.py").write_text("")
    (package / "common.py").write_text("")
    (package / "pool.py").write_text("")
    for name, text in files.items():
        (package / name).write_text(text)
    return package


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("_core/jobs.py", "from billiard._supervisor import loop\n", "_core (depth 4) may not import _supervisor"),
        ("_core/jobs.py", "from .._worker import main\n", "_core (depth 4) may not import _worker"),
        ("_core/jobs.py", "import os.path\n", "the core may not know 'os'"),
        ("_core/jobs.py", "def f():\n    from time import monotonic\n", "the core may not know 'time'"),
        ("_core/jobs.py", "from ..common import human_status\n", "the core may not know 'common'"),
        ("_wire/frames.py", "from ..pool import Pool\n", "_wire (depth 5) may not import public"),
        ("_wire/frames.py", "from .. import pool\n", "_wire (depth 5) may not import public"),
        ("_wire/frames.py", "import billiard\n", "_wire (depth 5) may not import public"),
        ("_api/pool.py", "from billiard import _celery\n", "_api (depth 2) may not import _celery"),
        ("_api/pool.py", "import importlib\nimportlib.import_module(name)\n", "a computed import cannot be checked"),
        ("exceptions.py", "from . import pool\n", "leaves (depth 7) may not import public"),
    ],
)
def test_a_planted_violation_is_caught(tmp_path, file, text, said):
    faults = layers.check(plant(tmp_path, {file: text}), {})
    assert len(faults) == 1
    assert faults[0].startswith(file)
    assert said in faults[0]


def test_what_is_allowed_passes(tmp_path):
    package = plant(
        tmp_path,
        {
            "_core/jobs.py": "import heapq\nfrom ..exceptions import WorkerLostError\nfrom . import timers\n",
            "_core/timers.py": "",
            "_api/pool.py": "import os\nfrom .._supervisor import loop\nfrom billiard._core.jobs import Job\n",
            "_supervisor/loop.py": "import selectors\nfrom .._wire import frames\n",
            "_wire/frames.py": "",
        },
    )
    assert layers.check(package, {}) == []


def test_an_excuse_covers_its_import_and_nothing_else(tmp_path):
    package = plant(tmp_path, {"_wire/frames.py": "from ..pool import Pool\nfrom .._api import Pool\n"})
    faults = layers.check(package, {("_wire.frames", "pool"): "for the test"})
    assert ["_wire/frames.py:2" in fault for fault in faults] == [True]


def test_an_excuse_nobody_needs_is_a_fault(tmp_path):
    faults = layers.check(plant(tmp_path, {}), {("_wire.frames", "pool"): "for the test"})
    assert faults == ["UPWARD has _wire.frames -> pool, which is not there any more"]
