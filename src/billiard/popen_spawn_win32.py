"""Public module: how a process is started on Windows. There, ``multiprocessing``'s own: the very same module."""

import sys

from ._stdlib.mirror import become

__all__: list[str] = []

if sys.platform == "win32":
    become(__name__)
