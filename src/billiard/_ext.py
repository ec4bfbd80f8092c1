"""Public module: the C half, which is the interpreter's own ``_multiprocessing``."""

import importlib

from . import ensure_multiprocessing

_billiard = importlib.import_module("_multiprocessing")
#: Whether a C extension of billiard's own can start processes by exec; there has been none for years.
supports_exec = False

__all__ = ["_billiard", "ensure_multiprocessing", "supports_exec"]
