"""Public module: children that start from a fresh interpreter. ``multiprocessing``'s own, with Celery's logging settings."""

import os
import sys
from multiprocessing.spawn import (
    freeze_support,
    get_command_line,
    get_executable,
    get_preparation_data,
    import_main_path,
    is_forking,
    prepare,
    set_executable,
    spawn_main,
)

from ._stdlib.mirror import mirror
from ._stdlib.process import name_main_file

__all__ = [
    "freeze_support",
    "get_command_line",
    "get_executable",
    "get_preparation_data",
    "import_main_path",
    "is_forking",
    "prepare",
    "set_executable",
    "spawn_main",
]

__getattr__, __dir__ = mirror("spawn")


def _setup_logging_in_child_hack() -> None:
    """Give a spawned child the log set-up that its parent left in the environment.

    A fresh interpreter has none of the parent's handlers; Celery exports level, file and format for this.
    """
    import logging

    from . import util

    name_main_file()
    level = os.environ.get("_MP_FORK_LOGLEVEL_")
    if not level:
        return
    logger = util.get_logger()
    logger.setLevel(int(level))
    if logger.handlers:
        return
    path = os.environ.get("_MP_FORK_LOGFILE_")
    handler = logging.FileHandler(path) if path else logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(logging.Formatter(os.environ.get("_MP_FORK_LOGFORMAT_") or util.DEFAULT_LOGGING_FORMAT))
    logger.addHandler(handler)
