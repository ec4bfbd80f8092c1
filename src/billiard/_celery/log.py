"""The legacy pool's log: ``multiprocessing``'s logger, which is billiard's too.

May: write log records. Unlike the functions of `billiard.util` these are never silent: an operator who has set up no
logging must still read on stderr that a worker died.
"""

from __future__ import annotations

import logging

_logger = logging.getLogger("multiprocessing")

error = _logger.error
warning = _logger.warning
debug = _logger.debug
