"""`Record`: frozen data with names, as a frozen dataclass is, that costs little to declare.

A dataclass is written as source and compiled each time that its module is imported, a millisecond
each on a slow machine, and a command whose work takes twenty has a dozen of them on its way. Here
one pair of methods serves all classes. Type checkers read it as a dataclass (PEP 681).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, NoReturn, Self, dataclass_transform
else:

    def dataclass_transform(**_options):  # typing is too much for what starts fast
        return lambda found: found


@dataclass_transform(frozen_default=True)
class Record:
    """Its annotations are its fields, in their order; what is assigned there is a default.

    Equal to a record of the same class with equal fields, and hashed by them. TypeError for too
    many, too few or unknown arguments, as for any call; AttributeError for whoever assigns.
    """

    __slots__ = ("_hash",)
    _fields: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, Any]] = {}
    if TYPE_CHECKING:
        _hash: ClassVar[int]  # what is no field

    def __init_subclass__(cls) -> None:
        # Without what `inspect.get_annotations` does: of these texts only the names are needed.
        own = vars(cls).get("__annotations__", {})
        cls._defaults = {name: vars(cls)[name] for name in own if name in vars(cls)}
        cls._fields = tuple(own)
        type.__setattr__(cls, "__match_args__", cls._fields)  # which type checkers know without it

    def __init__(self, *values: Any, **named: Any) -> None:
        names = self._fields
        if len(values) > len(names):
            raise TypeError(f"{type(self).__name__} takes {len(names)} values, not {len(values)}")
        found = {**self._defaults, **named}
        if values:
            given = dict(zip(names, values, strict=False))
            if twice := given.keys() & named.keys():
                raise TypeError(f"{type(self).__name__} got {', '.join(sorted(twice))} twice")
            found.update(given)
        fields = {name: found[name] for name in names if name in found}
        if len(fields) != len(names) or len(found) != len(names):
            wrong = ", ".join(sorted(found.keys() ^ set(names)))
            raise TypeError(f"{type(self).__name__} lacks or has not: {wrong}")
        self.__dict__.update(fields)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} can't be assigned: it is frozen")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} can't be deleted: it is frozen")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            found = hash((type(self), *self.__dict__.values()))
            object.__setattr__(self, "_hash", found)
            return found

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__  # another process has other hashes of texts

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({shown})"

    def replaced(self, **changes: Any) -> Self:
        """The same with other values for some fields. TypeError for what is no field."""
        return type(self)(**{**self.__dict__, **changes})

    def values(self) -> tuple[Any, ...]:
        """Of all fields, in their order."""
        return tuple(self.__dict__.values())
