"""Hold the layers of src/billiard to their order: imports go downwards only, and the core touches nothing of the world.

    python tools/layers.py [PACKAGE_DIRECTORY]

Reads every import statement, at the head of a module or inside a function, without running anything. The tables below
are the rule; an exception to them is a row of UPWARD with its reason, and a row nobody needs any more is itself an
error, so that the list cannot outlive its causes.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "billiard"

# A layer may import itself and every layer of a greater depth. Two layers of one depth do not know each other.
DEPTH = {
    "public": 0,  # billiard/*.py and billiard/dummy/: what users import
    "_celery": 1,
    "_api": 2,
    "_supervisor": 3,
    "_core": 4,
    "_worker": 4,
    "_wire": 5,
    "_stdlib": 6,
    "leaves": 7,
}

# Modules that anyone may import and that import no layer themselves: errors, their tracebacks, and the signal and status
# rules that billiard 4 keeps in `common` and that parent and child must agree on.
LEAVES = {"exceptions", "einfo", "common", "_typing"}

# What the core must not know, so that it can be tried on a virtual clock, without a process, at any speed.
CORE_MAY_NOT = {
    "os", "threading", "_thread", "time", "pickle", "cloudpickle", "socket", "select", "selectors", "signal", "io",
    "subprocess", "multiprocessing", "mmap", "asyncio", "queue", "weakref", "random", "logging", "atexit", "ctypes",
}  # fmt: skip
CORE_MAY_NOT_LEAVES = {"common"}  # it asks the clock and installs signal handlers

DYNAMIC = "(computed)"  # import_module(...): what it imports cannot be read off, so in a layer each needs an excuse

# (importing module, imported module): why this one import goes upwards.
UPWARD: dict[tuple[str, str], str] = {
    ("_stdlib.context", DYNAMIC): "a context's factory methods (Pool, Queue, Manager ...) make what the public modules offer, "
    "as multiprocessing's do; by name and at the call, so that importing a context costs none of it",
    ("_stdlib.mirror", DYNAMIC): "reads back the namespace of the public module that asked for its __dir__",
    ("_stdlib.process", "spawn"): "what a spawned child does first is published there, where people replace it",
}


class Import(NamedTuple):
    """One import, from where to where."""

    line: int
    source: str  # dotted, relative to the package: "_core.jobs", "pool"
    target: str  # the same for ours; "/os" for what is not ours


def layer_of(module: str) -> str:
    """The layer a module (dotted, relative to the package) belongs to."""
    head = module.partition(".")[0]
    if head in LEAVES:
        return "leaves"
    return head if head in DEPTH else "public"


def imports_of(path: Path, package: Path) -> Iterator[Import]:
    """Every import in one file, resolved to modules of the package where it is one of ours."""
    parts = path.relative_to(package).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    parts = parts[:-1] if is_package else parts
    source = ".".join(parts)
    here = parts if is_package else parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, source, relative_name(alias.name, package.name))
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = [*here[: len(here) - node.level + 1], *([node.module] if node.module else [])]
                module = ".".join([package.name, *base])
            else:
                module = node.module or ""
            for alias in node.names:
                # `from . import x` and `from .._core import jobs` name a module in the alias
                inner = relative_name(f"{module}.{alias.name}", package.name)
                known = not inner.startswith("/") and exists(package, inner)
                yield Import(node.lineno, source, inner if known else relative_name(module, package.name))
        elif isinstance(node, ast.Call) and name_called(node) in {"import_module", "__import__"}:
            yield Import(node.lineno, source, target_called(node, package.name))


def name_called(call: ast.Call) -> str:
    """The last part of what is called: `import_module` for `importlib.import_module(...)`."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def target_called(call: ast.Call, package: str) -> str:
    """What import_module(...) imports: a plain string says it, an f-string at least whether it is ours."""
    argument = call.args[0] if call.args else None
    if isinstance(argument, ast.Constant):
        return relative_name(str(argument.value), package)
    head = argument.values[0] if isinstance(argument, ast.JoinedStr) else None
    if isinstance(head, ast.Constant) and "." in str(head.value):
        name = str(head.value).partition(".")[0]
        return DYNAMIC if name in ("", package) else "/" + name
    return DYNAMIC


def relative_name(module: str, package: str) -> str:
    if module == package:
        return ""
    return module.removeprefix(package + ".") if module.startswith(package + ".") else "/" + module


def exists(package: Path, module: str) -> bool:
    path = package.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def fault_of(found: Import) -> str | None:
    """What is wrong with one import, or None. Whether UPWARD excuses it is the caller's business."""
    source_layer = layer_of(found.source)
    if found.target == DYNAMIC:
        return None if source_layer == "public" else "a computed import cannot be checked"
    if found.target.startswith("/"):
        outside = found.target[1:].partition(".")[0]
        if source_layer == "_core" and outside in CORE_MAY_NOT:
            return f"the core may not know {outside!r}"
        return None
    if source_layer == "_core" and found.target in CORE_MAY_NOT_LEAVES:
        return f"the core may not know {found.target!r}"
    target_layer = layer_of(found.target)
    if source_layer == target_layer or DEPTH[source_layer] < DEPTH[target_layer]:
        return None
    return f"{source_layer} (depth {DEPTH[source_layer]}) may not import {target_layer} (depth {DEPTH[target_layer]})"


def check(package: Path, upward: dict[tuple[str, str], str]) -> list[str]:
    """Every violation in the package, one line each."""
    faults, used = [], set()
    for path in sorted(package.rglob("*.py")):
        for found in imports_of(path, package):
            fault = fault_of(found)
            excuse = (found.source, found.target)
            if fault and excuse in upward:
                used.add(excuse)
            elif fault:
                target = found.target.lstrip("/") or package.name
                faults.append(f"{path.relative_to(package)}:{found.line}: imports {target}: {fault}")
    faults += [f"UPWARD has {source} -> {target}, which is not there any more" for source, target in set(upward) - used]
    return faults


def main(arguments: list[str]) -> int:
    package = Path(arguments[0]) if arguments else PACKAGE
    faults = check(package, UPWARD)
    print(*faults, sep="\n", end="\n" if faults else "")
    count = sum(1 for _ in package.rglob("*.py"))
    print(f"layers: {count} modules, {len(faults)} faults, {len(UPWARD)} imports excused")
    return 1 if faults or not count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
