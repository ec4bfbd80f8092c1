"""One class per library, each as its own documentation says to use it, with the start method it has by default.

An adapter adds nothing to the measured loops: `burst` is written out for every style, so that no library pays for a
wrapper. What a library cannot do is absent from its `can`, and the table says so.
"""

from __future__ import annotations

from typing import Any


class NoAnswerError(Exception):
    """The caller's own patience ended and the library had said nothing."""


class Library:
    name = ""
    env = "peers"
    #: of: callback, limit, maxtasks, initializer, chunks
    can: frozenset[str] = frozenset()

    def __init__(self, workers: int, *, maxtasks=None, initializer=None, limits=False):
        self.workers = workers
        self.pool: Any = self.open(workers, maxtasks, initializer, limits)

    def result(self, handle, timeout_s=None):
        """The result, or the task's error; `NoAnswerError` when `timeout_s` passed and the library said nothing."""
        try:
            return self._get(handle, timeout_s)
        except Exception:
            if not self.done(handle):
                raise NoAnswerError(f"no answer in {timeout_s} s") from None
            raise

    def apply(self, fn, args=()):
        return self._get(self.submit(fn, args), None)


class PoolStyle(Library):
    """`multiprocessing.Pool` and those that have its methods."""

    can = frozenset({"callback", "maxtasks", "initializer", "chunks", "imap"})

    def submit(self, fn, args=(), callback=None):
        return self.pool.apply_async(fn, args, callback=callback)

    def apply(self, fn, args=()):
        return self.pool.apply(fn, args)

    def _get(self, handle, timeout_s):
        return handle.get(timeout_s)

    def done(self, handle):
        return handle.ready()

    def burst(self, fn, n):
        submit = self.pool.apply_async
        handles = [submit(fn, (i,)) for i in range(n)]
        return [h.get() for h in handles]

    def map(self, fn, items, chunksize=None):
        return self.pool.map(fn, items, chunksize)

    def imap_unordered(self, fn, items, chunksize=1):
        return self.pool.imap_unordered(fn, items, chunksize)

    def close(self):
        self.pool.close()
        self.pool.join()

    def terminate(self):
        self.pool.terminate()


class MpPool(PoolStyle):
    name = "mp.Pool"

    def open(self, workers, maxtasks, initializer, limits):
        from multiprocessing import Pool

        return Pool(workers, initializer=initializer, maxtasksperchild=maxtasks)


class Billiard4(PoolStyle):
    name = "billiard 4"
    env = "billiard4"
    can = PoolStyle.can | {"limit", "soft"}

    def open(self, workers, maxtasks, initializer, limits):
        from billiard.pool import Pool

        # without enable_timeouts it ignores a limit given to apply_async; nobody else pays for its timeout thread
        return Pool(workers, initializer=initializer, maxtasksperchild=maxtasks, enable_timeouts=limits)

    def submit(self, fn, args=(), callback=None, timeout=None, soft_timeout=None):
        return self.pool.apply_async(fn, args, callback=callback, timeout=timeout, soft_timeout=soft_timeout)

    def burst_limited(self, fn, n, timeout, soft_timeout):
        submit = self.pool.apply_async
        handles = [submit(fn, (i,), timeout=timeout, soft_timeout=soft_timeout) for i in range(n)]
        return [h.get() for h in handles]


class Ours(Billiard4):
    name = "ours"
    env = "ours"

    def open(self, workers, maxtasks, initializer, limits):
        from billiard import Pool

        return Pool(workers, initializer=initializer, maxtasksperchild=maxtasks)


class ExecutorStyle(Library):
    """`concurrent.futures` and those that have its methods."""

    can = frozenset({"callback", "initializer", "chunks", "imap"})

    def submit(self, fn, args=(), callback=None):
        future = self.pool.submit(fn, *args)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def _get(self, handle, timeout_s):
        return handle.result(timeout_s)

    def done(self, handle):
        return handle.done()

    def burst(self, fn, n):
        submit = self.pool.submit
        handles = [submit(fn, i) for i in range(n)]
        return [h.result() for h in handles]

    def map(self, fn, items, chunksize=None):
        # the executors default to 1; the pools' default (a quarter of an even share) is what a user has to write here
        size = chunksize or max(1, -(-len(items) // (4 * self.workers)))
        return list(self.pool.map(fn, items, chunksize=size))

    def imap_unordered(self, fn, items, chunksize=1):
        from concurrent.futures import as_completed

        submit = self.pool.submit
        return (f.result() for f in as_completed([submit(fn, x) for x in items]))

    def close(self):
        self.pool.shutdown(wait=True)

    def terminate(self):
        self.pool.shutdown(wait=False, cancel_futures=True)


class Ppe(ExecutorStyle):
    name = "PPE"
    can = ExecutorStyle.can | {"maxtasks"}

    def open(self, workers, maxtasks, initializer, limits):
        from concurrent.futures import ProcessPoolExecutor

        return ProcessPoolExecutor(workers, initializer=initializer, max_tasks_per_child=maxtasks)


class Loky(ExecutorStyle):
    name = "loky"

    def open(self, workers, maxtasks, initializer, limits):
        from loky import ProcessPoolExecutor

        return ProcessPoolExecutor(workers, initializer=initializer)

    def terminate(self):
        self.pool.shutdown(wait=False, kill_workers=True)


class Pebble(ExecutorStyle):
    name = "pebble"
    can = ExecutorStyle.can | {"maxtasks", "limit"}

    def open(self, workers, maxtasks, initializer, limits):
        from pebble import ProcessPool

        return ProcessPool(max_workers=workers, max_tasks=maxtasks or 0, initializer=initializer)

    def submit(self, fn, args=(), callback=None, timeout=None):
        future = self.pool.schedule(fn, args=args, timeout=timeout)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def burst(self, fn, n):
        submit = self.pool.schedule
        handles = [submit(fn, args=(i,)) for i in range(n)]
        return [h.result() for h in handles]

    def burst_limited(self, fn, n, timeout, soft_timeout):
        submit = self.pool.schedule  # it has no soft limit
        handles = [submit(fn, args=(i,), timeout=timeout) for i in range(n)]
        return [h.result() for h in handles]

    def map(self, fn, items, chunksize=None):
        size = chunksize or max(1, -(-len(items) // (4 * self.workers)))
        return list(self.pool.map(fn, items, chunksize=size).result())

    def imap_unordered(self, fn, items, chunksize=1):
        from concurrent.futures import as_completed

        submit = self.pool.schedule
        return (f.result() for f in as_completed([submit(fn, args=(x,)) for x in items]))

    def close(self):
        self.pool.close()
        self.pool.join()

    def terminate(self):
        self.pool.stop()


class Deadpool(ExecutorStyle):
    name = "deadpool"
    can = ExecutorStyle.can | {"maxtasks", "limit"}

    def open(self, workers, maxtasks, initializer, limits):
        from deadpool import Deadpool

        return Deadpool(max_workers=workers, max_tasks_per_child=maxtasks, initializer=initializer)

    def submit(self, fn, args=(), callback=None, timeout=None):
        future = self.pool.submit(fn, *args, deadpool_timeout=timeout)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def burst_limited(self, fn, n, timeout, soft_timeout):
        submit = self.pool.submit
        handles = [submit(fn, i, deadpool_timeout=timeout) for i in range(n)]
        return [h.result() for h in handles]

    def map(self, fn, items, chunksize=None):
        if chunksize != 1:
            raise NotImplementedError("deadpool's map ignores chunksize")
        return list(self.pool.map(fn, items))


class Mpire(PoolStyle):
    name = "mpire"
    can = PoolStyle.can - {"maxtasks"} | {"limit"}  # worker_lifespan exists for its maps only

    def open(self, workers, maxtasks, initializer, limits):
        from mpire import WorkerPool

        self._init = {"worker_init": initializer} if initializer else {}
        return WorkerPool(n_jobs=workers, keep_alive=True)

    def submit(self, fn, args=(), callback=None, timeout=None):
        return self.pool.apply_async(fn, args, callback=callback, task_timeout=timeout, **self._init)

    def burst_limited(self, fn, n, timeout, soft_timeout):
        submit = self.pool.apply_async
        handles = [submit(fn, (i,), task_timeout=timeout) for i in range(n)]
        return [h.get() for h in handles]

    def map(self, fn, items, chunksize=None):
        return self.pool.map(fn, items, chunk_size=chunksize)

    def imap_unordered(self, fn, items, chunksize=1):
        return self.pool.imap_unordered(fn, items, chunk_size=chunksize)

    def close(self):
        self.pool.stop_and_join()


LIBRARIES: dict[str, type[Library]] = {cls.name: cls for cls in (Ours, Billiard4, MpPool, Ppe, Pebble, Loky, Mpire, Deadpool)}
PEERS = [name for name in LIBRARIES if name != "ours"]


def env_of(library: str) -> str:
    """The standard library's pools run beside the peers; what needs no library ("bare") runs in ours."""
    return LIBRARIES[library].env if library in LIBRARIES else "ours"
