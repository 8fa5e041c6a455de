"""Checks of chapter 2: two containers of one image."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox_kernel.course import looking
from sandbox_kernel.course.checking import Fact, Variables, fact
from sandbox_kernel.course.texts import Text

NAMES = ("left", "right")
FILE = "/poem.txt"


def siblings(_: Variables) -> Iterator[Fact]:
    """`left` and `right` stand on the same layers, and each has a writable one of its own."""
    pids = [looking.container(name).pid for name in NAMES]
    roots = [_root(pid) for pid in pids]
    source = ", ".join(f"/proc/{pid}/mountinfo" for pid in pids)
    lower, upper = ([root.get(name, "") for root in roots] for name in ("lowerdir", "upperdir"))
    yield fact(
        Text("lower layers", "下层"),
        _together(lower),
        Text("the same for both", "两者相同"),
        bool(lower[0]) and lower[0] == lower[1],
        source,
    )
    devices = [looking.device(f"/proc/{pid}/root{FILE}") for pid in pids]
    yield fact(
        Text("writable layers", "可写层"),
        _together(upper),
        Text("two, each in its own root", "两个，各在自己的根里"),
        devices[0] != devices[1],
        source,
    )
    texts = [looking.read(f"/proc/{pid}/root{FILE}") for pid in pids]
    yield fact(
        Text(f"{FILE}, last line", f"{FILE} 的最后一行"),
        _together([text.strip().splitlines()[-1] if text.strip() else "-" for text in texts]),
        Text("different in both", "两者不同"),
        texts[0] != texts[1],
        ", ".join(f"/proc/{pid}/root{FILE}" for pid in pids),
    )


def _root(pid: int) -> dict[str, str]:
    """The options of the overlay at the root of a process. Raises Missing."""
    for mount in reversed(looking.mounts(pid)):
        if mount.point == "/" and mount.kind == "overlay":
            return dict(option.partition("=")[::2] for option in mount.options)
    raise looking.missing(
        Text("its root", "它的根"),
        Text("no overlay", "不是 overlay"),
        Text("an overlay", "overlay"),
        f"/proc/{pid}/mountinfo",
    )


def _together(values: list[str]) -> str:
    return " | ".join(
        value if len(value) < 60 else value[:28] + "..." + value[-28:] for value in values
    )
