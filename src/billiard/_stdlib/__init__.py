"""``multiprocessing``'s processes, contexts, queues and connections, with what billiard adds to them.

May: subclass the standard library, and mend where it breaks a promise of ours.
May not: re-implement it, or know the pool. A door is opened by name and at the call only (see tools/layers.py).
"""
