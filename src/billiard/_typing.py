"""What this package needs of `typing`, without importing `typing`.

That import is a tenth of ours, paid again by every spawned worker. Type checkers see the real names. At run time most of them
stand for nothing: annotations are never evaluated here (``from __future__ import annotations``).
"""

from __future__ import annotations

__all__ = ["TYPE_CHECKING", "Any", "ClassVar", "Final", "NamedTuple", "NoReturn", "Protocol", "cast"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any as Any
    from typing import ClassVar as ClassVar
    from typing import Final as Final
    from typing import NamedTuple as NamedTuple
    from typing import NoReturn as NoReturn
    from typing import Protocol as Protocol
    from typing import cast as cast
else:
    import collections

    Any = ClassVar = Final = NoReturn = Protocol = object

    def cast(kind, value):
        return value

    class _Fields(type):
        def __new__(mcs, name, bases, namespace):
            if not bases:
                return super().__new__(mcs, name, bases, namespace)
            names = namespace["__annotations__"]
            defaults = [namespace[field] for field in names if field in namespace]
            made = collections.namedtuple(name, names, defaults=defaults, module=namespace["__module__"])
            made.__doc__ = namespace.get("__doc__")
            return made

    class NamedTuple(metaclass=_Fields):
        pass
