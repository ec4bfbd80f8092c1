"""The parent's side: start, watch, signal and reap workers; move bytes; drive the core.

May: do I/O, hold locks, read the clock, run a thread.
May not: decide what happens to a job or a worker (the core does), unpickle a payload, or call user code while it
holds the lock.

A signal's handler may raise between any two bytecodes, also between a call's return and the storing of what it returned. So a
lock is never taken by ``if lock.acquire(False)``: the lock would stay taken by nobody. In here it reads
``held.extend(map(lock.acquire, (False,)))``, one call in C that takes it and notes that it did; `finally` looks at `held`.
"""
