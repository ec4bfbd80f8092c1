"""Arguments, checked at the call: the error names the argument and says what would be right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import ceil, inf
from operator import index

from .._supervisor import log
from .._typing import Any, Final

_AT_ONCE_S: Final = 0.001  # a limit that was over before it was given
_SURELY_A_FLOAT: Final = 1e300  # an int below can be held by one


class NotWholeError(TypeError, ValueError):
    """A fraction where a whole number belongs: a TypeError by rights, a ValueError in multiprocessing and billiard."""

    __module__ = "billiard.pool"  # where a traceback, and who catches it, may look for it


def number(name: str, value: Any, *, positive: bool = False) -> float | None:
    """Seconds and the like: None, or a real number that is not negative (`positive`: nor zero). May be infinite."""
    if value is None:
        return None
    if type(value) in (int, float) and 0 < value < _SURELY_A_FLOAT:
        return value  # type: ignore[no-any-return]  # the usual case, for each limit of each call: a quarter of a microsecond
    real = _real(value)
    if real is None:
        raise TypeError(f"{name} must be a number or None, not {type(value).__name__}: {value!r}")
    try:
        float(real)
    except OverflowError:  # an int that no clock can be added to; its digits may fill a page, or be too many for repr()
        bits = int(real).bit_length()
        raise ValueError(f"{name} must be a number that a float can hold, not an int of {bits} bits") from None
    if real != real or real < 0 or (positive and real == 0):
        raise ValueError(f"{name} must be {'greater than 0' if positive else 'at least 0'}, not {value!r}")
    return real


def _whole(value: Any) -> int | None:
    """An int, or what stands for one, as numpy's integers do; None for anything else, and for a bool."""
    try:
        return None if isinstance(value, bool) else index(value)
    except TypeError:
        return None


def _real(value: Any) -> float | None:
    """A real number: an int or a float as it is, a float for what else is one, as numpy's and fractions are; None for anything
    else, and for a bool."""
    if isinstance(value, float):
        return value
    whole = _whole(value)
    if whole is not None:
        return whole
    from numbers import Real  # here, since hardly anybody needs it

    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else None


def kilobytes(name: str, value: Any, *, positive: bool) -> int | None:
    """Whole kilobytes; None if there is no bound, which is also what infinity means, and zero where that is allowed."""
    kb = number(name, value, positive=positive)
    return None if not kb or kb == inf else ceil(kb)


def integer(name: str, value: Any, least: int) -> int:
    """An int that is at least `least`."""
    if isinstance(value, float):
        raise NotWholeError(f"{name} must be an int, not {type(value).__name__}: {value!r}")
    whole = _whole(value)
    if whole is None:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}: {value!r}")
    if whole < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return whole


def optional_integer(name: str, value: Any, least: int) -> int | None:
    """None, or an int that is at least `least`."""
    return None if value is None else integer(name, value, least)


def callable_or_none(name: str, value: Any) -> Callable[..., Any] | None:
    """None, or something that can be called."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable or None, not {type(value).__name__}: {value!r}")
    return value  # type: ignore[no-any-return]  # checked just above


def callables(**values: Any) -> None:
    """None, or something that can be called, each by its name."""
    for name, value in values.items():
        callable_or_none(name, value)


def items(name: str, value: Any) -> Iterable[Any]:
    """Something that can be iterated."""
    try:
        iter(value)
    except TypeError:
        raise TypeError(f"{name} must be iterable, not {type(value).__name__}: {value!r}") from None
    return value  # type: ignore[no-any-return]  # checked just above


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Keyword arguments."""
    try:
        return dict(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a mapping, not {type(value).__name__}: {value!r}") from None


def function(value: Any) -> None:
    """What is to be run on a worker."""
    if not callable(value):
        raise TypeError(f"func must be callable, not {type(value).__name__}: {value!r}")


def limits(soft: Any, hard: Any, *, ordered: bool) -> tuple[float | None, float | None]:
    """A soft and a hard limit given in one call; `ordered`: the soft one must come first."""
    soft_s, hard_s = number("soft_timeout", soft), number("timeout", hard)
    if ordered and soft_s and hard_s and hard_s <= soft_s < inf:
        raise ValueError(
            f"soft_timeout ({soft_s}) must be less than timeout ({hard_s}): the hard limit would always come first"
        )
    # 0 means "no limit of its own", as it always did in billiard, and infinity "none, and not the pool's either"
    return soft_s or None, hard_s or None


def sent_limits(soft: Any, hard: Any) -> tuple[float | None, float | None]:
    """The limits that a message of Celery's gives its task. Who sent it is not here to be told: an error would end the worker
    that has received it, and then each other one to which the broker gives it."""
    return _sent_limit("soft_timeout", soft), _sent_limit("timeout", hard)


def _sent_limit(name: str, value: Any) -> float | None:
    try:
        return number(name, value) or None
    except (TypeError, ValueError) as exc:
        real = _real(value)
        if real is not None and real < 0:  # the time until a deadline that has passed
            return _AT_ONCE_S
        log.error("a task's limit is not kept: %s", exc)
        return None


def chunksize(value: Any) -> int:
    """Items in one call of an `imap`."""
    if isinstance(value, int) and value < 1:
        raise ValueError(f"Chunksize must be 1+, not {value}")  # billiard's words; hence not `integer`'s
    return integer("chunksize", value, 1)


def arguments(at: int, item: Any) -> None:
    """Item number `at` of a `starmap`, which is unpacked."""
    try:
        iter(item)
    except TypeError:
        raise TypeError(f"item {at} of starmap's iterable is not a sequence of arguments: {item!r}") from None


def exception_classes(name: str, value: Any) -> tuple[type[BaseException], ...]:
    """Classes of exceptions, or one of them, as an `except` clause takes it."""
    if isinstance(value, type):
        value = (value,)
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a tuple of exception classes, not {type(value).__name__}: {value!r}")
    classes = tuple(value)
    for given in classes:
        if not (isinstance(given, type) and issubclass(given, BaseException)):
            raise TypeError(f"{name} must be a tuple of exception classes, and {given!r} is none")
    return classes
