"""How a public module shows its standard library namesake.

A public module with nothing of ours behind it *becomes* the standard library's module.  Any other public module names what
billiard documents; what else ``multiprocessing.<name>`` has (also private names, which people use) is found at first use
through the module ``__getattr__`` made here.
"""

import sys
from collections.abc import Callable
from importlib import import_module

from .._typing import Any

__all__ = ["become", "mirror"]


def become(module: str) -> None:
    """Make ``import billiard.<module>`` give ``multiprocessing.<module>`` itself.

    Two modules with the same functions would not do: who replaces a function in one (a test, a debugger) expects the
    library to notice.
    """
    sys.modules[module] = import_module(module.replace("billiard.", "multiprocessing.", 1))


def mirror(module: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for ``billiard.<module>``, looking in ``multiprocessing.<module>``.

    Nothing is cached: some of those names are rebound, in a forked child for one (``process._children``).
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - becomes the module's
        if name.startswith("__"):
            raise AttributeError(f"module 'billiard.{module}' has no attribute {name!r}")
        try:
            return getattr(import_module(f"multiprocessing.{module}"), name)
        except AttributeError:
            raise AttributeError(f"module 'billiard.{module}' has no attribute {name!r}") from None

    def __dir__() -> list[str]:  # noqa: N807 - becomes the module's
        there = vars(import_module(f"multiprocessing.{module}"))
        here = vars(import_module(f"billiard.{module}"))
        return sorted({*there, *here})

    return __getattr__, __dir__
