"""The error of a result that cannot be pickled; worker and caller both need it, in the engine and in the legacy pool."""

from __future__ import annotations

from .._typing import Any


class MaybeEncodingError(Exception):
    """A result could not be sent: it does not pickle, or cannot be rebuilt. Holds texts, which always travel.

    ``exc``: repr of what pickling raised; ``value``: repr of the result; ``function`` and ``job``: whose it is (the
    legacy pool does not say).
    """

    __module__ = "billiard.pool"  # where users know it from
    function: str | None = None
    job: int | None = None

    def __init__(self, exc: object, value: object) -> None:
        self.exc = _text(exc)
        self.value = _text(value)
        super().__init__(self.exc, self.value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def __str__(self) -> str:
        whose = f" The call: {self.function}, job {self.job}." if self.function is not None else ""
        return f"Error sending result: '{self.value!r}'. Reason: '{self.exc!r}'.{whose}"

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.exc, self.value), self.__dict__


class Shown:
    """A text that is a repr already: for values whose own repr may be too long, or raise."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _rebuild(kind: type[MaybeEncodingError], exc: str, value: str) -> MaybeEncodingError:
    return kind(Shown(exc), Shown(value))


def _text(thing: object) -> str:
    try:
        return repr(thing)
    except Exception as exc:  # a broken __repr__ must not replace the error it was to explain
        return f"<{type(thing).__name__}, whose repr raised {type(exc).__name__}>"
