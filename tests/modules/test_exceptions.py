"""Errors: their text, and the story they carry."""

import copy
import pickle

import pytest

from billiard import exceptions

OURS = [
    exceptions.TimeLimitExceeded,
    exceptions.SoftTimeLimitExceeded,
    exceptions.WorkerLostError,
    exceptions.Terminated,
    exceptions.RestartFreqExceeded,
    exceptions.CoroStop,
]
STORY = {
    "function": "app.tasks.add",
    "job": 7,
    "pid": 4711,
    "exitcode": -9,
    "signal_name": "SIGKILL",
    "runtime_s": 0.25,
    "started": True,
}


@pytest.mark.parametrize("cls", OURS)
@pytest.mark.parametrize("args", [(), (3,), ("text", None)])
def test_any_arguments(cls, args):
    assert cls(*args).args == args


@pytest.mark.parametrize("cls", OURS)
def test_the_story_survives_pickle_and_copy(cls):
    told = cls("what happened", 3, **STORY)
    untold = cls("what happened")
    for trip in (copy.copy, copy.deepcopy, *(lambda e, p=p: pickle.loads(pickle.dumps(e, p)) for p in range(6))):
        for error in (told, untold):
            arrived = trip(error)
            assert type(arrived) is cls
            assert arrived.args == error.args
            assert str(arrived) == str(error)
            assert {name: getattr(arrived, name) for name in STORY} == {name: getattr(error, name) for name in STORY}
    assert {name: getattr(told, name) for name in STORY} == STORY
    assert {getattr(untold, name) for name in STORY} == {None}


@pytest.mark.parametrize("cls", OURS)
def test_the_story_is_keyword_only_and_closed(cls):
    with pytest.raises(TypeError, match="colour"):
        cls(colour="red")


def test_text():
    assert str(exceptions.TimeLimitExceeded(3)) == "TimeLimitExceeded(3,)"
    assert str(exceptions.TimeLimitExceeded(3, job=1)) == "TimeLimitExceeded(3,)"
    assert str(exceptions.SoftTimeLimitExceeded()) == "SoftTimeLimitExceeded()"
    assert str(exceptions.WorkerLostError("gone", job=1)) == "gone"
    assert str(exceptions.Terminated(15)) == "15"


@pytest.mark.parametrize("cls", OURS)
def test_kinship(cls):
    assert issubclass(cls, Exception)
    assert not issubclass(cls, exceptions.ProcessError)
    assert [other for other in OURS if other is not cls and issubclass(cls, other)] == []
