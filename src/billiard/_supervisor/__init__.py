"""The parent's hands: start, watch, signal and reap workers; move bytes; turn the core's crank.

May: do I/O, hold locks, read the clock, run a thread.
May not: decide what happens to a job or a worker (the core does), unpickle a payload, or call user code while it
holds the lock.
"""
