"""Shared values, arrays and blocks, over every start method."""

import ctypes

import pytest

import billiard
from billiard import heap, shared_memory, sharedctypes

PATIENCE_S = 30


def double(value, array, raw, raw_array):
    value.value *= 2
    raw.value *= 2
    for sequence in (array, raw_array):
        for i in range(len(sequence)):
            sequence[i] *= 2


def test_seen_by_all(ctx):
    value, array = ctx.Value("q", 2**40), ctx.Array("d", [1.5, 2.5])
    raw, raw_array = ctx.RawValue("Q", 2**62), ctx.RawArray(ctypes.c_int, 3)
    raw_array[:] = [1, 2, 3]
    process = ctx.Process(target=double, args=(value, array, raw, raw_array))
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode == 0
    assert (value.value, array[:], raw.value, raw_array[:]) == (2**41, [3.0, 5.0], 2**63, [2, 4, 6])


def test_locks():
    for lock in (True, None):
        value = sharedctypes.Value("i", 5, lock=lock)
        assert type(value.get_lock()) is billiard.synchronize.RLock
        assert value.get_obj().value == 5
    own = billiard.Lock()
    assert sharedctypes.Array("i", 2, lock=own).get_lock() is own
    assert not hasattr(billiard.Value("i", 5, lock=False), "get_lock")
    with pytest.raises(AttributeError, match="acquire"):
        billiard.Value("i", 5, lock="nonsense")
    assert type(sharedctypes.synchronized(billiard.RawValue("i")).get_lock()) is billiard.synchronize.RLock


def test_the_lock_is_of_the_context_named(ctx):
    spawn = billiard.get_context("spawn")
    for module in (billiard, ctx, sharedctypes):
        value, array = module.Value("i", 5, ctx=spawn), module.Array("i", [5], ctx=spawn)
        assert (value.value, array[:]) == (5, [5])
        assert [shared.get_lock()._is_fork_ctx for shared in (value, array)] == [False, False]
    assert ctx.Value("i").get_lock()._is_fork_ctx == (ctx.get_start_method() == "fork")


def test_a_block_knows_its_place():
    block = heap.BufferWrapper(100)
    assert block.get_size() == 100
    block.create_memoryview()[0] = 65
    assert ctypes.string_at(block.get_address(), 1) == b"A"


def write(name):
    block = shared_memory.SharedMemory(name)
    block.buf[:5] = b"there"
    block.close()


def test_shared_memory():
    block = shared_memory.SharedMemory(create=True, size=16)
    process = billiard.Process(target=write, args=(block.name,))
    process.start()
    process.join(PATIENCE_S)
    assert bytes(block.buf[:5]) == b"there"
    block.close()
    block.unlink()
