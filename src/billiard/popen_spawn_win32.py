"""Door: how a process is started on Windows, where ``Popen`` can be had from here. ``multiprocessing``'s own."""

import sys

from ._stdlib.mirror import mirror

if sys.platform == "win32":
    __getattr__, __dir__ = mirror("popen_spawn_win32")
