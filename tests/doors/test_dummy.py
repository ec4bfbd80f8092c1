"""The package's API over threads."""

import threading

import billiard.dummy


def test_started_from_a_thread_of_somebody_elses():
    done = []

    def start():
        process = billiard.dummy.Process(target=done.append, args=(1,))
        process.start()
        process.join(30)
        done.append(process.exitcode)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(30)
    assert done == [1, 0]


def test_the_rest():
    assert issubclass(billiard.dummy.DummyProcess, threading.Thread)
    reader, writer = billiard.dummy.Pipe(False)
    writer.send(1)
    assert reader.recv() == 1
    assert billiard.dummy.Barrier is threading.Barrier
    assert billiard.dummy.Namespace(a=1).a == 1
    assert billiard.dummy.active_children() == []


def test_thread_pools_work():
    # they could not even be made in billiard 4.3.2
    with billiard.dummy.Pool(2) as pool:
        assert pool.map(str, range(5)) == list("01234")
