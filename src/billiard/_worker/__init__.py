"""The child's side: receive a call, run it, reply; initialise before, clean up after.

May: run user code, install this process's signal handlers, read the scoreboard, write the channel, exit.
May not: know about other workers, the pool's size, queues or limits (limits are the parent's; all a worker
knows of them is a signal that says "the call you are on, if it is still that one").
Imports little, since every spawned worker pays for it.
"""
