"""The error of a result that cannot be pickled; worker and caller both need it."""

from __future__ import annotations


class MaybeEncodingError(Exception):
    """A job's result could not be pickled. Holds strings, so that the error itself always can.

    ``exc``: repr of what pickling raised; ``value``: repr of the result.
    """

    def __init__(self, exc: object, value: object) -> None:
        self.exc = exc if isinstance(exc, str) else repr(exc)
        self.value = value if isinstance(value, str) else repr(value)
        super().__init__(self.exc, self.value)

    def __str__(self) -> str:
        return f"Error sending result: '{self.value!r}'. Reason: '{self.exc!r}'."

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"
