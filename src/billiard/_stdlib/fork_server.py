"""Imported by the fork server alone, before it serves (see ``context._preload``).

It learns of its children's ends by SIGCHLD. Started by a program that blocks that signal, as one that waits for signals in a
thread of its own does, it would inherit the mask, and never tell anybody of an end.
"""

import signal

signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
