"""Queues, over every start method."""

import pickle

import pytest

import billiard
from billiard.queues import Empty, Full, _SimpleQueue

PATIENCE_S = 30


def forward(source, target):
    while (item := source.get()) is not None:
        target.put(item * 2)


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_there_and_back(ctx, kind):
    there, back = getattr(ctx, kind)(), getattr(ctx, kind)()
    process = ctx.Process(target=forward, args=(there, back))
    process.start()
    for item in (1, "two", [3], None):
        there.put(item)
    assert [back.get() for _ in range(3)] == [2, "twotwo", [3, 3]]
    process.join(PATIENCE_S)
    for queue in (there, back):
        assert queue.empty()
        queue.close()
        getattr(queue, "join_thread", lambda: None)()


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_a_closed_queue_refuses(kind):
    queue = getattr(billiard, kind)()
    with pytest.raises(ValueError, match="not closed"):
        queue.join_thread()
    queue.close()
    for use in (lambda: queue.put(1), lambda: queue.put_nowait(1), queue.get, queue.get_nowait):
        with pytest.raises(ValueError, match="is closed"):
            use()
    queue.join_thread()


def test_bounds():
    queue = billiard.Queue(1)
    with pytest.raises(Empty):
        queue.get(timeout=0.01)
    queue.put(1)
    with pytest.raises(Full):
        queue.put(2, timeout=0.01)
    assert queue.get(timeout=PATIENCE_S) == 1
    queue.close()
    queue.join_thread()


def test_an_unpicklable_item_does_not_end_the_feeder(capfd):
    # in billiard 4 it did, and every later item was lost
    queue = billiard.Queue()
    queue.put(lambda: None)
    queue.put("next")
    assert queue.get(timeout=PATIENCE_S) == "next"
    queue.close()
    queue.join_thread()
    assert "pickle" in capfd.readouterr().err.lower()


def test_relations():
    queue = billiard.JoinableQueue()
    assert isinstance(queue, billiard.queues.Queue)
    queue.put(1)
    assert queue.get(timeout=PATIENCE_S) == 1
    queue.task_done()
    queue.join()
    queue.close()
    queue.join_thread()
    with pytest.raises(TypeError):
        billiard.queues.SimpleQueue()
    with pytest.raises(TypeError):
        billiard.queues.Queue()


def test_payloads(ctx):
    for queue in (ctx.SimpleQueue(), _SimpleQueue()):
        queue.put({"a": 1})
        payload = queue.get_payload()
        assert pickle.loads(payload) == {"a": 1}
        assert queue.empty()
        queue.send_payload(payload)
        assert not queue.empty()
        assert queue.get() == {"a": 1}
        queue.close()


def test_the_lockless_queue():
    queue, other = _SimpleQueue(rnonblock=True), _SimpleQueue()
    assert (queue._rlock, queue._wlock) == (None, None)
    assert {(queue, other): 1}[queue, other] == 1
    assert queue != other
    with pytest.raises(BlockingIOError):
        queue.get()
    with pytest.raises(RuntimeError, match="inheritance"):
        pickle.dumps(queue)
    for q in (queue, other):
        assert type(q._reader) is billiard.connection.Connection
        q.close()
        q.close()
        assert (q._reader, q._writer) == (None, None)
        assert "closed" in repr(q)


def test_the_lockless_queue_travels_to_a_child(ctx):
    there, back = _SimpleQueue(), _SimpleQueue(ctx=ctx)
    process = ctx.Process(target=forward, args=(there, back))
    process.start()
    there.put(21)
    assert back.get() == 42
    there.put(None)
    process.join(PATIENCE_S)
    there.close()
    back.close()
