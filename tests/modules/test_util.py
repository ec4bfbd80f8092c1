"""Logging, the parent-death signal, spawned children's logging, the rest."""

import io
import logging
import multiprocessing.util
import os
import pickle
import signal

import pytest

import billiard
from billiard import reduction, semaphore_tracker, spawn, util

PATIENCE_S = 30


@pytest.fixture
def silent(monkeypatch):
    logger = logging.getLogger("multiprocessing")
    kept = logger.level, logger.handlers[:], logger.propagate
    monkeypatch.setattr(util, "_logger", None)
    monkeypatch.setattr(multiprocessing.util, "_logger", None)
    monkeypatch.setattr(multiprocessing.util, "_log_to_stderr", False)
    logger.handlers[:] = []
    yield logger
    logger.setLevel(kept[0])
    logger.handlers[:], logger.propagate = kept[1], kept[2]


def test_silent_until_asked(silent, caplog):
    silent.setLevel(1)
    silent.addHandler(caplog.handler)
    assert util.error("nobody hears %s", "this", exc_info=True) is None
    assert caplog.records == []
    assert billiard.get_logger() is util._logger is silent
    assert silent.propagate == 0
    for name in ("sub_debug", "debug", "info", "sub_warning", "warning", "error"):
        assert getattr(util, name)("%s speaking", name, extra={"mark": 1}) is None
    assert (logging.getLevelName(5), logging.getLevelName(25)) == ("SUBDEBUG", "SUBWARNING")
    told = [(r.levelno, r.getMessage(), r.mark, r.filename) for r in caplog.records]
    assert told == [
        (5, "sub_debug speaking", 1, "test_util.py"),
        (10, "debug speaking", 1, "test_util.py"),
        (20, "info speaking", 1, "test_util.py"),
        (25, "sub_warning speaking", 1, "test_util.py"),
        (30, "warning speaking", 1, "test_util.py"),
        (40, "error speaking", 1, "test_util.py"),
    ]


def test_an_embedder_may_reset_it(silent):
    first = util.get_logger()
    silent.propagate = 1
    util._logger = None
    assert util.get_logger() is first
    assert silent.propagate == 0


def test_log_to_stderr(silent, capsys):
    logger = billiard.log_to_stderr("INFO")
    logger.info("shown")
    util.debug("not shown")
    assert logger is silent
    assert capsys.readouterr().err == "[INFO/MainProcess] shown\n"


def set_and_wait(conn, sig):
    util.set_pdeathsig(sig)
    conn.send((os.getpid(), util.get_pdeathsig()))
    signal.pause()


def be_a_parent(conn):
    child = billiard.Process(target=set_and_wait, args=(conn, signal.SIGKILL))
    child.start()
    signal.pause()


def test_parent_death_signal():
    reader, writer = billiard.Pipe(False)
    parent = billiard.Process(target=be_a_parent, args=(writer,))
    parent.start()
    writer.close()
    pid, sig = reader.recv()
    assert sig == signal.SIGKILL
    pidfd = os.pidfd_open(pid)
    try:
        parent.kill()
        parent.join(PATIENCE_S)
        assert billiard.connection.wait([pidfd], PATIENCE_S) == [pidfd]
    finally:
        os.close(pidfd)
        reader.close()


def test_pdeathsig_errors(monkeypatch):
    with pytest.raises(OSError, match="Invalid argument"):
        util.set_pdeathsig(4711)
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(OSError, match="Linux"):
        util.set_pdeathsig(signal.SIGTERM)
    with pytest.raises(OSError, match="Linux"):
        util.get_pdeathsig()


def say(conn):
    logger = logging.getLogger("multiprocessing")
    logger.warning("from the child")
    conn.send((logger.level, os.environ.get("MP_MAIN_FILE") is not None))


def test_a_spawned_child_logs_as_the_environment_says(silent, tmp_path, monkeypatch):
    log = tmp_path / "child.log"
    monkeypatch.setenv("_MP_FORK_LOGLEVEL_", "30")
    monkeypatch.setenv("_MP_FORK_LOGFILE_", str(log))
    monkeypatch.setenv("_MP_FORK_LOGFORMAT_", "%(levelname)s %(processName)s %(message)s")
    reader, writer = billiard.Pipe(False)
    process = billiard.get_context("spawn").Process(target=say, args=(writer,), name="Speaker")
    process.start()
    writer.close()
    assert reader.recv()[0] == 30
    reader.close()
    process.join(PATIENCE_S)
    assert log.read_text() == "WARNING Speaker from the child\n"


def test_spawn_names():
    assert spawn.get_preparation_data("x")["name"] == "x"
    assert not spawn.is_forking([])
    assert spawn.get_executable()


def test_picklers_share_what_is_registered():
    class Local:
        pass

    reduction.register(Local, lambda obj: (str, ("a Local",)))
    theirs = multiprocessing.reduction.ForkingPickler
    for pickler in (reduction.ForkingPickler, theirs):
        payload = pickler.dumps(Local())
        assert isinstance(payload, memoryview)
        assert pickle.loads(payload) == "a Local"
    assert reduction.ForkingPickler.loadbuf(io.BytesIO(pickle.dumps(5))) == 5
    assert reduction.ForkingPickler.loads(reduction.ForkingPickler.dumps(1, 2)) == 1
    del theirs._extra_reducers[Local]


TRACKERS = [semaphore_tracker, semaphore_tracker._semaphore_tracker, semaphore_tracker.SemaphoreTracker()]


@pytest.mark.parametrize("tracker", TRACKERS)
def test_every_semaphore_tracker_is_the_resource_tracker(tracker):
    from multiprocessing import resource_tracker
    from multiprocessing.synchronize import sem_unlink

    tracker.ensure_running()
    assert tracker.getfd() == resource_tracker.getfd()
    import _multiprocessing

    name = f"/billiard-test-{os.getpid()}"
    _multiprocessing.SemLock(1, 1, 1, name, False)
    tracker.register(name)
    sem_unlink(name)
    tracker.unregister(name)


def test_get_temp_dir_is_the_childrens_too(ctx):
    reader, writer = ctx.Pipe(False)
    process = ctx.Process(target=tell_temp_dir, args=(writer,))
    process.start()
    writer.close()
    assert reader.recv() == (util.get_temp_dir() if ctx.get_start_method() == "fork" else reader and True)
    reader.close()
    process.join(PATIENCE_S)


def tell_temp_dir(conn):
    fork = billiard.get_start_method() == "fork"
    conn.send(billiard.current_process()._tempdir if fork else True)
