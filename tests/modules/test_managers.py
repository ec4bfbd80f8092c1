"""Managers: shared objects in a process of their own, over every start method."""

import pytest

import billiard
from billiard.managers import BaseManager, SharedMemoryManager, SyncManager


def fill(items, table, conn):
    items.append(3)
    table["x"] = [1]
    conn.send([sorted(table.keys()), list(items)])


def test_shared_objects(ctx):
    with ctx.Manager() as manager:
        assert isinstance(manager, SyncManager)
        items, table = manager.list([1, 2]), manager.dict(a=1)
        reader, writer = ctx.Pipe(False)
        process = ctx.Process(target=fill, args=(items, table, writer))
        process.start()
        writer.close()
        assert reader.recv() == [["a", "x"], [1, 2, 3]]
        process.join(30)
        assert sorted(iter(table)) == ["a", "x"]
        assert (items[:], table.copy()) == ([1, 2, 3], {"a": 1, "x": [1]})
        nested = manager.list([manager.list([5])])
        assert nested[0][0] == 5
        with manager.Lock():
            pass
        reader.close()


class Counter:
    def __init__(self, start):
        self.count = start

    def up(self):
        self.count += 1
        return self.count


class CounterManager(BaseManager):
    pass


CounterManager.register("Counter", Counter)


def test_a_type_of_ones_own(ctx):
    with CounterManager(ctx=ctx) as manager:
        counter = manager.Counter(41)
        assert counter.up() == 42
        assert type(manager._process) is ctx.Process


def test_the_fourth_argument_is_the_context(ctx):
    assert CounterManager(None, b"key", "pickle", ctx)._ctx is ctx


def test_the_default_context_is_billiards():
    with CounterManager() as manager:
        assert isinstance(manager._process, billiard.process.BaseProcess)


def use_a_manager(conn):
    with billiard.Manager() as manager:
        conn.send(manager.Value("i", 3).value)


def test_a_daemon_may_have_a_manager():
    reader, writer = billiard.Pipe(False)
    process = billiard.Process(target=use_a_manager, args=(writer,), daemon=True)
    process.start()
    assert reader.recv() == 3
    process.join(30)
    assert process.exitcode == 0
    reader.close()
    writer.close()


def test_remote_errors_are_themselves():
    with billiard.Manager() as manager, pytest.raises(IndexError):
        manager.list().pop()


def test_shared_memory_manager():
    with SharedMemoryManager() as manager:
        shared = manager.ShareableList([1, "two"])
        assert list(shared) == [1, "two"]
        shared.shm.close()
