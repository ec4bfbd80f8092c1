"""Imported by the fork server alone, before it serves (see ``context.preload``).

It learns of its children's ends by SIGCHLD. Started by a program that blocks that signal, as one that waits for signals in a
thread of its own does, it would inherit the mask, and never tell anybody of an end.
"""

import pkgutil  # noqa: F401 - what importing a program's main module takes, here once
import signal
import tokenize  # noqa: F401 - what a worker needs for its first error, here once
import traceback  # noqa: F401 - the same

signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
