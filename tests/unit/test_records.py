"""Records behave as the frozen dataclasses that they stand for."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest

from sandbox_kernel.records import Record


class Point(Record):
    """One with a default."""

    x: int
    y: int = 0

    @property
    def sum(self) -> int:
        """No field."""
        return self.x + self.y


class Place(Record):
    """Alike, and another class."""

    x: int
    y: int = 0


@dataclass(frozen=True)
class Same:
    """What the first is compared with."""

    x: int
    y: int = 0


@pytest.mark.parametrize("made", [Point, Same])
def test_fields_are_given_by_place_or_by_name_and_shown(made: type[Point] | type[Same]) -> None:
    assert made(1) == made(x=1) == made(1, y=0) != made(1, 2)
    assert hash(made(1)) == hash(made(1, 0))
    assert len({made(1), made(1, 0), made(2)}) == 2
    assert repr(made(1, 2)) == f"{made.__name__}(x=1, y=2)"
    match made(1, 2):
        case Point(x, y) | Same(x, y):
            assert (x, y) == (1, 2)
    assert pickle.loads(pickle.dumps(made(1, 2))) == made(1, 2)


@pytest.mark.parametrize("made", [Point, Same])
@pytest.mark.parametrize(
    ("values", "named"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1}), ((), {"y": 1})],
)
def test_what_does_not_fit_is_a_type_error(
    made: type[Point] | type[Same], values: tuple[int, ...], named: dict[str, int]
) -> None:
    with pytest.raises(TypeError):
        made(*values, **named)


@pytest.mark.parametrize("made", [Point, Same])
def test_nothing_can_be_assigned(made: type[Point] | type[Same]) -> None:
    point = made(1, 2)
    with pytest.raises(AttributeError):
        point.x = 5  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del point.y
    assert (point.x, point.y) == (1, 2)


def test_records_of_two_classes_are_not_equal() -> None:
    assert Point(1, 2) != Place(1, 2)
    assert hash(Point(1, 2)) != hash(Place(1, 2))


def test_some_fields_are_replaced_in_another_one() -> None:
    point = Point(1, 2)
    assert point.replaced(y=5) == Point(1, 5)
    assert point == Point(1, 2)
    assert point.values() == (1, 2)
    assert point.sum == 3
    with pytest.raises(TypeError):
        point.replaced(z=1)
