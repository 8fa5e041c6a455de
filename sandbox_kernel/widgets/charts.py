"""Charts of what was used: where a page draws none itself, and how far an axis goes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sandbox_kernel.widgets.markup import Markup, element

LEAST_SPAN = 60  # samples for which a chart has room from the start
WIDTH, HEIGHT = 600, 100  # of a chart, in its own units
MIB = 1 << 20


def drawn(
    rows: Sequence[Sequence[float | None]], stack: Sequence[int], column: int, top: float
) -> list[Markup]:
    """A line that ends at the right, over what it is made up of; `front.js` draws the same."""
    room, start = span(len(rows))
    across = [f"{(start + index) * WIDTH / (room - 1):.4g}" for index in range(len(rows))]

    def down(value: float) -> str:
        return f"{HEIGHT - HEIGHT * min(value / top, 1.0):.4g}" if top else str(HEIGHT)

    shapes = []
    below = [0.0] * len(rows)
    for part in stack:
        above = [under + (row[part] or 0.0) for under, row in zip(below, rows, strict=True)]
        edge = [f"{x},{down(y)}" for x, y in zip(across, above, strict=True)]
        back = [f"{x},{down(y)}" for x, y in zip(across, below, strict=True)]
        points = Markup(" ".join([*edge, *reversed(back)]))
        shapes.append(element("polygon", class_=f"sandbox-area-{part}", points=points))
        below = above
    known = [
        f"{x},{down(value)}"
        for x, value in zip(across, (row[column] for row in rows), strict=True)
        if value is not None
    ]
    if not stack and known:
        first, last = known[0].partition(",")[0], known[-1].partition(",")[0]
        ground = Markup(" ".join([f"{first},{HEIGHT}", *known, f"{last},{HEIGHT}"]))
        shapes.append(element("polygon", class_="sandbox-area", points=ground))
    return [*shapes, element("polyline", points=Markup(" ".join(known)))]


def span(count: int) -> tuple[int, int]:
    """For how many samples a chart has room, and where the first stands."""
    room = max(count, LEAST_SPAN)
    return room, room - count


def end_of_axis(most: float, limit: float | None, unit: str) -> float:
    """A round number somewhat above the limit, so that its line can go up as well as down."""
    wanted = limit * 1.25 if limit is not None else max(most * 2, 16 * MIB if unit else 16)
    if unit == "bytes":
        step = 2.0 ** math.floor(math.log2(max(wanted, MIB) / 4))
    else:
        step = max(1.0, 10.0 ** math.floor(math.log10(max(wanted, 1.0)) - 0.5))
    return math.ceil(max(wanted, 1) / step) * step
