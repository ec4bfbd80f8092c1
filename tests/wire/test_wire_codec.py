"""Frames, large bodies, pickles, errors and the scoreboard, against whatever may come."""

import copyreg
import importlib
import marshal
import mmap
import os
import pickle
import signal
import struct
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billiard._wire import errors, frames, pickling, scoreboard
from billiard.einfo import ExceptionInfo
from billiard.exceptions import TaskError

SNAPSHOT = pickling.MainSnapshot()
DECODERS = (frames.FrameError, ValueError, struct.error)


@given(st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=100))
def test_header_round_trip(kind, tag, number, body):
    frame = frames.frame(kind, tag, number, body)
    assert frames.HEADER.unpack_from(frame) == (kind, tag, number, len(body))
    assert frame[frames.HEADER_SIZE :] == body


@given(st.integers(1, 31), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_about_round_trip(kind, number, value):
    frame = frames.about(kind, number, value)
    assert frames.read_about(frame[frames.HEADER_SIZE :]) == (number, value)


@given(st.binary(max_size=64).filter(lambda body: len(body) != 16))
def test_about_of_garbage(body):
    with pytest.raises(frames.FrameError):
        frames.read_about(body)


@settings(deadline=None)
@given(st.binary(max_size=200), st.lists(st.binary(max_size=500), max_size=6))
def test_large_round_trip(pickled, buffers):
    parts, size = frames.pack_large(pickled, [memoryview(buffer) for buffer in buffers])
    body = b"".join(parts)
    assert len(body) == size
    got, views = frames.unpack_large(memoryview(body))
    assert bytes(got) == pickled
    assert [bytes(view) for view in views] == buffers


@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=4))
def test_large_buffers_are_aligned_in_the_frame(buffers):
    parts, _ = frames.pack_large(b"p", [memoryview(buffer) for buffer in buffers])
    at, places = frames.HEADER_SIZE, []
    for part in parts:
        places.append((at, bytes(part)))
        at += len(part)
    starts = [place for place, part in places[2:] if part in buffers and part.strip(b"\0")]
    assert all(start % 16 == 0 for start in starts)


@given(st.binary(max_size=300))
def test_large_of_garbage(body):
    try:
        frames.unpack_large(memoryview(body))
    except DECODERS:
        pass


def test_large_truncated_at_every_byte():
    parts, size = frames.pack_large(b"pickle", [memoryview(b"a" * 20), memoryview(b"b" * 5)])
    body = b"".join(parts)
    for cut in range(size):
        with pytest.raises(DECODERS):
            frames.unpack_large(memoryview(body[:cut]))


def test_large_that_claims_too_much():
    head = struct.pack("<IIQ", 2**32 - 1, 0, 5)
    with pytest.raises(DECODERS):
        frames.unpack_large(memoryview(head + b"12345"))
    with pytest.raises(DECODERS):
        frames.unpack_large(memoryview(struct.pack("<IIQ", 1, 0, 2**64 - 1) + b"12345678"))


# -- pickling

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40) | st.binary(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5) | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_values_round_trip(value):
    pickled, buffers = pickling.dumps(value, SNAPSHOT)
    assert pickling.loads(pickled, buffers) == value


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.binary(max_size=40)


@given(PLAIN | st.lists(PLAIN, max_size=4).map(tuple))
def test_the_first_byte_tells_how_a_body_was_made(value):
    for body in (marshal.dumps(value, pickling.MARSHAL), pickle.dumps(value, 5)):
        for form in (body, memoryview(body)):
            assert repr(pickling.read(form)) == repr(value)


@given(PLAIN | st.lists(PLAIN, max_size=4).map(tuple), st.data())
def test_a_cut_body_is_an_error_and_no_crash(value, data):
    body = marshal.dumps(value, pickling.MARSHAL)
    cut = body[: data.draw(st.integers(0, len(body) - 1))]
    with pytest.raises((EOFError, ValueError, TypeError, IndexError)):
        pickling.read(cut)


@pytest.mark.parametrize("size", [0, 100, (1 << 14) - 1, 1 << 14, 1 << 20])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_blocks_round_trip(kind, size):
    value = {"block": kind(os.urandom(size)), "n": size}
    pickled, buffers = pickling.dumps(value, SNAPSHOT)
    again = pickling.loads(pickled, buffers)
    assert again == value
    assert type(again["block"]) is kind


def test_arrays_travel_beside_the_pickle():
    np = pytest.importorskip("numpy")
    array = np.arange(100_000)
    pickled, buffers = pickling.dumps(array, SNAPSHOT)
    assert buffers
    assert len(pickled) < 1000
    assert (pickling.loads(pickled, buffers) == array).all()
    strided = array[::2]
    assert (pickling.loads(*pickling.dumps(strided, SNAPSHOT)) == strided).all()


def _arrays():
    np = pytest.importorskip("numpy")
    plain = np.arange(24).reshape(2, 3, 4)
    fixed = np.arange(5.0)
    fixed.setflags(write=False)
    return {
        **{f"type {code}": np.ones(7, code) for code in "?bhilqBHILQefdgFDG"},
        "other byte order": np.arange(5, dtype=">i4"),
        "no dimension": np.array(3.5),
        "nothing": np.zeros((0, 3)),
        "three dimensions": plain,
        "read-only": fixed,
        "Fortran's order": np.asfortranarray(plain),
        "not contiguous": plain[:, ::2],
        "64 KB": np.arange(1 << 13),
        "1 MB": np.arange(1 << 17),
        "texts": np.array(["a", "bcd"]),
        "dates": np.array(["2026-01-01"], "M8[D]"),
        "objects": np.array([{"a": 1}, None]),
        "records": np.ones(3, [("a", "i4"), ("b", "f8")]),
        "with metadata": np.ones(3, np.dtype("f8", metadata={"unit": "m"})),
        "masked": np.ma.masked_array([1, 2], [True, False]),
    }


def _there(*args):
    """What a task is given."""
    args, pure = pickling.lighten_all(args)
    return pickling.loads(*(pickling.dumps_pure(args) if pure else pickling.dumps(args, SNAPSHOT)))


def test_arrays_arrive_as_by_plain_pickle():
    for name, array in _arrays().items():
        expected = pickle.loads(pickle.dumps(array, 5))
        for again in (*_there(array), pickling.loads(*pickling.dumps(pickling.lighten(array), SNAPSHOT))):
            assert type(again) is type(array), name
            assert (again.dtype, again.dtype.metadata) == (array.dtype, expected.dtype.metadata), name
            assert (again.shape, again.tolist()) == (array.shape, array.tolist()), name
            assert again.flags.writeable == expected.flags.writeable, name
            assert again.flags.f_contiguous == expected.flags.f_contiguous, name


def test_one_array_given_twice_arrives_as_one():
    np = pytest.importorskip("numpy")
    array = np.zeros(5000)

    first, second = _there(array, array)
    assert first is second
    first, (second,) = _there(array, [array])
    assert first is second
    first, number, second = _there(array, 1, array + 1)
    assert (first[0], number, second[0]) == (0, 1, 1)


@pytest.mark.parametrize(
    "registry", [copyreg.dispatch_table, ForkingPickler._extra_reducers], ids=["copyreg", "ForkingPickler"]
)
def test_what_others_registered_for_arrays_holds(registry, monkeypatch):
    np = pytest.importorskip("numpy")
    monkeypatch.setitem(registry, np.ndarray, lambda array: (str, ("registered",)))
    assert pickling.loads(*pickling.dumps(pickling.lighten(np.zeros(5)), SNAPSHOT)) == "registered"


def test_reducers_hold_whenever_they_were_registered():
    early = (
        "from multiprocessing.reduction import ForkingPickler as pickler\n"
        "class Early: pass\n"
        "pickler.register(Early, lambda early: (str, ('registered',)))\n"
        "from billiard._wire import pickling\n"
        "print(pickling.loads(*pickling.dumps([Early()], pickling.MainSnapshot())))\n"
    )
    ran = subprocess.run([sys.executable, "-c", early], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "['registered']"


def test_the_standard_librarys_own_reducers_cost_nothing(monkeypatch):
    for module in ("connection", "managers"):  # each of them registers some when it is first used
        importlib.import_module(f"multiprocessing.{module}")
    monkeypatch.setattr(pickling, "_dumps_by_value", None)
    assert pickling.loads(*pickling.dumps([1, {"a": 2}], SNAPSHOT)) == [1, {"a": 2}]


def test_what_plain_pickle_refuses_goes_by_value():
    captured = [1, 2]
    pickled, buffers = pickling.dumps(lambda x: [*captured, x], SNAPSHOT)
    assert pickling.loads(pickled, buffers)(3) == [1, 2, 3]


def test_functions_that_travel_by_name():
    assert pickling.travels_by_name(os.getpid, SNAPSHOT)
    assert pickling.travels_by_name(pickle.dumps, SNAPSHOT)
    assert pickling.travels_by_name(dict, SNAPSHOT)
    assert not pickling.travels_by_name(lambda: 1, SNAPSHOT)
    assert not pickling.travels_by_name([].append, SNAPSHOT)
    assert not pickling.travels_by_name(os.environ.get, SNAPSHOT)


# -- errors


class NeedsTwoError(Exception):
    def __init__(self, a, b):
        super().__init__(a)
        self.b = b


def raised(exc):
    try:
        raise exc
    except BaseException as caught:
        return caught


def test_an_error_round_trip():
    info = errors.decode(errors.encode(raised(KeyError("k")), SNAPSHOT))
    assert isinstance(info, ExceptionInfo)
    assert type(info.exception) is KeyError
    assert "KeyError" in info.traceback


def test_a_stand_in():
    info = errors.decode(errors.encode(raised(NeedsTwoError(1, 2)), SNAPSHOT))
    assert type(info.exception) is TaskError
    assert info.exception.type_name == "NeedsTwoError"
    assert info.exception.args_repr == "(1,)"
    assert "NeedsTwoError" in info.traceback


class HostileError(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__

    def __reduce__(self):
        raise RuntimeError("no pickle")


def test_an_exception_that_resists_everything():
    info = errors.decode(errors.encode(raised(HostileError(HostileError(1))), SNAPSHOT))
    assert type(info.exception) is TaskError
    assert info.exception.type_name == "HostileError"


def test_a_long_chain_and_long_args():
    exc = ValueError("x" * 1_000_000)
    for i in range(50):
        new = ValueError(i)
        new.__cause__ = exc
        exc = new
    assert type(errors.decode(errors.encode(raised(exc), SNAPSHOT)).exception) is ValueError


# -- the scoreboard


def test_the_board_starts_at_zero_and_tells_what_it_was_told():
    b = scoreboard.Scoreboard()
    assert b.read() == (0, 0, 0, 0)
    b.cells[scoreboard.STARTED] = 5
    b.cells[scoreboard.ITEM] = 2
    b.cells[scoreboard.CURRENT] = 1
    assert b.read() == (1, 5, 2, 0)
    b.recall(7)
    b.aim(3, 4)
    assert (b.cells[scoreboard.RECALLED], b.cells[scoreboard.SOFT_NUMBER], b.cells[scoreboard.SOFT_ITEM]) == (7, 3, 4)
    b.aim(3)
    aim = [b.cells[at] for at in (scoreboard.SOFT_NUMBER, scoreboard.SOFT_ITEM, scoreboard.SOFT_COUNT)]
    assert aim == [3, scoreboard.ANY_ITEM, 2]
    b.close()


def test_a_worker_cannot_shrink_grow_or_unseal_the_board():
    import fcntl

    b = scoreboard.Scoreboard()
    for size in (0, 1, 2 * mmap.PAGESIZE):
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(b.fd, size)
    with pytest.raises(OSError, match="not permitted"):
        fcntl.fcntl(b.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    b.close()


def test_the_board_needs_no_name():
    b = scoreboard.Scoreboard()
    assert str(Path(f"/proc/self/fd/{b.fd}").readlink()).startswith("/memfd:")
    assert not os.get_inheritable(b.fd)
    b.close()


@given(st.lists(st.integers(0, 2**64 - 1), min_size=16, max_size=16))
def test_any_word_on_the_board_is_only_a_number(words):
    b = scoreboard.Scoreboard()
    for i, word in enumerate(words):
        b.cells[i] = word
    progress = b.read()
    assert (progress.current, progress.started_ns, progress.item, progress.skipped_from) == tuple(words[:4])
    b.close()


def test_a_board_is_shared_with_a_forked_child():
    b = scoreboard.Scoreboard()
    child = os.fork()
    if child == 0:
        b.cells[scoreboard.CURRENT] = 42
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert b.read().current == 42
    b.close()
