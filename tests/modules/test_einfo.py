"""Exceptions that travel: wrapped where they were made, bare where they arrive."""

import inspect
import logging
import pickle
import sys
import traceback
import types
from unittest import mock

import pytest

from billiard import einfo
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback, RemoteTraceback, Traceback


def trip(obj):
    return pickle.loads(pickle.dumps(obj))


def fail(depth=0):
    if depth:
        fail(depth - 1)
    raise LookupError("lost", depth)


def caught(depth=0, internal=False):
    try:
        fail(depth)
    except LookupError:
        return ExceptionInfo(internal=internal)


def test_wrapped_here_bare_there():
    here = caught()
    assert set(vars(here)) == {"type", "tb", "traceback", "internal", "exception"}
    assert type(here.exception) is ExceptionWithTraceback
    assert type(here.exception.exc) is LookupError
    assert repr(here.exception) == "ExceptionWithTraceback()"
    there = trip(here)
    assert type(there.exception) is LookupError
    assert there.exception.args == ("lost", 0)
    assert type(there.exception.__cause__) is RemoteTraceback
    assert str(there.exception.__cause__) == here.exception.tb == f'\n"""\n{here.traceback}"""'
    assert (there.type, there.traceback, there.internal) == (LookupError, here.traceback, False)
    assert trip(caught(internal=True)).internal is True


def test_shown():
    info = caught()
    assert str(info) == info.traceback
    assert repr(info) == f"<ExceptionInfo: {info.exception!r}>"
    assert str(info.exception) == info.exception.tb
    assert info.traceback.startswith("Traceback (most recent call last):")
    assert info.traceback.endswith("LookupError: ('lost', 0)\n")
    assert not isinstance(info, BaseException)


def test_attributes_can_be_assigned():
    info = caught()
    info.exception, info.type = ValueError("x"), ValueError
    assert trip(info).exc_info[:2] == (ValueError, info.exception) or trip(info).type is ValueError


def test_a_mock_of_the_class_has_the_attributes():
    stand_in = mock.Mock(spec=ExceptionInfo)
    for name in vars(caught()):
        assert getattr(stand_in, name) is not None


def test_an_explicit_triple():
    error = ValueError("made by hand")
    info = ExceptionInfo((ValueError, error, None))
    assert (info.type, info.tb, info.traceback) == (ValueError, None, "ValueError: made by hand\n")
    assert trip(info).exception.args == ("made by hand",)


def test_the_stand_ins_claim_the_interpreters_types_and_type_tells():
    tb = caught().tb
    for obj, claimed, real in [
        (tb, types.TracebackType, Traceback),
        (tb.tb_frame, types.FrameType, einfo._Frame),
        (tb.tb_frame.f_code, types.CodeType, einfo._Code),
    ]:
        for thing in (obj, trip(obj)):
            assert isinstance(thing, claimed)
            assert thing.__class__ is claimed
            assert type(thing) is real
    assert inspect.istraceback(tb)
    assert inspect.isframe(tb.tb_frame)
    assert inspect.iscode(tb.tb_frame.f_code)


@pytest.mark.parametrize("through", [lambda x: x, trip], ids=["here", "there"])
def test_the_standard_librarys_readers_understand_it(through, caplog):
    info = through(caught(2))
    real = sys.exc_info
    assert real() == (None, None, None)
    text = "".join(traceback.format_exception(*info.exc_info))
    assert 'raise LookupError("lost", depth)' in text
    assert text.count(", in fail") >= 3
    frames = inspect.getinnerframes(info.tb)
    assert [f.function for f in frames] == ["caught", "fail", "fail", "fail"]
    assert frames[-1].code_context == ['    raise LookupError("lost", depth)\n']
    assert inspect.getframeinfo(info.tb.tb_frame).function == "caught"
    traceback.clear_frames(info.tb)
    logging.getLogger("doors").error("failed", exc_info=info.exc_info)
    assert 'raise LookupError("lost", depth)' in caplog.text


def test_lines_and_columns_are_the_real_ones():
    try:
        fail(1)
    except LookupError as error:
        real = error.__traceback__
    ours = trip(Traceback(real))
    while real is not None:
        code = ours.tb_frame.f_code
        assert (ours.tb_lineno, ours.tb_lasti) == (real.tb_lineno, real.tb_lasti)
        assert list(code.co_positions()) == list(real.tb_frame.f_code.co_positions())
        assert (code.co_name, code.co_qualname) == (real.tb_frame.f_code.co_name, real.tb_frame.f_code.co_qualname)
        assert code.co_filename == __file__
        real, ours = real.tb_next, ours.tb_next
    assert ours is None


def test_a_frame_keeps_no_values():
    def hidden():
        __traceback_hide__ = True
        secret = "password"
        raise KeyError(secret and __traceback_hide__)

    try:
        hidden()
    except KeyError:
        info = ExceptionInfo()
    frame = info.tb.tb_next.tb_frame
    assert frame.f_locals == {"__traceback_hide__": True}
    assert info.tb.tb_frame.f_locals == {}
    assert frame.f_globals == {"__file__": __file__, "__name__": __name__, "__loader__": None}
    assert frame.f_back is None
    assert b"password" not in pickle.dumps(info.tb)


@pytest.mark.parametrize(
    "code",
    [
        "__traceback_hide__ = True\n1/0",
        "def f():\n    __traceback_hide__ = True\n    g = lambda: __traceback_hide__\n    1/0\nf()",
    ],
    ids=["module", "cell"],
)
def test_the_hiding_mark_is_found_wherever_it_may_be(code):
    try:
        exec(code, {})
    except ZeroDivisionError:
        info = ExceptionInfo()
    link = info.tb
    while link.tb_next is not None:
        link = link.tb_next
    assert link.tb_frame.f_locals == {"__traceback_hide__": True}
    assert ExceptionInfo((info.type, info.exception, link)).tb.tb_frame.f_locals == {"__traceback_hide__": True}


def test_a_stand_in_can_be_copied_again():
    first = caught(1)
    second = ExceptionInfo((first.type, first.exception, first.tb))
    assert second.tb.tb_next.tb_lineno == first.tb.tb_next.tb_lineno
    assert list(second.tb.tb_frame.f_code.co_positions()) == list(first.tb.tb_frame.f_code.co_positions())


def test_a_long_traceback_is_cut():
    tb = None
    try:
        fail(60)
    except LookupError as error:
        tb = Traceback(error.__traceback__, max_frames=10)
    links = []
    link = trip(tb)
    while link is not None:
        links.append(link)
        link = link.tb_next
    assert len(links) == 12
    assert links[-1].tb_lineno == -1
    assert "[rest of traceback truncated]" in "".join(traceback.format_tb(tb))
    assert list(links[-1].co_positions()) == list(links[-1].tb_frame.co_positions())
    assert inspect.getinnerframes(tb)[-1].function == "[rest of traceback truncated]"


def test_runaway_recursion_still_travels():
    def forever():
        forever()

    try:
        forever()
    except RecursionError:
        info = ExceptionInfo()
    there = trip(info)
    assert type(there.exception) is RecursionError
    assert len(pickle.dumps(info.tb)) < 200_000


def test_object_stand_in():
    obj = einfo._Object(a=1)
    assert obj.a == 1
    assert list(obj.co_positions()) == [(None,) * 4]
    obj.co_positions = ((1, 2, 3, 4),)
    assert list(obj.co_positions()) == [(1, 2, 3, 4)]
